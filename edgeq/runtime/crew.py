"""`Crew`: several sessions of one model that run samples side by side; results come in order."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from edgeq.runtime.session import Session, available_cpus

Result = TypeVar("Result")


class Crew:
    """One single-threaded session for each thread.

    Samples side by side use cores better than threads within one sample, and what is computed does
    not depend on their number.

    Args:
        tflite: The model.
        threads: How many; None takes what this process may use.
    """

    def __init__(self, tflite: bytes, threads: int | None = None) -> None:
        self._tflite = tflite
        self._count = threads or available_cpus()
        self._sessions: dict[int, Session] = {}
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="edgeq-crew")

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for session in self._sessions.values():
            session.close()

    def map(
        self,
        samples: Iterable[Sequence[npt.NDArray[Any]]],
        read: Callable[[Session], Result],
    ) -> Iterator[Result]:
        """Runs each sample and yields what `read` takes from its session, in the samples' order.

        At most two samples a thread are under way, so the memory does not grow with their number.
        """
        running: collections.deque[Future[Result]] = collections.deque()
        for sample in samples:
            # The caller may fill the same arrays again while this sample waits.
            copied = [array.copy() for array in sample]
            running.append(self._pool.submit(self._run, copied, read))
            if len(running) > 2 * self._count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _run(self, sample: list[npt.NDArray[Any]], read: Callable[[Session], Result]) -> Result:
        session = self._session()
        session.invoke(sample)
        return read(session)

    def _session(self) -> Session:
        """This thread's own session, loaded while other threads may run already."""
        thread = threading.get_ident()
        if thread not in self._sessions:
            self._sessions[thread] = Session(self._tflite, threads=1)
        return self._sessions[thread]
