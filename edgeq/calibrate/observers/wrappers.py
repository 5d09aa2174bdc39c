"""Observers that change what another one finds: `Symmetric` and `AtLeast`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from edgeq.calibrate.observers.extremes import MinMax
from edgeq.calibrate.observers.named import as_observer
from edgeq.calibrate.observers.observer import (
    Range,
    Values,
    check_range,
    check_settings,
    extremes_suffice,
)
from edgeq.errors import DataError


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
        """Merges two observers into the one that has seen the samples of both.

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
        """Changes a range."""


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
        check_range(self, self.low, self.high)

    def merge(self, other: AtLeast) -> AtLeast:
        """Merges two observers into the one that has seen the samples of both.

        Raises:
            DataError: The other holds another range, or wraps another observer.
        """
        check_settings(self, other, "low", "high")
        merged: AtLeast = super().merge(other)
        return merged

    def _changed(self, low: float, high: float) -> Range:
        return min(low, self.low), max(high, self.high)
