"""`HeldOut`: a stream of samples that keeps some of them back to judge the result by.

Of sequences, whole ones are kept back, as a model with states is judged by running them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.data.steps import Step


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of some samples, evenly from all of them, in order."""
    count = min(len(samples), most)
    return [
        samples[int(place)] for place in (np.arange(count) + 0.5) * len(samples) / max(1, count)
    ]


class Spread:
    """Some samples of a stream whose length is not known, evenly from all of it.

    Args:
        most: From so many on, every second one is let go of, and fewer are taken after.

    Attributes:
        samples: Those that are kept, in order.
    """

    def __init__(self, most: int) -> None:
        self.samples: list[Sample] = []
        self._most = most
        self._step = 1
        self._seen = 0

    def add(self, sample: Sample) -> list[Sample]:
        """Takes a copy of a sample if it is its turn; returns what is not kept, or not any more."""
        self._seen += 1
        if self._seen % self._step:
            return [sample]
        self.samples.append(_copied(sample))
        return self._thinned() if len(self.samples) >= self._most else []

    def keep_fewer(self, most: int) -> None:
        """Keeps fewer samples from now on."""
        self._most = most
        while len(self.samples) > most:
            self._thinned()

    def _thinned(self) -> list[Sample]:
        dropped, self.samples = self.samples[::2], self.samples[1::2]
        self._step *= 2
        return dropped


FEW, SOME = 30, 60
"""Up to so many samples, two of five are held out, and one of five: two alone say nothing."""


def is_held_out(index: int, count: int) -> bool:
    """Whether a sample is held out of so many; if it is not, it is not of more either."""
    if count <= FEW:
        return index % 5 in (2, 4)
    return index % 5 == 4 if count <= SOME else index % HeldOut.EVERY == HeldOut.EVERY - 1


