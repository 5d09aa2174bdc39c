"""Ops that only rename or reorder dimensions: merged, moved to where they vanish, or dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Shape, Site
from edgeq.flatbuffer import Operator

_LAYOUT = ("RESHAPE", "TRANSPOSE")
_UNARY = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "HARD_SWISH", "GELU", "LOGISTIC",
    "TANH", "ABS", "NEG", "EXP", "SQRT", "RSQRT",
)  # fmt: skip
_BINARY = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")


@dataclass(frozen=True)
class Step:
    """One op of a layout change: `order` of a TRANSPOSE or None, and the shape that it makes."""

    shape: Shape
    order: Shape | None


class _Factors:
    """Follows the dimensions of a tensor, cut into factors, through RESHAPE and TRANSPOSE."""

    def __init__(self, shape: Shape) -> None:
        self._sizes: list[int] = []
        self._source = [self._new(d) for d in shape]
        self._now = [list(dim) for dim in self._source]

    def _new(self, size: int) -> list[int]:
        """A dimension of one factor; one of size 1 has none."""
        if size == 1:
            return []
        self._sizes.append(size)
        return [len(self._sizes) - 1]

    def transpose(self, order: Sequence[int]) -> None:
        self._now = [self._now[axis] for axis in order]

    def reshape(self, shape: Sequence[int]) -> bool:
        """False where a new dimension takes part of a factor that does not divide."""
        left, dims = list(itertools.chain.from_iterable(self._now)), []
        for size in shape:
            dim: list[int] = []
            while size > 1:
                if not left:
                    return False
                factor = left[0]
                if size % self._sizes[factor] == 0:
                    size //= self._sizes[factor]
                    dim.append(left.pop(0))
                elif self._sizes[factor] % size == 0:
                    left[:1] = self._cut(factor, size)
                else:
                    return False
            dims.append(dim)
        self._now = dims
        return not left

    def _cut(self, factor: int, first: int) -> list[int]:
        """Two factors in place of one, everywhere."""
        rest = self._new(self._sizes[factor] // first)
        self._sizes[factor] = first
        for dims in (self._source, self._now):
            for dim in dims:
                if factor in dim:
                    dim[dim.index(factor) + 1 : dim.index(factor) + 1] = rest
        return [factor, *rest]

    def steps(self, source: Shape, target: Shape) -> list[Step]:
        """The shortest way from the source shape to the target's."""
        before = list(itertools.chain.from_iterable(self._source))
        after = list(itertools.chain.from_iterable(self._now))
        if before == after:
            return [] if source == target else [Step(target, None)]
        runs = _runs(before, after)
        ways = [self._way(source, target, groups) for groups in (self._source, self._now, runs)]
        return min((way for way in ways if way), key=len)

    def _way(self, source: Shape, target: Shape, groups: list[list[int]]) -> list[Step]:
        """RESHAPE to `groups` as dimensions, TRANSPOSE, RESHAPE; none if it does not lead there."""
        before = list(itertools.chain.from_iterable(self._source))
        after = list(itertools.chain.from_iterable(self._now))
        full = sorted((g for g in groups if g), key=lambda g: before.index(g[0]))
        moved = sorted(full, key=lambda g: after.index(g[0]))
        chained = [list(itertools.chain.from_iterable(g)) for g in (full, moved)]
        if chained != [before, after]:
            return []
        sizes = [math.prod(self._sizes[f] for f in g) for g in full]
        order = [full.index(g) for g in moved]
        plain = _with_units(source, target, sizes, order)
        if plain is not None:
            return [Step(target, plain)]
        steps = [] if source == tuple(sizes) else [Step(tuple(sizes), None)]
        steps.append(Step(tuple(sizes[axis] for axis in order), tuple(order)))
        return steps if steps[-1].shape == target else [*steps, Step(target, None)]


def _with_units(source: Shape, target: Shape, sizes: list[int], order: list[int]) -> Shape | None:
    """The one TRANSPOSE from source to target that does it, dimensions of size 1 included."""
    if [d for d in source if d != 1] != sizes or len(source) != len(target):
        return None
    full = [axis for axis, d in enumerate(source) if d != 1]
    units = iter([axis for axis, d in enumerate(source) if d == 1])
    moved = iter([full[axis] for axis in order])
    found = tuple(next(units if d == 1 else moved, -1) for d in target)
    return found if -1 not in found else None


