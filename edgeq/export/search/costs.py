"""Cost of an op in each form, estimated from its shapes by tables of measured rates.

Good enough to choose among plans; `measure=True` of an export decides on the machine itself.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from edgeq.errors import RecipeError
from edgeq.export.search.op_work import (
    elements,
    is_fused_pad,
    kind,
    macs,
    pixels,
    rows,
    steps,
    weights,
)
from edgeq.flatbuffer import Graph, Operator
from edgeq.foreign.documents import DocumentError, parse_json, read_text
from edgeq.ops import MOVED, Kind, holds, kind_of


@dataclass(frozen=True)
class Rates:
    """Time that one kind of op takes in one form.

    Attributes:
        mac_ns: Nanoseconds for each multiplication of the op.
        element_ns: Nanoseconds for each element that it reads or writes.
        row_ns: Nanoseconds for each row that its weight is multiplied with; in a convolution each
            tap of a kernel takes one for each pixel. With few channels that is most of its time.
            Of a product of matrices, each row of 16 columns of a right one, which is laid out; of
            an op on elements, each run of them that broadcasting leaves.
        pixel_ns: Nanoseconds for each row of a convolution's result, however few its channels are:
            integers are scaled anew there. In dynamic range and with one tap it counts twice, as
            each row gets a scale of its own first. Of a move, each row that is padded.
    """

    mac_ns: float
    element_ns: float
    row_ns: float = 0.0
    pixel_ns: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Rates of a processor, one thread.

    Attributes:
        name: The processor, as reports call it.
        float32: By kind of op.
        int8: The same in static int8.
        dynamic: Dynamic range, for ops with such a kernel.
        weight_byte_ns: Nanoseconds for each byte of weights, of a model whose weights stay in the
            cache of a core from one run to the next.
        far_byte_ns: The same of a model with more of them.
        cache_bytes: How many bytes stay there.
        boundary_ns: Nanoseconds for each element that is quantized or dequantized in between.
        outside_ns: Nanoseconds for each element of an op in integers that the delegate does not
            take.
        outside_float_ns: The same in float.
        outside_move_ns: The same of an op that only moves values, in any form.
        outside_mac_ns: Nanoseconds for each multiplication of such an op.
        launch_ns: What every op takes besides; in dynamic range it counts as two ops, as what it
            reads is quantized first.
        first_ns: What a file takes besides where any op in the delegate multiplies integers,
            however few do. It decides about networks of a few microseconds.
        leave_ns: What it takes to leave the delegate and come back.
        sequence_mac_ns: Nanoseconds for each multiplication of a recurrent layer that is one op.
        dynamic_sequence_mac_ns: The same in dynamic range.
        sequence_step_ns: Nanoseconds that a step of such a layer takes besides, in any form.
        dynamic_sequence_unit_ns: Nanoseconds for each unit of a step in dynamic range, whose eight
            sums are scaled: in small layers as much as integers win.
    """

    name: str
    float32: Mapping[str, Rates]
    int8: Mapping[str, Rates]
    dynamic: Mapping[str, Rates]
    weight_byte_ns: float = 0.015
    far_byte_ns: float = 0.04
    cache_bytes: float = 2e6
    boundary_ns: float = 0.04
    outside_ns: float = 4.5
    outside_float_ns: float = 1.0
    outside_move_ns: float = 0.15
    outside_mac_ns: float = 0.25
    launch_ns: float = 300.0
    first_ns: float = 0.0
    leave_ns: float = 3000.0
    sequence_mac_ns: float = 0.1
    dynamic_sequence_mac_ns: float = 0.05
    sequence_step_ns: float = 450.0
    dynamic_sequence_unit_ns: float = 10.0

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
        for rate in (row.mac_ns, row.element_ns, row.row_ns, row.pixel_ns)
    ]
    numbers = [*rates, *(v for k, v in vars(costs).items() if k.endswith(("_ns", "_bytes")))]
    wrong = [n for n in numbers if not isinstance(n, int | float) or not 0 <= n < math.inf]
    if wrong:
        raise RecipeError(
            f"the rates of a cost table are numbers from 0 on. Received: {wrong[0]!r}"
        )


