"""Parts of an output: rows along an axis that differ much in magnitude, each judged for itself.

A detector has boxes in pixels and scores from 0 to 1 in one tensor: the SQNR of the whole stays
high when every score is gone. Values merge without rounding, as those of `edgeq.fidelity.sqnr` do.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.fidelity.sqnr import ExactSum, decibels

MOST_ROWS = 256
"""Axes with more rows are not looked at: they are positions or classes, of one kind all."""

GAP = 8.0
"""Rows are parts of their own where others typically are so many times as large as their peak."""

LEAST_VALUES = 6
"""Rows of fewer values are not told apart: a few of one kind may be small by chance."""

SMALLEST = 1e-7
"""Rows that never exceed this share of the largest value are as good as 0 in float32."""

VARIES = 1e-3
"""An output varies where its values differ by more than this share of the largest."""

PROBABILITY_STEP = 1 / 64
"""Probabilities that differ by less are taken as constant: int8 has steps of 1/256."""

Ends = tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """Rows of an output that are judged by themselves.

    Attributes:
        where: The rows in words, for example `"rows 4 to 14 of axis 1"`; empty for all of it.
        sqnr_db: SQNR in dB of these rows alone.
        is_constant: Whether the other model gives one value where the float model's vary.
    """

    where: str
    sqnr_db: float
    is_constant: bool

    @property
    def least_db(self) -> float:
        """The SQNR that counts: what is constant says nothing, however near its value is."""
        return min(self.sqnr_db, 0.0) if self.is_constant else self.sqnr_db


@dataclass(frozen=True)
class AxisRows:
    """Sums and extremes of each row along an axis, over some samples.

    Attributes:
        axis: The axis; None for a single row that holds all values.
        samples: Number of samples.
        values: Number of values in each row, over all samples.
        shares: Whether the float model's rows always were shares of 1, as behind a softmax.
        signal: Sum of squares of the float model's values, by row.
        noise: Sum of squares of the difference.
        level: Sum over the samples of the log2 of the root mean square.
        low: Lowest value of the float model.
        high: Highest.
        answer_low: Lowest value of the other model.
        answer_high: Highest.
    """

    axis: int | None
    samples: int
    values: int
    shares: bool
    signal: tuple[ExactSum, ...]
    noise: tuple[ExactSum, ...]
    level: tuple[ExactSum, ...]
    low: Ends
    high: Ends
    answer_low: Ends
    answer_high: Ends

    @classmethod
    def of(cls, axis: int | None, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> AxisRows:
        """One sample, both arrays of the same shape."""
        reference, answer = _rows(expected, axis), _rows(actual, axis)
        power = np.square(reference).mean(axis=1)
        return cls(
            axis=axis,
            samples=1,
            values=reference.shape[1],
            shares=axis is not None and _are_shares(reference),
            signal=_sums(np.square(reference).sum(axis=1)),
            noise=_sums(np.square(reference - answer).sum(axis=1)),
            level=_sums(np.log2(np.maximum(power, np.finfo(np.float32).tiny)) / 2),
            low=tuple(reference.min(axis=1).tolist()),
            high=tuple(reference.max(axis=1).tolist()),
            answer_low=tuple(answer.min(axis=1).tolist()),
            answer_high=tuple(answer.max(axis=1).tolist()),
        )

    def merge(self, other: AxisRows) -> AxisRows:
        """Merges two values into the one that has seen the samples of both."""
        return replace(
            self,
            samples=self.samples + other.samples,
            values=self.values + other.values,
            shares=self.shares and other.shares,
            signal=_merged(self.signal, other.signal),
            noise=_merged(self.noise, other.noise),
            level=_merged(self.level, other.level),
            low=tuple(map(min, self.low, other.low)),
            high=tuple(map(max, self.high, other.high)),
            answer_low=tuple(map(min, self.answer_low, other.answer_low)),
            answer_high=tuple(map(max, self.answer_high, other.answer_high)),
        )

    def groups(self) -> list[list[int]]:
        """Rows of like magnitude, the smallest first; a single group where all are alike.

        Rows that are 0 throughout are in none.
        """
        peaks = np.maximum(np.abs(self.low), np.abs(self.high))
        order = [i for i in np.argsort(peaks, kind="stable") if peaks[i] > SMALLEST * peaks.max()]
        if self.shares or not order or self.values < LEAST_VALUES:
            return [order]
        typical = np.exp2([self.level[i].value / self.samples for i in order])
        above = np.minimum.accumulate(typical[::-1])[::-1]  # the least of this row and all larger
        found = [[order[0]]]
        for place in range(1, len(order)):
            if above[place] >= GAP * peaks[order[place - 1]]:
                found.append([])
            found[-1].append(order[place])
        return found

    def part(self, rows: Sequence[int], where: str) -> Part:
        """Judges some rows by themselves."""
        signal, noise = _total(self.signal, rows), _total(self.noise, rows)
        return Part(where, decibels(signal, noise), self._is_constant(rows))

    def _is_constant(self, rows: Sequence[int]) -> bool:
        ends = [(self.low[i], self.high[i]) for i in rows]
        if any(self.answer_low[i] != self.answer_high[i] for i in rows):
            return False
        return any(high - low > _least_change(low, high) for low, high in ends)


def _least_change(low: float, high: float) -> float:
    """The smallest difference of a row's values that counts as variation."""
    change = VARIES * max(abs(low), abs(high))
    return max(change, PROBABILITY_STEP) if low >= 0 and high <= 1 else change


