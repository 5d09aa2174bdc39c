"""Factors and solutions of small matrices, written as the steps that make them.

Each is made for one op of a graph. Pivots and reflections are those of LAPACK, as TensorFlow has
them on a CPU, so that signs are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgeq.export.frontends.tensorflow_graph.static_values import Form, constant

ROWS_MAX = 32
"""Of a matrix that is factored or solved row by row, each of which is a few ops."""


def _small(make: Callable[[Any], Form]) -> Callable[[Any], Form | None]:
    """A maker of forms that has none of large matrices, or of other numbers than float32."""

    def made(op: Any) -> Form | None:
        height, width = op.inputs[0].shape[-2:]
        is_small = min(height, width) <= ROWS_MAX and op.inputs[0].dtype == tf.float32
        return make(op) if is_small else None

    return made


def _solving(
    of_matrix: Callable[[Any, Any], Any], make: Callable[[Any], Form]
) -> Callable[[Any], Form | None]:
    """A maker of forms of systems: of a constant matrix by a product with its inverse.

    Args:
        of_matrix: The part of a matrix that an op reads.
        make: Makes those of small matrices.
    """

    def made(op: Any) -> Form | None:
        matrix = constant(op.inputs[0])
        if matrix is None or op.inputs[0].dtype != tf.float32:
            return _small(make)(op)
        read = of_matrix(op, matrix.astype(np.float64))
        inverse = np.linalg.inv(np.swapaxes(read, -1, -2) if op.get_attr("adjoint") else read)
        return lambda _, y: tf.matmul(tf.constant(inverse.astype(np.float32)), y)

    return made


def _half(op: Any, matrix: Any) -> Any:
    """The triangle that an op reads."""
    return np.tril(matrix) if op.get_attr("lower") else np.triu(matrix)


def _cholesky(op: Any) -> Form:
    """Column by column."""
    size = int(op.inputs[0].shape[-1])
    leading = len(op.inputs[0].shape) - 2

    def computed(x: Any) -> Any:
        columns: list[Any] = []
        for j in range(size):
            column = x[..., j:, j : j + 1]
            if columns:
                before = tf.concat(columns, -1)
                column -= tf.matmul(before[..., j:, :], before[..., j : j + 1, :], transpose_b=True)
            column /= tf.sqrt(column[..., :1, :])
            columns.append(tf.pad(column, [*[[0, 0]] * leading, [j, 0], [0, 0]]))
        return tf.concat(columns, -1)

    return computed


def _triangular(triangle: Any, other: Any, lower: bool, unit: bool = False) -> Any:
    """A triangular system, solved row by row."""
    size = int(triangle.shape[-1])
    solved: list[Any] = []
    for i in range(size) if lower else reversed(range(size)):
        row = other[..., i : i + 1, :]
        if solved:
            before = triangle[..., i : i + 1, :i] if lower else triangle[..., i : i + 1, i + 1 :]
            row -= tf.matmul(before, tf.concat(solved, -2))
        row = row if unit else row / triangle[..., i : i + 1, i : i + 1]
        solved = [*solved, row] if lower else [row, *solved]
    return tf.concat(solved, -2)


def _triangular_solve(op: Any) -> Form:
    lower, turned = op.get_attr("lower"), op.get_attr("adjoint")

    def computed(x: Any, y: Any) -> Any:
        return _triangular(tf.linalg.matrix_transpose(x) if turned else x, y, lower is not turned)

    return computed


def _eliminated(x: Any, y: Any) -> tuple[Any, Any, Any]:
    """`(u, z, sign)`: the triangle, the right sides after the same steps, and that of exchanges."""
    size = int(x.shape[-1])
    rows, columns = np.arange(size), np.arange(size)
    sign = tf.ones(x.shape[:-2])
    for j in range(size):
        sizes = tf.where(rows >= j, tf.abs(x[..., j]), -1.0)
        there = tf.one_hot(tf.argmax(sizes, -1, tf.int32), size)[..., None]
        here = (rows == j)[:, None]
        sign *= 2.0 * there[..., j, 0] - 1.0
        factors = tf.zeros_like(x[..., :1])
        moved = []
        for part in (x, y):
            row = tf.reduce_sum(there * part, -2, keepdims=True)
            exchanged = part * (1.0 - there) + there * part[..., j : j + 1, :]
            moved.append((tf.where(here, row, exchanged), row))
        pivot = moved[0][1][..., j : j + 1]
        factors = tf.where((rows > j)[:, None], moved[0][0][..., j : j + 1] / pivot, 0.0)
        x = moved[0][0] - factors * tf.where(columns >= j, moved[0][1], 0.0)
        y = moved[1][0] - factors * moved[1][1]
    return x, y, sign


def _solve(op: Any) -> Form:
    turned = op.get_attr("adjoint")

    def computed(x: Any, y: Any) -> Any:
        upper, right, _ = _eliminated(tf.linalg.matrix_transpose(x) if turned else x, y)
        return _triangular(upper, right, False)

    return computed


def _inverse(op: Any) -> Form:
    turned, shape = op.get_attr("adjoint"), op.inputs[0].shape

    def computed(x: Any) -> Any:
        ones = tf.broadcast_to(tf.eye(int(shape[-1])), shape)
        upper, right, _ = _eliminated(tf.linalg.matrix_transpose(x) if turned else x, ones)
        return _triangular(upper, right, False)

    return computed


def _pivots(x: Any) -> tuple[Any, Any]:
    """The diagonal of the triangle, `(..., rows)`, and the sign of the exchanges."""
    upper, _, sign = _eliminated(x, tf.zeros((*x.shape[:-1], 1)))
    return tf.reduce_sum(upper * tf.eye(int(x.shape[-1])), -1), sign


def _determinant(op: Any) -> Form:
    def computed(x: Any) -> Any:
        diagonal, sign = _pivots(x)
        return tf.reduce_prod(diagonal, -1) * sign

    return computed


def _log_determinant(op: Any) -> Form:
    def computed(x: Any) -> list[Any]:
        diagonal, sign = _pivots(x)
        signs = tf.reduce_prod(tf.sign(diagonal), -1) * sign
        return [signs, tf.reduce_sum(tf.math.log(tf.abs(diagonal)), -1)]

    return computed


def _qr(op: Any) -> Form:
    """By reflections."""
    height, width = (int(size) for size in op.inputs[0].shape[-2:])
    kept = height if op.get_attr("full_matrices") else min(height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)

    def computed(x: Any) -> list[Any]:
        mirrors: list[tuple[Any, Any]] = []
        for j in range(min(height, width)):
            top, rest = x[..., j : j + 1, j : j + 1], tf.where(rows > j, x[..., j : j + 1], 0.0)
            square = tf.reduce_sum(rest * rest, -2, keepdims=True)
            length = tf.where(top < 0, 1.0, -1.0) * tf.sqrt(top * top + square)
            is_flat = square <= 0
            length = tf.where(is_flat, top, length)
            factor = tf.where(is_flat, 0.0, (length - top) / tf.where(is_flat, 1.0, length))
            mirror = rest / tf.where(is_flat, 1.0, top - length)
            mirror = tf.where(rows == j, 1.0, mirror)
            mirrors.append((mirror, factor))
            x -= mirror * (factor * tf.matmul(mirror, x, transpose_a=True))
        q = tf.broadcast_to(tf.eye(height, kept), (*x.shape[:-2], height, kept))
        for mirror, factor in reversed(mirrors):
            q -= mirror * (factor * tf.matmul(mirror, q, transpose_a=True))
        return [q, tf.where(rows[:kept] <= columns, x[..., :kept, :], 0.0)]

    return computed


def _diagonal(op: Any) -> Form | None:
    """`MatrixDiagPartV3` of the main diagonal."""
    places = tf.get_static_value(op.inputs[1])
    if places is None or np.any(places):
        return None
    height, width = (int(size) for size in op.inputs[0].shape[-2:])
    ones, count = np.eye(height, width, dtype=np.float32), min(height, width)

    def computed(x: Any, *_: Any) -> Any:
        chosen = x * tf.cast(ones, x.dtype)
        return tf.reduce_sum(chosen, -1)[..., :count]

    return computed


MAKERS: dict[str, Callable[[Any], Form | None]] = {
    "Cholesky": _small(_cholesky),
    "LogMatrixDeterminant": _small(_log_determinant),
    "MatrixDeterminant": _small(_determinant),
    "MatrixDiagPartV3": _diagonal,
    "MatrixInverse": _small(_inverse),
    "MatrixSolve": _solving(lambda _, matrix: matrix, _solve),
    "MatrixTriangularSolve": _solving(_half, _triangular_solve),
    "Qr": _small(_qr),
}
"""By the kind of op that they stand for."""
