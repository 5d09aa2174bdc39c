"""Observers by the name that recipes and the command line use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeq.calibrate.observers.extremes import MinMax, MovingAverage
from edgeq.calibrate.observers.observer import Observer
from edgeq.calibrate.observers.percentile import Percentile
from edgeq.calibrate.observers.smallest_loss import MSE, Entropy
from edgeq.errors import RecipeError

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
