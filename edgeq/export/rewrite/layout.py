"""Ops that only rename or reorder dimensions: merged, moved to where they vanish, or dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Shape, Site
from edgeq.export.rewrite.factors import Factors, Step
from edgeq.export.rewrite.layout_regions import BINARY, LAYOUT, UNARY
from edgeq.flatbuffer import Operator


def _merged(site: Site, op: Operator) -> Sequence[Any] | None:
    """A chain of RESHAPE and TRANSPOSE in as few ops as can do it."""
    chain = _chain(site, op)
    best: Sequence[Any] | None = None
    for length in range(len(chain), 0, -1):
        ops = chain[:length]
        source = ops[-1].inputs[0]
        steps = _steps(site, ops[::-1])
        if steps is None:
            continue
        if not steps:
            return site.alias(op, source)
        read_alone = all(site.is_read_once(o.outputs[0]) for o in ops[1:])
        becomes_reshape = length == 1 and op.name == "TRANSPOSE" and steps[0].order is None
        if best is None and read_alone and (len(steps) < length or becomes_reshape):
            best = _made(site, op, source, steps)
    return best


def _chain(site: Site, op: Operator) -> list[Operator]:
    """The layout ops that end in `op`, the last first."""
    chain = [op]
    while before := site.producer(chain[-1].inputs[0], *LAYOUT):
        chain.append(before)
    return chain


def _order(site: Site, op: Operator) -> Shape | None:
    """Order of a TRANSPOSE."""
    order = site.value(op.inputs[1])
    return None if order is None else tuple(int(a) for a in order)


def _steps(site: Site, ops: Sequence[Operator]) -> list[Step] | None:
    source, target = site.shape(ops[0].inputs[0]), site.shape(ops[-1].outputs[0])
    factors = Factors(source)
    for op in ops:
        if op.name == "RESHAPE":
            if not factors.reshape(site.shape(op.outputs[0])):
                return None
            continue
        order = _order(site, op)
        if order is None:
            return None
        factors.transpose(order)
    return factors.steps(source, target)


def _made(site: Site, op: Operator, source: int, steps: Sequence[Step]) -> list[Any]:
    ops = []
    for number, step in enumerate(steps, 1):
        output = op.outputs[0] if number == len(steps) else site.tensor(op, step.shape)
        if step.order is None:
            ops.append(site.reshape(op, source, output, step.shape))
        else:
            ops.append(site.transpose(op, source, output, step.order))
        source = output
    return ops


def _as_reshape(site: Site, op: Operator) -> Sequence[Any]:
    return [site.reshape(op, op.inputs[0], op.outputs[0], site.shape(op.outputs[0]))]


def _sunk(site: Site, op: Operator) -> Sequence[Any] | None:
    """An elementwise op before the layout ops that it was behind."""
    places = [t for t in op.inputs if site.value(t) is None]
    layouts = [site.producer(t, *LAYOUT) for t in places]
    first = layouts[0] if layouts else None
    if first is None or len(op.inputs) != (1 if op.name in UNARY else 2):
        return None
    if not all(_is_alike(site, first, other) for other in layouts):
        return None
    if not all(site.is_read_once(t) for t in places) and not _is_square_of(site, op, first):
        return None
    if site.shape(places[0]) != site.shape(op.outputs[0]):
        return None
    inner = dict(zip(places, (o.inputs[0] for o in layouts if o), strict=True))
    inputs = [inner[t] if t in inner else _constant_before(site, op, first, t) for t in op.inputs]
    if None in inputs:
        return None
    result = site.tensor(op, site.shape(first.inputs[0]))
    return [
        site.editor.copied(op.index, [t for t in inputs if t is not None], [result]),
        site.editor.copied(first.index, [result, *first.inputs[1:]], op.outputs),
    ]


def _is_square_of(site: Site, op: Operator, layout: Operator) -> bool:
    """Whether an op squares what a layout op alone gives it, or a RESHAPE others as well.

    The converter itself moves a square before a RESHAPE, and gives it the scale of what it reads.
    """
    if op.name != "MUL" or len(set(op.inputs)) != 1:
        return False
    read = layout.outputs[0]
    is_alone = len(site.graph.uses[read]) == len(op.inputs) and read not in site.graph.outputs
    return is_alone or layout.name == "RESHAPE"


def _is_alike(site: Site, one: Operator, other: Operator | None) -> bool:
    """Whether two layout ops do the same."""
    if other is None or one.name != other.name:
        return False
    same_shapes = all(
        site.shape(a) == site.shape(b)
        for a, b in ((one.inputs[0], other.inputs[0]), (one.outputs[0], other.outputs[0]))
    )
    return same_shapes and (one.name == "RESHAPE" or _order(site, one) == _order(site, other))


def _constant_before(site: Site, op: Operator, moved: Operator, constant: int) -> int | None:
    """The constant as the op needs it before the layout op, if it has such a form."""
    value = site.value(constant)
    if value is None:
        return None
    if value.size == 1:  # of the same rank at most, lest the result has more dimensions
        fits = value.ndim <= len(site.shape(moved.inputs[0]))
        return constant if fits else site.constant(op, "constant", value.reshape(()))
    wide = value.reshape((1,) * (len(site.shape(moved.outputs[0])) - value.ndim) + value.shape)
    found = _transposed(site, moved, wide) if moved.name == "TRANSPOSE" else _reshaped(
        site.shape(moved.inputs[0]), site.shape(moved.outputs[0]), wide
    )  # fmt: skip
    return None if found is None else site.constant(op, "constant", found)


def _transposed(site: Site, moved: Operator, value: Array) -> Array | None:
    order = _order(site, moved)
    return None if order is None else np.transpose(value, np.argsort(order))


def _reshaped(source: Shape, target: Shape, value: Array) -> Array | None:
    """A constant that fits `source` as `value` fits `target`, if it has such a form.

    It has if the two differ in dimensions of 1 only, or if there is one value for each channel.
    """
    if value.size == value.shape[-1] and source[-1:] == target[-1:]:
        return value.ravel()
    if [d for d in source if d != 1] != [d for d in target if d != 1]:
        return None
    full = iter([v for v, d in zip(value.shape, target, strict=True) if d != 1])
    return value.reshape([1 if d == 1 else next(full) for d in source])


def _reduction(site: Site, op: Operator) -> Sequence[Any] | None:
    """A reduction over the dimensions as they were before a TRANSPOSE or RESHAPE."""
    before = site.producer(op.inputs[0], *LAYOUT)
    axes = site.value(op.inputs[1])
    if before is None or axes is None or op.options.keepDims:
        return None
    rank = len(site.shape(op.inputs[0]))
    wanted = {int(a) % rank for a in axes.ravel()}
    source, target = site.shape(before.inputs[0]), site.shape(before.outputs[0])
    order = _order(site, before) if before.name == "TRANSPOSE" else _squeezed(source, target)
    if order is None:
        return None
    kept = [order[a] for a in range(rank) if a not in wanted]
    if kept != sorted(kept):
        return None
    reduced = sorted(set(range(len(source))) - set(kept))
    return [
        site.editor.op(
            op.name, [before.inputs[0], site.ints(op, "axes", reduced)], op.outputs, keepDims=False
        )
    ]


def _squeezed(source: Shape, target: Shape) -> Shape | None:
    """Where each dimension of `target` is in `source`, which has more of size 1 besides."""
    places, axis = [], 0
    for size in target:
        while axis < len(source) and source[axis] != size and source[axis] == 1:
            axis += 1
        if axis == len(source) or source[axis] != size:
            return None
        places.append(axis)
        axis += 1
    return tuple(places) if math.prod(source[axis:]) == 1 else None


def _no_padding(site: Site, op: Operator) -> Sequence[Any] | None:
    is_same = site.shape(op.inputs[0]) == site.shape(op.outputs[0])
    return site.alias(op, op.inputs[0]) if is_same else None


def _added_up(site: Site, op: Operator) -> Sequence[Any] | None:
    """One PAD instead of two."""
    before = site.producer(op.inputs[0], "PAD")
    own = site.value(op.inputs[1])
    inner = None if before is None else site.value(before.inputs[1])
    if before is None or own is None or inner is None or not site.is_read_once(op.inputs[0]):
        return None
    margins = site.ints(op, "margins", own + inner)
    return [site.editor.op("PAD", [before.inputs[0], margins], op.outputs)]


REWRITES = (
    Rewrite("renamed dimensions", ("SQUEEZE", "EXPAND_DIMS"), "RESHAPE",
            "SQUEEZE and EXPAND_DIMS are not delegated", True, _as_reshape),
    Rewrite(
        "chain of RESHAPE and TRANSPOSE", LAYOUT, "as few of them as do the same, or none",
        "each one copies the tensor", True, _merged,
    ),
    Rewrite(
        "elementwise op behind RESHAPE or TRANSPOSE", (*UNARY, *BINARY), "the same ops swapped",
        "layout changes meet and cancel, and activations reach the op that can fuse them", True,
        _sunk,
    ),
    Rewrite(
        "reduction behind RESHAPE or TRANSPOSE", ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"),
        "the same over other axes", "the layout change is not needed", False, _reduction,
    ),
    Rewrite("empty padding", ("PAD", "PADV2", "MIRROR_PAD"), "nothing", "it does nothing", True,
            _no_padding),
    Rewrite("padding of padding", ("PAD",), "one PAD", "each one copies the tensor", True,
            _added_up),
)  # fmt: skip
