"""Work of an op, counted from its shapes: what the rates of a cost table are for."""

from __future__ import annotations

import math

from edgeq.export.plan.choices import weight_slots
from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import MOST_TAPS, MOVED, OPS, Holds, Kind, holds, is_table, kind_of, storable

BLOCK = 16
"""Columns of a right matrix that are laid out side by side."""


def kind(graph: Graph, op: Operator) -> str:
    """The row of the tables that an op belongs to."""
    found = kind_of(op.name)
    if found is Kind.TRANSPOSED_CONVOLUTION and max(op.options.strideH, op.options.strideW) == 1:
        return str(Kind.CONVOLUTION.value)
    if found is Kind.DEPTHWISE:
        if _reads_one_channel(graph, op):
            return str(Kind.CONVOLUTION.value)
        taps = math.prod(graph.tensors[op.inputs[1]].shape[1:3])
        return "depthwise" if taps <= MOST_TAPS else "large depthwise"
    if found is Kind.ELEMENTWISE and holds(op.name) in MOVED:
        return str(Kind.MOVE.value)
    return str(found.value)


def macs(graph: Graph, op: Operator, channels: int = 1, columns: int = 1) -> int:
    """Multiplications of an op.

    Args:
        graph: The graph.
        op: The op.
        channels: Input channels count as rounded up to so many.
        columns: Output channels of a convolution likewise.
    """
    if not op.outputs:
        return 0
    output, found = math.prod(graph.tensors[op.outputs[0]].shape), kind_of(op.name)
    if found is Kind.MATMUL:
        return output * _depth(graph, op)
    if found is Kind.SEQUENCE:
        return steps(graph, op) * weights(graph, op)
    shape = _weight_shape(graph, op)
    if shape is None:
        return 0
    if found is Kind.DEPTHWISE:
        return output * math.prod(shape[1:3]) * (channels if _reads_one_channel(graph, op) else 1)
    deep = _rounded_up(shape[-1], channels)
    if found is Kind.TRANSPOSED_CONVOLUTION:
        taps = math.prod(graph.tensors[op.inputs[2]].shape[:-1]) * math.prod(shape[1:-1])
        return taps * _rounded_up(shape[0], columns) * deep
    if found is Kind.CONVOLUTION:
        groups = _groups(graph, op)
        output = output // shape[0] * groups * _rounded_up(shape[0] // groups, columns)
    return output * math.prod(shape[1:-1]) * deep


def _depth(graph: Graph, op: Operator) -> int:
    """How many products a product of matrices sums for each element."""
    left = graph.tensors[op.inputs[0]].shape
    return left[-2 if op.options and op.options.adjX else -1]


def _products(graph: Graph, op: Operator) -> int:
    """Matrices that a product of matrices makes."""
    return math.prod(graph.tensors[op.outputs[0]].shape[:-2])


