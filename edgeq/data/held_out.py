"""`HeldOut`: a stream of samples that keeps some of them back to judge the result by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgeq.data.rep_dataset import Sample


class HeldOut:
    """A stream of samples that keeps some of them back to judge the result by.

    Every tenth sample is held out and not passed on, up to a limit; data with fewer than ten
    samples is passed on whole and judged by its own first samples.

    Args:
        samples: The stream.
        limit: Most samples to hold.
        passed: Most samples to remember of those that are passed on; fewer where they are large.
    """

    EVERY = 10
    PASSED_BYTES = 64 << 20

    def __init__(self, samples: Iterable[Sample], limit: int = 16, passed: int = 41) -> None:
        self._samples = samples
        self._limit = limit
        self._most = passed
        self._held: list[Sample] = []
        self._passed: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        for index, sample in enumerate(self._samples):
            if index % self.EVERY == self.EVERY - 1 and len(self._held) < self._limit:
                self._held.append(tuple(a.copy() for a in sample))
                continue
            if self._remembers(sample):
                self._passed.append(tuple(a.copy() for a in sample))
            yield sample

    def _remembers(self, sample: Sample) -> bool:
        """Whether one more sample is remembered."""
        count = len(self._passed)
        size = sum(array.nbytes for array in sample)
        most = self._most if (count + 1) * size <= self.PASSED_BYTES else self.EVERY - 1
        return count < most

    def exhaust(self) -> None:
        """Reads the rest of the stream, for those who only want `samples`."""
        for _ in self:
            pass

    @property
    def independent(self) -> bool:
        """Whether `samples` were kept out of calibration."""
        return bool(self._held)

    @property
    def passed(self) -> list[Sample]:
        """The first samples that were passed on, once the stream has been read."""
        return self._passed

    @property
    def first(self) -> list[Sample]:
        """The few first ones of these."""
        return self._passed[: self.EVERY - 1]

    @property
    def samples(self) -> list[Sample]:
        """The held-out samples, once the stream has been read."""
        return self._held or self.first
