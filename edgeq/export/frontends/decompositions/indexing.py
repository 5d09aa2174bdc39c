"""Writing by index, and what is made of it.

One slice is written in place by DYNAMIC_UPDATE_SLICE, as caches are. The runtime has no op that
writes to several places which an input names. So each place asks which entry writes to it, the last
one where several do, and reads that. Where the index is a constant, so is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.lookups import by_known_masks
from edgeq.export.frontends.torch_program.program_constants import Evaluator

aten = torch.ops.aten

COMPARED_MAX = 1 << 27
"""Comparisons of an index with all places that one op may take."""


@torch.library.custom_op("edgeq::last_writer", mutates_args=())  # type: ignore[untyped-decorator]
def last_writer(index: Tensor, size: int) -> Tensor:
    """One more than the last entry along the last axis that names a place; 0 where none does.

    Args:
        index: `(..., N)`, from 0 to `size - 1`.
        size: Number of places.

    Returns:
        `(..., size)`, int32.
    """
    numbers = torch.arange(1, index.shape[-1] + 1, dtype=torch.int32).expand_as(index)
    found = torch.zeros((*index.shape[:-1], size), dtype=torch.int32)
    return found.scatter_reduce_(-1, index.long(), numbers, "amax")


@last_writer.register_fake  # type: ignore[untyped-decorator]
def _(index: Tensor, size: int) -> Tensor:
    return torch.empty((*index.shape[:-1], size), dtype=torch.int32)


@torch.library.custom_op("edgeq::slice_written", mutates_args=())  # type: ignore[untyped-decorator]
def slice_written(x: Tensor, source: Tensor, axis: int, place: Tensor) -> Tensor:
    """`x` with a slice of it replaced.

    Args:
        x: Of any shape.
        source: As `x`, but of size 1 along the axis.
        axis: From 0 on.
        place: Where along it, `()` int32, from 0 on.
    """
    return x.index_copy(axis, place.reshape(1).long(), source)


@slice_written.register_fake  # type: ignore[untyped-decorator]
def _(x: Tensor, source: Tensor, axis: int, place: Tensor) -> Tensor:
    return torch.empty_like(x)


def compared(index: Tensor, size: int) -> Tensor:
    """`last_writer` by comparing each entry with each place."""
    entries = int(index.shape[-1])
    hit = index.to(torch.int32).unsqueeze(-1) == torch.arange(size, dtype=torch.int32)
    if entries == 1:
        return hit.squeeze(-2).to(torch.int32)
    numbers = torch.arange(1, entries + 1, dtype=torch.int32).unsqueeze(-1)
    return (hit.to(torch.int32) * numbers).amax(-2)


def _too_many(index: Tensor, size: int) -> bool:
    return int(index.numel()) * size > COMPARED_MAX


def _from_zero(index: Tensor, size: int) -> Tensor:
    """An index without negative entries."""
    return torch.where(index < 0, index + size, index)


def _is_same_along(index: Tensor, axis: int) -> bool:
    """Whether an index was expanded along every other axis."""
    others = [a for a in range(index.ndim) if a != axis]
    return all(int(index.shape[a]) == 1 or int(index.stride(a)) == 0 for a in others)


def _row(index: Tensor, axis: int) -> Tensor:
    """An expanded index along its own axis."""
    for other in range(index.ndim - 1, -1, -1):
        if other != axis:
            index = index.select(other, 0)
    return index


def scatter(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Any:
    """`scatter.src`."""
    if x.ndim == 0 or _too_many(index, int(x.shape[axis])):
        return NotImplemented
    axis %= x.ndim
    size = int(x.shape[axis])
    source = source[tuple(slice(0, int(n)) for n in index.shape)]
    if _is_same_along(index, axis) and _covers(index, x, axis):
        return _written(x, axis, _row(index, axis), source)
    writer = _moved(last_writer(index.movedim(axis, -1).long(), size), axis)
    source, writer = _widened(source, x, axis), _widened(writer, x, axis)
    read = source.gather(axis, (writer - 1).clamp(min=0).long())
    return torch.where(writer > 0, read, x)


def _moved(x: Tensor, axis: int) -> Tensor:
    """With the last axis where `axis` is."""
    return x.movedim(-1, axis)


def _covers(index: Tensor, x: Tensor, axis: int) -> bool:
    return all(index.shape[a] == x.shape[a] for a in range(x.ndim) if a != axis)


def _widened(part: Tensor, x: Tensor, axis: int) -> Tensor:
    """A part as large as `x` along all axes but one, filled up with zeros."""
    pads: list[int] = []
    for a in range(x.ndim - 1, -1, -1):
        pads += [0, 0 if a == axis else int(x.shape[a]) - int(part.shape[a])]
    return torch.nn.functional.pad(part, pads) if any(pads) else part


def _written(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Tensor:
    """`x` with the slices of `source` along an axis at the places that a row of indices names."""
    if index.numel() == 1 and x.is_floating_point():
        return slice_written(x, source, axis, index.reshape(()).to(torch.int32))
    writer = last_writer(index.long(), int(x.shape[axis]))
    read = source.index_select(axis, (writer - 1).clamp(min=0).long())
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    return torch.where((writer > 0).reshape(shape), read, x)


def scatter_value(x: Tensor, axis: int, index: Tensor, value: float) -> Any:
    """`scatter.value`."""
    return scatter(x, axis, index, torch.full(index.shape, value, dtype=x.dtype))


def scatter_add(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Any:
    """`scatter_add`."""
    if x.ndim == 0 or _too_many(index, int(x.shape[axis])):
        return NotImplemented
    axis %= x.ndim
    size = int(x.shape[axis])
    source = source[tuple(slice(0, int(n)) for n in index.shape)]
    if _is_same_along(index, axis) and _covers(index, x, axis):
        return index_add(x, axis, _row(index, axis), source)
    hit = _hits(index.movedim(axis, -1), size).to(x.dtype)  # (..., N, size)
    sums = (source.movedim(axis, -1).unsqueeze(-1) * hit).sum(-2)
    return x + _widened(_moved(sums, axis), x, axis)


def _hits(index: Tensor, size: int) -> Tensor:
    return index.to(torch.int32).unsqueeze(-1) == torch.arange(size, dtype=torch.int32)


def index_add(x: Tensor, axis: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Any:
    """`index_add`: a product with a matrix of zeros and ones."""
    if _too_many(index, int(x.shape[axis])):
        return NotImplemented
    axis %= x.ndim
    hit = _hits(index.reshape(-1), int(x.shape[axis])).to(x.dtype)  # (N, size)
    sums = _moved(torch.matmul(source.movedim(axis, -1), hit), axis)
    return x + (sums if alpha == 1 else sums * alpha)


def index_copy(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Any:
    """`index_copy`."""
    if _too_many(index, int(x.shape[axis])):
        return NotImplemented
    return _written(x, axis % x.ndim, index.reshape(-1), source)


def index_fill(x: Tensor, axis: int, index: Tensor, value: Any) -> Any:
    """`index_fill`."""
    if _too_many(index, int(x.shape[axis])):
        return NotImplemented
    axis %= x.ndim
    writer = last_writer(index.reshape(-1).long(), int(x.shape[axis]))
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    return torch.where((writer > 0).reshape(shape), value, x)


_REDUCED = {"amax": torch.amax, "amin": torch.amin, "prod": torch.prod}


def scatter_reduce(
    x: Tensor, axis: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """`scatter_reduce.two`."""
    size = int(x.shape[axis]) if x.ndim else 1
    if x.ndim == 0 or _too_many(index, size):
        return NotImplemented
    axis %= x.ndim
    source = source[tuple(slice(0, int(n)) for n in index.shape)]
    is_row = _is_same_along(index, axis) and _covers(index, x, axis)
    moved = (
        _row(index, axis).reshape(*[1] * (x.ndim - 1), -1) if is_row else index.movedim(axis, -1)
    )
    hit = _hits(moved, size)  # (..., N, size)
    values = source.movedim(axis, -1).unsqueeze(-1)
    count = _moved(hit.to(torch.int32).sum(-2, dtype=torch.int32), axis)
    count = count if is_row else _widened(count, x, axis)
    if reduce in ("sum", "mean"):
        sums = _widened(_moved((values * hit.to(x.dtype)).sum(-2), axis), x, axis)
        start = x if include_self else torch.where(count > 0, torch.zeros_like(x), x)
        total = start + sums
        if reduce == "sum":
            return total
        return total / (count + 1 if include_self else count.clamp(min=1)).to(x.dtype)
    least = torch.finfo(x.dtype).min if x.is_floating_point() else _least_whole(x.dtype)
    neutral = {"amax": least, "amin": -least, "prod": 1}[reduce]
    filled = torch.where(hit, values, torch.full_like(values, neutral))
    reduced = filled.prod(-2) if reduce == "prod" else _REDUCED[reduce](filled, -2)
    reduced = _moved(reduced, axis)
    if any(reduced.shape[a] != x.shape[a] for a in range(x.ndim)):
        return NotImplemented
    join = {"amax": torch.maximum, "amin": torch.minimum, "prod": torch.mul}[reduce]
    return torch.where(count > 0, join(x, reduced) if include_self else reduced, x)


_JOINED = {"add": "sum", "multiply": "prod"}
"""What `scatter_reduce` calls what `scatter` calls so."""


def scatter_joined(x: Tensor, axis: int, index: Tensor, source: Any, *, reduce: str) -> Any:
    """`scatter` that adds or multiplies."""
    values = source if isinstance(source, Tensor) else torch.full(index.shape, source).to(x.dtype)
    return scatter_reduce(x, axis, index, values, _JOINED[reduce])


def index_reduce(
    x: Tensor, axis: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """`index_reduce`."""
    shape = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    wide = index.reshape(shape).expand(source.shape)
    return scatter_reduce(x, axis, wide, source, reduce, include_self=include_self)


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Any:
    """`put`: places of the numbers in order."""
    made = index_put(x.reshape(-1), [index.reshape(-1)], source.reshape(-1), accumulate)
    return made if made is NotImplemented else made.reshape(x.shape)


def _least_whole(kind: torch.dtype) -> int:
    """A whole number below all others, in 32 bits, which the converter makes of 64."""
    least: int = torch.iinfo(kind if kind.itemsize < 4 else torch.int32).min
    return least + 1


def index_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Any:
    """`index_put`: by a mask, or by integers along some axes."""
    given = [i for i in indices if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return _put_by_mask(x, indices, values, accumulate)
    axes = [a for a, i in enumerate(indices) if i is not None]
    sizes = [int(x.shape[a]) for a in axes]
    index = torch.broadcast_tensors(*given)
    flat: Any = torch.zeros((), dtype=torch.int64)
    for size, each in zip(sizes, index, strict=True):
        flat = flat * size + _from_zero(each, size)
    if _too_many(flat, math.prod(sizes)):
        return NotImplemented
    if len(axes) == flat.numel() == 1 and not accumulate:
        row = _as_rows(values, x, axes, tuple(flat.shape)).movedim(0, axes[0])
        return _written(x, axes[0], flat.reshape(-1), row)
    rest = [a for a in range(x.ndim) if a not in axes]
    rows = x.permute(*axes, *rest).flatten(0, len(axes) - 1)  # (places, *rest)
    source = _as_rows(values, x, axes, tuple(flat.shape))
    flat = flat.reshape(-1)
    made = index_add(rows, 0, flat, source) if accumulate else _written(rows, 0, flat, source)
    opened = made.unflatten(0, sizes)
    order = [*axes, *rest]
    return opened.permute([order.index(a) for a in range(x.ndim)])


def _as_rows(values: Tensor, x: Tensor, axes: list[int], shape: tuple[int, ...]) -> Tensor:
    """What is written, one row for each entry of the index: `(entries, *other axes of x)`."""
    rest = [int(x.shape[a]) for a in range(x.ndim) if a not in axes]
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if together else 0  # where PyTorch puts the axes of the index in the result
    wide = values.expand(*rest[:first], *shape, *rest[first:])
    front = list(range(first, first + len(shape)))
    others = [a for a in range(wide.ndim) if a not in front]
    rows = wide.permute(*front, *others)
    return rows.reshape(-1, *rest)


def _put_by_mask(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool
) -> Any:
    if len(indices) != 1 or indices[0] is None or values.numel() != 1:
        return NotImplemented
    mask = indices[0]
    mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)).bool()
    value = values.reshape(()).to(x.dtype)
    return torch.where(mask, x + value if accumulate else value, x)


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`masked_scatter`: each place under the mask reads the next number of the source."""
    x, mask = torch.broadcast_tensors(x, mask)
    place = mask.reshape(-1).to(torch.int32).cumsum(0, dtype=torch.int32) - 1
    last = source.numel() - 1
    read = source.reshape(-1).index_select(0, place.clamp(0, last).long())
    return torch.where(mask, read.reshape(x.shape), x)