PADDED_ELEMENTS = 117
"""Floats that are moved in the time that PAD takes for a pixel of its result, in float and in
integers: its kernel copies one pixel after the other. Measured on a Xeon with AVX-512 (7 ns, images
of 18 to 66 pixels square: 6.8 to 7.8), and taken for processors that it was not measured on."""

_FLOAT32 = {
    "convolution": Rates(0.02, 0.03, 0.1, 1.7),
    "transposed convolution": Rates(0.061, 0.0, 0.9),
    "depthwise": Rates(0.055, 0.01),
    "large depthwise": Rates(0.465, 1.1),
    "dense": Rates(0.0209, 0.07, 8.0),
    "matmul": Rates(0.0213, 0.0, 3.8, 27.0),
    "nonlinear": Rates(0.0, 0.17),
    "elementwise": Rates(0.0, 0.035, 2.0),
    "move": Rates(0.0, 0.06, 0.0, 11.0),
}

KINDS = tuple(_FLOAT32)
"""Kinds of ops, which have a row each."""

DYNAMIC = ("convolution", "dense")
"""Those that have a dynamic-range kernel."""

WITHOUT_DOT_PRODUCT = Costs(
    "x86-avx2",
    _FLOAT32,
    {
        "convolution": Rates(0.0202, 0.265, 1.86),
        "transposed convolution": Rates(0.0258, 0.08, 0.0, 24.0),
        "depthwise": Rates(0.066, 0.0),
        "large depthwise": Rates(3.0, 0.0),
        "dense": Rates(0.0184, 0.2),
        "matmul": Rates(0.0193, 0.305, 0.0, 94.0),
        "nonlinear": Rates(0.0, 0.055),
        "elementwise": Rates(0.0, 0.045, 5.0),
        "move": Rates(0.0, 0.02, 0.0, 11.0),
    },
    {
        "convolution": Rates(0.0186, 0.23, 0.25, 11.5),
        "dense": Rates(0.0167, 0.447),
    },
    boundary_ns=0.03,
    launch_ns=150.0,
    first_ns=250.0,
)
"""Fitted by `edgeq bench --fit` on an AMD EPYC (Zen 3) with AVX2 and no int8 dot product, twice,
LiteRT 2.3; what moves values, or computes them one by one, in chains of five ops. Integers take
float's time to multiply there, and more for each element. Of twelve networks that it was not fitted
to, in static int8 and in dynamic range throughout, 21 of 24 ratios to float's time are within 13 %
of what is measured; an MLP-Mixer of 16 us takes 31 % more in dynamic range, a CREPE 18 % more and a
small detector 19 % less in static int8."""

