"""Observers: mergeable values that turn what a tensor holds into the range its integers cover.

An observer is a frozen value with three methods:

    observe(values) -> observer     with one more sample taken into account
    merge(other)    -> observer     what one observer would be that had seen what both have seen
    range()         -> (low, high)  or None as long as nothing has been seen

Merging is associative; for all but `MovingAverage` it is commutative too, and exact: however the
data is split, ordered and merged, the result is bit for bit that of one pass. Your own observer is
any class with these methods, for example one that ignores each sample's smallest and largest:

>>> @dataclass(frozen=True)
... class Trimmed:
...     low: float | None = None
...     high: float | None = None
...
...     def observe(self, values):
...         inner = np.sort(values, axis=None)[1:-1]
...         return self.merge(Trimmed(float(inner[0]), float(inner[-1])))
...
...     def merge(self, other):
...         if self.low is None or other.low is None:
...             return other if self.low is None else self
...         return Trimmed(min(self.low, other.low), max(self.high, other.high))
...
...     def range(self):
...         return None if self.low is None else (self.low, self.high)
>>> Trimmed().observe(np.asarray([-9.0, -1.0, 0.0, 2.0, 50.0])).range()
(-1.0, 2.0)

One range holds for a whole tensor: LiteRT's kernels take activations per tensor only. Weights are
per channel, and their scales come from the constants themselves, so no observer sees them.

Observers know nothing of models, data sets or quantization parameters.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError, RecipeError

Values = npt.NDArray[np.floating[Any]]
Range = tuple[float, float]


HALF_BITS = 12
BINS = 2 << HALF_BITS
"""Bins of a histogram: at least 2,048 of them span the values of one sign."""

LEAST_EXPONENT = -120
"""Narrower bins would be no normal float32; such values are 0 to any quantization."""

LOUD = 3
"""Samples that are louder than the others by more than so many powers of two are left out, ..."""

RARE = 50
"""... if there is at most one of them among so many."""

MOST_VALUES = 1 << 14
"""Of a larger tensor, the histogram observers are given about so many values of each sample."""


@runtime_checkable
class Observer(Protocol):
    """What calibration asks of an observer; see the module's docstring."""

    def observe(self, values: Values) -> Any:
        """With one more sample: `values` has the tensor's shape, or is a part of its values."""
        ...

    def merge(self, other: Any) -> Any:
        """What one observer would be that had seen what both have seen, `self` first."""
        ...

    def range(self) -> Range | None:
        """`(lowest, highest)` real value that the integers cover, or None before any sample."""
        ...


def _check_settings(one: object, other: object, *names: str) -> None:
    """Raises a `DataError` for observers of one class that would not see the same alike."""
    for name in names:
        mine, its = getattr(one, name), getattr(other, name)
        if mine != its:
            raise DataError(
                f"{type(one).__name__} observers of {name} {mine} and {its} cannot be merged: "
                "calibrate with one setting"
            )


def extremes_suffice(observer: object) -> bool:
    """Whether each sample's lowest and highest value are all that the observer looks at.

    Such an observer costs next to nothing, since the graph itself computes the extremes.
    """
    return bool(getattr(observer, "only_extremes", False))


