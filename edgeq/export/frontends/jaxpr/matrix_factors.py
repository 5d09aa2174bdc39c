"""Factors of small matrices, written as the steps that make them.

Knows shapes, nothing of layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROWS_MAX = 32
"""Of a matrix that is factored or solved row by row, each of which is a few ops."""


def _turned(x: Any) -> Any:
    return jnp.swapaxes(x, -1, -2)


def cholesky(x: Any, **params: Any) -> Any:
    """A Cholesky factor, column by column."""
    size = x.shape[-1]
    if size > ROWS_MAX:
        return jax.lax.linalg.cholesky_p.bind(x, **params)
    columns: list[Any] = []
    for j in range(size):
        column = x[..., j:, j : j + 1]
        if columns:
            before = jnp.concatenate(columns, -1)
            column = column - before[..., j:, :] @ _turned(before[..., j : j + 1, :])
        column = column / jnp.sqrt(column[..., :1, :])
        columns.append(jnp.pad(column, [(0, 0)] * (x.ndim - 2) + [(j, 0), (0, 0)]))
    return jnp.concatenate(columns, -1)


def lu(x: Any, **params: Any) -> list[Any]:
    """`(factors, exchanges, order)` of an LU decomposition with exchanged rows."""
    height, width = x.shape[-2:]
    count = min(height, width)
    if count > ROWS_MAX:
        return list(jax.lax.linalg.lu_p.bind(x, **params))
    rows, columns = np.arange(height, dtype=np.int32), np.arange(width)
    order = jnp.broadcast_to(rows, x.shape[:-1])
    exchanges: list[Any] = []
    for j in range(count):
        sizes = jnp.where(rows >= j, jnp.abs(x[..., j]), np.float32(-1))
        place = jnp.argmax(sizes, -1).astype(np.int32)
        exchanges.append(place)
        there, here = rows == place[..., None], rows == j
        pivot = jnp.sum(jnp.where(there[..., None], x, 0), -2)
        number = jnp.sum(jnp.where(there, order, 0), -1, dtype=np.int32)
        x = jnp.where(there[..., None], x[..., j : j + 1, :], x)
        order = jnp.where(here, number[..., None], jnp.where(there, order[..., j : j + 1], order))
        x = jnp.where(here[:, None], pivot[..., None, :], x)
        shares = jnp.where(rows > j, x[..., j] / pivot[..., j : j + 1], 0)
        x = x - shares[..., None] * jnp.where(columns > j, pivot, 0)[..., None, :]
        below = (rows > j)[:, None] & (columns == j)
        x = jnp.where(below, shares[..., None], x)
    return [x, jnp.stack(exchanges, -1), order]


def order_of_exchanges(exchanges: Any, *, permutation_size: int, **params: Any) -> Any:
    """`lu_pivots_to_permutation`: the order of rows that were exchanged one behind the other."""
    count = exchanges.shape[-1]
    if count > ROWS_MAX:
        kept = {"permutation_size": permutation_size, **params}
        return jax.lax.linalg.lu_pivots_to_permutation_p.bind(exchanges, **kept)
    rows = np.arange(permutation_size, dtype=np.int32)
    order = jnp.broadcast_to(rows, (*exchanges.shape[:-1], permutation_size))
    for j in range(count):
        there = rows == exchanges[..., j : j + 1]
        number = jnp.sum(jnp.where(there, order, 0), -1, keepdims=True, dtype=np.int32)
        order = jnp.where(rows == j, number, jnp.where(there, order[..., j : j + 1], order))
    return order


def triangular_solve(
    triangle: Any, other: Any, *, left_side: bool, lower: bool, transpose_a: bool, **params: Any
) -> Any:
    """A triangular system, solved row by row; of a constant one by a product with its inverse."""
    if isinstance(other, jax.core.Tracer) and not isinstance(triangle, jax.core.Tracer):
        half = np.tril(triangle) if lower else np.triu(triangle)
        return _product_with_inverse(half, other, left_side, transpose_a, params["unit_diagonal"])
    size = triangle.shape[-1]
    if size > ROWS_MAX:
        kept = {"left_side": left_side, "lower": lower, "transpose_a": transpose_a, **params}
        return jax.lax.linalg.triangular_solve_p.bind(triangle, other, **kept)
    if transpose_a:
        triangle, lower = _turned(triangle), not lower
    if not left_side:
        triangle, other, lower = _turned(triangle), _turned(other), not lower
    solved: dict[int, Any] = {}
    for i in range(size) if lower else reversed(range(size)):
        row = other[..., i : i + 1, :]
        if solved:
            known = sorted(solved)
            before = jnp.concatenate([solved[k] for k in known], -2)
            row = row - triangle[..., i : i + 1, known[0] : known[-1] + 1] @ before
        if not params["unit_diagonal"]:
            row = row / triangle[..., i : i + 1, i : i + 1]
        solved[i] = row
    made = jnp.concatenate([solved[i] for i in range(size)], -2)
    return made if left_side else _turned(made)


def _product_with_inverse(
    triangle: Any, other: Any, left_side: bool, transposed: bool, unit_diagonal: bool
) -> Any:
    """What a constant triangle times the result is `other`, or the result times it."""
    matrix = np.asarray(triangle, np.float64)
    if unit_diagonal:
        ones = np.eye(matrix.shape[-1])
        matrix = matrix * (1 - ones) + ones
    matrix = np.swapaxes(matrix, -1, -2) if transposed else matrix
    inverse = np.linalg.inv(matrix).astype(np.float32)
    return inverse @ other if left_side else other @ inverse


def _householder(x: Any) -> tuple[Any, Any]:
    """The triangle with the reflections below it, and the factor of each reflection."""
    height, width = x.shape[-2:]
    rows, columns = np.arange(height), np.arange(width)
    factors: list[Any] = []
    for j in range(min(height, width)):
        top, rest = x[..., j, j], jnp.where(rows > j, x[..., j], 0)
        square = jnp.sum(rest * rest, -1)
        length = jnp.where(top < 0, 1, -1) * jnp.sqrt(top * top + square)
        is_reflected = square > 0
        length = jnp.where(is_reflected, length, top)
        factor = jnp.where(is_reflected, (length - top) / jnp.where(is_reflected, length, 1), 0)
        mirror = rest / jnp.where(is_reflected, top - length, 1)[..., None]
        whole = jnp.where(rows == j, 1, mirror)
        shares = factor[..., None, None] * (whole[..., None, :] @ x)
        moved = x - whole[..., None] * jnp.where(columns > j, shares, 0)
        corner = (rows == j)[:, None] & (columns == j)
        below = (rows > j)[:, None] & (columns == j)
        x = jnp.where(corner, length[..., None, None], moved)
        x = jnp.where(below, mirror[..., None], x)
        factors.append(factor)
    return x, jnp.stack(factors, -1)


def householder_product(mirrors: Any, factors: Any, **params: Any) -> Any:
    """The matrix whose columns the reflections of a QR decomposition make of unit vectors."""
    height, width = mirrors.shape[-2:]
    count = factors.shape[-1]
    if count > ROWS_MAX:
        return jax.lax.linalg.householder_product_p.bind(mirrors, factors, **params)
    rows = np.arange(height)
    made = jnp.broadcast_to(jnp.eye(height, width, dtype=mirrors.dtype), mirrors.shape)
    for j in reversed(range(count)):
        column = jnp.where(rows == j, 1, jnp.where(rows > j, mirrors[..., j], 0))
        share = factors[..., j, None, None] * (column[..., None, :] @ made)
        made = made - column[..., None] * share
    return made


def qr(x: Any, *, pivoting: bool, full_matrices: bool, **params: Any) -> list[Any]:
    """`(q, r)` by reflections, with the signs that these give."""
    height, width = x.shape[-2:]
    if pivoting or min(height, width) > ROWS_MAX:
        kept = {"pivoting": pivoting, "full_matrices": full_matrices, **params}
        return list(jax.lax.linalg.qr_p.bind(x, **kept))
    mirrors, factors = _householder(x)
    rows = height if full_matrices else min(height, width)
    wider = [(0, 0)] * (x.ndim - 1) + [(0, max(rows - width, 0))]
    q = householder_product(jnp.pad(mirrors, wider)[..., :rows], factors)
    return [q, jnp.triu(mirrors[..., :rows, :])]