WITH_DOT_PRODUCT = Costs(
    "x86-vnni",
    {
        "convolution": Rates(0.0143, 0.0, 0.4),
        "transposed convolution": Rates(0.03, 0.0, 6.0),
        "depthwise": Rates(0.0325, 0.03),
        "large depthwise": Rates(0.407, 0.604),
        "dense": Rates(0.0125, 0.03),
        "matmul": Rates(0.0105, 0.0, 5.8, 31.0),
        "nonlinear": Rates(0.0, 0.1),
        "elementwise": Rates(0.0, 0.045, 0.7),
        "move": Rates(0.0, 0.06, 0.0, PADDED_ELEMENTS * 0.06),
    },
    {
        "convolution": Rates(0.0034, 0.003, 1.66, 11.6),
        "transposed convolution": Rates(0.0015, 0.0, 14.0, 120.0),
        "depthwise": Rates(0.07, 0.01),
        "large depthwise": Rates(0.508, 0.209),
        "dense": Rates(0.004, 0.05, 10.0),
        "matmul": Rates(0.0015, 0.19, 5.2, 195.0),
        "nonlinear": Rates(0.0, 0.03),
        "elementwise": Rates(0.0, 0.055, 3.0),
        "move": Rates(0.0, 0.025, 0.0, PADDED_ELEMENTS * 0.06),
    },
    {
        "convolution": Rates(0.0022, 0.054, 1.3, 12.1),
        "dense": Rates(0.003, 0.12, 15.0),
    },
    boundary_ns=0.02,
    launch_ns=100.0,
    first_ns=250.0,
)
"""Measured on Xeons with AVX-512 VNNI, without and with AMX, LiteRT 2.3: by `edgeq bench --fit`;
convolutions and dense layers to the slower of the times with and without AMX (25 convolutions,
within 13 % in int8 and 20 % in float; 11 transposed ones of a stride, 14 dense layers); products of
matrices likewise (9, most within 25 %: many small ones take twice as long in int8 as in float);
what moves values, or computes them one by one, in chains of up to five ops, as one alone takes most
of its time to be given its input. AMX multiplies tiles of 64 columns, so that with few channels it
is up to three times, transposed up to ten times as slow as the kernels without, and slower than
float; what is chosen by this table is slower than float on neither. Of 1, 2, 3 and 9 dense layers
side by side, the first one in integers takes 200 to 350 ns more than each other one. The ratios
between the forms stand for phones with int8 dot products as well."""

COLUMNS, ROWS = 16, 16
"""Output channels of a float convolution, and rows of a dense layer in integers, count as rounded
up to so many: a kernel computes them at once."""


@dataclass(frozen=True)
class Workload:
    """Work of an op in the delegate.

    Attributes:
        counts: Multiplications, elements read and written, rows multiplied with a weight, and
            rows of a convolution's result: what the rates of its kind are for, in their order.
        rest_ns: Nanoseconds that do not depend on its kind.
    """

    counts: tuple[int, int, int, int]
    rest_ns: float

    @classmethod
    def of(cls, costs: Costs, graph: Graph, op: Operator, form: str, total: int = 0) -> Workload:
        """The work of an op in a form, in a model of so many weights."""
        is_float = form == "float32"
        count = macs(graph, op, 1 if is_float else 8, COLUMNS if is_float else 1)
        read = weights(graph, op) * _weight_ns(costs, form, total)
        launches = 2 if form == "dynamic" else 1
        counts = (
            count,
            elements(graph, op),
            rows(graph, op, 1 if is_float else ROWS),
            pixels(graph, op, form),
        )
        return cls(counts, read + launches * costs.launch_ns)

    def time_ns(self, rates: Rates) -> float:
        """Nanoseconds of it at some rates."""
        each = (rates.mac_ns, rates.element_ns, rates.row_ns, rates.pixel_ns)
        return sum(n * rate for n, rate in zip(self.counts, each, strict=True)) + self.rest_ns


def _weight_ns(costs: Costs, form: str, total: int) -> float:
    """Nanoseconds to read a weight in a form, of a model that has all of them in that form."""
    size = 4 if form == "float32" else 1
    return size * (costs.far_byte_ns if total * size > costs.cache_bytes else costs.weight_byte_ns)


