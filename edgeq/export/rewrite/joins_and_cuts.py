"""Ops that join and cut tensors: what the delegate takes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator
from edgeq.targets import Purpose

JOINED_MAX = 5
"""Inputs of a CONCATENATION that the delegate takes."""
MOST_AXES = 6
"""Of a tensor that the delegate takes; a CONCATENATION of more does not even load."""
PARTS_MAX = 4
"""Outputs of a SPLIT that the delegate takes."""


def joined(
    site: Site, op: Operator, tensors: Sequence[int], shapes: Sequence[Sequence[int]], axis: int,
    output: int,
) -> list[Any]:  # fmt: skip
    """CONCATENATIONs of any number of tensors, as a tree where they are many."""
    if len(tensors) <= JOINED_MAX:
        return [site.editor.op("CONCATENATION", tensors, [output], axis=axis)]
    ops, results, result_shapes, start = [], list[int](), list[Sequence[int]](), 0
    while start < len(tensors):
        too_many = len(tensors) - start + len(results) - JOINED_MAX
        stop = start + max(1, min(JOINED_MAX, too_many + 1))
        group, shape = tensors[start:stop], list(shapes[start])
        shape[axis] = sum(s[axis] for s in shapes[start:stop])
        results.append(group[0] if len(group) == 1 else site.tensor(op, shape))
        result_shapes.append(shape)
        if len(group) > 1:
            ops += joined(site, op, group, shapes[start:stop], axis, results[-1])
        start = stop
    return ops + joined(site, op, results, result_shapes, axis, output)


def repeated(
    site: Site, op: Operator, tensor: int, shape: Sequence[int], axis: int, count: int, output: int
) -> list[Any]:
    """CONCATENATIONs of `count` copies of a tensor."""
    copies, rest = divmod(count, JOINED_MAX)
    if copies == 0 or count == JOINED_MAX:
        return joined(site, op, [tensor] * count, [shape] * count, axis, output)
    part_shape = list(shape)
    part_shape[axis] *= copies
    part = tensor if copies == 1 else site.tensor(op, part_shape)
    ops = [] if copies == 1 else repeated(site, op, tensor, shape, axis, copies, part)
    tensors = [part] * JOINED_MAX + [tensor] * rest
    return ops + joined(site, op, tensors, [part_shape] * JOINED_MAX + [shape] * rest, axis, output)


def _alone(site: Site, op: Operator) -> Sequence[Any] | None:
    return site.alias(op, op.inputs[0]) if len(op.inputs) == 1 else None


def _concatenation(site: Site, op: Operator) -> Sequence[Any] | None:
    if len(op.inputs) <= JOINED_MAX:
        return None
    shapes = [site.shape(t) for t in op.inputs]
    return joined(site, op, op.inputs, shapes, op.options.axis % len(shapes[0]), op.outputs[0])


def _pack(site: Site, op: Operator) -> Sequence[Any]:
    axis = op.options.axis % len(site.shape(op.outputs[0]))
    shape = list(site.shape(op.outputs[0]))
    shape[axis] = 1
    deeper = [site.tensor(op, shape) for _ in op.inputs]
    ops = [site.reshape(op, t, d, shape) for t, d in zip(op.inputs, deeper, strict=True)]
    if len(deeper) == 1:
        return [site.reshape(op, op.inputs[0], op.outputs[0], shape)]
    return ops + joined(site, op, deeper, [shape] * len(deeper), axis, op.outputs[0])


def _pack_first(site: Site, op: Operator) -> Sequence[Any] | None:
    return None if op.options.axis % len(site.shape(op.outputs[0])) else _pack(site, op)


def _split(site: Site, op: Operator) -> Sequence[Any] | None:
    axis = site.value(op.inputs[0])
    if len(op.outputs) <= PARTS_MAX or axis is None:
        return None
    return _slices(site, op, op.inputs[1], int(axis.flat[0]))


def _split_first(site: Site, op: Operator) -> Sequence[Any] | None:
    axis = site.value(op.inputs[0])
    is_first = axis is not None and int(axis.flat[0]) % len(site.shape(op.inputs[1])) == 0
    return _slices(site, op, op.inputs[1], 0) if is_first else None


def _split_v(site: Site, op: Operator) -> Sequence[Any] | None:
    axis = site.value(op.inputs[2])
    return None if axis is None else _slices(site, op, op.inputs[0], int(axis.flat[0]))


def _unpack(site: Site, op: Operator) -> Sequence[Any]:
    shape = list(site.shape(op.inputs[0]))
    axis = op.options.axis % len(shape)
    shape[axis] = 1
    parts = [site.tensor(op, shape) for _ in op.outputs]
    ops = _cut(site, op, op.inputs[0], axis, [(part, shape) for part in parts])
    return ops + [
        site.reshape(op, part, output, site.shape(output))
        for part, output in zip(parts, op.outputs, strict=True)
    ]


def _slices(site: Site, op: Operator, source: int, axis: int) -> list[Any]:
    axis %= len(site.shape(source))
    return _cut(site, op, source, axis, [(t, site.shape(t)) for t in op.outputs])


def _cut(
    site: Site, op: Operator, source: int, axis: int, parts: Sequence[tuple[int, Sequence[int]]]
) -> list[Any]:
    """SLICEs side by side along an axis."""
    ops, begin = [], [0] * len(site.shape(source))
    for part, shape in parts:
        ops.append(site.slice(op, source, part, begin, shape))
        begin[axis] += shape[axis]
    return ops


def _strided_slice(site: Site, op: Operator) -> Sequence[Any] | None:
    """SLICE and RESHAPE, where the slice has no gaps."""
    begin, end, strides = (site.value(t) for t in op.inputs[1:4])
    options = op.options
    if begin is None or end is None or strides is None or (strides != 1).any():
        return None
    if options.ellipsisMask or options.newAxisMask or getattr(options, "offset", False):
        return None
    shape = site.shape(op.inputs[0])
    starts, sizes = [0] * len(shape), list(shape)
    for axis in range(len(begin)):
        first = None if options.beginMask >> axis & 1 else int(begin[axis])
        last = None if options.endMask >> axis & 1 else int(end[axis])
        if options.shrinkAxisMask >> axis & 1:
            first = int(begin[axis]) % shape[axis]
            last = first + 1
        starts[axis], stop, _ = slice(first, last).indices(shape[axis])
        sizes[axis] = stop - starts[axis]
    return _sliced(site, op, starts, sizes)


def _gather(site: Site, op: Operator) -> Sequence[Any] | None:
    """SLICE and RESHAPE, where the indices are constant and follow each other."""
    indices = site.value(op.inputs[1])
    if indices is None or indices.size == 0 or site.value(op.inputs[0]) is not None:
        return None
    if op.options.batchDims or (np.diff(indices.ravel()) != 1).any() or indices.flat[0] < 0:
        return None
    sizes = list(site.shape(op.inputs[0]))
    axis = op.options.axis % len(sizes)
    starts = [0] * len(sizes)
    starts[axis], sizes[axis] = int(indices.flat[0]), indices.size
    return _sliced(site, op, starts, sizes)


def _sliced(
    site: Site, op: Operator, begin: Sequence[int], size: Sequence[int]
) -> Sequence[Any] | None:
    if min(size) < 1:
        return None
    source, output = op.inputs[0], op.outputs[0]
    if tuple(size) == site.shape(output):
        return [site.slice(op, source, output, begin, size)]
    part = site.tensor(op, size)
    return [
        site.slice(op, source, part, begin, size),
        site.reshape(op, part, output, site.shape(output)),
    ]


def _whole_slice(site: Site, op: Operator) -> Sequence[Any] | None:
    is_whole = site.shape(op.inputs[0]) == site.shape(op.outputs[0])
    return site.alias(op, op.inputs[0]) if is_whole else None


def _spread(site: Site, op: Operator) -> Sequence[Any] | None:
    """Copies of the input along each axis that TILE or BROADCAST_TO makes longer."""
    source, output = op.inputs[0], op.outputs[0]
    target = site.shape(output)
    shape = [1] * (len(target) - len(site.shape(source))) + list(site.shape(source))
    if site.value(source) is not None or 0 in target:
        return None
    axes = [a for a in range(len(target)) if shape[a] != target[a]][::-1]
    ops: list[Any] = []
    if len(shape) != len(site.shape(source)):
        deeper = site.tensor(op, shape) if axes else output
        ops.append(site.reshape(op, source, deeper, shape))
        source = deeper
    elif not axes:
        return site.alias(op, source)
    if len(target) > MOST_AXES:
        return ops + _spread_in_rows(site, op, source, shape, axes)
    for axis in axes:
        count = target[axis] // shape[axis]
        longer = [*shape[:axis], target[axis], *shape[axis + 1 :]]
        result = output if axis == axes[-1] else site.tensor(op, longer)
        ops += repeated(site, op, source, shape, axis, count, result)
        source, shape = result, longer
    return ops


def _spread_in_rows(
    site: Site, op: Operator, source: int, shape: Sequence[int], axes: Sequence[int]
) -> list[Any]:
    """Copies along each axis of a tensor of many axes, each between those before and behind it."""
    target, ops = site.shape(op.outputs[0]), list[Any]()
    for axis in axes:
        before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        rows = [before, shape[axis], behind]
        read, made = site.tensor(op, rows), site.tensor(op, [before, target[axis], behind])
        ops.append(site.reshape(op, source, read, rows))
        ops += repeated(site, op, read, rows, 1, target[axis] // shape[axis], made)
        source, shape = made, [*shape[:axis], target[axis], *shape[axis + 1 :]]
    return [*ops, site.reshape(op, source, op.outputs[0], target)]


REWRITES = (
    Rewrite("concatenation of one", ("CONCATENATION",), "nothing", "it does nothing", True, _alone),
    Rewrite(
        "long concatenation", ("CONCATENATION",), "a tree of CONCATENATION",
        f"more than {JOINED_MAX} inputs are not delegated", True, _concatenation,
        Purpose.DELEGATION,
    ),
    Rewrite("stack", ("PACK",), "RESHAPE of each input, CONCATENATION",
            "PACK is not delegated", True, _pack, Purpose.DELEGATION),
    Rewrite("stack along the first dimension", ("PACK",), "RESHAPE of each input, CONCATENATION",
            "the Edge TPU does not pack along it", True, _pack_first, Purpose.MAPPING),
    Rewrite(
        "long split", ("SPLIT",), "SLICE for each part",
        f"more than {PARTS_MAX} parts are not delegated", True, _split, Purpose.DELEGATION,
    ),
    Rewrite("split along the first dimension", ("SPLIT",), "SLICE for each part",
            "the Edge TPU does not split along it", True, _split_first, Purpose.MAPPING),
    Rewrite("uneven split", ("SPLIT_V",), "SLICE for each part",
            "SPLIT_V is not delegated", True, _split_v),
    Rewrite("unstack", ("UNPACK",), "SLICE and RESHAPE for each part",
            "UNPACK is not delegated", True, _unpack),
    Rewrite(
        "strided slice without gaps", ("STRIDED_SLICE",), "SLICE, RESHAPE",
        "a STRIDED_SLICE that drops a dimension is not delegated", True, _strided_slice,
        Purpose.DELEGATION,
    ),
    Rewrite(
        "gather of neighbours", ("GATHER",), "SLICE, RESHAPE",
        "GATHER is not delegated", True, _gather,
    ),
    Rewrite("whole slice", ("SLICE",), "nothing", "it does nothing", True, _whole_slice),
    Rewrite(
        "copies", ("TILE", "BROADCAST_TO"), "CONCATENATION of copies",
        "TILE and BROADCAST_TO are not delegated", True, _spread,
    ),
)  # fmt: skip
