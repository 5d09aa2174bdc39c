"""Observers that search for the range with the smallest loss: `MSE` and `Entropy`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.observers.histogram import BINS
from edgeq.calibrate.observers.observer import Range, Values
from edgeq.calibrate.observers.percentile import Grouped

LEVELS = 256
MOST_CLIPPED = 0.02
_SHRINKS = 0.9 ** np.arange(64)


@dataclass(frozen=True)
class _Points:
    """The filled bins of one group."""

    centres: Values
    counts: npt.NDArray[np.int64]
    width: float


@dataclass(frozen=True)
class _Searching(Grouped, ABC):
    """Base of the observers that search for the range with the smallest loss."""

    BINS_WANTED: ClassVar[int] = BINS

    def range(self) -> Range | None:
        """The range with the smallest loss."""
        groups = [g.coarse(self.BINS_WANTED) for g in self.usual() if g.exponent is not None]
        if not groups:
            return (0.0, 0.0) if self.groups else None
        found = [_Points(*group.points(), group.width) for group in groups]
        bottom = min(float(p.centres[0]) - p.width / 2 for p in found)
        top = max(float(p.centres[-1]) + p.width / 2 for p in found)
        return _best_range(bottom, top, lambda low, high: self._losses(found, low, high))

    @abstractmethod
    def _losses(self, groups: Sequence[_Points], low: Values, high: Values) -> Values:
        """Loss of each of some ranges, summed over all values."""


@dataclass(frozen=True)
class MSE(_Searching):
    """The range whose 8-bit integers have the smallest mean squared error, clipping included.

    Leaves out loud samples as `Percentile` does. Samples of one magnitude count by their mean
    squared error; between magnitudes it counts in decibels, as the squared error of a few loud
    samples would outweigh everything else.
    """

    BINS_WANTED: ClassVar[int] = 1024

    def _losses(self, groups: Sequence[_Points], low: Values, high: Values) -> Values:
        total = np.zeros(len(low))
        for group in groups:
            count = int(group.counts.sum())
            # Values lie anywhere in their bins, so that no error is ever nothing.
            errors = _squared_errors(group, low, high) / count + group.width**2 / 12
            total += count * np.log(errors)
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

    def _losses(self, groups: Sequence[_Points], low: Values, high: Values) -> Values:
        return np.array([self._loss(groups, *ends) for ends in zip(low, high, strict=True)])

    def _loss(self, groups: Sequence[_Points], low: float, high: float) -> float:
        count = sum(int(g.counts.sum()) for g in groups)
        clipped = sum(int(g.counts[(g.centres < low) | (g.centres > high)].sum()) for g in groups)
        if clipped > MOST_CLIPPED * count:
            return math.inf  # the few bins of a tiny range would always agree with themselves
        return sum(int(g.counts.sum()) * _divergence(g, low, high) for g in groups)


def _best_range(bottom: float, top: float, losses: Callable[[Values, Values], Values]) -> Range:
    """Shrinks the upper, then the lower end to where the loss is smallest, twice."""
    bottom, top = min(0.0, bottom), max(0.0, top)
    low, high = bottom, top
    for _ in range(2):
        if top > 0:
            tried = top * _SHRINKS
            high = float(tried[np.argmin(losses(np.full_like(tried, low), tried))])
        if bottom < 0:
            tried = bottom * _SHRINKS
            low = float(tried[np.argmin(losses(tried, np.full_like(tried, high)))])
    return low, high


def _squared_errors(group: _Points, low: Values, high: Values) -> Values:
    """Summed over the values of a group, for each of some ranges."""
    step = (high - low) / (LEVELS - 1)
    lowest = np.rint(low / step)[:, None]  # as the zero point is: 0 itself is always exact
    step = step[:, None]
    levels = np.rint(group.centres / step)
    np.clip(levels, lowest, lowest + LEVELS - 1, out=levels)
    levels *= step
    levels -= group.centres
    found: Values = np.square(levels, out=levels) @ group.counts.astype(np.float64)
    return found


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
