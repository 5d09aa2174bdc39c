"""`SessionPool`: one model for the many threads of a server."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator

from edgeq.errors import ModelError
from edgeq.runtime.delegates import Options
from edgeq.runtime.entry import Array
from edgeq.runtime.session import Inputs, Session, available_cpus, read_model


class SessionPool:
    """Sessions of one model, lent to whichever thread asks.

    A session runs one request at a time; requests beyond the number of sessions wait. One thread a
    session, and a session a CPU, serves more requests than one session with many threads.

    Args:
        model: .tflite bytes, or the path of a file.
        delegate: As for `Session`.
        sessions: How many; None is one for each CPU that this process may use. An Edge TPU
            serves one session.
        threads: Threads within one run of a session.
        options: As for `Session`.
        signature: As for `Session`.
        backend: As for `Session`.

    Raises:
        EdgeqError: As for `Session`.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        delegate: str = "xnnpack",
        sessions: int | None = None,
        threads: int = 1,
        options: Options | None = None,
        *,
        signature: str | None = None,
        backend: str | None = None,
    ) -> None:
        content = model if isinstance(model, bytes) else read_model(model)
        self._count = sessions or available_cpus()
        # The last one returned is lent first: its memory is still in the caches.
        self._idle: queue.LifoQueue[Session | None] = queue.LifoQueue()
        self._closing = threading.Lock()
        self._open = self._count
        for _ in range(self._count):
            self._idle.put(
                Session(content, delegate, threads, options, signature=signature, backend=backend)
            )

    def __enter__(self) -> SessionPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Lends a session to the calling thread, which waits until one is idle.

        Raises:
            ModelError: The pool is closed.
        """
        session = self._idle.get()
        if session is None:
            self._idle.put(None)
            raise ModelError("the pool is closed")
        try:
            yield session
        finally:
            self._idle.put(session)

    def run(self, inputs: Inputs, *, real: bool = False) -> dict[str, Array]:
        """`Session.run` on whichever session is idle; may be called from any thread."""
        with self.session() as session:
            return session.run(inputs, real=real)

    def close(self) -> None:
        """Waits for running requests and lets go of all sessions; a second call does nothing."""
        with self._closing:
            for _ in range(self._open):
                session = self._idle.get()
                if session is not None:
                    session.close()
            self._open = 0
            # Whoever waits for a session from now on finds this, and leaves it for the next.
            self._idle.put(None)
