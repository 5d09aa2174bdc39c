"""Forms of primitives that the converter turns into the right ops.

Knows shapes, nothing of layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.export.frontends.jaxpr import matrix_factors, places, whole_numbers


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
    with what is between them. It has none for dilated volumes at all, nor for volumes in groups.
    """
    padding, dilation = params["padding"], params["lhs_dilation"]
    numbers = params["dimension_numbers"]
    if image.ndim > 4 and params["feature_group_count"] > 1:
        return _convolution_by_groups(image, kernel, **params)
    if image.ndim > 4 and any(step > 1 for step in dilation):
        return _convolution_of_spread(image, kernel, **params)
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


def _convolution_by_groups(image: Any, kernel: Any, **params: Any) -> Any:
    """Convolutions of the groups' channels, one after the other."""
    groups, numbers = params["feature_group_count"], params["dimension_numbers"]
    images = jnp.split(image, groups, numbers.lhs_spec[1])
    kernels = jnp.split(kernel, groups, numbers.rhs_spec[0])
    single = {**params, "feature_group_count": 1}
    made = [
        _cropped_transposed_convolution(*pair, **single)
        for pair in zip(images, kernels, strict=True)
    ]
    return jnp.concatenate(made, numbers.out_spec[1])


def _convolution_of_spread(image: Any, kernel: Any, **params: Any) -> Any:
    """A convolution of a dilated image whose zeros are written out."""
    axes = params["dimension_numbers"].lhs_spec[2:]
    pads = params["padding"]
    for axis, step, (low, high) in zip(axes, params["lhs_dilation"], pads, strict=True):
        spread = _spread(image, axis, step)
        image = jax.lax.slice_in_dim(
            spread, max(-low, 0), spread.shape[axis] - max(-high, 0), axis=axis
        )
    wider = tuple((max(low, 0), max(high, 0)) for low, high in pads)
    plain = {**params, "padding": wider, "lhs_dilation": (1,) * len(axes)}
    return jax.lax.conv_general_dilated_p.bind(image, kernel, **plain)


def _spread(image: Any, axis: int, step: int) -> Any:
    """`step - 1` zeros between the entries of an axis; of rank 3 inside, which all kernels take."""
    shape = image.shape
    single = image.reshape(math.prod(shape[: axis + 1]), 1, math.prod(shape[axis + 1 :]))
    wide = jnp.pad(single, ((0, 0), (0, step - 1), (0, 0)))
    made = wide.reshape(*shape[:axis], shape[axis] * step, *shape[axis + 1 :])
    return jax.lax.slice_in_dim(made, 0, shape[axis] * step - (step - 1), axis=axis)


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
    if k == x.shape[-1] == 1:
        return [x, jnp.zeros(x.shape, np.int32)]
    values, places = jax.lax.top_k(x, k)
    rest = jax.lax.slice_in_dim(x, 0, k, axis=x.ndim - 1)
    return [jnp.where(places >= 0, values, rest), places]


def _sorted(*operands: Any, dimension: int, num_keys: int, **params: Any) -> list[Any]:
    """A sort as the lowest of all, in order, by the last key first: equals stay in order."""
    if operands[0].shape[dimension] == 1:
        return list(operands)
    if any(key.dtype not in (np.float32, np.int32, bool) for key in operands[:num_keys]):
        kept = {"dimension": dimension, "num_keys": num_keys, **params}
        return list(jax.lax.sort_p.bind(*operands, **kept))
    found = [jnp.moveaxis(operand, dimension, -1) for operand in operands]
    for number in reversed(range(num_keys)):
        key, *others = found[number], *found[:number], *found[number + 1 :]
        values, *others = _sorted_by(key, others)
        found = [*others[:number], values, *others[number:]]
    return [jnp.moveaxis(operand, -1, dimension) for operand in found]


def _sorted_by(key: Any, others: Sequence[Any]) -> list[Any]:
    """Arrays in the order of one of them along the last axis."""
    if key.dtype == bool:
        values, *rest = _sorted_by(key.astype(np.int32), others)
        return [values > 0, *rest]
    size = key.shape[-1]
    if not others:
        return [-highest_alone(-key, k=size)[0]]
    values, places = jax.lax.top_k(-key, size)
    taken = [
        jnp.take_along_axis(other, places, axis=-1, mode="promise_in_bounds") for other in others
    ]
    return [-values, *taken]


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


def _cumulative_logsumexp(x: Any, *, axis: int, reverse: bool) -> Any:
    """Logarithms of the sums so far, in steps that double what is joined."""
    if reverse:
        return jnp.flip(_cumulative_logsumexp(jnp.flip(x, axis), axis=axis, reverse=False), axis)
    length, step = x.shape[axis], 1
    while step < length:
        rest = jax.lax.slice_in_dim(x, 0, length - step, axis=axis)
        shape = [step if a == axis else size for a, size in enumerate(x.shape)]
        before = jnp.full(shape, jnp.finfo(x.dtype).min, x.dtype)
        other = jnp.concatenate([before, rest], axis)
        x = jnp.maximum(x, other) + jnp.log1p(jnp.exp(-jnp.abs(x - other)))
        step *= 2
    return x


CANONICAL: dict[str, Any] = {
    "lt_to": jax.lax.lt_p.bind,  # which differ from these for NaN and -0 alone
    "le_to": jax.lax.le_p.bind,
    "scatter-add": places.scatter_add,
    "dot_general": _dot_of_rows,
    "conv_general_dilated": _cropped_transposed_convolution,
    "reduce_window_max": _max_pool_of_images,
    "gather": places.gather,
    "sort": _sorted,
    "rem": _remainder,
    "cumlogsumexp": _cumulative_logsumexp,
    "is_finite": lambda x: jnp.abs(x) <= jnp.finfo(x.dtype).max,
    "round": _rounded,
    "cbrt": _cube_root,
    "cholesky": matrix_factors.cholesky,
    "lu": matrix_factors.lu,
    "lu_pivots_to_permutation": matrix_factors.order_of_exchanges,
    "triangular_solve": matrix_factors.triangular_solve,
    "qr": matrix_factors.qr,
    "householder_product": matrix_factors.householder_product,
    "and": whole_numbers.bitwise_and,
    "or": whole_numbers.bitwise_or,
    "xor": whole_numbers.bitwise_xor,
    "not": whole_numbers.bitwise_not,
    "shift_left": whole_numbers.shift_left,
    "population_count": whole_numbers.population_count,
    "clz": whole_numbers.leading_zeros,
    "scatter-max": places.scatter_with(jax.lax.scatter_max_p, jnp.max, jnp.maximum, -3.0e38),
    "scatter-min": places.scatter_with(jax.lax.scatter_min_p, jnp.min, jnp.minimum, 3.0e38),
    "scatter-mul": places.scatter_with(jax.lax.scatter_mul_p, jnp.prod, jnp.multiply, 1.0),
}
"""Replacements for primitives that the converter has no good form of."""