def _groups(graph: Graph, op: Operator) -> int:
    """Parts that a convolution's channels fall into, each multiplied by itself."""
    if kind_of(op.name) is not Kind.CONVOLUTION:
        return 1
    read, weight = (graph.tensors[op.inputs[slot]].shape[-1] for slot in (0, 1))
    return max(1, read // max(1, weight))


def _reads_one_channel(graph: Graph, op: Operator) -> bool:
    """Whether a depthwise convolution is a plain one of an image with one channel."""
    return graph.tensors[op.inputs[0]].shape[-1] == 1 < graph.tensors[op.inputs[1]].shape[-1]


def _rounded_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _weight_shape(graph: Graph, op: Operator) -> tuple[int, ...] | None:
    """Shape of what an op multiplies with; None where it does not."""
    slot = OPS[op.name].weight_slot if op.name in OPS else None
    return None if slot is None or op.inputs[slot] < 0 else graph.tensors[op.inputs[slot]].shape


def elements(graph: Graph, op: Operator) -> int:
    """Elements of computed tensors that an op reads and writes; none where it is a mere view.

    What picks some, as a slice does of a long sequence, reads no more than it writes. Matrices
    that a loop passes on are not touched.
    """
    if kind_of(op.name) is Kind.MOVE:
        return 0
    read = sum(math.prod(t.shape) for _, t in graph.operands(op) if not t.is_constant)
    made = [t for slot, t in enumerate(op.outputs) if slot not in op.multiplied]
    written = sum(math.prod(graph.tensors[t].shape) for t in made)
    return written + (min(read, written) if holds(op.name) is Holds.SOME else read)


def steps(graph: Graph, op: Operator) -> int:
    """How often a recurrent layer multiplies a row with its weights."""
    if not op.multiplied:
        return math.prod(graph.tensors[op.outputs[0]].shape[:-1])
    width = graph.tensors[op.inputs[op.multiplied[0]]].shape[-1]
    made = [t for slot, t in enumerate(op.outputs) if slot not in op.multiplied]
    shapes = [graph.tensors[t].shape for t in made]
    return max((math.prod(s) // width for s in shapes if s and s[-1] == width), default=0)


def weights_read(graph: Graph) -> int:
    """How many weights a run reads, each once; of tables it reads next to nothing."""
    multiplying = [op for op in graph.operators if not is_table(op.name)]
    read = {op.inputs[slot] for op in multiplying for slot in weight_slots(graph, op)}
    return sum(math.prod(graph.tensors[tensor].shape) for tensor in read)


def weights(graph: Graph, op: Operator) -> int:
    weight = storable(op.name)
    if op.multiplied:
        return sum(math.prod(graph.tensors[op.inputs[slot]].shape) for slot in op.multiplied)
    if weight is not None and weight.beside:
        slots = {weight.slot, *weight.beside}
        return sum(math.prod(t.shape) for s, t in graph.operands(op) if s in slots)
    shape = _weight_shape(graph, op)
    return 0 if shape is None else math.prod(shape)


def rows(graph: Graph, op: Operator, unit: int = 1) -> int:
    """Rows that the weight of a convolution or dense layer is multiplied with, in all its taps.

    Of a product of matrices, rows of the right ones, each of which is laid out anew in blocks of
    `BLOCK` columns. Of an op on elements, the runs of them that broadcasting leaves.

    Args:
        graph: The graph.
        op: The op.
        unit: Rows of a dense layer count as rounded up to so many.
    """
    shape, found = _weight_shape(graph, op), kind(graph, op)
    if op.name in _BROADCASTING:
        return _runs(graph, op)
    if shape is None or not op.outputs:
        return 0
    if kind_of(op.name) is Kind.MATMUL:
        columns = graph.tensors[op.outputs[0]].shape[-1]
        return _products(graph, op) * _depth(graph, op) * -(-columns // BLOCK)
    if kind_of(op.name) is Kind.TRANSPOSED_CONVOLUTION:
        return math.prod(graph.tensors[op.inputs[2]].shape[:-1]) * math.prod(shape[1:-1])
    if found not in ("convolution", "dense"):
        return 0
    if found == "dense":
        return _rounded_up(_pixels(graph, op), unit)
    return _pixels(graph, op) * math.prod(shape[1:-1])


_BROADCASTING = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")
"""Ops whose two operands are spread over each other."""


def _runs(graph: Graph, op: Operator) -> int:
    """Runs of elements in which neither operand begins or ceases to be spread; 0 for a single one.

    Source:
        `xnn_setup_binary_elementwise_nd` in XNNPACK, which calls its kernel once for each.
    """
    shapes = [tuple(graph.tensors[tensor].shape) for tensor in (op.outputs[0], *op.inputs)]
    rank = max(map(len, shapes))  # an operand may have one axis where the result has none
    whole, one, other = ((1,) * (rank - len(shape)) + shape for shape in shapes)
    length, last = 1, None
    for size, *both in zip(whole[::-1], one[::-1], other[::-1], strict=True):
        spread = tuple(each == size for each in both)
        if size > 1 and last not in (None, spread):
            return math.prod(whole) // length
        if size > 1:
            length, last = length * size, spread
    return 0


def is_fused_pad(graph: Graph, op: Operator) -> bool:
    """Whether the delegate pads within the convolution that reads it, if both are in one form.

    Source:
        `xnn_subgraph_fusion` in XNNPACK's `subgraph.c`.
    """
    readers = graph.uses.get(op.outputs[0], []) if op.name == "PAD" else []
    if len(readers) != 1 or op.outputs[0] in graph.outputs:
        return False
    (reader, slot), around = readers[0], graph.tensors[op.inputs[1]].data
    is_read = slot == 0 and kind_of(reader.name) in (Kind.CONVOLUTION, Kind.DEPTHWISE)
    if not is_read or reader.options.padding != _VALID or around is None or len(around) != 4:
        return False
    return not around[[0, 3]].any()


_VALID = 1
"""`Padding.VALID` of the schema."""


def pixels(graph: Graph, op: Operator, form: str) -> int:
    """Rows of a convolution's result, twice where each gets a scale of its own beforehand.

    Of what pads, those of its result; of a product of matrices, how many it makes.
    """
    if kind_of(op.name) is Kind.MATMUL and op.outputs:
        return _products(graph, op)
    if op.name == "PAD":
        return math.prod(graph.tensors[op.outputs[0]].shape[:-1])
    shape = _weight_shape(graph, op)
    if shape is None or "depthwise" in (found := kind(graph, op)) or "convolution" not in found:
        return 0
    is_one_tap = math.prod(shape[1:-1]) == 1
    return _pixels(graph, op) * (2 if form == "dynamic" and is_one_tap else 1)


def _pixels(graph: Graph, op: Operator) -> int:
    return math.prod(graph.tensors[op.outputs[0]].shape[:-1]) * _groups(graph, op)
