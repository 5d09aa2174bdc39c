"""Observers: mergeable values that turn what tensors hold into their ranges.

An observer is a value: `observe(...) -> new`, `a.merge(b)`, `ranges()`. Merging is associative and
commutative, so data may be split, reordered and run in parallel without changing the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MinMax:
    """The lowest and highest value of each of `n` tensors; None before anything was seen.

    Attributes:
        low: `(n,)` lowest values.
        high: `(n,)` highest values.
    """

    low: Vector | None = None
    high: Vector | None = None

    def observe(self, low: Vector, high: Vector) -> MinMax:
        """With one more sample, given as the extremes `(n,)` of each tensor."""
        return self.merge(MinMax(low, high))

    def merge(self, other: MinMax) -> MinMax:
        """What one observer would be that had seen what both have seen."""
        if self.low is None or self.high is None:
            return other
        if other.low is None or other.high is None:
            return self
        return MinMax(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def ranges(self) -> list[tuple[float, float]]:
        """`(lowest, highest)` of each tensor; empty if nothing was seen."""
        if self.low is None or self.high is None:
            return []
        return list(zip(self.low.tolist(), self.high.tolist(), strict=True))
