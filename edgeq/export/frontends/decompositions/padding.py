"""Padding by what an image holds itself, in slices and the runtime's own mirror; joins."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import Evaluator

aten = torch.ops.aten

MOST_AXES = 5
"""The converter's PAD and TILE take tensors of up to so many axes."""

MOST_JOINED_AXES = 6
"""XNNPACK loads no CONCATENATION of more."""

REPEATS_MAX = 8
"""An edge that is repeated more often is read by index, in one op."""


def circular(x: Tensor, pads: Sequence[int]) -> Tensor:
    """`_pad_circular`: the other end of each axis."""
    for axis, before, after in _by_axis(x, pads):
        length = int(x.shape[axis])
        x = x.narrow(axis, max(0, -before), length - max(0, -before) - max(0, -after))
        parts = [x]
        if before > 0:
            parts.insert(0, x.narrow(axis, int(x.shape[axis]) - before, before))
        if after > 0:
            parts.append(x.narrow(axis, 0, after))
        x = torch.cat(parts, axis) if len(parts) > 1 else x
    return x


def replicated(x: Tensor, pads: Sequence[int]) -> Any:
    """`replication_pad`: the edge of each axis, as often as asked for."""
    if min(pads) < 0 or max(pads) > REPEATS_MAX:
        return NotImplemented
    for axis, before, after in _by_axis(x, pads):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, int(x.shape[axis]) - 1, 1)
        if before or after:
            x = torch.cat([*[first] * before, x, *[last] * after], axis)
    return x


def reflected_1d(x: Tensor, pads: Sequence[int]) -> Tensor:
    """`reflection_pad1d`: that of an image of one row."""
    image = x.unsqueeze(-2)
    made: Tensor = aten.reflection_pad2d.default(
        image if x.ndim == 3 else image.unsqueeze(0), [*pads, 0, 0]
    )
    return made.squeeze(-2) if x.ndim == 3 else made.squeeze(-2).squeeze(0)


def _by_axis(x: Tensor, pads: Sequence[int]) -> list[tuple[int, int, int]]:
    """`(axis, before, after)` of each axis that is padded."""
    pairs = zip(pads[::2], pads[1::2], strict=True)
    found = [(x.ndim - 1 - i, int(a), int(b)) for i, (a, b) in enumerate(pairs)]
    return [(axis, a, b) for axis, a, b in found if a or b]


def constant_pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Any:
    """`constant_pad_nd` of many axes, one after the other."""
    if x.ndim <= MOST_AXES:
        return NotImplemented
    for axis, before, after in _by_axis(x, pads):
        shape = [*x.shape[:axis], int(x.shape[axis]) + before + after, *x.shape[axis + 1 :]]
        rows = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        x = aten.constant_pad_nd.default(rows, [0, 0, before, after], value).reshape(shape)
    return x


def repeated(x: Tensor, counts: Sequence[int]) -> Any:
    """`repeat` of many axes, one after the other."""
    if len(counts) <= MOST_AXES:
        return NotImplemented
    x = x.reshape([1] * (len(counts) - x.ndim) + [*x.shape])
    for axis, count in enumerate(counts):
        if count != 1:
            shape = [*x.shape[:axis], int(x.shape[axis]) * count, *x.shape[axis + 1 :]]
            rows = x.reshape(math.prod(x.shape[:axis]), -1)
            x = aten.repeat.default(rows, [1, count]).reshape(shape)
    return x


def reversed_axes(x: Tensor, axes: Sequence[int]) -> Any:
    """`flip` of axes that are no neighbours, which the kernel takes one after the other."""
    places = sorted(axis % x.ndim for axis in axes)
    if not places or places[-1] - places[0] < len(places):
        return NotImplemented
    for axis in places:
        x = aten.flip.default(x, [axis])
    return x


