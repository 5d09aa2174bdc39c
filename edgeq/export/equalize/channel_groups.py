"""Channels that must be scaled alike for the model's numbers to stay, and what takes scales up.

A channel is one place along the last axis of a computed float tensor. Dividing it by a scale leaves
the outputs as they are where each op behind it either passes the scale on or has constants that
take it up. Knows ops, nothing of data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, Kind

Indices = npt.NDArray[np.intp]

CLIP = 6.0
"""Where RELU6 cuts values off."""

GATES = ("LOGISTIC", "TANH", "SOFTMAX", "HARD_SWISH")
"""Ops whose output has a meaning of its own, so that the other factor of a product is scaled."""

TAKE_UP = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
"""Ops whose weights take up a scale of what they read, and one of what they write."""


@dataclass(frozen=True)
class Absorber:
    """An op whose constants take up scales of the channels that it reads and writes.

    Attributes:
        op: The op.
        source: The computed tensor that it reads.
        is_cut: Whether its constant is one number for all channels and it cuts its result off, as
            `cuts_off` says: it takes a scale up as a depthwise convolution alone.
    """

    op: Operator
    source: int
    is_cut: bool = False


def cuts_off(graph: Graph, op: Operator) -> bool:
    """Whether an op adds a number to an image and cuts the sum off, as a hard swish begins.

    Its result stays as it is whatever the scale of the image, which something else reads as well.
    """
    if op.name != "ADD" or op.fused_activation != "RELU6":
        return False
    image, number = (graph.tensors[t] for t in op.inputs)
    return (
        number.data is not None
        and number.data.size == 1
        and number.data.dtype == np.float32
        and not image.is_constant
        and len(image.shape) == 4
        and len(graph.uses[image.index]) > 1
    )


@dataclass(frozen=True)
class ChannelGroups:
    """The channels of a graph, in groups of those that have one scale.

    Attributes:
        graph: The float graph.
        starts: Place of each computed float tensor's first channel in `group`.
        group: Of each channel, of all tensors one after the other.
        is_free: Of each group: whether it may have another scale than 1.
        clipped: Where values are cut off, by tensor. A scale above 1 moves that below the present
            place, one below 1 is for channels that do not come near it.
        absorbers: Ops that take scales up.
    """

    graph: Graph
    starts: dict[int, int]
    group: Indices
    is_free: npt.NDArray[np.bool_]
    clipped: dict[int, float]
    absorbers: tuple[Absorber, ...]

    def of(self, tensor: int) -> Indices:
        """The group of each channel of a tensor."""
        start = self.starts[tensor]
        return self.group[start : start + self.graph.tensors[tensor].shape[-1]]

    def free_tensors(self) -> list[int]:
        """Tensors of which some channel may be scaled."""
        return [t for t in self.starts if self.is_free[self.of(t)].any()]


def channel_groups(
    graph: Graph, kept: Collection[int], is_static: Callable[[Operator], bool]
) -> ChannelGroups:
    """Finds which channels may be scaled, and which then alike.

    Args:
        graph: The float graph.
        kept: Indices of ops whose constants and channels stay as they are.
        is_static: Whether an op computes in integers of fixed ranges, which cut off what goes
            beyond; a RELU6 of no other op may be moved.
    """
    return _Finder(graph, is_static).found(kept)


class _Finder:
    """Goes through a graph once; each op joins channels, or fixes those that it touches."""

    def __init__(self, graph: Graph, is_static: Callable[[Operator], bool]) -> None:
        self._graph = graph
        self._is_static = is_static
        self._starts: dict[int, int] = {}
        count = 0
        for tensor in graph.tensors:
            computed = tensor.index in graph.producers or tensor.index in graph.inputs
            if tensor.dtype == "float32" and computed and tensor.shape and min(tensor.shape) > 0:
                self._starts[tensor.index] = count
                count += tensor.shape[-1]
        self._fixed = np.zeros(count, bool)
        self._edges: list[tuple[Indices, Indices]] = []
        self._clipped: dict[int, float] = {}
        self._absorbers: list[Absorber] = []

    def found(self, kept: Collection[int]) -> ChannelGroups:
        """The groups."""
        self._fix(*self._graph.inputs, *self._graph.outputs)
        for op in self._graph.operators:
            handle = None if op.index in kept else _HANDLERS.get(op.name)
            if handle is None or not handle(self, op):
                self._fix(*op.inputs, *op.outputs)
        group = _components(len(self._fixed), self._edges)
        is_free = np.ones(group.max(initial=-1) + 1, bool)
        is_free[group[self._fixed]] = False
        return ChannelGroups(
            self._graph, self._starts, group, is_free, self._clipped, tuple(self._absorbers)
        )

    def _fix(self, *tensors: int) -> None:
        for tensor in tensors:
            if tensor in self._starts:
                self._fixed[self._channels(tensor)] = True

    def _channels(self, tensor: int) -> Indices:
        return self._starts[tensor] + np.arange(self._depth(tensor))

    def _depth(self, tensor: int) -> int:
        """Number of channels; 1 of a single number."""
        return (self._graph.tensors[tensor].shape or (1,))[-1]

    def _constant(self, tensor: int) -> npt.NDArray[Any] | None:
        return self._graph.tensors[tensor].data if tensor >= 0 else None

    def _can_change(self, tensor: int) -> bool:
        """Whether a constant holds finite float numbers and is not put out."""
        data = self._constant(tensor)
        if data is None or data.dtype != np.float32 or tensor in self._graph.outputs:
            return False
        return bool(np.isfinite(data).all())

    def _is_shared(self, tensor: int) -> bool:
        """Whether several ops read a tensor; a weight is not stored twice for a better scale."""
        return len(self._graph.uses.get(tensor, ())) != 1

    def _join(self, one: int, other: int) -> bool:
        """Gives the channels of two tensors the same scales; one may be the other repeated."""
        if one not in self._starts or other not in self._starts:
            return False
        few, many = sorted((self._channels(one), self._channels(other)), key=len)
        if len(many) % len(few):
            return False
        self._edges.append((np.resize(few, len(many)), many))
        return True

    def _join_part(self, whole: int, start: int, part: int) -> int:
        """Gives some channels of a tensor the scales of another; returns where they end."""
        stop = start + self._depth(part)
        self._edges.append((self._channels(whole)[start:stop], self._channels(part)))
        return stop

    def _joined(self, op: Operator) -> bool:
        """Of an op that does the same to each channel, in proportion."""
        return self._keeps_clip(op) and all(self._join(op.inputs[0], t) for t in op.outputs)

    def _keeps_clip(self, op: Operator) -> bool:
        """Whether values are cut off nowhere but at 0, or where no channel need come near."""
        name = op.name if op.name == "RELU6" else op.fused_activation
        if name == "RELU6" and self._is_static(op):
            self._clipped[op.outputs[0]] = CLIP
            return True
        return name in ("NONE", "RELU")

    def weighted(self, op: Operator) -> bool:
        """An op that multiplies with a weight."""
        row = OPS[op.name]
        assert row.weight is not None
        assert row.bias is not None
        source, weight = op.inputs[row.weight.source], op.inputs[row.weight.slot]
        bias = op.inputs[row.bias.slot] if row.bias.slot < len(op.inputs) else -1
        if source not in self._starts or not self._can_change(weight) or self._is_shared(weight):
            return False
        if bias >= 0 and not self._can_change(bias):
            return False
        if row.kind in (Kind.DENSE, Kind.TRANSPOSED_CONVOLUTION) and (
            self._depth(weight) % self._depth(source)
        ):
            return False
        if not self._keeps_clip(op):
            self._fix(op.outputs[0])
        self._absorbers.append(Absorber(op, source))
        return True

    def summed(self, op: Operator) -> bool:
        """ADD and SUB, of one or more computed tensors."""
        output = op.outputs[0]
        if cuts_off(self._graph, op) and op.inputs[0] in self._starts:
            self._fix(output)
            self._absorbers.append(Absorber(op, op.inputs[0], is_cut=True))
            return True
        if not self._keeps_clip(op):
            return False
        if any(self._depth(t) != self._depth(output) for t in op.inputs):
            return False
        computed = [t for t in op.inputs if self._constant(t) is None]
        if len(computed) < len(op.inputs):
            if not all(self._can_change(t) for t in op.inputs if t not in computed):
                return False
            self._absorbers.append(Absorber(op, computed[0]))
        return all(self._join(t, output) for t in computed)

    def multiplied(self, op: Operator) -> bool:
        """MUL, by a constant or by what keeps its scale."""
        one, other = op.inputs
        if self._constant(one) is not None:
            one, other = other, one
        if self._constant(other) is None and self._is_gate(one, other):
            one, other = other, one
        if one == other or not self._keeps_clip(op):
            return False
        if self._depth(one) != self._depth(op.outputs[0]):
            return False
        if self._depth(other) == self._depth(one) and self._can_change(other):
            self._absorbers.append(Absorber(op, one))
            return True
        self._fix(other)
        return self._join(one, op.outputs[0])

    def _is_gate(self, one: int, other: int) -> bool:
        """Whether the first of two factors is the one that keeps its scale."""
        sizes = [math.prod(self._graph.tensors[t].shape) for t in (one, other)]
        producer = self._graph.producers.get(one)
        if producer is not None and producer.name == "MUL":  # the sixth of a hard swish
            cut = self._graph.producers.get(producer.inputs[0])
            is_sixth = self._constant(producer.inputs[1]) is not None
            if is_sixth and cut is not None and cuts_off(self._graph, cut):
                return True
        return sizes[0] < sizes[1] or (producer is not None and producer.name in GATES)

    def reduced(self, op: Operator) -> bool:
        """A mean, sum or extreme over other axes than the last."""
        axes, rank = self._constant(op.inputs[1]), len(self._graph.tensors[op.inputs[0]].shape)
        if axes is None or rank - 1 in np.ravel(axes) % max(rank, 1):
            return False
        return self._join(op.inputs[0], op.outputs[0])

    def concatenated(self, op: Operator) -> bool:
        """CONCATENATION, along the channels or not."""
        output = op.outputs[0]
        if not self._keeps_clip(op) or any(t not in self._starts for t in (*op.inputs, output)):
            return False
        rank = len(self._graph.tensors[output].shape)
        if op.options.axis % rank != rank - 1:
            return all(self._join(t, output) for t in op.inputs)
        stop = 0
        for tensor in op.inputs:
            stop = self._join_part(output, stop, tensor)
        return True

    def split(self, op: Operator) -> bool:
        """SPLIT and SPLIT_V, along the channels or not."""
        source, axis = op.inputs[::-1] if op.name == "SPLIT" else (op.inputs[0], op.inputs[2])
        place = self._constant(axis)
        if place is None or any(t not in self._starts for t in (source, *op.outputs)):
            return False
        rank = len(self._graph.tensors[source].shape)
        if int(np.ravel(place)[0]) % rank != rank - 1:
            return all(self._join(source, t) for t in op.outputs)
        stop = 0
        for tensor in op.outputs:
            stop = self._join_part(source, stop, tensor)
        return True

    def sliced(self, op: Operator) -> bool:
        """SLICE, of the channels or not."""
        source, output = op.inputs[0], op.outputs[0]
        begin = self._constant(op.inputs[1])
        if begin is None or source not in self._starts or output not in self._starts:
            return False
        self._join_part(source, int(begin[-1]), output)
        return True

    def padded(self, op: Operator) -> bool:
        """PAD and MIRROR_PAD, of other axes than the last."""
        amounts = self._constant(op.inputs[1])
        return amounts is not None and not amounts[-1].any() and self._joined(op)

    def transposed(self, op: Operator) -> bool:
        """TRANSPOSE that leaves the last axis where it is."""
        order = self._constant(op.inputs[1])
        return order is not None and int(order[-1]) == len(order) - 1 and self._joined(op)

    def leaked(self, op: Operator) -> bool:
        """LEAKY_RELU, and PRELU with slopes that are known."""
        is_known = op.name != "PRELU" or self._constant(op.inputs[1]) is not None
        return is_known and self._joined(op)

    joined = _joined


_HANDLERS: dict[str, Callable[[_Finder, Operator], bool]] = {
    **dict.fromkeys(TAKE_UP, _Finder.weighted),
    **dict.fromkeys(("ADD", "SUB"), _Finder.summed),
    "MUL": _Finder.multiplied,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _Finder.reduced),
    "CONCATENATION": _Finder.concatenated,
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _Finder.split),
    "SLICE": _Finder.sliced,
    **dict.fromkeys(("PAD", "MIRROR_PAD"), _Finder.padded),
    "TRANSPOSE": _Finder.transposed,
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), _Finder.leaked),
    **dict.fromkeys(
        (
            "RELU", "RELU6", "ABS", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESHAPE",
            "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
        ),
        _Finder.joined,
    ),
}  # fmt: skip
"""What an op does to its channels; False where they must stay, as those of any op without a row."""


def _components(count: int, edges: Sequence[tuple[Indices, Indices]]) -> Indices:
    """Numbers the groups of nodes that edges connect, from 0; `(count,)`."""
    label = np.arange(count)
    if not edges:
        return label
    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
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
