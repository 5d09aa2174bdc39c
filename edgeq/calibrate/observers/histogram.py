"""`Histogram`: exact counts in one pass, in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.observers.observer import Values

HALF_BITS = 12
BINS = 2 << HALF_BITS
"""Bins of a histogram: at least 2,048 of them span the values of one sign."""

LEAST_EXPONENT = -120
"""Narrower bins would be no normal float32; such values are 0 to any quantization."""


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