class HeldOut:
    """A stream of samples that keeps some of them back to judge the result by.

    Every tenth sample is held out and not passed on; a larger share of few samples. Where these
    become too many, every second one of them is passed on after all, and every twentieth is held
    out from there on, and so forth: the rest comes evenly from all of the data. Data with fewer
    than ten samples is passed on whole and judged by its own samples.

    Args:
        samples: The stream.
        limit: Fewer samples than this are held, and at least half of it where there are enough.
        passed: Most samples to remember of those that are passed on; fewer where they are large.
    """

    EVERY = 10
    PASSED = 41
    PASSED_BYTES = 256 << 20

    def __init__(self, samples: Iterable[Sample], limit: int = 128, passed: int = PASSED) -> None:
        self._samples = samples
        self._held = Spread(limit)
        self._most = passed
        self._passed = Spread(2 * passed)

    def __iter__(self) -> Iterator[Sample]:
        for passed in self._sifted():
            self._remember(passed)
            yield passed

    def _sifted(self) -> Iterator[Sample]:
        """What is not held out; a sample of the first ones may come later than it was read."""
        stream = iter(self._samples)
        first = [_copied(sample) for sample in itertools.islice(stream, self.EVERY)]
        if len(first) < self.EVERY:
            yield from first
            return
        early: dict[int, Sample] = {}
        for index, sample in enumerate(itertools.chain(first, stream)):
            count = index + 1
            if count in (FEW + 1, SOME + 1):
                yield from _released(early, count)
            if not is_held_out(index, count):
                yield sample
            elif count <= SOME:
                early[index] = _copied(sample)
            else:
                yield from self._kept_back(early, sample)
        yield from self._kept_back(early)

    def _kept_back(self, early: dict[int, Sample], *more: Sample) -> Iterator[Sample]:
        """Holds out what is left of the first samples, and some more; what that drops instead."""
        for sample in (*early.values(), *more):
            yield from self._held.add(sample)
        early.clear()

    def _remember(self, sample: Sample) -> None:
        """Keeps a sample that is passed on, if it is its turn."""
        count = len(self._passed.samples)
        if count >= self.EVERY - 1:
            size = sum(array.nbytes for array in sample)
            if (count + 1) * size > self.PASSED_BYTES:
                self._passed.keep_fewer(max(self.EVERY, self.PASSED_BYTES // size))
        self._passed.add(sample)

    def exhaust(self) -> None:
        """Reads the rest of the stream, for those who only want `samples`."""
        for _ in self:
            pass

    @property
    def independent(self) -> bool:
        """Whether `samples` were kept out of calibration."""
        return bool(self._held.samples)

    @property
    def passed(self) -> list[Sample]:
        """Samples from all over those that were passed on, once the stream has been read.

        So are the first `PASSED` of more, for those who only take few.
        """
        kept = spread(self._passed.samples, self._most)
        first = spread(kept, self.PASSED)
        taken = set(map(id, first))
        return [*first, *(sample for sample in kept if id(sample) not in taken)]

    @property
    def samples(self) -> list[Sample]:
        """The held-out samples, once the stream has been read."""
        return self._held.samples or spread(self._passed.samples, self.EVERY - 1)

    def judged(self, most: int) -> Sequence[Sample]:
        """At most so many of `samples`, evenly from all of them."""
        return spread(self.samples, most)

    def trials(self, most: int) -> Sequence[Sample]:
        """At most so many of `passed`, likewise, to judge plans by on the way."""
        return spread(self.passed, most)


def _copied(sample: Sample) -> Sample:
    """A sample in arrays of its own: whoever made it may fill the same ones again."""
    return tuple(array.copy() for array in sample)


def _released(early: dict[int, Sample], count: int) -> Iterator[Sample]:
    """Those of some samples that are not held out any more, now that there are so many."""
    for index in [index for index in early if not is_held_out(index, count)]:
        yield early.pop(index)


class HeldOutSequences(HeldOut):
    """A stream of steps that keeps whole sequences back to judge the result by.

    Every tenth sequence is held out and not passed on. Data with fewer than ten is passed on whole
    and judged by its own sequences. The first steps of the data try plans, and are not in `passed`
    where there are others enough; those are samples by themselves, with the float model's states.

    Args:
        samples: The stream, complete with states.
        steps: After so many steps of a sequence its next part counts as another one, which begins
            with the float model's states; None keeps sequences whole.
    """

    HELD_BYTES = 64 << 20
    """Steps beyond are passed on; a sequence may be cut short by it."""

    LEAST_STEPS = 100
    """Steps that are judged, however few were asked for: drift takes its time."""

    TRIAL_STEPS = 32
    """Steps that plans are tried with."""

    def __init__(self, samples: Iterable[Sample], steps: int | None = None) -> None:
        super().__init__(samples)
        self._part = steps
        self._number = -1
        self._steps: list[Sample] = []
        self._bytes = 0
        self._trials: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        for step in self._samples:
            place = self._place(step)
            if not place:
                self._begin()
            is_held = self._is_turn and self._kept(step, place)
            if not self.independent:
                self._kept(step, place)
            if is_held:
                continue
            if len(self._trials) < self.TRIAL_STEPS:
                self._trials.append(step.copied() if isinstance(step, Step) else step)
            else:
                self._remember(step)
            yield step

    def _place(self, step: Sample) -> int:
        """Where a step is in its sequence, or part of one."""
        place = step.place if isinstance(step, Step) else 0
        return place % self._part if self._part else place

    @property
    def _is_turn(self) -> bool:
        return self._number % self.EVERY == self.EVERY - 1

    def _begin(self) -> None:
        """Goes on to the next sequence; those of the data itself go with the first held out."""
        self._number += 1
        if self._number == self.EVERY - 1:
            self._steps, self._bytes = [], 0

    def _kept(self, step: Sample, place: int) -> bool:
        """Keeps a step as the one of this place, if there is room for it."""
        self._bytes += sum(array.nbytes for array in step)
        if self._bytes > self.HELD_BYTES:
            return False
        self._steps.append(step.copied(place) if isinstance(step, Step) else step)
        return True

    @property
    def independent(self) -> bool:
        """Whether `samples` were kept out of calibration."""
        return self._number >= self.EVERY - 1

    @property
    def samples(self) -> list[Sample]:
        """The steps of the held-out sequences, in order, once the stream has been read."""
        return self._steps

    @property
    def passed(self) -> list[Sample]:
        """Samples from all over those that were passed on, once the stream has been read."""
        others = super().passed
        if len(others) < self._most:
            return spread([*map(tuple, self._trials), *others], self._most)
        return others

    def trials(self, most: int) -> Sequence[Sample]:
        """The first steps that were passed on."""
        return self._trials

    def judged(self, most: int) -> Sequence[Sample]:
        """About so many steps of `samples`: sequences from their first steps on."""
        return self._steps[: max(most, self.LEAST_STEPS)]
