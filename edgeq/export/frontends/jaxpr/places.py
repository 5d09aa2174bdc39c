"""Reading and changing the rows of an array at computed places.

Knows shapes, nothing of layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MODES = jax.lax.GatherScatterMode
Scatter = Callable[..., Any]


def gather(table: Any, indices: Any, *, mode: Any, fill_value: Any, **params: Any) -> Any:
    """A gather without the check of its indices where what lies outside is an error anyway.

    Without a filling of the caller's own, JAX makes NaN of what is outside, which kernels refuse.
    """
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    is_filled = mode == _MODES.FILL_OR_DROP and not _is_mark(fill_value, table.dtype)
    last = [table.shape[axis] - sizes[axis] for axis in numbers.start_index_map]
    bound = np.asarray(last, indices.dtype)
    inside = jnp.clip(indices, 0, bound) if is_filled or mode == _MODES.CLIP else indices
    made = jax.lax.gather_p.bind(
        table, inside, mode=_MODES.PROMISE_IN_BOUNDS, fill_value=None, **params
    )
    if not is_filled:
        return made
    fits = jnp.all(inside == indices, axis=-1)
    spread = (axis for axis in range(made.ndim) if axis not in numbers.offset_dims)
    shape = [1] * made.ndim
    for axis, size in zip(spread, fits.shape, strict=True):
        shape[axis] = size
    return jnp.where(fits.reshape(shape), made, np.asarray(fill_value, made.dtype))


def nearest_gather(table: Any, indices: Any, *, mode: Any, **params: Any) -> Any:
    """A gather that takes the nearest of places outside, where these mean an error or nothing."""
    is_mark = mode == _MODES.FILL_OR_DROP and _is_mark(params["fill_value"], table.dtype)
    mode = _MODES.CLIP if is_mark or mode == _MODES.PROMISE_IN_BOUNDS else mode
    return gather(table, indices, mode=mode, **params)


def _is_mark(fill_value: Any, dtype: Any) -> bool:
    """Whether a filling marks an error, as JAX's own does."""
    if fill_value is None:
        return True
    if jnp.issubdtype(dtype, jnp.floating):
        return bool(np.isnan(fill_value))
    if not jnp.issubdtype(dtype, jnp.integer):
        return False
    return int(fill_value) in (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)


def _each_alone(scatter: Scatter) -> Scatter:
    """A scatter into a batch as one into each of its entries."""

    @functools.wraps(scatter)
    def of_batch(target: Any, indices: Any, updates: Any, **params: Any) -> Any:
        numbers = params["dimension_numbers"]
        if not numbers.operand_batching_dims:
            return scatter(target, indices, updates, **params)
        own, index = numbers.operand_batching_dims[0], numbers.scatter_indices_batching_dims[0]
        update = _spread(updates, numbers)[index]
        rest = numbers._replace(
            update_window_dims=_without(numbers.update_window_dims, update),
            inserted_window_dims=_without(numbers.inserted_window_dims, own),
            scatter_dims_to_operand_dims=_without(numbers.scatter_dims_to_operand_dims, own),
            operand_batching_dims=_without(numbers.operand_batching_dims, own),
            scatter_indices_batching_dims=_without(numbers.scatter_indices_batching_dims, index),
        )
        alone = functools.partial(of_batch, **{**params, "dimension_numbers": rest})
        return jax.vmap(alone, (own, index, update), own)(target, indices, updates)

    return of_batch


def _without(axes: Sequence[int], gone: int) -> tuple[int, ...]:
    """Axes as they are called once one of all is gone."""
    return tuple(axis - (axis > gone) for axis in axes if axis != gone)


def _spread(updates: Any, numbers: Any) -> list[int]:
    """Axes of updates that the indices spread them along."""
    return [axis for axis in range(updates.ndim) if axis not in numbers.update_window_dims]


def _rows(target: Any, indices: Any, updates: Any, numbers: Any) -> Any:
    """`(rows, ones)` of a scatter of whole rows; None of another.

    The rows are `(N, ...)` in the order of the axes of the target that no index names, and `ones`
    says which of them goes where, `(N, places)` bool, the places counted in the order of the axes
    that are named.
    """
    axes = numbers.scatter_dims_to_operand_dims
    window = [size for axis, size in enumerate(target.shape) if axis not in axes]
    is_rows = sorted(axes) == sorted(numbers.inserted_window_dims)
    is_whole = [updates.shape[axis] for axis in numbers.update_window_dims] == window
    if not (is_rows and is_whole):
        return None
    spread = _spread(updates, numbers)
    rows = jnp.moveaxis(updates, spread, range(len(spread))).reshape(-1, *window)
    named = [
        _named(indices[..., number].reshape(-1), target.shape[axis])
        for number, axis in enumerate(axes)
    ]
    ones = named[0] if named else jnp.ones((len(rows), 1), bool)
    for other in named[1:]:
        ones = (ones[:, :, None] & other[:, None]).reshape(len(rows), -1)
    return rows, ones


def _named(index: Any, size: int) -> Any:
    """Which place along an axis each index names, `(N, size)` bool."""
    return index[:, None] == jnp.arange(size, dtype=index.dtype)


def _placed(made: Any, target: Any, numbers: Any) -> Any:
    """`(places, ...)` as the target has its axes."""
    axes = numbers.scatter_dims_to_operand_dims
    sizes = [target.shape[axis] for axis in axes]
    return jnp.moveaxis(made.reshape(*sizes, *made.shape[1:]), range(len(axes)), axes)


@_each_alone
def scatter_add(target: Any, indices: Any, updates: Any, **params: Any) -> Any:
    """Rows that are added where indices say, as a product with a matrix of ones."""
    numbers = params["dimension_numbers"]
    found = _rows(target, indices, updates, numbers)
    if found is None:
        return jax.lax.scatter_add_p.bind(target, indices, updates, **params)
    rows, ones = found
    summed = jnp.tensordot(ones.astype(np.float32), rows.astype(np.float32), ((0,), (0,)))
    return target + _placed(summed, target, numbers).astype(target.dtype)


def scatter_with(primitive: Any, reduction: Any, operation: Any, neutral: float) -> Scatter:
    """A scatter of rows by another operation, over all rows with the others left out."""

    @_each_alone
    def scatter(target: Any, indices: Any, updates: Any, **params: Any) -> Any:
        numbers = params["dimension_numbers"]
        found = _rows(target, indices, updates, numbers)
        if found is None or not jnp.issubdtype(target.dtype, jnp.floating):
            return primitive.bind(target, indices, updates, **params)
        rows, ones = found
        wide = ones.reshape(*ones.shape, *[1] * (rows.ndim - 1))
        made = reduction(jnp.where(wide, rows[:, None], np.float32(neutral)), axis=0)
        is_named = jnp.broadcast_to(jnp.any(wide, axis=0), made.shape)
        changed = operation(target, _placed(made, target, numbers))
        return jnp.where(_placed(is_named, target, numbers), changed, target)

    return scatter