@dataclass(frozen=True)
class MinMax:
    """The lowest and highest value ever seen."""

    low: float | None = None
    high: float | None = None

    only_extremes: ClassVar[bool] = True

    def observe(self, values: Values) -> MinMax:
        """With one more sample."""
        return self.merge(MinMax(float(values.min()), float(values.max()))) if values.size else self

    def merge(self, other: MinMax) -> MinMax:
        """The wider of both ranges."""
        if self.low is None or self.high is None:
            return other
        if other.low is None or other.high is None:
            return self
        return MinMax(min(self.low, other.low), max(self.high, other.high))

    def range(self) -> Range | None:
        """`(lowest, highest)`."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def _check_range(observer: Fixed | AtLeast) -> None:
    low, high = observer.low, observer.high
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(
            f"{type(observer).__name__} needs two finite numbers, low < high. "
            f"Received: {low}, {high}"
        )


@dataclass(frozen=True)
class Fixed:
    """A range that is known beforehand, whatever the data shows.

    Attributes:
        low: Lowest real value.
        high: Highest real value.
    """

    low: float
    high: float

    only_extremes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range(self)

    def observe(self, values: Values) -> Fixed:
        """Itself: the data does not matter."""
        return self

    def merge(self, other: Fixed) -> Fixed:
        """Itself.

        Raises:
            DataError: The other has another range.
        """
        _check_settings(self, other, "low", "high")
        return self

    def range(self) -> Range:
        """`(low, high)`."""
        return self.low, self.high


@dataclass(frozen=True)
class MovingAverage:
    """The average of the samples' extremes. The only observer whose result depends on the order.

    With `decay=None` every sample counts the same (Qwix's SimpleMovingAverage; the order matters
    only in the last bits); otherwise it is an exponential moving average from the first sample on:
    `average = decay * average + (1 - decay) * extreme`. `a.merge(b)` is what one observer would be
    that had seen a's samples and then b's.

    Attributes:
        decay: Weight of the past, in (0, 1), or None for the plain mean.
        count: Number of samples seen.
        low: Average of the lowest values.
        high: Average of the highest values.
        first: Lowest and highest value of the first sample, which `merge` needs.
    """

    decay: float | None = None
    count: int = 0
    low: float = 0.0
    high: float = 0.0
    first: Range | None = None

    only_extremes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 < self.decay < 1:
            raise RecipeError(f"MovingAverage.decay must lie in (0, 1). Received: {self.decay}")

    def observe(self, values: Values) -> MovingAverage:
        """With one more sample, the latest."""
        if not values.size:
            return self
        low, high = float(values.min()), float(values.max())
        return self.merge(MovingAverage(self.decay, 1, low, high, (low, high)))

    def merge(self, other: MovingAverage) -> MovingAverage:
        """With the other's samples behind one's own.

        Raises:
            DataError: The other weighs the past differently.
        """
        _check_settings(self, other, "decay")
        if self.first is None or other.first is None:
            return other if self.first is None else self
        if self.decay is None:
            share = other.count / (self.count + other.count)
            low = self.low + (other.low - self.low) * share
            high = self.high + (other.high - self.high) * share
        else:
            # The other's average gave its first sample the weight decay ** (count - 1); here the
            # past takes decay times that, and the sample itself what is left.
            past = self.decay**other.count
            low = other.low + past * (self.low - other.first[0])
            high = other.high + past * (self.high - other.first[1])
        return MovingAverage(self.decay, self.count + other.count, low, high, self.first)

    def range(self) -> Range | None:
        """`(average lowest, average highest)`."""
        return None if self.first is None else (self.low, self.high)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values on a grid whose bins are a power of two wide and meet at 0.

    The grid widens by doubling, which joins bins in pairs, so the counts are those that the final
    grid would have given from the start: exact, in one pass, in any order.

    Attributes:
        exponent: The bins are `2 ** exponent` wide; None before any value other than 0.
        counts: `(BINS,)`; bin `i` holds the values in `[i - BINS / 2, i + 1 - BINS / 2)` widths.
    """

    exponent: int | None = None
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.exponent == other.exponent and np.array_equal(self.counts, other.counts)

    def observe(self, values: Values) -> Histogram:
        """With every element of `values` counted."""
        if not values.size:
            return self
        largest = max(float(values.max()), -float(values.min()))
        needed = max(math.frexp(largest)[1] - HALF_BITS, LEAST_EXPONENT) if largest else None
        exponent = max((e for e in (self.exponent, needed) if e is not None), default=None)
        width = 2.0 ** (exponent or 0)
        # In float32, a tiny negative value would round to 0 and move to the bin on its other side.
        places = np.divide(values.ravel(), width, dtype=np.float64)
        bins = np.floor(places).astype(np.int32) + BINS // 2
        added = np.bincount(bins, minlength=BINS)
        return Histogram(exponent, self._widened(exponent) + added)

    def merge(self, other: Histogram) -> Histogram:
        """The counts of both, on the wider grid."""
        exponent = max((h.exponent for h in (self, other) if h.exponent is not None), default=None)
        return Histogram(exponent, self._widened(exponent) + other._widened(exponent))

    def _widened(self, exponent: int | None) -> npt.NDArray[np.int64]:
        """The counts on a grid that is as wide or wider."""
        if exponent is None or self.exponent == exponent:
            return self.counts
        if self.exponent is None:  # only zeros so far, and 0 is in the same bin of every grid
            return self.counts
        steps = min(exponent - self.exponent, HALF_BITS)
        joined = self.counts.reshape(-1, 2**steps).sum(axis=1)
        return np.pad(joined, (BINS - len(joined)) // 2)

    def coarse(self, bins: int) -> Histogram:
        """The same counts on the narrowest grid that has at most `bins` bins filled."""
        coarser = self
        while self.exponent is not None and np.count_nonzero(coarser.counts) > bins:
            exponent = (coarser.exponent or 0) + 1
            coarser = Histogram(exponent, coarser._widened(exponent))
        return coarser

    @property
    def width(self) -> float:
        """Width of a bin; 0 where all values are 0."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    def points(self) -> tuple[Values, npt.NDArray[np.int64]]:
        """`(centres, counts)` of the bins that hold anything, by rising centre."""
        filled = np.flatnonzero(self.counts)
        return (filled - BINS // 2 + 0.5) * self.width, self.counts[filled]


@dataclass(frozen=True)
class _Grouped:
    """What the observers share that look at values, and leave out loud samples.

    Samples are told apart by the power of two of their largest value, so that a few samples a
    hundred times as loud as the rest neither coarsen the others' bins nor outvote them.

    Attributes:
        groups: A histogram for each power of two, by rising bin width.
    """

    groups: tuple[Histogram, ...] = ()

    values_wanted: ClassVar[int] = MOST_VALUES

    def observe(self, values: Values) -> Any:
        """With one more sample counted."""
        if not values.size:
            return self
        return self.merge(replace(self, groups=(Histogram().observe(values),)))

    def merge(self, other: Any) -> Any:
        """The counts of both."""
        groups = {group.exponent: group for group in self.groups}
        for group in other.groups:
            known = groups.get(group.exponent)
            groups[group.exponent] = group if known is None else known.merge(group)
        ordered = sorted(groups, key=lambda e: LEAST_EXPONENT - 1 if e is None else e)
        return replace(self, groups=tuple(groups[exponent] for exponent in ordered))

    def usual(self) -> tuple[Histogram, ...]:
        """The groups without those that are rare and far too loud."""
        left = total = sum(int(group.counts.sum()) for group in self.groups)
        loudest: int | None = None
        for group in self.groups:
            left -= int(group.counts.sum())
            if left * RARE <= total:
                loudest = group.exponent
                break
        if loudest is None:  # nothing seen, or nearly nothing but zeros, which have no loudness
            return self.groups
        return tuple(g for g in self.groups if g.exponent is None or g.exponent <= loudest + LOUD)


@dataclass(frozen=True)
class Percentile(_Grouped):
    """The given percentile of all values but those of rare samples that are far too loud.

    Up to one sample in 50 is left out where its largest value is more than 8 times that of the
    others, both rounded up to powers of two.

    Attributes:
        percentile: Share of values in percent that each end of the range covers.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise RecipeError(
                f"Percentile.percentile must lie in (50, 100]. Received: {self.percentile}"
            )

    def merge(self, other: Percentile) -> Percentile:
        """The counts of both.

        Raises:
            DataError: The other has another percentile.
        """
        _check_settings(self, other, "percentile")
        merged: Percentile = super().merge(other)
        return merged

    def range(self) -> Range | None:
        """The outer edges of the bins in which the percentiles lie."""
        histogram = functools.reduce(Histogram.merge, self.usual(), Histogram())
        centres, counts = histogram.points()
        if not len(centres):
            return None
        half = histogram.width / 2
        below = np.cumsum(counts) / counts.sum()
        share = self.percentile / 100
        first = np.searchsorted(below, 1 - share, side="right").clip(0, len(centres) - 1)
        last = np.searchsorted(below, share, side="left").clip(0, len(centres) - 1)
        return float(centres[first] - half), float(centres[last] + half)


@dataclass(frozen=True)
class _Searching(_Grouped, ABC):
    """What the observers share that search for the range with the smallest loss."""

    BINS_WANTED: ClassVar[int] = BINS

    def range(self) -> Range | None:
        """The range with the smallest loss."""
        groups = [g.coarse(self.BINS_WANTED) for g in self.usual() if g.exponent is not None]
        if not groups:
            return (0.0, 0.0) if self.groups else None
        found = [_Points(*group.points(), group.width) for group in groups]
        bottom = min(float(p.centres[0]) - p.width / 2 for p in found)
        top = max(float(p.centres[-1]) + p.width / 2 for p in found)
        return _best_range(bottom, top, lambda low, high: self._loss(found, low, high))

    @abstractmethod
    def _loss(self, groups: Sequence[_Points], low: float, high: float) -> float:
        """What a range loses, summed over all values."""


@dataclass(frozen=True)
class _Points:
    """The filled bins of one group."""

    centres: Values
    counts: npt.NDArray[np.int64]
    width: float


@dataclass(frozen=True)
class MSE(_Searching):
    """The range whose 8-bit integers have the smallest mean squared error, clipping included.

    Leaves out loud samples as `Percentile` does. Samples of one magnitude count by their mean
    squared error; between magnitudes it counts in decibels, as the squared error of a few loud
    samples would outweigh everything else.
    """

    BINS_WANTED: ClassVar[int] = 1024

    def _loss(self, groups: Sequence[_Points], low: float, high: float) -> float:
        total = 0.0
        for group in groups:
            count = int(group.counts.sum())
            # Values lie anywhere in their bins, so that no error is ever nothing.
            error = _squared_error(group, low, high) / count + group.width**2 / 12
            total += count * math.log(error)
        return total


@dataclass(frozen=True)
class Entropy(_Searching):
    """The range whose 8-bit integers lose the least information (Kullback-Leibler divergence).

    Leaves out loud samples as `Percentile` does.

    Source:
        The divergence between the clipped histogram and its 256-level version, as in TensorRT's
        calibrator, on both signs and for each magnitude of samples.
    """

    # With more bins, chance differences between neighbours would count as information, and clipping
    # would look cheap beside losing them.
    BINS_WANTED: ClassVar[int] = 512

    def _loss(self, groups: Sequence[_Points], low: float, high: float) -> float:
        count = sum(int(g.counts.sum()) for g in groups)
        clipped = sum(int(g.counts[(g.centres < low) | (g.centres > high)].sum()) for g in groups)
        if clipped > MOST_CLIPPED * count:
            return math.inf  # the few bins of a tiny range would always agree with themselves
        return sum(int(g.counts.sum()) * _divergence(g, low, high) for g in groups)


LEVELS = 256
MOST_CLIPPED = 0.02
_SHRINKS = 0.9 ** np.arange(64)


def _best_range(bottom: float, top: float, loss: Callable[[float, float], float]) -> Range:
    """Shrinks the upper, then the lower end to where the loss is smallest, twice."""
    bottom, top = min(0.0, bottom), max(0.0, top)
    low, high = bottom, top
    for _ in range(2):
        if top > 0:
            high = min((top * s for s in _SHRINKS), key=lambda h: loss(low, h))
        if bottom < 0:
            low = min((bottom * s for s in _SHRINKS), key=lambda x: loss(x, high))
    return float(low), float(high)


def _squared_error(group: _Points, low: float, high: float) -> float:
    step = (high - low) / (LEVELS - 1)
    lowest = np.rint(low / step)  # as the zero point is: 0 itself is always exact
    levels = np.clip(np.rint(group.centres / step), lowest, lowest + LEVELS - 1)
    return float(np.dot(group.counts, np.square(levels * step - group.centres)))


def _divergence(group: _Points, low: float, high: float) -> float:
    centres, counts = group.centres, group.counts
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return math.log(LEVELS)
    kept = counts[inside].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    step = (high - low) / LEVELS
    level = np.minimum(((centres[inside] - low) / step).astype(np.int64), LEVELS - 1)
    spread = np.bincount(level, kept, LEVELS) / np.maximum(np.bincount(level, minlength=LEVELS), 1)
    p, q = clipped / clipped.sum(), spread[level] / spread[level].sum()
    return float(np.dot(p, np.log(p / q)))


@dataclass(frozen=True)
class _Wrapper(ABC):
    """An observer that changes what another one finds.

    Attributes:
        inner: The other one, or its name.
    """

    inner: Any = field(default_factory=MinMax)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", as_observer(self.inner))

    @property
    def only_extremes(self) -> bool:
        """As for the other one."""
        return extremes_suffice(self.inner)

    @property
    def values_wanted(self) -> int | None:
        """As for the other one."""
        return getattr(self.inner, "values_wanted", None)

    def observe(self, values: Values) -> Any:
        """With one more sample."""
        return replace(self, inner=self.inner.observe(values))

    def merge(self, other: Any) -> Any:
        """What both have seen.

        Raises:
            DataError: The other wraps another observer, or one with other settings.
        """
        kinds = [type(wrapper.inner).__name__ for wrapper in (self, other)]
        if type(self.inner) is not type(other.inner):
            raise DataError(
                f"{type(self).__name__} observers of {' and '.join(kinds)} cannot be merged: "
                "calibrate with one of them"
            )
        return replace(self, inner=self.inner.merge(other.inner))

    def range(self) -> Range | None:
        """The other one's range, changed."""
        found = self.inner.range()
        return None if found is None else self._changed(*found)

    @abstractmethod
    def _changed(self, low: float, high: float) -> Range:
        """What becomes of a range."""


@dataclass(frozen=True)
class Symmetric(_Wrapper):
    """Another observer's range, widened to `(-m, m)`: the zero point of its integers is 0.

    Costs a bit where values are of one sign, as those behind a ReLU.

    Attributes:
        inner: The other one, or its name.
    """

    def _changed(self, low: float, high: float) -> Range:
        largest = max(-low, high)
        return -largest, largest


@dataclass(frozen=True)
class AtLeast(_Wrapper):
    """Another observer's range, widened where need be to hold a range that is known beforehand.

    Attributes:
        inner: The other one, or its name.
        low: Lowest real value that is always held.
        high: Highest real value that is always held.
    """

    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self)

    def merge(self, other: AtLeast) -> AtLeast:
        """What both have seen.

        Raises:
            DataError: The other holds another range, or wraps another observer.
        """
        _check_settings(self, other, "low", "high")
        merged: AtLeast = super().merge(other)
        return merged

    def _changed(self, low: float, high: float) -> Range:
        return min(low, self.low), max(high, self.high)


BUILT_IN = (MinMax, Fixed, MovingAverage, Histogram, Percentile, MSE, Entropy, Symmetric, AtLeast)
"""Every class that a calibration file may name."""

NAMED: dict[str, Callable[[], Any]] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": MSE,
    "entropy": Entropy,
}
"""Observers with their defaults, by the name that recipes and the command line use."""


def as_observer(observer: object) -> Any:
    """An unused observer from a name or an observer.

    Raises:
        RecipeError: No built-in observer has the name, or the object lacks a method.
    """
    if isinstance(observer, str):
        if observer not in NAMED:
            raise RecipeError(
                f"no observer is called {observer!r}; the observers are {', '.join(NAMED)}"
            )
        return NAMED[observer]()
    if isinstance(observer, type) or not isinstance(observer, Observer):
        raise RecipeError(
            "an observer is a name or an object with observe, merge and range. "
            f"Received: {observer!r}"
        )
    return observer
