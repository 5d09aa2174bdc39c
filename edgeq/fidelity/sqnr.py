"""How far two models' outputs are apart, as values that merge without any rounding.

Each sample's sums are float64; over samples they are added up as whole numbers, so that however the
samples are split, ordered and merged, the result is bit for bit that of one pass. Knows arrays,
nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.fidelity.metrics import interval

TOP_ENTRIES = 5
"""How many of the highest entries of a score vector are compared as a set."""

UNITS = 1 << 1074
"""Every finite float64 is a whole number of these parts of 1."""


@dataclass(frozen=True)
class ExactSum:
    """A sum of float64 values, rounded only when it is read.

    Attributes:
        units: The sum of the finite values in parts of `1 / UNITS`.
        beyond: The sum of the others: 0, infinite or NaN.
    """

    units: int = 0
    beyond: float = 0.0

    @classmethod
    def of(cls, value: float) -> ExactSum:
        """One value."""
        if not math.isfinite(value):
            return cls(0, value)
        above, below = value.as_integer_ratio()
        return cls(above * (UNITS // below))

    def merge(self, other: ExactSum) -> ExactSum:
        """The sum of both."""
        return ExactSum(self.units + other.units, self.beyond + other.beyond)

    @property
    def value(self) -> float:
        """The float64 that is nearest to the sum."""
        try:
            return self.units / UNITS + self.beyond
        except OverflowError:
            return (math.inf if self.units > 0 else -math.inf) + self.beyond


@dataclass(frozen=True)
class Matches:
    """Places at which two outputs were compared, and at how many of them they agree."""

    count: int = 0
    same: int = 0

    @property
    def share(self) -> float | None:
        """How many agree, 0 to 1; None where nothing was compared."""
        return self.same / self.count if self.count else None

    def merge(self, other: Matches) -> Matches:
        """Merges two values into the one that has seen the places of both."""
        return Matches(self.count + other.count, self.same + other.same)


@dataclass(frozen=True)
class Fidelity:
    """Sums over one output of two models, over some samples.

    Attributes:
        count: Number of values compared.
        signal: Sum of squares of the float output.
        answer: Sum of squares of the other output.
        product: Sum of the products of both.
        noise: Sum of squares of the difference.
        error: Sum of the absolute difference.
        largest: Largest absolute difference.
        top1: Score vectors (of an output of two or more axes, those along the last one, if that has
            two or more entries), and those of them whose highest entry (the first, among equals) is
            at the same place in both.
        top5: The five highest entries of score vectors of more than five, and those of them that
            are among the five highest of the other output, too.
        are_indices: Whether values are places and not quantities: each counts as 1 in the signal
            and, where it differs, as 1 in the noise; `top1` has their agreement.
    """

    count: int = 0
    signal: ExactSum = field(default_factory=ExactSum)
    answer: ExactSum = field(default_factory=ExactSum)
    product: ExactSum = field(default_factory=ExactSum)
    noise: ExactSum = field(default_factory=ExactSum)
    error: ExactSum = field(default_factory=ExactSum)
    largest: float = 0.0
    top1: Matches = Matches()
    top5: Matches = Matches()
    are_indices: bool = False

    @classmethod
    def of(cls, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Fidelity:
        """One sample, both arrays of the same shape."""
        reference = np.ravel(expected).astype(np.float64)
        answer = np.ravel(actual).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so
            difference = np.abs(reference - answer)
            return cls(
                count=reference.size,
                signal=_sum(np.square(reference)),
                answer=_sum(np.square(answer)),
                product=_sum(reference * answer),
                noise=_sum(np.square(difference)),
                error=_sum(difference),
                largest=float(difference.max(initial=0.0)),
                top1=_same_winners(expected, actual),
                top5=_shared_top(expected, actual),
            )

    @classmethod
    def of_indices(cls, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Fidelity:
        """One sample of an output of indices, both arrays of the same shape."""
        same = expected == actual
        seen = cls.of(np.ones(same.size), same.ravel())
        return replace(seen, top1=Matches(same.size, int(np.count_nonzero(same))), are_indices=True)

    def observe(self, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Fidelity:
        """With one more sample, both arrays of the same shape."""
        return self.merge(Fidelity.of(expected, actual))

    def merge(self, other: Fidelity) -> Fidelity:
        """Merges two values into the one that has seen the samples of both."""
        return Fidelity(
            self.count + other.count,
            self.signal.merge(other.signal),
            self.answer.merge(other.answer),
            self.product.merge(other.product),
            self.noise.merge(other.noise),
            self.error.merge(other.error),
            float(np.maximum(self.largest, other.largest)),
            self.top1.merge(other.top1),
            self.top5.merge(other.top5),
            self.are_indices or other.are_indices,
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; infinite where nothing differs."""
        return decibels(self.signal.value, self.noise.value)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both outputs, all samples' values taken as one vector.

        1 where both are 0 everywhere, 0 where one of them is.
        """
        signal, answer = self.signal.value, self.answer.value
        if signal == 0 or answer == 0:
            return float(signal == answer)
        return float(np.clip(self.product.value / math.sqrt(signal) / math.sqrt(answer), -1, 1))

    @property
    def mean_error(self) -> float:
        """Mean absolute difference; 0 before any value."""
        return self.error.value / self.count if self.count else 0.0

    @property
    def top1_agreement(self) -> float | None:
        """Share of score vectors whose highest entry is the same; None without any."""
        return self.top1.share

    @property
    def top5_agreement(self) -> float | None:
        """Share of the five highest entries of score vectors that are among the five highest in
        both; None without any vector of more than five."""
        return self.top5.share


def decibels(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, minus infinity without a signal."""
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def _sum(values: npt.NDArray[np.float64]) -> ExactSum:
    return ExactSum.of(float(values.sum()))


