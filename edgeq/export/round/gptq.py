"""Rounds a weight so that what it computes on real data stays, not each number for itself.

The error of rounding one column is made up for by the columns that are still to be rounded. Knows
matrices, nothing of models.

Source:
    Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, in the order and form of Babai's nearest plane algorithm, which gives the
    same integers with one Cholesky factor and no inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.export.round.exact import Matrix, cholesky, product, solved

BLOCK = 64
"""Columns that are rounded before what they did to the others is added up."""

DAMPING = 0.01
"""Share of the mean square of all columns that is added to each: what the data left out."""


@dataclass(frozen=True)
class Grid:
    """The real numbers that each element of a weight may become: `(integer - zero_point) * scale`.

    Attributes:
        scale: As the weight, or of a shape that broadcasts to it.
        zero_point: Likewise.
        low: Lowest integer.
        high: Highest integer.
    """

    scale: Matrix
    zero_point: Matrix
    low: int
    high: int

    def by_column(self, order: npt.NDArray[np.intp]) -> Grid:
        """The grid of a weight `(groups, rows, columns)` as `(groups, columns, rows)`."""
        scale, zero_point = (_by_column(a, order) for a in (self.scale, self.zero_point))
        return Grid(scale, zero_point, self.low, self.high)

    def nearest(self, values: Matrix, column: int | slice = slice(None)) -> Matrix:
        """The nearest numbers of the grid, or of some of its places along the second axis."""
        scale, zero_point = self.scale[:, column], self.zero_point[:, column]
        integers = np.clip(np.rint(values / scale) + zero_point, self.low, self.high)
        nearest: Matrix = (integers - zero_point) * scale
        return nearest


def fit(weight: Matrix, squares: Matrix, grid: Grid, missing: Sequence[Matrix] = ()) -> Matrix:
    """The numbers of a grid with which `weight @ x` changes least.

    Args:
        weight: `(groups, rows, columns)`.
        squares: Mean of `x @ x.T` over the data, `(groups, columns, columns)`.
        grid: What each element may become.
        missing: Where `weight @ x` is not all that is wanted: mean of what is missing of it times
            `x.T`, `(groups, rows, columns)`, once for each of two halves of the data.

    Returns:
        Of the weight's shape; no row of it is worse on the data than the nearest numbers are, which
        it gets where the squares are not finite.
    """
    nearest = grid.nearest(weight)
    squares = _damped(squares)
    if not np.isfinite(squares).all():
        return nearest
    order = np.argsort(np.einsum("gii->i", squares), kind="stable")
    try:
        factor = cholesky(squares[:, order[:, None], order])
    except np.linalg.LinAlgError:  # lost in rounding: nothing can be made of these numbers
        return nearest
    by_column = _by_column(weight, order)
    lost = pull = np.zeros_like(by_column)
    if missing:
        lost, pull = _agreed([_by_column(half, order) for half in missing], factor)
    found = _nearest_plane(by_column, factor, pull.copy(), grid.by_column(order))
    back = np.argsort(order)
    found, lost = found.transpose(0, 2, 1)[..., back], lost.transpose(0, 2, 1)[..., back]
    worse = gain(weight, found, nearest, squares, lost) <= 0
    return np.where(worse[..., None], nearest, found)


def _agreed(missing: Sequence[Matrix], factor: Matrix) -> tuple[Matrix, Matrix]:
    """What is missing as far as two halves of the data agree on it, and how it pulls.

    Args:
        missing: Of each half, `(groups, columns, rows)`.
        factor: Lower Cholesky factor of the squares.
    """
    one, other = (solved(factor, half) for half in missing)
    power = (np.square(one) + np.square(other)).sum(dtype=np.float64) / 2
    share = (one * other).sum(dtype=np.float64) / power if power > 0 else 0.0
    half = np.float32(np.clip(share, 0.0, 1.0) / 2)
    return half * (missing[0] + missing[1]), half * (one + other)


def gain(
    weight: Matrix, found: Matrix, other: Matrix, squares: Matrix, lost: Matrix | float = 0.0
) -> Matrix:
    """How much less the mean square of what `found @ x` is off by is than that of `other @ x`.

    The difference of two squares takes one product with the squares, not one each.

    Args:
        weight: What is wanted, `(groups, rows, columns)`.
        found: Numbers of a grid.
        other: Others.
        squares: Mean of `x @ x.T`, `(groups, columns, columns)`.
        lost: What is missing besides, times `x.T`, as the weight.

    Returns:
        For each row, `(groups, rows)`.
    """
    both = ((weight - found) + (weight - other)).astype(np.float32)
    difference = (found - other).astype(np.float32)
    found_less: Matrix = ((product(both, squares) + 2 * lost) * difference).sum(axis=-1)
    return found_less


def _by_column(weight: Matrix, order: npt.NDArray[np.intp]) -> Matrix:
    """`(groups, rows, columns)` as `(groups, columns, rows)`, the columns in another order."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)[:, order], np.float32)


def _damped(squares: Matrix) -> Matrix:
    """Squares that have an inverse."""
    found: Matrix = squares.astype(np.float32)
    diagonal = np.einsum("gii->gi", found)
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += DAMPING * np.where(mean > 0, mean, 1.0)
    return found


def _nearest_plane(weight: Matrix, factor: Matrix, carried: Matrix, grid: Grid) -> Matrix:
    """Rounds column after column, the last one first.

    Args:
        weight: `(groups, columns, rows)`.
        factor: Lower Cholesky factor of the squares, `(groups, columns, columns)`.
        carried: What pulls at each number from the start; changed in place.
        grid: What each element may become.
    """
    error, found = np.zeros_like(weight), np.zeros_like(weight)
    for stop in range(weight.shape[1], 0, -BLOCK):
        start = max(0, stop - BLOCK)
        block = np.ascontiguousarray(factor[:, start:stop, start:stop].transpose(0, 2, 1))
        for column in range(stop - 1, start - 1, -1):
            own = block[:, column - start, column - start + 1 :]
            behind = np.einsum("gk,gkr->gr", own, error[:, column + 1 : stop])
            pull = carried[:, column] + behind
            wanted = weight[:, column] + pull / block[:, column - start, column - start, None]
            found[:, column] = grid.nearest(wanted, column)
            error[:, column] = weight[:, column] - found[:, column]
        before = factor[:, start:stop, :start].transpose(0, 2, 1)
        carried[:, :start] += product(before, error[:, start:stop])
    return found
