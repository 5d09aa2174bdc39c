"""Ops that were written out for integers, and the one op that computes the same in float.

The delegate has PRELU, HARD_SWISH and activations of their own in float alone: in int8 others
compute them, which take several times as long in float. Where all of those stay float, one op takes
their place. Knows one graph, nothing of plans.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Shape
from edgeq.flatbuffer import Graph, Operator, parse_tree, schema
from edgeq.flatbuffer.graph_editor import GraphEditor

WIDE = 32
"""With fewer channels a depthwise convolution by one factor each is the faster op, with more MUL
is: 0.54 against 0.84 ns for each element of 8 channels, 0.22 against 0.16 of 32, 0.49 against 0.23
of 2048 (AVX2)."""

_DEPTHWISE = "DEPTHWISE_CONV_2D"
_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")


@dataclass(frozen=True)
class WholeOp:
    """Ops of a graph, and the one that computes the same in float.

    Attributes:
        name: Builtin operator name of the one.
        ops: Indices of the ops, that of the result last.
        source: The tensor that they read.
        constant: What it is multiplied with, a value or one for each channel; None of an op that
            has no such operand.
        place: The constant of the graph that this is, up to its sign.
    """

    name: str
    ops: tuple[int, ...]
    source: int
    constant: Array | None = None
    place: int = -1

    def as_op(self, graph: Graph) -> Operator:
        """The one op as if it were in the graph."""
        last = graph.operators[self.ops[-1]]
        inputs = (self.source,) if self.constant is None else (self.source, self.place)
        return replace(last, name=self.name, inputs=inputs)


def whole_ops(graph: Graph) -> tuple[WholeOp, ...]:
    """Every group of ops of a graph that one op takes the place of in float; no two share one."""
    found, taken = list[WholeOp](), set[int]()
    for op in reversed(graph.operators):  # a PRELU is found before the parts of it
        if op.index in taken or not _is_real(graph, op):
            continue
        whole = next(_ending_in(graph, op), None)
        if whole is not None and taken.isdisjoint(whole.ops):
            found.append(whole)
            taken.update(whole.ops)
    return tuple(reversed(found))


def in_float(graph: Graph, indices: Collection[int]) -> dict[int, Operator | None]:
    """What stands in float for the ops of groups that lie wholly among some ops, by index.

    The one op stands for the last of a group, nothing for those before it.
    """
    found: dict[int, Operator | None] = {}
    for whole in whole_ops(graph):
        if all(index in indices for index in whole.ops):
            found.update(dict.fromkeys(whole.ops))
            found[whole.ops[-1]] = whole.as_op(graph)
    return found


def with_whole_ops(tree: Any) -> Any:
    """An object tree with one op in the place of each such group; itself where there is none."""
    graph = parse_tree(tree).graphs[0]
    wholes = whole_ops(graph)
    if not wholes:
        return tree
    editor = GraphEditor(tree)
    made: dict[int, list[Any]] = {index: [] for whole in wholes for index in whole.ops}
    made.update({whole.ops[-1]: [_op(editor, graph, whole)] for whole in wholes})
    editor.replace(made.get)
    editor.prune()
    editor.strip()
    return editor.tree


def _op(editor: GraphEditor, graph: Graph, whole: WholeOp) -> Any:
    last, inputs = graph.operators[whole.ops[-1]], [whole.source]
    output = graph.tensors[last.outputs[0]]
    if whole.constant is not None:
        shape = (*(1 for _ in output.shape[1:-1]), output.shape[-1])
        shape = shape if whole.name == "PRELU" else shape[-1:]
        values = np.broadcast_to(whole.constant.reshape(-1), shape[-1:]).reshape(shape)
        constant = np.ascontiguousarray(values, np.float32)
        inputs.append(editor.constant(f"{output.name}/factors", constant))
    options = {}
    if whole.name == "MUL":
        fused = getattr(schema.ActivationFunctionType, last.fused_activation)
        options["fusedActivationFunction"] = fused
    return editor.op(whole.name, inputs, last.outputs, **options)


def _is_real(graph: Graph, op: Operator) -> bool:
    """Whether all that an op reads and writes is real numbers, but for the shape of a RESHAPE."""
    read = op.inputs[:1] if op.name == "RESHAPE" else op.inputs
    return all(graph.tensors[t].dtype == "float32" for t in (*read, *op.outputs) if t >= 0)


def _ending_in(graph: Graph, op: Operator) -> Iterator[WholeOp]:
    """What ends in an op, the largest first."""
    for find in (leak, _hard_swish, _activation, _factors):
        whole = find(graph, op)
        if whole is not None:
            yield whole


def leak(graph: Graph, op: Operator) -> WholeOp | None:
    """A PRELU as `relu(x) - relu(x * -slope)` or `relu(x) - relu(-x) * slope`, if it is one."""
    if op.name != "SUB" or op.fused_activation != "NONE":
        return None
    positive, falling = _inner(graph, op.inputs[0]), _product(graph, op.inputs[1])
    if positive is None or falling is None:
        return None
    ops, slopes, source = [*falling.ops, positive.index, op.index], -falling.factors, falling.source
    is_sound = falling.activation == "RELU" and bool((slopes >= 0).all())
    if falling.activation == "NONE":
        below = _product(graph, source)
        is_sound = below is not None and below.activation == "RELU"
        if below is None or not (below.factors == -1).all():
            return None
        ops, slopes, source = [*below.ops, *ops], falling.factors, below.source
    if not is_sound or _rectified(graph, positive) != source:
        return None
    return WholeOp("PRELU", tuple(sorted(ops)), source, slopes, falling.place)


@dataclass(frozen=True)
class _Product:
    """Ops that multiply a tensor by one value, or one for each channel."""

    ops: tuple[int, ...]
    source: int
    factors: Array
    place: int
    activation: str


def _product(graph: Graph, tensor: int) -> _Product | None:
    """The product that a tensor is, if one op alone reads it; rows may be an image in between."""
    op = _inner(graph, tensor)
    if op is None:
        return None
    inner = _inner(graph, op.inputs[0]) if op.name == "RESHAPE" else op
    if inner is None:
        return None
    source, factors = _scaled(graph, inner)
    if source < 0:
        return None
    ops: tuple[int, ...] = (inner.index,)
    if inner is not op:
        before = _inner(graph, source)
        if before is None or before.name != "RESHAPE":
            return None
        source, ops = before.inputs[0], (before.index, inner.index, op.index)
        if graph.tensors[source].shape != graph.tensors[tensor].shape:
            return None
    return _Product(ops, source, factors, _constant(graph, inner), inner.fused_activation)


def _rectified(graph: Graph, op: Operator) -> int | None:
    """`x` of an op that computes `relu(x)`."""
    if op.name == "RELU":
        return op.inputs[0]
    source, factors = _scaled(graph, op)
    return source if op.fused_activation == "RELU" and bool((factors == 1).all()) else None


def _hard_swish(graph: Graph, op: Operator) -> WholeOp | None:
    """`x * (relu6(x + 3) / 6)`."""
    if op.name != "MUL" or op.fused_activation != "NONE":
        return None
    for source, scaled in (op.inputs, op.inputs[::-1]):
        gate = _inner(graph, scaled)
        if gate is None or gate.fused_activation != "NONE":
            continue
        between, factors = _scaled(graph, gate)
        clipped = _inner(graph, between)
        if clipped is None or not _is_all(factors, 1 / 6):
            continue
        if clipped.name != "ADD" or clipped.fused_activation != "RELU6":
            continue
        shift = graph.tensors[clipped.inputs[1]].data
        if clipped.inputs[0] == source and shift is not None and _is_all(shift, 3):
            ops = (clipped.index, gate.index, op.index)
            return WholeOp("HARD_SWISH", ops, source)
    return None


def _activation(graph: Graph, op: Operator) -> WholeOp | None:
    """An activation behind a multiplication by 1."""
    source, factors = _scaled(graph, op)
    if op.fused_activation not in _ACTIVATIONS or not _is_all(factors, 1):
        return None
    return WholeOp(op.fused_activation, (op.index,), source)


def _factors(graph: Graph, op: Operator) -> WholeOp | None:
    """A factor for each of many channels."""
    source, factors = _scaled(graph, op)
    if op.name != _DEPTHWISE or factors.size < WIDE:
        return None
    return WholeOp("MUL", (op.index,), source, factors, _constant(graph, op))


def _constant(graph: Graph, op: Operator) -> int:
    """The first constant that an op reads."""
    return next(t for t in op.inputs if t >= 0 and graph.tensors[t].is_constant)


_NOTHING = np.full(1, np.nan)


def _scaled(graph: Graph, op: Operator) -> tuple[int, Array]:
    """`(x, factors)` of an op that multiplies by one value, or one for each channel; else NaN."""
    values = [graph.tensors[t].data if t >= 0 else None for t in op.inputs]
    if op.name == "MUL":
        for source, constant in ((0, 1), (1, 0)):
            data, read = values[constant], graph.tensors[op.inputs[source]]
            if data is not None and not read.is_constant and _is_of_channels(read.shape, data):
                return read.index, data.reshape(-1)
    if op.name == _DEPTHWISE and len(values) == 3:
        kernel, bias = values[1:]
        shape = (1, 1, 1, graph.tensors[op.inputs[0]].shape[-1])
        strides = op.options.strideH, op.options.strideW
        is_plain = strides == (1, 1) and bias is not None and not bias.any()
        if is_plain and kernel is not None and kernel.shape == shape:
            return op.inputs[0], kernel.reshape(-1)
    return -1, _NOTHING


def _is_of_channels(shape: Shape, data: Array) -> bool:
    """Whether a constant is one value, or one for each channel of a tensor of no fewer axes."""
    if data.ndim > len(shape):
        return False
    return data.size == 1 or data.shape[-1:] == shape[-1:] == (data.size,)


def _is_all(values: Array, wanted: float) -> bool:
    return bool(values.size) and bool(np.allclose(values, wanted, rtol=1e-6, atol=0))


def _inner(graph: Graph, tensor: int) -> Operator | None:
    """The op that computes what one other op alone reads, once."""
    is_inner = len(graph.uses.get(tensor, ())) == 1 and tensor not in graph.outputs
    op = graph.producers.get(tensor) if is_inner else None
    return op if op is not None and _is_real(graph, op) else None
