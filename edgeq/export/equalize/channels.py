"""Channels that must be scaled alike, so that the model's numbers stay: which ops carry a scale on.

A channel is one place along the last axis of a computed float tensor. Knows ops, nothing of data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, Kind

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Absorber:
    """An op whose constants can take up a scale of each channel that it reads or writes.

    Attributes:
        op: The op.
        source: The computed tensor that it reads.
        output: The tensor that it writes.
    """

    op: Operator
    source: int
    output: int


@dataclass
class Channels:
    """The channels of a graph, in groups of those that have one scale.

    Attributes:
        graph: The float graph.
        group: Of each channel, of all tensors one after the other.
        is_free: Of each group: whether it may have a scale other than 1.
        least: Of each group: the highest fraction of its present range at which values are cut off;
            0 where none are.
        absorbers: Ops that take scales up, in the graph's order.
    """

    graph: Graph
    starts: dict[int, int]
    group: Indices
    is_free: npt.NDArray[np.bool_]
    clipped: dict[int, float]
    absorbers: list[Absorber]

    def of(self, tensor: int) -> Indices:
        """The group of each channel of a tensor."""
        start = self.starts[tensor]
        return self.group[start : start + self.graph.tensors[tensor].shape[-1]]

    def free_tensors(self) -> list[int]:
        """Tensors of which some channel may be scaled."""
        return [t for t in self.starts if self.is_free[self.of(t)].any()]


def channels(graph: Graph, is_static: Callable[[Operator], bool], kept: frozenset[int]) -> Channels:
    """Finds which channels may be scaled, and which then alike."""
    found = _Finder(graph, is_static, kept)
    return found.run()


class _Finder:
    def __init__(
        self, graph: Graph, is_static: Callable[[Operator], bool], kept: frozenset[int]
    ) -> None:
        self._graph = graph
        self._is_static = is_static
        self._kept = kept
        self._starts: dict[int, int] = {}
        count = 0
        for tensor in graph.tensors:
            computed = tensor.index in graph.producers or tensor.index in graph.inputs
            if tensor.dtype == "float32" and computed and tensor.shape and min(tensor.shape) > 0:
                self._starts[tensor.index] = count
                count += tensor.shape[-1]
        self._fixed = np.zeros(count, bool)
        self._edges: list[tuple[Indices, Indices]] = []
        self._absorbers: list[Absorber] = []
        self._clipped: dict[int, float] = {}

    def run(self) -> Channels:
        for tensor in (*self._graph.inputs, *self._graph.outputs):
            self._fix(tensor)
        for op in self._graph.operators:
            handle = _HANDLERS.get(op.name)
            if op.index in self._kept or handle is None or not handle(self, op):
                for tensor in (*op.inputs, *op.outputs):
                    self._fix(tensor)
        group = _components(len(self._fixed), self._edges)
        is_free = np.ones(group.max(initial=-1) + 1, bool)
        is_free[group[self._fixed]] = False
        return Channels(
            self._graph, self._starts, group, is_free, self._clipped, self._absorbers
        )

    def _fix(self, tensor: int) -> None:
        if tensor in self._starts:
            self._fixed[self._nodes(tensor)] = True

    def _nodes(self, tensor: int) -> Indices:
        start = self._starts[tensor]
        return np.arange(start, start + self.shape(tensor)[-1])

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self._graph.tensors[tensor].shape

    def constant(self, tensor: int) -> npt.NDArray[Any] | None:
        return self._graph.tensors[tensor].data if tensor >= 0 else None

    def is_own(self, tensor: int) -> bool:
        """Whether a constant is there for one op alone."""
        return len(self._graph.uses.get(tensor, ())) == 1 and tensor not in self._graph.outputs

    def joined(self, one: int, other: int) -> bool:
        """Lets the channels of two tensors have the same scales, one of which repeats the other."""
        if one not in self._starts or other not in self._starts:
            return False
        a, b = self._nodes(one), self._nodes(other)
        if len(a) % len(b) and len(b) % len(a):
            return False
        most = max(len(a), len(b))
        self._edges.append((np.resize(a, most), np.resize(b, most)))
        return True

    def spread(self, one: int, places: slice, other: int) -> bool:
        """Lets some channels of a tensor have the scales of all of another."""
        self._edges.append((self._nodes(one)[places], self._nodes(other)))
        return True

    def passed_on(self, op: Operator) -> bool:
        """Of an op that does the same to each channel, in proportion."""
        return self.clips(op) and all(self.joined(op.inputs[0], t) for t in op.outputs)

    def clips(self, op: Operator) -> bool:
        """Whether what an op cuts off can be told of its results."""
        name = op.name if op.name in ("RELU6",) else op.fused_activation
        if name == "RELU6" and self._is_static(op):
            self._clipped[op.outputs[0]] = 6.0
            return True
        return name in ("NONE", "RELU", "", None)

    def weighted(self, op: Operator) -> bool:
        row = OPS[op.name]
        assert row.weight is not None and row.bias is not None
        source, weight = op.inputs[row.weight.source], op.inputs[row.weight.slot]
        bias = op.inputs[row.bias.slot] if row.bias.slot < len(op.inputs) else -1
        values = self.constant(weight)
        usable = (
            values is not None
            and values.dtype == np.float32
            and bool(np.isfinite(values).all())
            and self.is_own(weight)
            and (bias < 0 or (self.constant(bias) is not None and self.is_own(bias)))
            and source in self._starts
        )
        if not usable or values is None:
            return False
        if row.kind in (Kind.DENSE, Kind.TRANSPOSED_CONVOLUTION):
            if values.shape[-1] % self.shape(source)[-1]:
                return False
        return self._absorbs(op, source)

    def _absorbs(self, op: Operator, source: int) -> bool:
        if not self.clips(op):
            self._fix(op.outputs[0])
        self._absorbers.append(Absorber(op, source, op.outputs[0]))
        return True

    def summed(self, op: Operator) -> bool:
        """ADD and SUB."""
        output = op.outputs[0]
        for tensor in op.inputs:
            data, depth = self.constant(tensor), self.shape(output)[-1]
            if (self.shape(tensor) or (1,))[-1] != depth:
                return False
            if data is None and not self.joined(tensor, output):
                return False
            if data is not None and not self._is_vector(tensor):
                return False
        if not self.clips(op):
            return False
        computed = [t for t in op.inputs if self.constant(t) is None]
        if len(computed) == 1 and len(op.inputs) == 2:
            self._absorbers.append(Absorber(op, computed[0], output))
        return bool(computed)

    def _is_vector(self, tensor: int) -> bool:
        data = self.constant(tensor)
        return (
            data is not None
            and data.dtype == np.float32
            and self.is_own(tensor)
            and bool(np.isfinite(data).all())
        )

    def scaled(self, op: Operator) -> bool:
        """MUL: by a constant, or by what must keep its scale."""
        output, depth = op.outputs[0], self.shape(op.outputs[0])[-1]
        constants = [t for t in op.inputs if self.constant(t) is not None]
        if not self.clips(op):
            return False
        if constants:
            (computed,) = (t for t in op.inputs if t not in constants) or (-1,)
            if self.shape(computed)[-1:] != (depth,):
                return False
            if (self.shape(constants[0]) or (1,))[-1] != depth or not self._is_vector(constants[0]):
                return self.joined(computed, output)
            return self._absorbs(op, computed)
        one, other = op.inputs
        if one == other:
            return False
        size = lambda t: math.prod(self.shape(t))  # noqa: E731
        if size(one) < size(other) or _is_gate(self._graph, one):
            one, other = other, one
        self._fix(other)
        return self.shape(one)[-1:] == (depth,) and self.joined(one, output)

    def reduced(self, op: Operator) -> bool:
        """MEAN, SUM and the like over other axes than the last."""
        axes = self.constant(op.inputs[1])
        rank = len(self.shape(op.inputs[0]))
        if axes is None or any(int(a) % rank == rank - 1 for a in np.ravel(axes)):
            return False
        return self.joined(op.inputs[0], op.outputs[0])

    def concatenated(self, op: Operator) -> bool:
        output = op.outputs[0]
        rank = len(self.shape(output))
        if op.fused_activation not in ("NONE", "RELU", "", None):
            return False
        if any(t not in self._starts for t in op.inputs):
            return False
        if op.options.axis % rank != rank - 1:
            return all(self.joined(t, output) for t in op.inputs)
        start = 0
        for tensor in op.inputs:
            depth = self.shape(tensor)[-1]
            self.spread(output, slice(start, start + depth), tensor)
            start += depth
        return True

    def split(self, op: Operator) -> bool:
        source_slot, axis_slot = (1, 0) if op.name == "SPLIT" else (0, 2)
        source, axis = op.inputs[source_slot], self.constant(op.inputs[axis_slot])
        if axis is None or source not in self._starts:
            return False
        rank = len(self.shape(source))
        if int(np.ravel(axis)[0]) % rank != rank - 1:
            return all(self.joined(source, t) for t in op.outputs)
        start = 0
        for tensor in op.outputs:
            depth = self.shape(tensor)[-1]
            self.spread(source, slice(start, start + depth), tensor)
            start += depth
        return True

    def sliced(self, op: Operator) -> bool:
        source, output = op.inputs[0], op.outputs[0]
        depth = self.shape(source)[-1]
        if self.shape(output)[-1:] == (depth,) and len(self.shape(output)) == len(
            self.shape(source)
        ):
            return self.joined(source, output)
        begin = self.constant(op.inputs[1])
        if op.name != "SLICE" or begin is None:
            return False
        first = int(begin[-1])
        return self.spread(source, slice(first, first + self.shape(output)[-1]), output)

    def padded(self, op: Operator) -> bool:
        amounts = self.constant(op.inputs[1])
        return amounts is not None and not amounts[-1].any() and self.passed_on(op)

    def reshaped(self, op: Operator) -> bool:
        return self.joined(op.inputs[0], op.outputs[0])

    def transposed(self, op: Operator) -> bool:
        order = self.constant(op.inputs[1])
        if order is None or int(order[-1]) != len(order) - 1:
            return False
        return self.joined(op.inputs[0], op.outputs[0])

    def resized(self, op: Operator) -> bool:
        return self.joined(op.inputs[0], op.outputs[0])

    def leaky(self, op: Operator) -> bool:
        if op.name == "PRELU" and self.constant(op.inputs[1]) is None:
            return False
        return self.joined(op.inputs[0], op.outputs[0])


def _is_gate(graph: Graph, tensor: int) -> bool:
    op = graph.producers.get(tensor)
    return op is not None and op.name in ("LOGISTIC", "TANH", "SOFTMAX", "HARD_SWISH")


_HANDLERS: dict[str, Callable[[_Finder, Operator], bool]] = {
    **dict.fromkeys(
        ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"), _Finder.weighted
    ),
    **dict.fromkeys(("ADD", "SUB"), _Finder.summed),
    "MUL": _Finder.scaled,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _Finder.reduced),
    "CONCATENATION": _Finder.concatenated,
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _Finder.split),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), _Finder.sliced),
    **dict.fromkeys(("PAD", "MIRROR_PAD"), _Finder.padded),
    **dict.fromkeys(("RESHAPE",), _Finder.reshaped),
    "TRANSPOSE": _Finder.transposed,
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _Finder.resized),
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), _Finder.leaky),
    **dict.fromkeys(
        ("RELU", "RELU6", "ABS", "MAX_POOL_2D", "AVERAGE_POOL_2D"), _Finder.passed_on
    ),
}


def _components(count: int, edges: Sequence[tuple[Indices, Indices]]) -> Indices:
    """The group of each of `count` nodes, numbered from 0."""
    label = np.arange(count)
    if edges:
        one = np.concatenate([a for a, _ in edges])
        other = np.concatenate([b for _, b in edges])
        while True:
            least = np.minimum(label[one], label[other])
            after = label.copy()
            np.minimum.at(after, label[one], least)
            np.minimum.at(after, label[other], least)
            after = after[after]
            if (after == label).all():
                break
            label = after
    found: Indices = np.unique(label, return_inverse=True)[1].reshape(-1)
    return found
