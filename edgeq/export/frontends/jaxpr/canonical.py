"""Forms of primitives that the converter turns into the right ops.

Knows shapes, nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _dot_of_rows(left: Any, right: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """A product with a matrix, as a convolution where its rows are one by one in many axes.

    The converter gives its own op another rank than the result then.
    """
    (left_dims, right_dims), (left_batch, _) = dimension_numbers
    is_rows = right.ndim == 2 and not left_batch and tuple(left_dims) == (left.ndim - 1,)
    if not is_rows or left.ndim < 4 or left.shape[-2] != 1:
        kind = params.get("preferred_element_type")
        return jax.lax.dot_general(left, right, dimension_numbers, preferred_element_type=kind)
    matrix = right if tuple(right_dims) == (0,) else right.T
    image = left.reshape(1, 1, -1, left.shape[-1])
    made = jax.lax.conv_general_dilated(
        image, matrix[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return made.reshape(*left.shape[:-1], made.shape[-1])


def swapped_dot(left: Any, right: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """`dot_general(left, right)`, computed with the weight `left` on the right.

    The converter makes a fully connected op of any dot with a constant, and takes the right one for
    the weight.
    """
    (left_dims, right_dims), (left_batch, right_batch) = dimension_numbers
    numbers = ((right_dims, left_dims), (right_batch, left_batch))
    result = _dot_of_rows(right, left, dimension_numbers=numbers, **params)
    batch = len(left_batch)
    left_free = left.ndim - batch - len(left_dims)
    right_free = right.ndim - batch - len(right_dims)
    order = [
        *range(batch),
        *range(batch + right_free, batch + right_free + left_free),
        *range(batch, batch + right_free),
    ]
    return result if order == sorted(order) else jnp.transpose(result, order)


def _cropped_transposed_convolution(image: Any, kernel: Any, **params: Any) -> Any:
    """A convolution of a dilated image, padded alike on both sides of it.

    The converter computes another shape than it should where the two sides differ, and has no form
    where they are the same, but neither those of all that overlaps nor of as many results as pixels
    with what is between them.
    """
    padding, dilation = params["padding"], params["lhs_dilation"]
    numbers = params["dimension_numbers"]
    taps = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    dilated = [(t - 1) * d for t, d in zip(taps, params["rhs_dilation"], strict=True)]
    if _has_form(padding, dilated, dilation):
        return jax.lax.conv_general_dilated_p.bind(image, kernel, **params)
    full = [max(size, *pair) for size, pair in zip(dilated, padding, strict=True)]
    wide = {**params, "padding": tuple((size, size) for size in full)}
    result = jax.lax.conv_general_dilated_p.bind(image, kernel, **wide)
    for axis, size, (low, high) in zip(numbers.out_spec[2:], full, padding, strict=True):
        end = result.shape[axis] - (size - high)
        result = jax.lax.slice_in_dim(result, size - low, end, axis=axis)
    return result


def _has_form(padding: Any, dilated: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether the converter has a form of a padding behind `steps` between pixels."""
    if all(step == 1 for step in steps):
        return True
    if any(low != high for low, high in padding):
        return False
    lows = [low for low, _ in padding]
    same = zip(lows, dilated, steps, strict=True)
    return lows == list(dilated) or all(2 * low - size == step - 1 for low, size, step in same)


def _max_pool_of_images(row: Any, **params: Any) -> Any:
    """A max pool along one axis as one of images, which is the one that kernels have."""
    windows = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    if row.ndim != 3:
        return jax.lax.reduce_window_max_p.bind(row, **params)
    wide = {key: (params[key][0], 1, *params[key][1:]) for key in windows}
    low_high = params["padding"]
    wide["padding"] = (low_high[0], (0, 0), *low_high[1:])
    image = jnp.expand_dims(row, 1)
    return jnp.squeeze(jax.lax.reduce_window_max_p.bind(image, **{**params, **wide}), 1)


def highest_alone(x: Any, *, k: int, **_: Any) -> list[Any]:
    """`top_k` of which the values alone are read.

    The converter makes a sort without a kernel of it, unless something reads the places.
    """
    values, places = jax.lax.top_k(x, k)
    rest = jax.lax.slice_in_dim(x, 0, k, axis=x.ndim - 1)
    return [jnp.where(places >= 0, values, rest), places]


def _sorted(*operands: Any, dimension: int, num_keys: int, **params: Any) -> list[Any]:
    """A sort by one key as the lowest of all, in order."""
    key, *others = operands
    if num_keys != 1 or key.dtype not in (np.float32, np.int32):
        kept = {"dimension": dimension, "num_keys": num_keys, **params}
        return list(jax.lax.sort_p.bind(*operands, **kept))
    if dimension != key.ndim - 1:
        turned = (jnp.moveaxis(operand, dimension, -1) for operand in operands)
        found = _sorted(*turned, dimension=key.ndim - 1, num_keys=1)
        return [jnp.moveaxis(operand, -1, dimension) for operand in found]
    size = key.shape[-1]
    if not others:
        return [-highest_alone(-key, k=size)[0]]
    values, places = jax.lax.top_k(-key, size)
    taken = [
        jnp.take_along_axis(other, places, axis=-1, mode="promise_in_bounds") for other in others
    ]
    return [-values, *taken]


def _gather_in_bounds(table: Any, indices: Any, **params: Any) -> Any:
    """A gather without the check of its indices, which kernels do themselves."""
    mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return jax.lax.gather_p.bind(table, indices, **{**params, "mode": mode})


