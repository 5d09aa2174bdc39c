"""`SessionPool`: one model for the many threads of a server."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from edgeq.errors import DataError, ModelError
from edgeq.files import Content
from edgeq.runtime.delegates import Options
from edgeq.runtime.entry import Array
from edgeq.runtime.interpreter import read_model
from edgeq.runtime.session import Inputs, Session, available_cpus


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
        trusted: As for `Session`.
        isolated: As for `Session`; each session has a process of its own.

    Raises:
        EdgeqError: As for `Session`.
    """

    def __init__(
        self,
        model: Content | str | os.PathLike[str],
        delegate: str = "xnnpack",
        sessions: int | None = None,
        threads: int = 1,
        options: Options | None = None,
        *,
        signature: str | None = None,
        backend: str | None = None,
        trusted: bool = False,
        isolated: bool = False,
    ) -> None:
        if sessions is not None and (not isinstance(sessions, int) or sessions < 1):
            raise DataError(
                f"sessions must be a whole number from 1 on, or None. Received: {sessions!r:.80}"
            )
        content = read_model(model)
        self._count = sessions or available_cpus()
        self._is_open = True
        self._waiting = 0
        self._lock = threading.Lock()
        # Who waits for a session, or, closing the pool, for all of them.
        self._returned = threading.Condition(self._lock)
        self._idle = [
            Session(
                content,
                delegate,
                threads,
                options,
                signature=signature,
                backend=backend,
                trusted=trusted,
                isolated=isolated,
            )
            for _ in range(self._count)
        ]

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
        session = self._take()
        try:
            yield session
        finally:
            self._give_back(session)

    def run(self, inputs: Inputs, *, real: bool = False) -> dict[str, Array]:
        """`Session.run` on whichever session is idle; may be called from any thread."""
        session = self._take()
        try:
            return session.run(inputs, real=real)
        finally:
            self._give_back(session)

    def close(self) -> None:
        """Waits for running requests and lets go of all sessions; a second call does nothing.

        Requests that still wait for a session are refused.
        """
        with self._lock:
            self._is_open = False
            self._returned.notify_all()
            while len(self._idle) < self._count:
                self._wait()
            for session in self._idle:
                session.close()
            # Somebody else may be closing the pool, too.
            self._returned.notify_all()

    def _take(self) -> Session:
        with self._lock:
            while self._is_open and not self._idle:
                self._wait()
            if not self._is_open:
                raise ModelError("the pool is closed")
            # The last one returned is lent first: its memory is still in the caches.
            return self._idle.pop()

    def _give_back(self, session: Session) -> None:
        with self._lock:
            self._idle.append(session)
            if self._waiting:
                self._returned.notify()

    def _wait(self) -> None:
        self._waiting += 1
        try:
            self._returned.wait()
        finally:
            self._waiting -= 1
