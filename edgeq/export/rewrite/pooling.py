"""Pools: what stands in for the int8 ones that the delegate leaves out, and their padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.export.rewrite.joins_and_cuts import joined, repeated
from edgeq.export.rewrite.windows import Window, windows
from edgeq.flatbuffer import Operator, schema
from edgeq.targets import Purpose

INFINITY = 1e30
"""A pad value below the negative of this stands for minus infinity."""

SUMMED_MAX = 4096
"""So many int8 in a row XNNPACK sums without an overflow, whatever they are.

Source:
    Its `qs8-rsum` kernels add pairs in int16 lanes: on AVX2 the sum of 8,256 times 127 is wrong,
    and kernels for shorter registers have half as many lanes.
"""

UPSCALED_MAX = 4
"""Largest factor of a RESIZE_NEAREST_NEIGHBOR that is made of copies."""


def _global_average(site: Site, op: Operator) -> Sequence[Any] | None:
    sides = windows(site, op)
    if any(s.outputs != 1 or s.kernel < s.size for s in sides) or op.fused_activation != "NONE":
        return None
    axes = site.ints(op, "axes", [1, 2])
    return [site.editor.op("MEAN", [op.inputs[0], axes], op.outputs, keepDims=True)]


def _average(site: Site, op: Operator) -> Sequence[Any] | None:
    """A depthwise convolution; not where the window would reach over the edge."""
    sides = windows(site, op)
    if any(s.is_padded for s in sides):
        return None
    rows, columns = sides
    channels = site.shape(op.inputs[0])[3]
    kernel = np.full((1, rows.kernel, columns.kernel, channels), 1 / (rows.kernel * columns.kernel))
    weights = [site.constant(op, "weights", kernel), site.constant(op, "bias", np.zeros(channels))]
    fused = getattr(schema.ActivationFunctionType, op.fused_activation)
    return [
        site.editor.op(
            "DEPTHWISE_CONV_2D", [op.inputs[0], *weights], op.outputs,
            padding=schema.Padding.VALID, strideH=rows.stride, strideW=columns.stride,
            dilationHFactor=1, dilationWFactor=1, depthMultiplier=1, fusedActivationFunction=fused,
        )
    ]  # fmt: skip


def _padded_max(site: Site, op: Operator) -> Sequence[Any] | None:
    """A max pool of what was padded with minus infinity."""
    sides = windows(site, op)
    pad = site.producer(op.inputs[0], "PADV2")
    if pad is None or any(s.is_padded for s in sides):
        return None
    margins, value = site.value(pad.inputs[1]), site.value(pad.inputs[2])
    if margins is None or value is None or not (value < -INFINITY).all():
        return None
    if margins.shape != (4, 2) or margins[[0, 3]].any() or site.shape(pad.inputs[0])[1:3] == (0, 0):
        return None
    inner = [s.without(*(int(m) for m in margins[axis])) for axis, s in enumerate(sides, 1)]
    if any(s is None for s in inner):
        return None
    found = [s for s in inner if s is not None]
    if all(s.is_same for s in found):
        same = schema.Padding.SAME
        return [site.editor.copied(op.index, pad.inputs[:1], op.outputs, padding=same)]
    return _edged_pool(site, op, pad.inputs[0], found)


def _edged_pool(
    site: Site, op: Operator, source: int, sides: Sequence[Window]
) -> Sequence[Any] | None:
    """Pads with zeros, or with copies of the edge: the maximum of a window stays the same."""
    shape = list(site.shape(source))
    if site.is_non_negative(source):
        pads = [[0, 0], *[[s.before, s.after] for s in sides], [0, 0]]
        padded = site.tensor(op, [d + sum(p) for d, p in zip(shape, pads, strict=True)])
        ops = [site.editor.op("PAD", [source, site.ints(op, "margins", pads)], [padded])]
        return [*ops, site.editor.copied(op.index, [padded], op.outputs)]
    if any(max(s.before, s.after) >= s.kernel for s in sides):
        return None
    ops = []
    for axis, side in enumerate(sides, 1):
        source, more = _edged(site, op, source, shape, axis, side)
        shape[axis] += side.before + side.after
        ops += more
    return [*ops, site.editor.copied(op.index, [source], op.outputs)]


def _edged(
    site: Site, op: Operator, source: int, shape: Sequence[int], axis: int, side: Window
) -> tuple[int, list[Any]]:
    """The tensor with its first and last row repeated, and the ops that make it."""
    row = [1 if a == axis else d for a, d in enumerate(shape)]
    tensors, shapes, ops = [source], [shape], []
    for count, place, behind in ((side.before, 0, 0), (side.after, shape[axis] - 1, 1)):
        if count == 0:
            continue
        begin = [place if a == axis else 0 for a in range(len(shape))]
        edge = site.tensor(op, row)
        ops.append(site.slice(op, source, edge, begin, row))
        tensors[len(tensors) * behind : len(tensors) * behind] = [edge] * count
        shapes[len(shapes) * behind : len(shapes) * behind] = [row] * count
    if len(tensors) == 1:
        return source, ops
    result = site.tensor(op, [sum(s[axis] for s in shapes) if a == axis else d
                              for a, d in enumerate(shape)])  # fmt: skip
    return result, ops + joined(site, op, tensors, shapes, axis, result)


def _long_reduction(site: Site, op: Operator) -> Sequence[Any] | None:
    """Two reductions, the first over a part of the row."""
    source, axes = op.inputs[0], site.value(op.inputs[1])
    if axes is None:
        return None
    shape = list(site.shape(source))
    row = _row(shape, {int(axis) % len(shape) for axis in axes.ravel()})
    if math.prod(shape[axis] for axis in row) <= SUMMED_MAX:
        return None
    ops, first = [], _first_part(shape, row)
    if not first:
        part = max(d for d in range(1, SUMMED_MAX + 1) if shape[-1] % d == 0)
        if part == 1:
            return None
        shape, first = [*shape[:-1], shape[-1] // part, part], [len(shape)]
        parts = site.tensor(op, shape)
        ops, source = [site.reshape(op, source, parts, shape)], parts
    keeps = len(shape) == len(site.shape(op.inputs[0]))
    reduced = [1 if axis in first else d for axis, d in enumerate(shape)]
    made = site.tensor(op, reduced if keeps else shape[:-1])
    over = site.ints(op, "part", first)
    return [
        *ops,
        site.editor.op(op.name, [source, over], [made], keepDims=keeps),
        site.editor.copied(op.index, [made, op.inputs[1]], op.outputs),
    ]


def _row(shape: Sequence[int], axes: set[int]) -> list[int]:
    """The reduced axes behind which there is none that stays: what they hold is one row."""
    kept = [axis for axis, size in enumerate(shape) if axis not in axes and size > 1]
    return [axis for axis in sorted(axes) if axis > max(kept, default=-1)]


def _first_part(shape: Sequence[int], row: Sequence[int]) -> list[int]:
    """As many of the row's last axes as can be summed at once."""
    part: list[int] = []
    for axis in reversed(row):
        if math.prod(shape[a] for a in (axis, *part)) > SUMMED_MAX:
            break
        part.insert(0, axis)
    return part if math.prod(shape[axis] for axis in part) > 1 else []


