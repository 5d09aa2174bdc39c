"""Products and factors of matrices that are the same bits however their sums are ordered.

How BLAS and LAPACK order the sums of a product depends on the number of threads and on the
processor. Here factors are taken as whole numbers of so few bits that float64 holds every partial
sum exactly; what cannot be had that way is computed element by element. Knows matrices alone.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.floating]

EXACT_BITS = 53
"""Whole numbers of up to so many bits are float64 values."""

WIDE = 512
"""Columns of a product that are in memory as float64 at a time."""

PANEL = 64
"""Columns of a factor that are computed one after the other before the rest is made up."""


def product(left: Matrix, right: Matrix) -> Matrix:
    """`left @ right` of float32 matrices, with each sum exact before it becomes float32.

    Rows of the left one and columns of the right one are rounded to the bits that this leaves: 20
    for 4,096 terms, counted from the largest number of each.

    Args:
        left: `(groups, rows, terms)`.
        right: `(groups, terms, columns)`.

    Returns:
        `(groups, rows, columns)` float32.
    """
    bits = (EXACT_BITS - math.ceil(math.log2(max(1, left.shape[-1])))) // 2
    one, one_unit = _whole(left, bits, axis=-1)
    other, other_unit = _whole(right, bits, axis=-2)
    found = np.empty((*left.shape[:-1], right.shape[-1]), np.float32)
    for start in range(0, found.shape[-1], WIDE):
        columns = np.s_[..., start : start + WIDE]
        found[columns] = one @ other[columns] * one_unit * other_unit[columns]
    return found


def _whole(values: Matrix, bits: int, axis: int) -> tuple[Matrix, Matrix]:
    """Numbers as whole ones of some bits, and what 1 stands for along an axis: a power of two."""
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True, initial=0.0))
    whole = np.ldexp(values.astype(np.float64), bits - exponent)
    return np.rint(whole, out=whole), np.ldexp(1.0, exponent - bits)


def cholesky(squares: Matrix) -> Matrix:
    """The lower Cholesky factor of symmetric matrices.

    Args:
        squares: `(groups, columns, columns)` float32; the upper triangle is not read.

    Returns:
        Of the same shape, float32.

    Raises:
        LinAlgError: A matrix is not positive definite, or was lost in rounding.
    """
    factor = np.tril(squares)
    size = factor.shape[-1]
    for start in range(0, size, PANEL):
        stop = min(size, start + PANEL)
        panel = _factored(factor[:, start:, start:stop])
        factor[:, start:, start:stop] = panel
        below = panel[:, stop - start :]
        for first in range(0, size - stop, WIDE):
            turned = below[:, first : first + WIDE].transpose(0, 2, 1)
            left = stop + first
            factor[:, left:, left : left + WIDE] -= product(below[:, first:], turned)
    return np.tril(factor)


def _factored(panel: Matrix) -> Matrix:
    """The first columns of a factor, `(groups, rows, columns)`."""
    by_column = np.ascontiguousarray(panel.transpose(0, 2, 1))
    width = panel.shape[-1]
    for column in range(width):
        pivot = by_column[:, column, column]
        if not (pivot > 0).all():
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        own = by_column[:, column, column:]
        own /= np.sqrt(pivot)[:, None]
        others = own[:, 1 : width - column, None]
        by_column[:, column + 1 :, column + 1 :] -= others * own[:, None, 1:]
    return np.tril(by_column.transpose(0, 2, 1))
