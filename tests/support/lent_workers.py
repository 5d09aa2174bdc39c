"""Child processes of the converter that one test after the other uses.

An export starts a child of its own, which imports the converter for most of a second. The children
here are real ones, and nothing of what they compute is kept: a test gets one that another has done
with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from edgeq import isolation
from edgeq.isolation import JobCrashed, Worker

Key = tuple[tuple[str, ...], tuple[str, ...], frozenset[tuple[str, str]]]


class Lender:
    """Starts workers and keeps those that came back whole."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[Worker]] = {}

    def __call__(self, preload: Sequence[str] = ()) -> Loan:
        """A worker with the modules imported, started in an environment like the present one."""
        environment = isolation._child_environment()
        environment.pop("PYTEST_CURRENT_TEST", None)
        key: Key = (
            tuple(preload), tuple(isolation._import_path()), frozenset(environment.items())
        )  # fmt: skip
        waiting = self._idle.setdefault(key, [])
        worker = waiting.pop() if waiting else Worker(preload)
        return Loan(worker, lambda: waiting.append(worker))

    def close(self) -> None:
        """Ends the workers that nobody uses."""
        for waiting in self._idle.values():
            while waiting:
                waiting.pop().close()


class Loan:
    """A worker for as long as a test needs it; one that has lost its child does not go back."""

    def __init__(self, worker: Worker, give_back: Callable[[], None]) -> None:
        self._worker = worker
        self._give_back: Callable[[], None] | None = give_back

    def __enter__(self) -> Loan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, job: str, *arguments: object, **limits: Any) -> Any:
        """As `Worker.call`."""
        try:
            return self._worker.call(job, *arguments, **limits)
        except (JobCrashed, KeyboardInterrupt):
            self._give_back = self._worker.close
            raise

    def close(self) -> None:
        """Gives the worker back; a second call does nothing."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


@contextlib.contextmanager
def in_use() -> Iterator[Lender]:
    """Exports and checks of files borrow their children from one lender."""
    lender = Lender()
    with (
        contextlib.closing(lender),
        mock.patch("edgeq.converter.Worker", lender),
        mock.patch("edgeq.runtime.file_check.Worker", lender),
    ):
        yield lender
