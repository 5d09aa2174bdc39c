"""`Peaks`: how far tensors go in stretches of the sequences, and how far they will go in long use.

Calibration sees minutes of a model with states that runs for days. What a few sequences reach is
passed soon, and what is clipped on its way into a state is wrong for as long as that remembers.
Knows numbers, nothing of what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.observers import Range
from edgeq.qtypes import FloatArray

STEPS = 64
"""Steps of a stretch; a longer sequence has several."""

LEAST = 8
"""Fewer stretches tell nothing of others."""

ONCE_IN = 80
"""A tensor goes beyond its range about once in so many stretches, or more rarely.

Chosen on unseen sequences of a thousand steps: of rarer ones, wider scales cost more than clipping
does; of more frequent ones, single steps lose several dB.
"""

MOST = 0.5
"""What an end is moved at most, in shares of the range."""

Ends = Mapping[int, tuple[float, ...]]
"""One end of each stretch, by tensor index."""


@dataclass(frozen=True)
class Peaks:
    """The lowest and highest values of stretches of steps.

    Attributes:
        steps: Steps of each stretch.
        low: The lowest values.
        high: The highest values.
    """

    steps: tuple[int, ...] = ()
    low: Ends = field(default_factory=dict)
    high: Ends = field(default_factory=dict)

    def merge(self, other: Peaks) -> Peaks:
        """The stretches of both."""
        if not (self.steps and other.steps):
            return self if self.steps else other
        low, high = (
            {tensor: (*one[tensor], *more[tensor]) for tensor in sorted(one.keys() & more.keys())}
            for one, more in ((self.low, other.low), (self.high, other.high))
        )
        return Peaks((*self.steps, *other.steps), low, high)

    def lasting(self, tensor: int, found: Range) -> Range:
        """The range that was found of a tensor, as wide as long use needs it.

        An end is not moved where it is 0, nor across 0: numbers of one sign have it by nature.
        """
        steps = np.asarray(self.steps)
        whole = 2 * steps >= steps.max(initial=0)
        if tensor not in self.low or np.count_nonzero(whole) < LEAST:
            return found
        low, high = found
        most = MOST * (high - low)
        if low < 0:
            level = -_level(-np.asarray(self.low[tensor])[whole])
            low = max(low - most, min(low, level))
        if high > 0:
            level = _level(np.asarray(self.high[tensor])[whole])
            high = min(high + most, max(high, level))
        return low, high


def _level(maxima: FloatArray) -> float:
    """What such maxima pass once in `ONCE_IN` at most, but for the deviation of that estimate.

    Source:
        Gumbel, "Statistics of Extremes" (1958), by the moments; Lowery and Nash, "A comparison of
        methods of fitting the double exponential distribution" (1970), for the deviation.
    """
    scale = float(np.std(maxima, ddof=1)) * math.sqrt(6) / math.pi
    reduced = math.log(ONCE_IN)
    variance = (1.1589 + 0.1919 * reduced + 1.1 * reduced**2) / len(maxima)
    level = reduced - float(np.euler_gamma) + math.sqrt(variance)
    return float(np.mean(maxima)) + scale * level


class Stretches:
    """Steps as they pass, in order.

    Args:
        tensors: Indices of the tensors whose ends are told.
        start: Stretches before, of which the last one may go on.
    """

    def __init__(self, tensors: list[int], start: Peaks) -> None:
        self._tensors = tensors
        self._steps = list(start.steps)
        shape = len(tensors), len(start.steps)
        unknown = (np.inf,) * shape[1]
        self._low, self._high = (
            list(np.asarray([ends.get(t, unknown) for t in tensors]).reshape(shape).T)
            for ends in (start.low, start.high)
        )

    def add(self, place: int, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
        """Takes the next step into account: its place in the sequence and its ends, `(n,)`."""
        if place % STEPS == 0 or not self._steps:
            self._steps.append(1)
            self._low.append(low)
            self._high.append(high)
            return
        self._steps[-1] += 1
        self._low[-1] = np.minimum(self._low[-1], low)
        self._high[-1] = np.maximum(self._high[-1], high)

    def peaks(self) -> Peaks:
        """What was seen, of all tensors that were finite."""
        if not self._steps:
            return Peaks()
        low, high = np.stack(self._low, axis=1), np.stack(self._high, axis=1)
        finite = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
        rows = [(tensor, row) for row, tensor in enumerate(self._tensors) if finite[row]]
        one, other = ({t: tuple(map(float, ends[row])) for t, row in rows} for ends in (low, high))
        return Peaks(tuple(self._steps), one, other)