def _runs(before: list[int], after: list[int]) -> list[list[int]]:
    """Factors that stay side by side, in runs as long as possible."""
    follower = dict(itertools.pairwise(after))
    runs: list[list[int]] = []
    for factor in before:
        if runs and follower.get(runs[-1][-1]) == factor:
            runs[-1].append(factor)
        else:
            runs.append([factor])
    return runs


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
    while before := site.producer(chain[-1].inputs[0], *_LAYOUT):
        chain.append(before)
    return chain


def _order(site: Site, op: Operator) -> Shape | None:
    """Order of a TRANSPOSE."""
    order = site.value(op.inputs[1])
    return None if order is None else tuple(int(a) for a in order)


def _steps(site: Site, ops: Sequence[Operator]) -> list[Step] | None:
    source, target = site.shape(ops[0].inputs[0]), site.shape(ops[-1].outputs[0])
    factors = _Factors(source)
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
    layouts = [site.producer(t, *_LAYOUT) for t in places]
    first = layouts[0] if layouts else None
    if first is None or len(op.inputs) != (1 if op.name in _UNARY else 2):
        return None
    if not all(_is_alike(site, first, other) for other in layouts):
        return None
    if not all(site.is_read_once(t) for t in places):
        return None
    inner = dict(zip(places, (o.inputs[0] for o in layouts if o), strict=True))
    inputs = [inner[t] if t in inner else _constant_before(site, op, first, t) for t in op.inputs]
    if None in inputs or site.shape(places[0]) != site.shape(op.outputs[0]):
        return None
    result = site.tensor(op, site.shape(first.inputs[0]))
    return [
        site.editor.copied(op.index, [t for t in inputs if t is not None], [result]),
        site.editor.copied(first.index, [result, *first.inputs[1:]], op.outputs),
    ]


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
    if value is None or value.size == 1:
        return constant
    wide = value.reshape((1,) * (len(site.shape(moved.outputs[0])) - value.ndim) + value.shape)
    found = _transposed(site, moved, wide) if moved.name == "TRANSPOSE" else _reshaped(
        site.shape(moved.inputs[0]), site.shape(moved.outputs[0]), wide
    )  # fmt: skip
    return None if found is None else site.constant(op, "constant", found)


def _transposed(site: Site, moved: Operator, value: Array) -> Array | None:
    order = _order(site, moved)
    return None if order is None else np.transpose(value, np.argsort(order))


def _reshaped(source: Shape, target: Shape, value: Array) -> Array | None:
    """A constant that fits `source` as `value` fits `target`: they differ in dimensions of 1."""
    if [d for d in source if d != 1] != [d for d in target if d != 1]:
        return None
    full = iter([v for v, d in zip(value.shape, target, strict=True) if d != 1])
    return value.reshape([1 if d == 1 else next(full) for d in source])


def _mean(site: Site, op: Operator) -> Sequence[Any] | None:
    """MEAN over the dimensions as they were before a TRANSPOSE or RESHAPE."""
    before = site.producer(op.inputs[0], *_LAYOUT)
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
            "MEAN", [before.inputs[0], site.ints(op, "axes", reduced)], op.outputs, keepDims=False
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
        "chain of RESHAPE and TRANSPOSE", _LAYOUT, "as few of them as do the same, or none",
        "each one copies the tensor", True, _merged,
    ),
    Rewrite(
        "elementwise op behind RESHAPE or TRANSPOSE", (*_UNARY, *_BINARY), "the same ops swapped",
        "layout changes meet and cancel, and activations reach the op that can fuse them", True,
        _sunk,
    ),
    Rewrite(
        "MEAN behind RESHAPE or TRANSPOSE", ("MEAN",), "MEAN over other axes",
        "the layout change is not needed", False, _mean,
    ),
    Rewrite("empty padding", ("PAD", "PADV2", "MIRROR_PAD"), "nothing", "it does nothing", True,
            _no_padding),
    Rewrite("padding of padding", ("PAD",), "one PAD", "each one copies the tensor", True,
            _added_up),
)  # fmt: skip
