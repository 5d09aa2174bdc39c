"""Cost of an op in each form, estimated from its shapes by tables of measured rates.

Good enough to choose among plans; `measure=True` of an export decides on the machine itself.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgeq.errors import RecipeError
from edgeq.flatbuffer import Graph, Operator
from edgeq.foreign.documents import DocumentError, parse_json, read_text
from edgeq.ops import MOST_TAPS, OPS, Kind, kind_of, storable


@dataclass(frozen=True)
class Rates:
    """Time that one kind of op takes in one form.

    Attributes:
        mac_ns: Nanoseconds for each multiplication of the op.
        element_ns: Nanoseconds for each element that it reads or writes.
        row_ns: Nanoseconds for each row that its weight is multiplied with; in a convolution each
            tap of a kernel takes one for each pixel. With few channels that is most of its time.
    """

    mac_ns: float
    element_ns: float
    row_ns: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Rates of a processor, one thread.

    Attributes:
        name: The processor, as reports call it.
        float32: By kind of op.
        int8: The same in static int8.
        dynamic: Dynamic range, for ops with such a kernel.
        weight_byte_ns: Nanoseconds for each byte of weights.
        boundary_ns: Nanoseconds for each element that is quantized or dequantized in between.
        outside_ns: Nanoseconds for each element of an op that the delegate does not take.
        outside_mac_ns: Nanoseconds for each multiplication of such an op.
        launch_ns: What every op takes besides; in dynamic range it counts as two ops, as what it
            reads is quantized first: in a loop at every step.
        leave_ns: What it takes to leave the delegate and come back.
        sequence_mac_ns: Nanoseconds for each multiplication of a recurrent layer that is one op.
        dynamic_sequence_mac_ns: The same in dynamic range.
    """

    name: str
    float32: Mapping[str, Rates]
    int8: Mapping[str, Rates]
    dynamic: Mapping[str, Rates]
    weight_byte_ns: float = 0.015
    boundary_ns: float = 0.04
    outside_ns: float = 4.5
    outside_mac_ns: float = 0.25
    launch_ns: float = 300.0
    leave_ns: float = 3000.0
    sequence_mac_ns: float = 0.12
    dynamic_sequence_mac_ns: float = 0.05

    def to_json(self) -> str:
        """The table as JSON text, for `costs=` of an export."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Costs:
        """Reads a table that `to_json` wrote.

        Raises:
            RecipeError: It is no such table, or a rate is missing, unknown or negative.
        """
        try:
            found = dict(parse_json(text))
            for form in FORMS:
                found[form] = {kind: Rates(**rates) for kind, rates in found[form].items()}
            costs = cls(**found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecipeError(
                f"the cost table cannot be read ({error}): make it with `edgeq bench --fit`"
            ) from None
        _check(costs)
        return costs

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Costs:
        """Reads the file of a table.

        Raises:
            RecipeError: It cannot be read.
        """
        try:
            return cls.from_json(read_text(path))
        except (OSError, DocumentError) as error:
            raise RecipeError(f"cannot read the cost table {path}: {error}") from None


FORMS = ("float32", "int8", "dynamic")
"""Forms of an op that a table has rates of."""


def _check(costs: Costs) -> None:
    """Raises a `RecipeError` for a table that not every model can be estimated with."""
    for form in FORMS:
        table: Mapping[str, Rates] = getattr(costs, form)
        missing = [kind for kind in (DYNAMIC if form == "dynamic" else KINDS) if kind not in table]
        if missing:
            raise RecipeError(f"the cost table has no {form} rates of {', '.join(missing)}")
    rates = [
        rate
        for form in FORMS
        for row in getattr(costs, form).values()
        for rate in (row.mac_ns, row.element_ns, row.row_ns)
    ]
    numbers = [*rates, *(v for k, v in vars(costs).items() if k.endswith("_ns"))]
    wrong = [n for n in numbers if not isinstance(n, int | float) or not 0 <= n < math.inf]
    if wrong:
        raise RecipeError(
            f"the rates of a cost table are numbers from 0 on. Received: {wrong[0]!r}"
        )


_FLOAT32 = {
    "convolution": Rates(0.0196, 0.0791),
    "depthwise": Rates(0.0573, 0.0357),
    "large depthwise": Rates(0.481, 0.0),
    "dense": Rates(0.0204, 0.2),
    "matmul": Rates(0.0217, 0.0992),
    "nonlinear": Rates(0.0, 0.231),
    "elementwise": Rates(0.0, 0.127),
    "move": Rates(0.0, 0.0983),
}

KINDS = tuple(_FLOAT32)
"""Kinds of ops, which have a row each."""

DYNAMIC = ("convolution", "dense")
"""Those that have a dynamic-range kernel."""

WITHOUT_DOT_PRODUCT = Costs(
    "x86-avx2",
    _FLOAT32,
    {
        "convolution": Rates(0.0197, 0.346),
        "depthwise": Rates(0.0667, 0.013),
        "large depthwise": Rates(2.7, 0.0),
        "dense": Rates(0.0157, 0.207),
        "matmul": Rates(0.0101, 0.573),
        "nonlinear": Rates(0.0, 0.0789),
        "elementwise": Rates(0.0, 0.0639),
        "move": Rates(0.0, 0.0253),
    },
    {
        "convolution": Rates(0.0137, 0.489),
        "dense": Rates(0.0121, 0.661),
    },
    boundary_ns=0.0881,
)
"""Fitted by `edgeq bench --fit` on an AMD EPYC with AVX2 and no int8 dot product, LiteRT 2.3."""

WITH_DOT_PRODUCT = Costs(
    "x86-vnni",
    {
        "convolution": Rates(0.0122, 0.031, 1.1),
        "depthwise": Rates(0.0345, 0.0),
        "large depthwise": Rates(0.407, 0.604),
        "dense": Rates(0.00924, 0.316),
        "matmul": Rates(0.0125, 0.048),
        "nonlinear": Rates(0.0, 0.161),
        "elementwise": Rates(0.0, 0.136),
        "move": Rates(0.0, 0.107),
    },
    {
        "convolution": Rates(0.00373, 0.136, 2.0),
        "depthwise": Rates(0.07, 0.0314),
        "large depthwise": Rates(0.508, 0.209),
        "dense": Rates(0.00174, 0.147),
        "matmul": Rates(0.00241, 0.219),
        "nonlinear": Rates(0.0, 0.063),
        "elementwise": Rates(0.0, 0.0792),
        "move": Rates(0.0, 0.0233),
    },
    {"convolution": Rates(0.001, 0.54, 3.0), "dense": Rates(0.0, 0.575)},
    boundary_ns=0.0774,
)
"""Fitted by `edgeq bench --fit` on a Xeon with AVX-512 VNNI, LiteRT 2.3; rows of convolutions, and
elements of dynamic ones, on one with AMX as well, to convolutions of few channels (3 to 24 on 48 to
96 pixels a side). The ratios between the forms stand for phones with int8 dot products as well."""


def kind(graph: Graph, op: Operator) -> str:
    """The row of the tables that an op belongs to."""
    found = kind_of(op.name)
    if found is Kind.TRANSPOSED_CONVOLUTION:
        return str(Kind.CONVOLUTION.value)
    if found is Kind.DEPTHWISE:
        taps = math.prod(graph.tensors[op.inputs[1]].shape[1:3])
        return "depthwise" if taps <= MOST_TAPS else "large depthwise"
    return str(found.value)


def macs(graph: Graph, op: Operator, channels: int = 1) -> int:
    """Multiplications of an op; input channels count as rounded up to `channels`."""
    if not op.outputs:
        return 0
    output, found = math.prod(graph.tensors[op.outputs[0]].shape), kind_of(op.name)
    if found is Kind.MATMUL:
        left = graph.tensors[op.inputs[0]].shape
        return output * left[-2 if op.options and op.options.adjX else -1]
    if found is Kind.SEQUENCE:
        return _steps(graph, op) * _weights(graph, op)
    shape = _weight_shape(graph, op)
    if shape is None:
        return 0
    if found is Kind.DEPTHWISE:
        return output * math.prod(shape[1:3])
    deep = -(-shape[-1] // channels) * channels
    if found is Kind.TRANSPOSED_CONVOLUTION:
        return math.prod(graph.tensors[op.inputs[2]].shape[:-1]) * math.prod(shape[:-1]) * deep
    return output * math.prod(shape[1:-1]) * deep


def _weight_shape(graph: Graph, op: Operator) -> tuple[int, ...] | None:
    """Shape of what an op multiplies with; None where it does not."""
    slot = OPS[op.name].weight_slot if op.name in OPS else None
    return None if slot is None or op.inputs[slot] < 0 else graph.tensors[op.inputs[slot]].shape


def elements(graph: Graph, op: Operator) -> int:
    """Elements of computed tensors that an op reads and writes."""
    read = [t for _, t in graph.operands(op) if not t.is_constant]
    written = [graph.tensors[t] for t in op.outputs]
    return sum(math.prod(t.shape) for t in (*read, *written))


def _steps(graph: Graph, op: Operator) -> int:
    """How often a recurrent layer multiplies a row with its weights."""
    if not op.multiplied:
        return math.prod(graph.tensors[op.outputs[0]].shape[:-1])
    width = graph.tensors[op.inputs[op.multiplied[0]]].shape[-1]
    made = [t for slot, t in enumerate(op.outputs) if slot not in op.multiplied]
    shapes = [graph.tensors[t].shape for t in made]
    return max((math.prod(s) // width for s in shapes if s and s[-1] == width), default=0)


def _weights(graph: Graph, op: Operator) -> int:
    weight = storable(op.name)
    if op.multiplied:
        return sum(math.prod(graph.tensors[op.inputs[slot]].shape) for slot in op.multiplied)
    if weight is not None and weight.beside:
        slots = {weight.slot, *weight.beside}
        return sum(math.prod(t.shape) for s, t in graph.operands(op) if s in slots)
    shape = _weight_shape(graph, op)
    return 0 if shape is None else math.prod(shape)


def rows(graph: Graph, op: Operator) -> int:
    """Rows that the weight of a convolution or dense layer is multiplied with, in all its taps."""
    shape, found = _weight_shape(graph, op), kind_of(op.name)
    if shape is None or not op.outputs:
        return 0
    if found is Kind.TRANSPOSED_CONVOLUTION:
        return math.prod(graph.tensors[op.inputs[2]].shape[:-1]) * math.prod(shape[1:-1])
    if found not in (Kind.CONVOLUTION, Kind.DENSE):
        return 0
    return (
        math.prod(graph.tensors[op.outputs[0]].shape) // max(1, shape[0]) * math.prod(shape[1:-1])
    )


def workload(costs: Costs, graph: Graph, op: Operator, form: str) -> tuple[int, int, int, float]:
    """Work of an op in the delegate.

    Returns:
        Multiplications, elements read and written, rows multiplied with a weight, and nanoseconds
        that do not depend on its kind.
    """
    count = macs(graph, op, 1 if form == "float32" else 8)
    read = _weights(graph, op) * (4 if form == "float32" else 1) * costs.weight_byte_ns
    launches = 2 if form == "dynamic" else 1
    rest = read + launches * costs.launch_ns
    return count, elements(graph, op), rows(graph, op), rest


def estimate_ns(costs: Costs, graph: Graph, op: Operator, form: str, delegated: bool) -> float:
    """Nanoseconds of an op in a form: `"float32"`, `"int8"` or `"dynamic"`."""
    if kind_of(op.name) is Kind.SEQUENCE:  # which no delegate takes
        is_dynamic = form == "dynamic"
        rate = costs.dynamic_sequence_mac_ns if is_dynamic else costs.sequence_mac_ns
        size = elements(graph, op) * costs.outside_ns
        quantized = _steps(graph, op) * len(op.multiplied) if is_dynamic else 0
        launches = (1 + quantized) * costs.launch_ns
        return macs(graph, op) * rate + size + launches + costs.leave_ns
    if not delegated:
        work = macs(graph, op) * costs.outside_mac_ns + elements(graph, op) * costs.outside_ns
        return work + costs.launch_ns + costs.leave_ns
    table: Mapping[str, Rates] = getattr(costs, form)
    rates = table[kind(graph, op)]
    count, size, multiplied, rest = workload(costs, graph, op, form)
    work = count * rates.mac_ns + size * rates.element_ns + multiplied * rates.row_ns
    return work + rest


def float_ns(graph: Graph) -> float:
    """Nanoseconds of a float model on one thread of a processor of some years ago."""
    ops = graph.operators
    return sum(estimate_ns(WITHOUT_DOT_PRODUCT, graph, op, "float32", True) for op in ops)
