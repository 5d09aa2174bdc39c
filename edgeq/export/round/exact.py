"""Products and factors of matrices that are the same bits however their sums are ordered.

How BLAS and LAPACK order the sums of a product depends on the number of threads and on the
processor. Here factors are taken as whole numbers of so few bits that float64 holds every partial
sum exactly; what cannot be had that way is computed element by element. Knows matrices alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.floating]

EXACT_BITS = 53
"""Whole numbers of up to so many bits are float64 values."""

WIDE = 512
"""Columns of a product that are in memory as float64 at a time."""

PANEL = 32
"""Columns of a factor, at least, that are computed one after the other."""


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
    bits = _bits(left.shape[-1])
    one, other = _rounded(left, bits, axis=-1), _rounded(right, bits, axis=-2)
    found = np.empty((*left.shape[:-1], right.shape[-1]), np.float32)
    for start in range(0, found.shape[-1], WIDE):
        columns = np.s_[..., start : start + WIDE]
        found[columns] = one @ other[columns]
    return found


def add_gram(squares: Matrix, rows: Matrix) -> None:
    """Adds `product(rows.T, rows)`, which is symmetric, to a lower triangle, in place.

    Half the time of the product. Besides the triangle, some of the other one is written as well.

    Args:
        squares: `(groups, columns, columns)` float32.
        rows: `(groups, terms, columns)`.
    """
    for below, across, block in _lower_triangle(rows):
        squares[:, below, across] += block.astype(np.float32)


def mirrored(lower: Matrix) -> Matrix:
    """Symmetric matrices `(groups, columns, columns)` from their lower triangles."""
    found = lower.copy()
    for start in range(0, lower.shape[-1], WIDE):
        stop = start + WIDE
        found[:, start:stop, stop:] = lower[:, stop:, start:stop].transpose(0, 2, 1)
    return found


def _lower_triangle(rows: Matrix) -> Iterator[tuple[slice, slice, Matrix]]:
    """Blocks of `rows.T @ rows` that cover the lower triangle, in float64, and where they stand."""
    terms, columns = rows.shape[1:]
    rounded = _rounded(rows, _bits(terms), axis=-2)
    for start in range(0, columns, WIDE):
        across = slice(start, min(columns, start + WIDE))
        for below in (across, slice(across.stop, columns)):
            # BLAS sees a matrix and itself on the diagonal, and computes half of it.
            yield below, across, rounded[..., below].transpose(0, 2, 1) @ rounded[..., across]


def _bits(terms: int) -> int:
    """Bits of two whole numbers, so many of whose products have an exact sum."""
    return (EXACT_BITS - math.ceil(math.log2(max(1, terms)))) // 2


def _rounded(values: Matrix, bits: int, axis: int) -> Matrix:
    """Numbers as whole ones of some bits times a power of two that is the same along an axis."""
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True, initial=0.0))
    # Beside so large a number, float64 has no bits left for fractions of the power of two.
    large = np.ldexp(1.5, EXACT_BITS - 1 + exponent - bits)
    found: Matrix = np.add(values, large, dtype=np.float64)
    found -= large
    return found


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
    for start in range(0, size, WIDE):
        stop = min(size, start + WIDE)
        panel = _factored(factor[:, start:, start:stop])
        factor[:, start:, start:stop] = panel
        rest = factor[:, stop:, stop:]
        for below, across, block in _lower_triangle(panel[:, stop - start :].transpose(0, 2, 1)):
            rest[:, below, across] -= block
    return np.tril(factor)


def _factored(panel: Matrix) -> Matrix:
    """The first columns of a factor, `(groups, rows, columns)`, half of them after the others."""
    half = panel.shape[-1] // 2
    if half < PANEL:
        return _factored_by_column(panel)
    left = _factored(panel[..., :half])
    below, turned = left[:, half:], left[:, half : panel.shape[-1]].transpose(0, 2, 1)
    factor = np.zeros_like(panel)
    factor[..., :half] = left
    factor[:, half:, half:] = _factored(panel[:, half:, half:] - product(below, turned))
    return factor


def _factored_by_column(panel: Matrix) -> Matrix:
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


def solved(factor: Matrix, wanted: Matrix) -> Matrix:
    """The matrices `x` with `factor @ x == wanted`.

    Args:
        factor: Lower triangles, `(groups, columns, columns)` float32.
        wanted: `(groups, columns, rows)` float32.

    Returns:
        As `wanted`.
    """
    found = wanted.astype(np.float32)
    size = factor.shape[-1]
    for start in range(0, size, PANEL):
        stop = min(size, start + PANEL)
        for column in range(start, stop):
            own = factor[:, column, start:column]
            found[:, column] -= np.einsum("gk,gkr->gr", own, found[:, start:column])
            found[:, column] /= factor[:, column, column, None]
        found[:, stop:] -= product(factor[:, stop:, start:stop], found[:, start:stop])
    return found
