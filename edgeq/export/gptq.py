"""Rounds a weight so that what it computes on real data stays, not each number for itself.

The error of rounding one column is made up for by the columns that are still to be rounded. Knows
matrices, nothing of models.

Source:
    Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, in the order and form of Babai's nearest plane algorithm, which gives the
    same integers with one Cholesky factor and no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.floating]

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

    def columns(self, places: npt.NDArray[np.intp]) -> Grid:
        """The grid with its columns in another order."""
        return Grid(self.scale[..., places], self.zero_point[..., places], self.low, self.high)

    def nearest(self, values: Matrix, column: int | slice = slice(None)) -> Matrix:
        """The nearest number of the grid for each value of a column."""
        scale, zero_point = self.scale[..., column], self.zero_point[..., column]
        integers = np.clip(np.rint(values / scale) + zero_point, self.low, self.high)
        nearest: Matrix = (integers - zero_point) * scale
        return nearest


def fit(weight: Matrix, squares: Matrix, grid: Grid) -> Matrix:
    """The numbers of a grid with which `weight @ x` changes least.

    Args:
        weight: `(groups, rows, columns)`.
        squares: Mean of `x @ x.T` over the data, `(groups, columns, columns)`.
        grid: What each element may become.

    Returns:
        Of the weight's shape; no row of it is worse on the data than the nearest numbers are.
    """
    squares = _damped(squares)
    order = np.argsort(np.einsum("gii->i", squares), kind="stable")
    back = np.argsort(order)
    sorted_weight = weight[..., order].astype(np.float64)
    found = _nearest_plane(
        sorted_weight, np.linalg.cholesky(squares[:, order][:, :, order]), grid.columns(order)
    )[..., back]
    nearest = grid.nearest(weight)
    worse = loss(weight - found, squares) >= loss(weight - nearest, squares)
    return np.where(worse[..., None], nearest, found)


def loss(error: Matrix, squares: Matrix) -> Matrix:
    """Mean square of `error @ x` for each row, `(groups, rows)`."""
    found: Matrix = ((error @ squares) * error).sum(axis=-1)
    return found


def _damped(squares: Matrix) -> Matrix:
    """Squares that have an inverse."""
    mean = np.einsum("gii->g", squares) / squares.shape[-1]
    extra = DAMPING * np.where(mean > 0, mean, 1.0)
    return squares + extra[:, None, None] * np.eye(squares.shape[-1])


def _nearest_plane(weight: Matrix, factor: Matrix, grid: Grid) -> Matrix:
    """Rounds column after column, the last one first.

    Args:
        weight: `(groups, rows, columns)`.
        factor: Lower Cholesky factor of the squares, `(groups, columns, columns)`.
        grid: What each element may become.
    """
    error = np.zeros_like(weight)
    carried = np.zeros_like(weight)
    found = np.empty_like(weight)
    for stop in range(weight.shape[-1], 0, -BLOCK):
        start = max(0, stop - BLOCK)
        for column in range(stop - 1, start - 1, -1):
            later = slice(column + 1, stop)
            own = np.einsum("grc,gc->gr", error[..., later], factor[:, later, column])
            moved = (carried[..., column] + own) / factor[:, column, column, None]
            found[..., column] = grid.nearest(weight[..., column] + moved, column)
            error[..., column] = weight[..., column] - found[..., column]
        carried[..., :start] += error[..., start:stop] @ factor[:, start:stop, :start]
    return found