def slice_replaced(
    x: Tensor,
    source: Tensor,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    """`slice_scatter` of many axes, which the converter pads: a join of what is left and new."""
    if x.ndim <= MOST_AXES or step != 1:
        return NotImplemented
    first, last, _ = slice(start, end).indices(int(x.shape[axis]))
    parts = (x.narrow(axis, 0, first), source, x.narrow(axis, last, int(x.shape[axis]) - last))
    return _joined_in_rows([part for part in parts if part.shape[axis]], axis)


def entry_replaced(x: Tensor, source: Tensor, axis: int, index: int) -> Any:
    """`select_scatter` of many axes."""
    place = index % int(x.shape[axis])
    return slice_replaced(x, source.unsqueeze(axis % x.ndim), axis, place, place + 1)


def diagonal_replaced(
    x: Tensor, source: Tensor, offset: int = 0, first: int = 0, second: int = 1
) -> Tensor:
    """`diagonal_scatter`: every row reads the number of the diagonal that is in it."""
    wide = x.movedim((first, second), (-2, -1))
    rows, columns = (int(size) for size in wide.shape[-2:])
    above = max(0, -offset)
    below = rows - above - int(source.shape[-1])
    own = torch.nn.functional.pad(source, (above, below)).unsqueeze(-1)
    is_on = torch.arange(columns) - torch.arange(rows).unsqueeze(-1) == offset
    return torch.where(is_on, own, wide).movedim((-2, -1), (first, second))


def fill_diagonal(node: Any, known: Evaluator) -> None:
    """`fill_diagonal_` of a matrix as a write to its diagonal, which PyTorch can trace."""
    x, value, wraps = (*node.args, node.kwargs.get("wrap", False))[:3]
    rows, *columns = x.meta["val"].shape
    if len(columns) != 1 or (wraps and rows > columns[0]):
        return
    with node.graph.inserting_before(node):
        diagonal = node.graph.call_function(aten.diagonal.default, (x,))
        node.graph.call_function(aten.fill_.Scalar, (diagonal, value))
    node.replace_all_uses_with(x)
    node.graph.erase_node(node)


def joined(parts: Sequence[Tensor], axis: int = 0) -> Any:
    """`cat` of several types, which litert-torch joins as they are, and of many axes in rows."""
    kinds = {part.dtype for part in parts}
    if len(kinds) > 1:
        kind = functools.reduce(torch.promote_types, kinds)
        return torch.cat([part.to(kind) for part in parts], axis)
    return _joined_in_rows(parts, axis) if parts[0].ndim > MOST_JOINED_AXES else NotImplemented


def _joined_in_rows(parts: Sequence[Tensor], axis: int) -> Tensor:
    """`cat`, all axes before and all behind the one being one each."""
    shape = parts[0].shape
    axis %= len(shape)
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = torch.cat([part.reshape(before, -1, behind) for part in parts], 1)
    return rows.reshape(*shape[:axis], rows.shape[1], *shape[axis + 1 :])


def parted(x: Tensor, sizes: Sequence[int], axis: int = 0) -> Any:
    """`split_with_sizes` into one part, which is all of it."""
    return [x] if len(sizes) == 1 else NotImplemented


TABLE: dict[Any, Callable[..., Any]] = {
    aten._pad_circular.default: circular,
    aten.replication_pad1d.default: replicated,
    aten.replication_pad2d.default: replicated,
    aten.replication_pad3d.default: replicated,
    aten.reflection_pad1d.default: reflected_1d,
    aten.cat.default: joined,
    aten.split_with_sizes.default: parted,
    aten.constant_pad_nd.default: constant_pad,
    aten.repeat.default: repeated,
    aten.flip.default: reversed_axes,
    aten.slice_scatter.default: slice_replaced,
    aten.select_scatter.default: entry_replaced,
    aten.diagonal_scatter.default: diagonal_replaced,
}

RULES = {aten.fill_diagonal_.default: fill_diagonal}
"""What replaces a node of an op."""
