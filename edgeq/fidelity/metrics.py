"""Metrics of a model's answers against labels, and how sure their difference is.

What a metric keeps of each sample is collected first, in the order of the samples, and read at the
end. Knows arrays, nothing of models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]
"""A user's metric: `(outputs, targets)` of many rows to one number."""

SAME = 1e-9
"""Metrics that differ by no more are the same: 0.772 - 0.762 is 0.010000000000000009."""

RESAMPLES = 1000
CONFIDENCE = 0.95


def top_k(k: int, outputs: Array, targets: Array) -> Array:
    """Whether the right class is among the `k` with the highest scores, for each row.

    Among equal scores the class with the lower index comes first, as in `argmax`.

    Args:
        k: How many answers a row has.
        outputs: Scores, `(rows, ..., classes)`.
        targets: Indices of the right classes, `(rows, ...)`; an axis of length 1 may follow.

    Returns:
        `(rows,)` float64: 1 or 0, or the share of right places where a row has several.

    Raises:
        DataError: The shapes do not go together, or a label is no class.
    """
    places, classes = outputs.shape[:-1], outputs.shape[-1] if outputs.ndim > 1 else 1
    if classes < 2 or targets.shape not in (places, (*places, 1)) or targets.dtype.kind not in "iu":
        raise DataError(
            "accuracy and top5 need an output of scores (rows, ..., classes) and whole numbers "
            f"(rows, ...) as labels. Received: outputs {outputs.shape}, "
            f"labels {targets.dtype} {targets.shape}"
        )
    wanted = targets.reshape(-1, 1).astype(np.int64)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < classes):
        bad = wanted[(wanted < 0) | (wanted >= classes)][0]
        raise DataError(
            f"the label {bad} is no class: the output has {classes}, counted from 0. Number the "
            "labels as the model does"
        )
    scores = outputs.reshape(-1, classes)
    own = np.take_along_axis(scores, wanted, axis=1)
    earlier = np.arange(classes) < wanted
    ahead = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
    hits: Array = (ahead < k).reshape(len(outputs), -1).mean(axis=1)
    return hits


def row_error(power: int, outputs: Array, targets: Array) -> Array:
    """Mean of the absolute (`power` 1) or squared (`power` 2) error of each row.

    Args:
        power: To which power errors are taken.
        outputs: `(rows, ...)`.
        targets: The right numbers, of as many values in each row.

    Returns:
        `(rows,)` float64.

    Raises:
        DataError: The shapes do not go together, or a label is no number.
    """
    rows = len(outputs)
    if targets.dtype.kind not in "biuf" or targets.size != outputs.size or len(targets) != rows:
        raise DataError(
            "mae and mse need numbers as labels, as many as the output has. Received: outputs "
            f"{outputs.shape}, labels {targets.dtype} {targets.shape}"
        )
    pair = (array.reshape(rows, -1).astype(np.float64) for array in (outputs, targets))
    error: Array = (np.abs(np.subtract(*pair)) ** power).mean(axis=1)
    return error


def same_neighbour(reference: Array, outputs: Array) -> Array:
    """Whether the row that is nearest to each row, by the cosine, is the same in both models.

    Args:
        reference: Embeddings by the float model, `(rows, ...)`; the axes behind are one vector.
        outputs: The other model's, likewise.

    Returns:
        `(rows,)` float64: 1 or 0.

    Raises:
        DataError: There are fewer than three rows, so that nothing can be mistaken.
    """
    if len(reference) < 3:
        raise DataError(f"retrieval needs three rows or more. Received: {len(reference)}")
    same: Array = (_nearest(reference) == _nearest(outputs)).astype(np.float64)
    return same


BLOCK = 256
"""Rows whose distances from all others are in memory at a time."""


def _nearest(outputs: Array) -> npt.NDArray[np.intp]:
    """The other row with the largest cosine, for each row; of equals, the first."""
    rows = outputs.reshape(len(outputs), -1).astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(length > 0, length, 1)
    found = []
    for start in range(0, len(units), BLOCK):
        cosine = units[start : start + BLOCK] @ units.T
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        found.append(cosine.argmax(axis=1))
    return np.concatenate(found)


BY_ROW: dict[str, Callable[[Array, Array], Array]] = {
    "accuracy": functools.partial(top_k, 1),
    "top5": functools.partial(top_k, 5),
    "mae": functools.partial(row_error, 1),
    "mse": functools.partial(row_error, 2),
}
"""The built-in metrics that are the mean of a score of each row, by name."""

AGREEMENTS: dict[str, Callable[[Array, Array], Array]] = {"retrieval": same_neighbour}
"""Those that need no labels: the float model is taken to be right, and its own value is 1."""

LOWER_IS_BETTER = frozenset({"mae", "mse"})

BUILT_IN = (*BY_ROW, *AGREEMENTS)


def is_agreement(metric: str | Metric) -> bool:
    """Whether a metric compares two models without labels."""
    return isinstance(metric, str) and metric in AGREEMENTS


def by_row(metric: str | Metric) -> str | None:
    """Name of a metric that is the mean of a score of each row; None for others."""
    return metric if isinstance(metric, str) and metric in BY_ROW else None


def checked(metrics: Mapping[str, str | Metric]) -> dict[str, str | Metric]:
    """The metrics.

    Raises:
        DataError: One is neither a built-in name nor callable.
    """
    if not isinstance(metrics, Mapping):
        raise DataError(
            "metrics must be a dict of metrics by the names to report them by, such as "
            f"{{'accuracy': 'accuracy'}}. Received: {type(metrics).__name__}"
        )
    for name, metric in metrics.items():
        known = metric in BUILT_IN if isinstance(metric, str) else callable(metric)
        if not known:
            raise DataError(
                f"metric {name!r} must be one of {', '.join(BUILT_IN)}, or a function of (outputs, "
                f"targets). Received: {metric!r}"
            )
    return dict(metrics)


def kept(metric: str | None, outputs: Array, targets: Array) -> Array:
    """Reduces rows to what a metric needs: a score each, or for a user's (None) the outputs."""
    return outputs if metric is None else BY_ROW[metric](outputs, targets)


def value(name: str, metric: str | Metric, rows: Array, targets: Array | None) -> float:
    """A metric of the rows that `kept` gave.

    Args:
        name: How errors name the metric.
        metric: A built-in name or a user's function.
        rows: What was kept, `(rows, ...)`.
        targets: The rows' labels, `(rows, ...)`; built-in metrics do without.

    Raises:
        DataError: A user's function does not return a number.
    """
    if isinstance(metric, str) or targets is None:
        return float(rows.mean())
    found = metric(rows, targets)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise DataError(
            f"metric {name!r} must return a number. Received: {type(found).__name__}"
        ) from None


def interval(statistic: Callable[[npt.NDArray[np.intp]], float], rows: int) -> tuple[float, float]:
    """Bootstrap interval of a statistic: the middle 95 % of its values on resampled rows.

    Rows are drawn with replacement, as many as there are, from a fixed seed. Values that are NaN
    are left out.

    Args:
        statistic: The value on the rows of the given indices, `(rows,)`.
        rows: How many there are.

    Returns:
        `(lowest, highest)`; NaN if there is no value.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile interval.
    """
    generator = np.random.default_rng(0)
    values = [statistic(generator.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    found = [v for v in values if not math.isnan(v)]
    if not found:
        return math.nan, math.nan
    outside = (1 - CONFIDENCE) / 2
    # There is nothing between a number and infinity.
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(found).all() else "nearest"
    low, high = np.quantile(found, [outside, 1 - outside], method=method)
    return float(low), float(high)