def _nearest(site: Site, op: Operator) -> Sequence[Any] | None:
    """Copies of the channels, moved into space."""
    source, output = op.inputs[0], op.outputs[0]
    (_, height, width, channels), (batch, rows, columns, _) = site.shape(source), site.shape(output)
    factor, is_along_rows = columns // width, rows == height
    if op.options.alignCorners or not 1 < factor <= UPSCALED_MAX or columns != width * factor:
        return None
    if not is_along_rows and rows != height * factor:
        return None
    copies = factor if is_along_rows else factor**2
    deep = site.tensor(op, (batch, height, width, channels * copies))
    copied = repeated(site, op, source, (batch, height, width, channels), 3, copies, deep)
    if is_along_rows:
        return [*copied, site.reshape(op, deep, output, site.shape(output))]
    return [*copied, site.editor.op("DEPTH_TO_SPACE", [deep], [output], blockSize=factor)]


REWRITES = (
    Rewrite(
        "average over the whole map", ("AVERAGE_POOL_2D",), "MEAN",
        "int8 AVERAGE_POOL_2D is not delegated, MEAN is", False, _global_average,
        Purpose.DELEGATION,
    ),
    Rewrite(
        "reduction of a long row", ("MEAN", "SUM"), "two of it",
        "int8 sums of more than 4,096 numbers in a row overflow", False, _long_reduction,
        Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "average without padding", ("AVERAGE_POOL_2D",),
        "DEPTHWISE_CONV_2D with equal weights",
        "int8 AVERAGE_POOL_2D is not delegated", False, _average, Purpose.DELEGATION,
    ),
    Rewrite(
        "max pool padded with minus infinity", ("MAX_POOL_2D",),
        "MAX_POOL_2D with padding SAME, or behind a PAD with zeros where nothing is negative, "
        "or behind a CONCATENATION with copies of the edge",
        "PADV2 is not delegated", True, _padded_max,
    ),
    Rewrite(
        "nearest neighbour, whole factors", ("RESIZE_NEAREST_NEIGHBOR",),
        "CONCATENATION of copies, DEPTH_TO_SPACE; RESHAPE where rows alone grow longer",
        "RESIZE_NEAREST_NEIGHBOR is not delegated", True, _nearest, Purpose.DELEGATION_ALONE,
    ),
)  # fmt: skip