def _same_winners(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Matches:
    """Score vectors, and those of them with the same winner."""
    if expected.ndim < 2 or expected.shape[-1] < 2 or not expected.size:
        return Matches()
    same = expected.argmax(axis=-1) == actual.argmax(axis=-1)
    return Matches(same.size, int(np.count_nonzero(same)))


def _shared_top(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Matches:
    """The highest entries of all score vectors, and those of them that both outputs have."""
    if expected.ndim < 2 or expected.shape[-1] <= TOP_ENTRIES or not expected.size:
        return Matches()
    both = _highest(expected) & _highest(actual)
    return Matches(TOP_ENTRIES * (both.size // both.shape[-1]), int(np.count_nonzero(both)))


def _highest(scores: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether an entry is among the `TOP_ENTRIES` highest of its vector; of equals, the first."""
    left = np.array(scores, np.float64)
    taken = np.zeros(scores.shape, np.bool_)
    for _ in range(TOP_ENTRIES):
        place = np.expand_dims(left.argmax(axis=-1), -1)
        np.put_along_axis(taken, place, True, axis=-1)
        np.put_along_axis(left, place, -np.inf, axis=-1)
    return taken


@dataclass(frozen=True)
class WorstSample:
    """One of the samples on which the two models are farthest apart.

    Attributes:
        index: Its place in the data.
        sqnr_db: SQNR in dB of the output that is farthest apart.
        top1_changed: Whether a highest entry is at another place than in the float model.
    """

    index: int
    sqnr_db: float
    top1_changed: bool


@dataclass(frozen=True)
class SampleSpread:
    """How the SQNR of an output differs from sample to sample.

    Attributes:
        median_db: SQNR in dB that half of the samples reach.
        worst_tenth_db: SQNR in dB that the worst tenth of the samples does not exceed.
        low_db: Lower end of the 95 % interval of the SQNR of all samples: what other samples of the
            same kind would show, by a bootstrap that is widened where there are few, and by a
            log-normal noise, of which few samples miss the rare loud ones.
        high_db: Upper end.
    """

    median_db: float
    worst_tenth_db: float
    low_db: float
    high_db: float

    @classmethod
    def of(cls, powers: Sequence[tuple[float, float]]) -> SampleSpread:
        """Makes the value from signal and noise of each sample."""
        signal, noise = np.asarray(powers, np.float64).T
        each = [decibels(*power) for power in powers]
        worst, median = np.quantile(each, [0.1, 0.5], method="lower")

        def total(rows: npt.NDArray[np.intp]) -> float:
            return decibels(float(signal[rows].sum()), float(noise[rows].sum()))

        ends = interval(total, len(each))
        low, high = _widened(ends, total(np.arange(len(each))), len(each))
        rare = max(_low_with_rare_ones(signal, noise), float(min(each)))
        return cls(float(median), float(worst), min(low, rare), high)

    @property
    def shown(self) -> str:
        """The value in words."""
        return (
            f"median {self.median_db:.1f} dB, worst tenth {self.worst_tenth_db:.1f} dB, all "
            f"{self.low_db:.1f} to {self.high_db:.1f} dB"
        )


def _widened(ends: tuple[float, float], middle: float, count: int) -> tuple[float, float]:
    """A bootstrap's interval for as few samples as there are.

    Resampled, few samples differ less than new ones would.

    Source:
        Hesterberg, "What Teachers Should Know About the Bootstrap", 2015: the factor of the
        narrowness of percentile intervals, and Student's t in the place of the normal quantile.
    """
    if count < 2 or not np.isfinite((*ends, middle)).all():
        return ends
    from scipy.special import ndtri, stdtrit

    freedom = count - 1
    factor = stdtrit(freedom, MIDDLE) / ndtri(MIDDLE) * math.sqrt(count / freedom)
    low, high = (middle + float(factor) * (end - middle) for end in ends)
    return low, high


def _low_with_rare_ones(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float:
    """Lower end in dB where the noise of a sample is log-normal; infinite where that says nothing.

    Source:
        Zhou and Gao, "Confidence intervals for the log-normal mean", Statistics in Medicine, 1997:
        Cox's method, with Student's t in the place of the normal quantile.
    """
    count = len(noise)
    if count < 2 or not signal.any() or not (noise > 0).all() or not np.isfinite(noise).all():
        return math.inf
    from scipy.special import stdtrit

    logs = np.log(noise)
    variance = float(logs.var(ddof=1))
    error = math.sqrt(variance / count + variance**2 / (2 * (count - 1)))
    largest = float(logs.mean()) + variance / 2 + float(stdtrit(count - 1, MIDDLE)) * error
    return 10 * (math.log10(float(signal.mean())) - largest / math.log(10))


MIDDLE = 0.975
"""Share of a distribution below the upper end of its 95 % interval."""

TENTHS = 10
"""Pieces that a sequence is looked at in; fewer where none has so many steps."""

DRIFTING_DB = 3.0
"""An output whose last piece has so much less SQNR than the middle one loses more and more."""


@dataclass(frozen=True)
class Drift:
    """How the SQNR of an output goes along sequences.

    Attributes:
        tenths_db: SQNR in dB of the first tenth of the steps of each sequence, the second and so
            on; of fewer pieces where there are fewer steps.
    """

    tenths_db: tuple[float, ...]

    @classmethod
    def of(cls, powers: Sequence[tuple[float, float]], steps: Sequence[int]) -> Drift | None:
        """Makes the value from signal and noise of each step, and its place in its sequence.

        Returns:
            None where no sequence has two steps.
        """
        starts = [number for number, step in enumerate(steps) if step == 0]
        lengths = np.diff([*starts, len(steps)])
        count = min(TENTHS, int(lengths.max(initial=0)))
        if count < 2:
            return None
        piece = np.asarray(steps) * count // np.repeat(lengths, lengths)
        signal, noise = np.asarray(powers, np.float64).T
        return cls(
            tuple(
                decibels(float(signal[piece == i].sum()), float(noise[piece == i].sum()))
                for i in range(count)
            )
        )

    @property
    def is_growing(self) -> bool:
        """Whether the noise still grows in the second half."""
        return self.tenths_db[-1] < self.tenths_db[len(self.tenths_db) // 2] - DRIFTING_DB

    @property
    def shown(self) -> str:
        """The value in words."""
        return f"{self.tenths_db[0]:.1f} and {self.tenths_db[-1]:.1f} dB"
