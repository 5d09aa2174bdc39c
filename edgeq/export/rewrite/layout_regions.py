"""Ops between changes of layout, which compute the same in the layout before: a whole network of
one-dimensional convolutions, where each change goes in and out of each convolution.

Knows which ops work along axes, or for each number alone; what a layout op does to axes is a map
from each axis to the one that it was before.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Shape, Site
from edgeq.flatbuffer import Operator

LAYOUT = ("RESHAPE", "TRANSPOSE")
UNARY = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "HARD_SWISH", "GELU", "LOGISTIC",
    "TANH", "ABS", "NEG", "EXP", "SQRT", "RSQRT",
)  # fmt: skip
BINARY = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")
_OF_EACH = (*UNARY, *BINARY, "ELU", "LOG", "SIN", "COS", "SQUARE", "SQUARED_DIFFERENCE")
_PADDING = ("PAD", "MIRROR_PAD", "PADV2")
CARRIED = (*_OF_EACH, *_PADDING, "SLICE", "CONCATENATION")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")


@dataclass(frozen=True)
class Axes:
    """What a TRANSPOSE does to axes, or a RESHAPE that adds or drops some of size 1.

    Attributes:
        rank: How many axes there were before.
        before: For each axis, the one that it was; None for one of size 1 that is new.
    """

    rank: int
    before: tuple[int | None, ...]

    def shape_before(self, shape: Shape) -> Shape:
        """The shape before, of one after."""
        return tuple(self.spread(shape, 1))

    def spread(self, values: Sequence[int], other: int) -> list[int]:
        """Values for each axis, in the order before; `other` for axes that are gone."""
        found = [other] * self.rank
        for axis, value in zip(self.before, values, strict=True):
            if axis is not None:
                found[axis] = value
        return found

    def undoes(self, earlier: Axes) -> bool:
        """Whether it leads back, for any shape that the earlier one gave."""
        both = [None if axis is None else earlier.before[axis] for axis in self.before]
        kept = [axis for axis in both if axis is not None]
        is_whole = len(both) == earlier.rank and len(kept) == len(set(earlier.before) - {None})
        return is_whole and all(axis in (None, place) for place, axis in enumerate(both))


def axes_of(site: Site, op: Operator) -> Axes | None:
    """What a layout op does to axes; None where it cuts or joins some."""
    source, target = site.shape(op.inputs[0]), site.shape(op.outputs[0])
    if op.name == "TRANSPOSE":
        order = site.value(op.inputs[1])
        return None if order is None else Axes(len(source), tuple(int(a) for a in order))
    if [d for d in source if d != 1] != [d for d in target if d != 1] or 0 in source:
        return None
    return Axes(len(source), tuple(_places(source, target)))


def _places(source: Shape, target: Shape) -> Iterator[int | None]:
    """For each axis of a RESHAPE's result the one before: those of size 1 in the same gap."""
    at = 0
    for size in target:
        while size != 1 and source[at] == 1:
            at += 1
        if at < len(source) and source[at] == size:
            yield at
            at += 1
        else:
            yield None


@dataclass
class _Region:
    """Tensors behind one change of layout, joined by ops that could be in front of it.

    Attributes:
        axes: The change.
        spared: Bytes of what layout ops give that go: those into the region, and those that lead
            back out of it.
        left: Bytes of what other ops read, or the graph gives, and which changes its layout.
        turns: Whether a TRANSPOSE leads into it. Axes of size 1 alone move nothing.
    """

    axes: Axes
    spared: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    turns: bool = False

    @functools.cached_property
    def pays(self) -> bool:
        """Whether less changes its layout if the region's ops are in front of the change."""
        less = (sum(self.left), len(self.left)) < (sum(self.spared), len(self.spared))
        return self.turns and less


class _Finder:
    """Finds the regions of a graph, ops in order."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._graph = site.graph
        self._axes: dict[int, Axes] = {}
        from scipy.cluster.hierarchy import DisjointSet  # a session alone needs no SciPy

        self._joined = DisjointSet()

    def regions(self) -> dict[int, _Region]:
        """The region of each tensor that has one."""
        for op in self._graph.operators:
            self._follow(op)
        found: dict[int, _Region] = {}
        for tensor, axes in self._axes.items():
            region = found.setdefault(self._joined[tensor], _Region(axes))
            self._count(region, tensor)
        return {tensor: found[self._joined[tensor]] for tensor in self._axes}

    def _follow(self, op: Operator) -> None:
        """Gives what an op computes the change of layout that it is behind."""
        if op.name not in (*LAYOUT, *CARRIED):
            return
        output = op.outputs[0]
        is_change = op.name in LAYOUT
        axes = axes_of(self._site, op) if is_change else self._shared(op)
        if axes is None or self._graph.tensors[output].dtype != "float32":
            return
        read = [] if is_change else _computed(self._site, op)
        self._axes[output] = axes
        self._joined.add(output)
        for tensor in read:
            self._joined.merge(tensor, output)

    def _shared(self, op: Operator) -> Axes | None:
        """The change that all that an op reads is behind, if the op could be in front of it."""
        known = {self._axes.get(t) for t in _computed(self._site, op)}
        axes = known.pop() if len(known) == 1 else None
        return axes if axes is not None and _fits(self._site, op, axes) else None

    def _count(self, region: _Region, tensor: int) -> None:
        size = 4 * math.prod(self._graph.tensors[tensor].shape)
        maker = self._graph.producers.get(tensor)
        if maker is not None and maker.name in LAYOUT:
            region.spared.append(size)
            before = self._site.producer(maker.inputs[0], "TRANSPOSE")
            region.turns |= maker.name == "TRANSPOSE" or before is not None
        readers = {op.index: op for op, _ in self._graph.uses.get(tensor, ())}
        ends = [self._end(region, reader, tensor) for reader in readers.values()]
        region.spared += [size] * ends.count("undone")
        if "left" in ends or tensor in self._graph.outputs:
            region.left.append(size)

    def _end(self, region: _Region, reader: Operator, tensor: int) -> str:
        """What becomes of the change of layout at a reader of a region's tensor."""
        if reader.name in LAYOUT:
            axes = axes_of(self._site, reader)
            return "undone" if axes is not None and axes.undoes(region.axes) else "left"
        written = (t for t in reader.outputs if t in self._axes)
        if any(self._joined.connected(t, tensor) for t in written):
            return "carried"
        drops = reader.name in _REDUCTIONS and not reader.options.keepDims
        return "carried" if drops else "left"


