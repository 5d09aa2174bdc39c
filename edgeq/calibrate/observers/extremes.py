"""Observers for which each sample's lowest and highest value are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeq.calibrate.observers.observer import Range, Values, check_range, check_settings
from edgeq.errors import RecipeError


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
        check_range(self, self.low, self.high)

    def observe(self, values: Values) -> Fixed:
        """Itself: the data does not matter."""
        return self

    def merge(self, other: Fixed) -> Fixed:
        """Itself.

        Raises:
            DataError: The other has another range.
        """
        check_settings(self, other, "low", "high")
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
        check_settings(self, other, "decay")
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