def rows_of(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> tuple[AxisRows, ...]:
    """One sample's output of two models, by the rows of each axis that may hold several kinds.

    The axes are the first, the second (channels of NCHW) and the last (channels of NHWC).
    """
    if not expected.size:
        return ()
    axes = sorted({0, 1, expected.ndim - 1} & set(range(expected.ndim)))
    chosen = [axis for axis in axes if 2 <= expected.shape[axis] <= MOST_ROWS]
    return tuple(AxisRows.of(axis, expected, actual) for axis in (None, *chosen))


def merged_rows(some: Sequence[AxisRows], others: Sequence[AxisRows]) -> tuple[AxisRows, ...]:
    """`rows_of` of both sets of samples, without axes whose size depends on the values."""
    if not (some and others):
        return tuple(some or others)
    known = {(rows.axis, len(rows.signal)): rows for rows in others}
    places = [(rows, (rows.axis, len(rows.signal))) for rows in some]
    return tuple(rows.merge(known[place]) for rows, place in places if place in known)


def parts_of(rows: Sequence[AxisRows]) -> Iterator[Part]:
    """The parts that an output falls into; none where all of it is of one kind and varies."""
    for seen in rows:
        if seen.axis is None:
            whole = seen.part([0], "")
            if whole.is_constant:
                yield whole
            continue
        groups = seen.groups()
        for group in groups if len(groups) > 1 else []:
            yield seen.part(group, f"{_listed(sorted(group))} of axis {seen.axis}")


@dataclass(frozen=True)
class Kind:
    """Rows of an output that are of one magnitude.

    Attributes:
        axis: Their axis; None for all of the output.
        rows: Their places along it.
    """

    axis: int | None
    rows: tuple[int, ...] = ()

    def power(self, values: npt.NDArray[Any]) -> float:
        """Sum of squares of an array's values in these rows."""
        chosen = values if self.axis is None else np.take(values, self.rows, self.axis)
        return float(np.square(chosen).sum())


def kinds_of(outputs: Sequence[npt.NDArray[Any]]) -> list[Kind]:
    """The kinds of values that an output of the float model holds, as some samples show it."""
    rows = functools.reduce(merged_rows, (rows_of(output, output) for output in outputs))
    return kinds_in(rows) or [Kind(None)]


def kinds_in(rows: Sequence[AxisRows]) -> list[Kind]:
    """The kinds of values that an output holds by its rows; none where all are alike.

    Only the float model's values decide, so that any other model beside it has the same.
    """
    return [
        Kind(seen.axis, tuple(group))
        for seen in rows
        if seen.axis is not None and len(groups := seen.groups()) > 1
        for group in groups
    ]


def kinds_db(rows: Sequence[AxisRows], kinds: Sequence[Kind]) -> list[float]:
    """SQNR in dB of each kind, by rows that some samples show."""
    by_axis = {seen.axis: seen for seen in rows}
    return [by_axis[kind.axis].part(kind.rows, "").sqnr_db for kind in kinds]


def _listed(rows: Sequence[int]) -> str:
    """Row numbers in words, for example `"rows 0, 4 to 14"`."""
    runs: list[list[int]] = []
    for row in rows:
        if not runs or row != runs[-1][-1] + 1:
            runs.append([])
        runs[-1].append(row)
    written = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(written)}"


def _rows(values: npt.NDArray[Any], axis: int | None) -> npt.NDArray[np.float64]:
    whole = np.asarray(values, np.float64)
    moved = whole.reshape(1, -1) if axis is None else np.moveaxis(whole, axis, 0)
    return moved.reshape(len(moved), -1)


def _are_shares(rows: npt.NDArray[np.float64]) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=0), 1, atol=1e-3))


def _sums(values: npt.NDArray[np.float64]) -> tuple[ExactSum, ...]:
    return tuple(map(ExactSum.of, values.tolist()))


def _merged(some: Sequence[ExactSum], others: Sequence[ExactSum]) -> tuple[ExactSum, ...]:
    return tuple(a.merge(b) for a, b in zip(some, others, strict=True))


def _total(sums: Sequence[ExactSum], rows: Sequence[int]) -> float:
    total = ExactSum()
    for row in rows:
        total = total.merge(sums[row])
    return total.value


def worst_part(parts: Sequence[Part]) -> Part | None:
    """The part that has lost most; None where an output does not fall apart."""
    return min(parts, key=lambda part: (part.least_db, part.where), default=None)


def least_db(whole_db: float, parts: Sequence[Part]) -> float:
    """The SQNR in dB that an output is judged by: that of its worst part."""
    worst = worst_part(parts)
    return whole_db if worst is None else min(whole_db, worst.least_db)