def _rows_at_places(target: Any, indices: Any, updates: Any, numbers: Any) -> Any:
    """`(rows, ones)` of a scatter of whole rows along one axis; None of another.

    The rows are `(N, ...)` in the order of the target's other axes, and `ones` says which of them
    goes where, `(N, size)` bool.
    """
    axes = numbers.scatter_dims_to_operand_dims
    window = [size for axis, size in enumerate(target.shape) if axis not in axes]
    spread = [axis for axis in range(updates.ndim) if axis not in numbers.update_window_dims]
    is_rows = len(axes) == 1 and numbers.inserted_window_dims == axes
    is_whole = [updates.shape[axis] for axis in numbers.update_window_dims] == window
    if not (is_rows and is_whole):
        return None
    rows = jnp.moveaxis(updates, spread, range(len(spread))).reshape(-1, *window)
    places = jnp.arange(target.shape[axes[0]], dtype=indices.dtype)
    return rows, indices.reshape(-1, 1) == places


def _scatter_add(target: Any, indices: Any, updates: Any, **params: Any) -> Any:
    """Rows that are added where indices say, as a product with a matrix of ones."""
    numbers = params["dimension_numbers"]
    found = _rows_at_places(target, indices, updates, numbers)
    if found is None:
        return jax.lax.scatter_add_p.bind(target, indices, updates, **params)
    rows, ones = found
    summed = jnp.tensordot(ones.astype(np.float32), rows.astype(np.float32), ((0,), (0,)))
    axis = numbers.scatter_dims_to_operand_dims[0]
    return target + jnp.moveaxis(summed, 0, axis).astype(target.dtype)


def _scatter_with(
    primitive: Any, reduction: Any, operation: Any, neutral: float
) -> Callable[..., Any]:
    """A scatter of rows by another operation, over all rows with the others left out."""

    def scatter(target: Any, indices: Any, updates: Any, **params: Any) -> Any:
        numbers = params["dimension_numbers"]
        found = _rows_at_places(target, indices, updates, numbers)
        if found is None or not jnp.issubdtype(target.dtype, jnp.floating):
            return primitive.bind(target, indices, updates, **params)
        rows, ones = found
        wide = ones.reshape(*ones.shape, *[1] * (rows.ndim - 1))
        made = reduction(jnp.where(wide, rows[:, None], np.float32(neutral)), axis=0)
        return operation(target, jnp.moveaxis(made, 0, numbers.scatter_dims_to_operand_dims[0]))

    return scatter


def _remainder(x: Any, y: Any, **params: Any) -> Any:
    """A remainder with the sign of `x`; the converter takes that of `y`."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        sizes = (jnp.where(number < 0, -number, number) for number in (x, y))
        made = jax.lax.rem_p.bind(*sizes, **params)
        return jnp.where(x < 0, -made, made)
    quotient = x / y
    return x - y * jnp.where(quotient < 0, jnp.ceil(quotient), jnp.floor(quotient))


def _rounded(x: Any, *, rounding_method: Any) -> Any:
    if rounding_method == jax.lax.RoundingMethod.AWAY_FROM_ZERO:
        return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)
    return jax.lax.round_p.bind(x, rounding_method=rounding_method)


def _cube_root(x: Any, **_: Any) -> Any:
    """Of negative numbers as well; the converter takes a power."""
    return jnp.sign(x) * jnp.power(jnp.abs(x), np.float32(1 / 3))


ROWS_MAX = 32
"""Of a matrix that is factored or solved row by row, each of which is a few ops."""


def _cholesky(x: Any, **params: Any) -> Any:
    """A Cholesky factor, column by column."""
    size = x.shape[-1]
    if size > ROWS_MAX:
        return jax.lax.linalg.cholesky_p.bind(x, **params)
    columns: list[Any] = []
    for j in range(size):
        column = x[..., j:, j : j + 1]
        if columns:
            before = jnp.concatenate(columns, -1)
            row = jnp.swapaxes(before[..., j : j + 1, :], -1, -2)
            column = column - before[..., j:, :] @ row
        column = column / jnp.sqrt(column[..., :1, :])
        columns.append(jnp.pad(column, [(0, 0)] * (x.ndim - 2) + [(j, 0), (0, 0)]))
    return jnp.concatenate(columns, -1)


CANONICAL: dict[str, Any] = {
    "lt_to": jax.lax.lt_p.bind,  # which differ from these for NaN and -0 alone
    "le_to": jax.lax.le_p.bind,
    "scatter-add": _scatter_add,
    "dot_general": _dot_of_rows,
    "conv_general_dilated": _cropped_transposed_convolution,
    "reduce_window_max": _max_pool_of_images,
    "gather": _gather_in_bounds,
    "sort": _sorted,
    "rem": _remainder,
    "round": _rounded,
    "cbrt": _cube_root,
    "cholesky": _cholesky,
    "scatter-max": _scatter_with(jax.lax.scatter_max_p, jnp.max, jnp.maximum, -3.0e38),
    "scatter-min": _scatter_with(jax.lax.scatter_min_p, jnp.min, jnp.minimum, 3.0e38),
    "scatter-mul": _scatter_with(jax.lax.scatter_mul_p, jnp.prod, jnp.multiply, 1.0),
}
"""Replacements for primitives that the converter has no good form of."""
