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
    one, one_unit = _whole(left, bits, axis=-1)
    other, other_unit = _whole(right, bits, axis=-2)
    found = np.empty((*left.shape[:-1], right.shape[-1]), np.float32)
    for start in range(0, found.shape[-1], WIDE):
        columns = np.s_[..., start : start + WIDE]
        found[columns] = one @ other[columns] * one_unit * other_unit[columns]
    return found


def gram(rows: Matrix) -> Matrix:
    """`product(rows.T, rows)` in half the time, as it is symmetric.

    Args:
        rows: `(groups, terms, columns)`.

    Returns:
        `(groups, columns, columns)` float32.
    """
    columns = rows.shape[-1]
    found = np.empty((len(rows), columns, columns), np.float32)
    for below, across, block in _lower_triangle(rows):
        found[:, below, across] = block
        found[:, across, below] = block.transpose(0, 2, 1)
    return found


def _lower_triangle(rows: Matrix) -> Iterator[tuple[slice, slice, Matrix]]:
    """Blocks of `gram` that cover the lower triangle, in float64, and where they stand."""
    terms, columns = rows.shape[1:]
    whole, unit = _whole(rows, _bits(terms), axis=-2)
    for start in range(0, columns, WIDE):
        across = slice(start, min(columns, start + WIDE))
        for below in (across, slice(across.stop, columns)):
            # BLAS sees a matrix and itself on the diagonal, and computes half of it.
            block = whole[..., below].transpose(0, 2, 1) @ whole[..., across]
            block *= unit[..., below].transpose(0, 2, 1)
            block *= unit[..., across]
            yield below, across, block


def _bits(terms: int) -> int:
    """Bits of two whole numbers, so many of whose products have an exact sum."""
    return (EXACT_BITS - math.ceil(math.log2(max(1, terms)))) // 2


def _whole(values: Matrix, bits: int, axis: int) -> tuple[Matrix, Matrix]:
    """Numbers as whole ones of some bits, and what 1 stands for along an axis: a power of two."""
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True, initial=0.0))
    whole = np.multiply(values, np.ldexp(1.0, bits - exponent), dtype=np.float64)
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
