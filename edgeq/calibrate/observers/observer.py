"""`Observer`: what calibration asks of an observer, and what the built-in ones share.

Knows none of them.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError, RecipeError

Values = npt.NDArray[np.floating[Any]]
Range = tuple[float, float]


@runtime_checkable
class Observer(Protocol):
    """Protocol of an observer; see the package's docstring."""

    def observe(self, values: Values) -> Any:
        """With one more sample: `values` has the tensor's shape, or is a part of its values."""
        ...

    def merge(self, other: Any) -> Any:
        """Merges two observers into the one that has seen the samples of both, `self` first."""
        ...

    def range(self) -> Range | None:
        """`(lowest, highest)` real value that the integers cover, or None before any sample."""
        ...


def check_settings(one: object, other: object, *names: str) -> None:
    """Raises a `DataError` for observers of one class that would not see the same alike."""
    for name in names:
        mine, its = getattr(one, name), getattr(other, name)
        if mine != its:
            raise DataError(
                f"{type(one).__name__} observers of {name} {mine} and {its} cannot be merged: "
                "calibrate with one setting"
            )


def check_range(observer: object, low: float, high: float) -> None:
    """Raises a `RecipeError` for a range that an observer cannot be given."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(
            f"{type(observer).__name__} needs two finite numbers, low < high. "
            f"Received: {low}, {high}"
        )


def extremes_suffice(observer: object) -> bool:
    """Whether each sample's lowest and highest value are all that the observer looks at.

    Such an observer costs next to nothing, since the graph itself computes the extremes.
    """
    return bool(getattr(observer, "only_extremes", False))
