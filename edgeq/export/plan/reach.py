"""`Reach`: limits beyond which no reader of a tensor tells its values apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.qtypes import FloatArray

Range = tuple[float, float]

WORTH = 2
"""Finite values are left out of a range where it becomes so many times narrower."""


@dataclass(frozen=True)
class Reach:
    """Limits of what readers can tell apart: a value beyond one is as good as the limit itself."""

    low: float = -math.inf
    high: float = math.inf

    def union(self, other: Reach) -> Reach:
        """Range that either can tell apart."""
        return Reach(min(self.low, other.low), max(self.high, other.high))

    def minus(self, other: Range) -> Reach:
        """Of `x` where this is of `x + y` and `y` lies in a range."""
        return Reach(self.low - other[1], self.high - other[0])

    def over(self, factor: FloatArray) -> Reach:
        """Of `x` where this is of `x * factor`."""
        with np.errstate(all="ignore"):
            ends = np.stack([self.low / factor, self.high / factor])
        low, high = ends.min(axis=0), ends.max(axis=0)
        return UNLIMITED if np.isnan(ends).any() else Reach(float(low.min()), float(high.max()))


UNLIMITED = Reach()


def within(whole: Range, reach: Reach) -> Range:
    """A range without what is beyond a reach, where that is infinite or most of it."""
    low, high = whole
    raised = max(low, reach.low), max(high, reach.low)
    if not math.isfinite(low) or width(whole) >= WORTH * width(raised):
        low, high = raised
    lowered = min(low, reach.high), min(high, reach.high)
    if not math.isfinite(high) or width((low, high)) >= WORTH * width(lowered):
        low, high = lowered
    return low, high


def width(found: Range) -> float:
    """How much of the number line a range covers together with 0."""
    return max(found[1], 0.0) - min(found[0], 0.0)


STEPS = 255
"""Steps of an int8 scale."""


def is_drowned(widths: Sequence[tuple[bool, float]]) -> bool:
    """Whether a constant's scale leaves computed values, of `(is constant, width)`, a step or less.

    So does a mask of -1e9 that no softmax or comparison reads.
    """
    constants, computed = ([w for c, w in widths if c is wanted] for wanted in (True, False))
    return max(constants, default=0.0) > STEPS * max(computed, default=0.0) > 0.0