def max_unpool(x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """`max_unpool2d`: each place reads the maximum that came from it, and is 0 without one."""
    places = math.prod(int(size) for size in sizes)
    outer = x.shape[:-2]
    flat = torch.zeros(*outer, places, dtype=x.dtype)
    made = flat.scatter(-1, indices.flatten(-2), x.flatten(-2))
    return made.unflatten(-1, [int(size) for size in sizes])


def max_unpool_3d(
    x: Tensor, indices: Tensor, sizes: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """`max_unpool3d`."""
    places = math.prod(int(size) for size in sizes)
    flat = torch.zeros(*x.shape[:-3], places, dtype=x.dtype)
    made = flat.scatter(-1, indices.flatten(-3), x.flatten(-3))
    return made.unflatten(-1, [int(size) for size in sizes])


TABLE: dict[Any, Callable[..., Any]] = {
    aten.scatter.src: scatter,
    aten.scatter.value: scatter_value,
    aten.scatter_add.default: scatter_add,
    aten.scatter.reduce: scatter_joined,
    aten.scatter.value_reduce: scatter_joined,
    aten.scatter_reduce.two: scatter_reduce,
    aten.index_reduce.default: index_reduce,
    aten.put.default: put,
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.masked_scatter.default: masked_scatter,
    aten.max_unpool2d.default: max_unpool,
    aten.max_unpool3d.default: max_unpool_3d,
}


def by_mask(node: Any, known: Evaluator) -> None:
    """`index_put` at the places where a mask holds, as many as they may be: by the mask itself."""
    by_known_masks(node, known)
    source = next((index.args[0] for index in node.args[1] if index and index.args), None)
    if not isinstance(source, torch.fx.Node) or source.target not in _PLACES:
        return
    mask = source.args[0]
    places = [(source, axis) for axis in range(mask.meta["val"].ndim)]
    if [index and index.args for index in node.args[1]] == places:
        node.update_arg(1, [mask])


_PLACES = (aten.where.default, aten.nonzero_numpy.default)

RULES = {aten.index_put.default: by_mask, aten.index_put_.default: by_mask}
"""What replaces a node of an op."""