def _computed(site: Site, op: Operator) -> list[int]:
    """What an op reads of what is computed."""
    return [t for t in op.inputs if t >= 0 and site.value(t) is None]


def _fits(site: Site, op: Operator, axes: Axes) -> bool:
    """Whether an op computes the same in front of a change of layout."""
    output = site.shape(op.outputs[0])
    if op.name == "CONCATENATION":
        no_constants = len(_computed(site, op)) == len(op.inputs)
        return no_constants and axes.before[op.options.axis % len(output)] is not None
    if op.name in _OF_EACH:
        return all(site.shape(t) == output for t in _computed(site, op))
    moved = [
        axis for axis, (a, b) in enumerate(zip(site.shape(op.inputs[0]), output, strict=True))
        if a != b
    ]  # fmt: skip
    are_known = all(site.value(t) is not None for t in op.inputs[1:])
    return are_known and all(axes.before[axis] is not None for axis in moved)


def _carried(site: Site, op: Operator) -> Sequence[Any] | None:
    """An op in front of the change of layout that it was behind."""
    found = _found(site)
    region = found.regions.get(op.outputs[0])
    if region is None or not region.pays:
        return None
    axes, inputs = region.axes, list[int]()
    for slot, tensor in enumerate(op.inputs):
        is_constant = site.value(tensor) is not None
        source = _operand(site, op, slot, axes) if is_constant else found.source(site, tensor)
        if source is None:
            return None  # another rewrite has taken what computes it: in the next pass
        inputs.append(source)
    result = site.tensor(op, axes.shape_before(site.shape(op.outputs[0])))
    found.before[op.outputs[0]] = result
    options: dict[str, Any] = {}
    if op.name == "CONCATENATION":
        options["axis"] = axes.before[op.options.axis % len(axes.before)]
    moved = site.editor.copied(op.index, inputs, [result], **options)
    return [moved, _change(site, op, result, axes)]


def _change(site: Site, op: Operator, source: int, axes: Axes) -> Any:
    """The change of layout behind an op."""
    output = op.outputs[0]
    order = [axis for axis in axes.before if axis is not None]
    if len(order) == len(axes.before) == axes.rank:
        return site.transpose(op, source, output, order)
    return site.reshape(op, source, output, site.shape(output))


def _operand(site: Site, op: Operator, slot: int, axes: Axes) -> int:
    """A constant of an op as it is in front of the change of layout."""
    value = site.value(op.inputs[slot])
    assert value is not None
    if op.name in _PADDING and slot == 1:
        columns = [axes.spread([int(v) for v in column], 0) for column in value.T]
        return site.ints(op, "margins", np.stack(columns, 1))
    if op.name == "SLICE":
        is_begin = slot == 1
        places = [int(v) for v in value] if is_begin else site.shape(op.outputs[0])
        return site.ints(op, "begin" if is_begin else "size", axes.spread(places, 1 - is_begin))
    if value.size == 1 and value.ndim <= axes.rank:
        return op.inputs[slot]
    return site.constant(op, "constant", _constant_before(value, axes), value.dtype)


def _constant_before(value: Array, axes: Axes) -> Array:
    """A constant, broadcast to what is behind the change of layout, as it is in front of it."""
    wide = value.reshape((1,) * (len(axes.before) - value.ndim) + value.shape)
    kept = [place for place, axis in enumerate(axes.before) if axis is not None]
    turned = np.squeeze(wide, tuple(set(range(wide.ndim)) - set(kept)))
    order = np.argsort([axis for axis in axes.before if axis is not None])
    return turned.transpose(order).reshape(axes.shape_before(wide.shape))


@dataclass
class _Found:
    """What is known of a graph in one pass.

    Attributes:
        regions: The region of each tensor that has one.
        before: Tensors that carried ops gave already, by what they are in front of the change.
    """

    regions: Mapping[int, _Region]
    before: dict[int, int] = field(default_factory=dict)

    def source(self, site: Site, tensor: int) -> int | None:
        """A tensor as it is in front of the change of layout, if there is such a one by now."""
        change = site.producer(tensor, *LAYOUT)
        return self.before.get(tensor) if change is None else change.inputs[0]


_PASSES: weakref.WeakKeyDictionary[Site, _Found] = weakref.WeakKeyDictionary()


def _found(site: Site) -> _Found:
    """What is known in the pass of a site; found when it is first asked for."""
    if site not in _PASSES:
        _PASSES[site] = _Found(_Finder(site).regions())
    return _PASSES[site]


REWRITES = (
    Rewrite(
        "ops between changes of layout", CARRIED, "the same ops in the layout before",
        "the changes meet and cancel: each one copies the tensor", True, _carried,
    ),
)  # fmt: skip
