"""`IsolatedSession`: a session in a child process, which a hostile file may end without harm.

Stands in for both the interpreter and the entry of a `Session`. Arrays go there and back as copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.files import Content
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.ports import IO
from edgeq.runtime.entry import Array

RUN_LIMIT_S = 600.0

_OWN: dict[str, Any] = {}
"""In the child: its session."""


class IsolatedSession:
    """A session in a child process; one that dies is an error of the run, and starts again.

    Args:
        tflite: The file.
        arguments: The session's delegate, threads, options, signature and backend.

    Attributes:
        io: Ports of the session.
        fed: Shape and type of what one run takes.
        dynamic: Shape of each input, with -1 where any size will do.
        key: Key of the bucket that the last run took; None where the file has none.
        signatures: Keys of all entry points.
        pieces_of_library: Pieces that a delegate's library took.
    """

    io: IO
    fed: list[tuple[tuple[int, ...], np.dtype[Any]]]
    dynamic: tuple[tuple[int, ...], ...]
    key: str | None
    signatures: tuple[str, ...]
    pieces_of_library: int

    def __init__(self, tflite: Content, arguments: tuple[Any, ...]) -> None:
        self._loading = (tflite, arguments)
        self._results: list[Array] = []
        self._worker = Worker(("edgeq.runtime.session",))
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the child."""
        self._worker.close()

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Gives dynamic inputs the shapes of what is fed."""
        if [port.shape for port in self.io.inputs] != list(shapes):
            self._take(self._call("resized", list(shapes)))

    def invoke(self, sample: Sequence[Array] | None) -> None:
        """Runs a sample in the child."""
        if sample is None:
            raise ModelError("an isolated session has no memory to fill here: pass arrays")
        self._results = self._call("run", list(sample))

    def input(self, place: int) -> Array:
        """Refuses: the memory is the child's."""
        name = self.io.inputs[place].name
        raise ModelError(f"input {name!r} of an isolated session lies in its process: pass arrays")

    def output(self, place: int) -> Array:
        """An output of the last run."""
        return self._results[place]

    def outputs(self) -> list[Array]:
        """All outputs of the last run."""
        return list(self._results)

    def tensor(self, index: int) -> Any:
        """Refuses: the memory is the child's."""
        raise ModelError(f"tensor {index} of an isolated session lies in its process: use outputs")

    def nodes(self) -> list[Mapping[str, Any]]:
        """Ops of the main graph, those of delegates at the end."""
        return list(self._ops)

    def _load(self) -> None:
        facts = self._ask("load", *self._loading)
        self.signatures, self.pieces_of_library, self._ops = facts[:3]
        self._take(facts[3:])

    def _take(self, ports: Sequence[Any]) -> None:
        self.io, self.fed, self.dynamic, self.key = ports

    def _call(self, job: str, *arguments: object) -> Any:
        """Runs a job with the session; a child that has lost it loads it again."""
        found = self._ask(job, *arguments)
        if found is None:
            self._load()
            found = self._ask(job, *arguments)
        if found is None:
            raise ModelError("the isolated session's process ended twice in one run")
        return found

    def _ask(self, job: str, *arguments: object) -> Any:
        try:
            return self._worker.call(f"{__name__}:{job}", *arguments, timeout_s=RUN_LIMIT_S)
        except (JobCrashed, JobFailed) as error:
            reason = " ".join(error.reason.split())[:300]
            raise ModelError(
                f"the isolated session's process {reason}: the .tflite file is damaged, or this "
                "input is more than it stands. The next run starts another process"
            ) from None


def load(tflite: Content, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Job: loads the session; tells its signatures, pieces of a library, ops and ports."""
    from edgeq.runtime.session import Session

    delegate, threads, options, signature, backend = arguments
    session = Session(
        tflite, delegate, threads, options, signature=signature, backend=backend, trusted=True
    )
    _OWN["session"] = session
    ops = [{name: _plain(v) for name, v in op.items()} for op in session._ops()]
    return session.signatures, session._pieces_of_library, ops, *_ports()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _ports() -> tuple[Any, ...]:
    entry = _OWN["session"]._entry
    return entry.io, entry.fed, entry.dynamic, _OWN["session"].bucket


def resized(shapes: Sequence[tuple[int, ...]]) -> tuple[Any, ...] | None:
    """Job: gives dynamic inputs these shapes; tells the ports, or None without a session."""
    if not _OWN:
        return None
    _OWN["session"]._resize(shapes)
    return _ports()


def run(sample: Sequence[Array]) -> list[Array] | None:
    """Job: one run; tells the outputs, or None without a session."""
    if not _OWN:
        return None
    _OWN["session"].invoke(sample)
    outputs: list[Array] = _OWN["session"].outputs()
    return outputs