def estimate_ns(
    costs: Costs, graph: Graph, op: Operator, form: str, delegated: bool, total: int = 0
) -> float:
    """Nanoseconds of an op in a form.

    Args:
        costs: Rates of the processor.
        graph: The graph.
        op: One of its ops.
        form: `"float32"`, `"int8"` or `"dynamic"`.
        delegated: Whether the delegate takes it.
        total: How many weights the model has; 0 where these are few.
    """
    if kind_of(op.name) is Kind.SEQUENCE:  # which no delegate takes
        is_dynamic = form == "dynamic"
        if op.multiplied:
            return _loop_ns(costs, graph, op, is_dynamic, total)
        return _sequence_ns(costs, graph, op, is_dynamic)
    if not delegated:
        each = costs.outside_ns if form == "int8" else costs.outside_float_ns
        each = costs.outside_move_ns if holds(op.name) in MOVED else each
        work = macs(graph, op) * costs.outside_mac_ns + elements(graph, op) * each
        return work + costs.launch_ns + costs.leave_ns
    if is_fused_pad(graph, op):
        return 0.0
    table: Mapping[str, Rates] = getattr(costs, form)
    own = Workload.of(costs, graph, op, form, total).time_ns(table[kind(graph, op)])
    return own + (_padding_ns(costs, graph, op.inputs[0]) if form == "dynamic" else 0.0)


def _padding_ns(costs: Costs, graph: Graph, tensor: int) -> float:
    """Nanoseconds of the PAD that makes a tensor, where it might be part of a convolution."""
    pad = graph.producers.get(tensor)
    if pad is None or not is_fused_pad(graph, pad):
        return 0.0
    return Workload.of(costs, graph, pad, "float32").time_ns(costs.float32[kind(graph, pad)])


def _sequence_ns(costs: Costs, graph: Graph, op: Operator, is_dynamic: bool) -> float:
    """Nanoseconds of a recurrent layer that is one op, whose plain kernel goes step by step."""
    rate = costs.dynamic_sequence_mac_ns if is_dynamic else costs.sequence_mac_ns
    units = math.prod(graph.tensors[op.outputs[0]].shape) if is_dynamic else 0
    own = steps(graph, op) * costs.sequence_step_ns + units * costs.dynamic_sequence_unit_ns
    size = elements(graph, op) * costs.outside_ns
    return macs(graph, op) * rate + own + size + costs.launch_ns + costs.leave_ns


def _loop_ns(costs: Costs, graph: Graph, op: Operator, is_dynamic: bool, total: int) -> float:
    """Nanoseconds of a loop, in whose steps the delegate multiplies a row with each weight."""
    rates = (costs.dynamic if is_dynamic else costs.float32)["dense"]
    launches, row = (2, ROWS * rates.row_ns) if is_dynamic else (1, rates.row_ns)
    each = rates.mac_ns + _weight_ns(costs, "dynamic" if is_dynamic else "float32", total)
    product = row + launches * costs.launch_ns
    step = weights(graph, op) * each + len(op.multiplied) * product
    size = elements(graph, op) * costs.outside_float_ns
    return steps(graph, op) * step + size + costs.launch_ns + costs.leave_ns


def boundary_ns(costs: Costs, graph: Graph, tensor: int) -> float:
    """Nanoseconds of a conversion of a tensor between float and integers.

    What pads for a convolution is not part of it any more where the conversion stands between.
    """
    own = costs.launch_ns + 2 * math.prod(graph.tensors[tensor].shape) * costs.boundary_ns
    return own + _padding_ns(costs, graph, tensor)


def boundaries_ns(costs: Costs, graph: Graph, integers: Collection[int]) -> float:
    """Nanoseconds of all such conversions, where these ops are in integers."""
    total = 0.0
    for tensor in graph.tensors:
        if tensor.dtype != "float32" or tensor.is_constant:
            continue
        producer = graph.producers.get(tensor.index)
        sides = {op.index in integers for op, _ in graph.uses.get(tensor.index, [])}
        sides.add(producer is not None and producer.index in integers)
        if tensor.index in graph.outputs:
            sides.add(False)
        total += boundary_ns(costs, graph, tensor.index) if len(sides) == 2 else 0.0
    return total


def float_ns(graph: Graph) -> float:
    """Nanoseconds of a float model on one thread of a processor of some years ago."""
    ops = graph.operators
    return sum(estimate_ns(WITHOUT_DOT_PRODUCT, graph, op, "float32", True) for op in ops)
