"""`Crew`: several copies of what runs samples, side by side; results come in order."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from edgeq.errors import RecipeError
from edgeq.runtime.session import available_cpus


class Closable(Protocol):
    """A resource of one thread, such as a session."""

    def close(self) -> None:
        """Lets go of it."""
        ...


Member = TypeVar("Member", bound=Closable)
Result = TypeVar("Result")


class Crew(Generic[Member]):
    """Threads, each with a member of its own, for example a single-threaded session.

    Samples side by side use cores better than threads within one sample, and what is computed does
    not depend on their number.

    Args:
        load: Makes a member.
        threads: How many; None takes what this process may use.
    """

    def __init__(self, load: Callable[[], Member], threads: int | None = None) -> None:
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise RecipeError(
                f"threads must be a whole number from 1 on, or None. Received: {threads!r:.80}"
            )
        self._load = load
        self._count = threads or available_cpus()
        self._members: dict[int, Member] = {}
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="edgeq-crew")

    def __enter__(self) -> Crew[Member]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for member in self._members.values():
            member.close()

    def map(
        self,
        samples: Iterable[Sequence[npt.NDArray[Any]]],
        work: Callable[[Member, Sequence[npt.NDArray[Any]]], Result],
    ) -> Iterator[Result]:
        """Yields what `work` makes of each sample with its thread's member, in the samples' order.

        At most two samples a thread are under way, so the memory does not grow with their number.
        """
        running: collections.deque[Future[Result]] = collections.deque()
        for sample in samples:
            # The caller may fill the same arrays again while this sample waits.
            copied = [array.copy() for array in sample]
            running.append(self._pool.submit(self._run, work, copied))
            if len(running) > 2 * self._count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _run(
        self,
        work: Callable[[Member, Sequence[npt.NDArray[Any]]], Result],
        sample: Sequence[npt.NDArray[Any]],
    ) -> Result:
        return work(self._member(), sample)

    def _member(self) -> Member:
        """This thread's own member, loaded while other threads may run already."""
        thread = threading.get_ident()
        if thread not in self._members:
            self._members[thread] = self._load()
        return self._members[thread]
