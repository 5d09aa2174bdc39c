"""`Percentile`, and how observers of values leave out rare samples that are far too loud."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edgeq.calibrate.observers.histogram import LEAST_EXPONENT, Histogram
from edgeq.calibrate.observers.observer import Range, Values, check_settings
from edgeq.errors import RecipeError

LOUD = 3
"""Samples that are louder than the others by more than so many powers of two are left out, ..."""

RARE = 50
"""... if there is at most one of them among so many."""

MOST_VALUES = 1 << 14
"""Of a larger tensor, the histogram observers are given about so many values of each sample."""


@dataclass(frozen=True)
class Grouped:
    """Base of the observers that look at values, and leave out loud samples.

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
class Percentile(Grouped):
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
        check_settings(self, other, "percentile")
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
