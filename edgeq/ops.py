"""The op table: one row for each LiteRT op that has an int8 form, with all that edgeq knows of it.

Calibration, planning, rounding, verification, cost tables, the linter and the docs ask the row, so
a new op is a new row (and a one-op model in the tests that proves it on the real converter and
kernels). What stands elsewhere are other people's facts: what a target runs (`edgeq.targets`), and
which run time reads which version of an op (`edgeq.versions`). Operands that a row does not name as
weight, table or bias and that are float32 are activations.

The sources named in the rows:
    spec    LiteRT 8-bit quantization specification
    oplist  `operator_property.cc` of the LiteRT quantizer (`restrict_same_input_output_scale`)
    trait   `QuantizableResult` / `SameOperandsAndResultsScale` in the converter's `tfl_ops.td`
    kernel  the checks in the op's own `Prepare`
Versions are those of `op_version.cc`; the tests hold them against what the converter writes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgeq.qtypes import DType, QParams

BOUNDARY = ("QUANTIZE", "DEQUANTIZE")
"""The ops between float and integers, and between integers of different scales."""

MOST_TAPS = 25
"""Taps of the largest depthwise kernel that the delegate has fast code for."""


class ScaleRule(enum.Enum):
    """How the scale of an op's output follows from its inputs."""

    FREE = "the output has a scale of its own"
    SAME = "the output and all activations share one scale"
    FIXED = "the kernel dictates the output scale"
    NONE = "the output is not a real number (a truth value or an index)"


class Kind(enum.Enum):
    """How an op's work is estimated, and how a weight of it is laid out."""

    CONVOLUTION = "convolution"
    TRANSPOSED_CONVOLUTION = "transposed convolution"
    DEPTHWISE = "depthwise"
    DENSE = "dense"
    MATMUL = "matmul"
    SEQUENCE = "sequence"
    NONLINEAR = "nonlinear"
    ELEMENTWISE = "elementwise"
    MOVE = "move"


class Holds(enum.Enum):
    """Relation of an op's output to the values that it reads."""

    ALL = "each of them and no other"
    SOME = "some of them, or 0"
    CHOSEN = "at each place that of one of two operands"
    LARGEST = "the largest of them, or where that is"
    SMALLEST = "the smallest of them, or where that is"
    BETWEEN = "means of them"
    SUMS = "sums of them"
    NEW = "other numbers"


MOVED = (Holds.ALL, Holds.SOME, Holds.CHOSEN)
"""Of an op that only moves values: each of its output is one that it reads, or 0."""


class Int16(enum.Enum):
    """Whether an op has a form with int16 activations."""

    FULL = "yes"
    SAME_SHAPES = "where both operands have the output's shape"
    NOT_MADE = "no: the converter makes none, or one that computes wrong numbers"
    NO_KERNEL = "no: the kernel refuses it"


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """The kernel of an op that reads and writes float and computes with an integer weight.

    Attributes:
        weights: Types of weights that the delegate has such a kernel for.
        version: The op version that reads an int8 weight with one scale.
        version_by_channel: The op version that reads any other.
        blocks: Whether columns of an int4 weight may share scales in blocks.
    """

    weights: tuple[DType, ...]
    version: int
    version_by_channel: int
    blocks: bool


PASSED = -1
"""In the place of a slot: weights are what a loop multiplies with, `Operator.multiplied`."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A constant operand that can be stored as integers or float16.

    Attributes:
        slot: Its operand slot; `PASSED` where that differs from op to op.
        source: Operand slot of what it is multiplied with; of a table, of the indices.
        axis: Its channel axis; None is per-tensor.
        zero_point: Whether integer kernels compute with a zero point of it where it has one scale.
        dynamic: The dynamic-range kernel; None without one that is worth it.
        beside: Slots of further weights, which are stored as it is.
    """

    slot: int
    source: int
    axis: int | None
    zero_point: bool
    dynamic: Dynamic | None
    beside: tuple[int, ...] = ()

    @property
    def dynamic_types(self) -> tuple[DType, ...]:
        """Types that it may have in a dynamic-range kernel of the delegate."""
        return () if self.dynamic is None else self.dynamic.weights


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The operand that is added to the products of a weight; the converter makes it int32.

    Attributes:
        slot: Its operand slot.
        is_int64: Whether the kernel reads int64 where the activations are int16.
    """

    slot: int
    is_int64: bool


@dataclass(frozen=True)
class OpRow:
    """Facts about one op.

    Attributes:
        name: The builtin operator's name.
        rule: How the output's scale is found.
        source: Where that comes from (see the module's docstring).
        kind: How its work is estimated.
        holds: What its output holds of what it reads.
        int8_version: The op version from which the kernel computes in int8.
        int16: Whether it has a form with int16 activations.
        weight: What activations are multiplied with.
        table: What rows are picked from; in int8 it has the scale of the output.
        bias: What is added to the products.
        fixed: Output parameters in int8 where the rule is `FIXED`.
        non_negative: Whether the output is never below 0.
        makes_nan: Whether finite numbers may become NaN, which a minimum or maximum on the delegate
            passes over.
        pole: Operand slot near whose 0 the result has no bound.
        never_zero: Operand slot in which no integer may be the zero point: the kernel ends the run.
        most_ratio: Most that the scale of an operand may be over that of the output: beyond it the
            kernel ends the process; 0 without such a limit.
        rescales_uint8: Whether the uint8 kernel takes inputs of other scales, though no other does.
        options: Name of its options table where that is not the op's own name.
    """

    name: str
    rule: ScaleRule
    source: str
    kind: Kind
    holds: Holds
    int8_version: int
    int16: Int16
    weight: Weight | None = None
    table: Weight | None = None
    bias: Bias | None = None
    fixed: QParams | None = None
    non_negative: bool = False
    makes_nan: bool = False
    pole: int | None = None
    never_zero: int | None = None
    most_ratio: float = 0.0
    rescales_uint8: bool = False
    options: str = ""

    @property
    def storable(self) -> Weight | None:
        """The operand that can be stored as integers while the op reads and writes float."""
        return self.weight or self.table

    @property
    def weight_slot(self) -> int | None:
        """Operand slot of the weight."""
        return None if self.weight is None else self.weight.slot

    @property
    def weight_axis(self) -> int | None:
        """Channel axis of the weight; None without one."""
        return None if self.weight is None else self.weight.axis

    @property
    def bias_slot(self) -> int | None:
        """Operand slot of the bias."""
        return None if self.bias is None else self.bias.slot

    @property
    def keeps_sign(self) -> bool:
        """Whether the output is not below 0 where no input is."""
        return self.holds is not Holds.NEW

    def fixed_for(self, dtype: DType) -> QParams | None:
        """Output parameters that the kernel dictates for activations of that type; None for it."""
        if self.fixed is None or dtype is DType.INT8:
            return self.fixed
        if dtype is DType.UINT8:
            return QParams(dtype, self.fixed.scale, (self.fixed.zero_point[0] + 128,))
        is_known = dtype is DType.INT16 and self.int16 is Int16.FULL
        return QParams(dtype, (1 / 32768,), (0,)) if is_known else None


@dataclass(frozen=True)
class OtherOp:
    """Facts about an op without an int8 form here.

    Attributes:
        name: The builtin operator's name.
        kind: How its work is estimated.
        holds: What its output holds of what it reads.
        same_scale: Whether files of other tools have it in int8 with one scale at both ends.
        weight: What it multiplies with while it reads and writes float.
        pole: Operand slot near whose 0 the result has no bound; of POW, with exponents below 0.
    """

    name: str
    kind: Kind
    holds: Holds
    same_scale: bool
    weight: Weight | None = None
    pole: int | None = None


FREE, SAME, FIXED, NONE = ScaleRule
CONVOLUTION, TRANSPOSED, DEPTHWISE, DENSE, MATMUL, SEQUENCE, NONLINEAR, ELEMENTWISE, MOVE = Kind
ALL, SOME, CHOSEN, LARGEST, SMALLEST, BETWEEN, SUMS, NEW = Holds
FULL, SAME_SHAPES, NOT_MADE, NO_KERNEL = Int16

_ROWS_INT8 = Dynamic(
    weights=(DType.INT8, DType.INT4, DType.INT2), version=4, version_by_channel=4, blocks=False
)
"""Picked rows become float one by one; GATHER is written as EMBEDDING_LOOKUP for that."""

_CONV_WEIGHT = Weight(
    slot=1, source=0, axis=0, zero_point=False,
    dynamic=Dynamic(weights=(DType.INT8,), version=5, version_by_channel=5, blocks=False),
)  # fmt: skip
_DENSE_WEIGHT = Weight(
    slot=1, source=0, axis=0, zero_point=True,
    dynamic=Dynamic(
        weights=(DType.INT8, DType.INT4), version=9, version_by_channel=12, blocks=True
    ),
)  # fmt: skip
_DEPTHWISE_WEIGHT = Weight(slot=1, source=0, axis=3, zero_point=False, dynamic=None)
# The dynamic-range kernel was not faster, and run times up to 2.14 refuse it.
_TRANSPOSED_WEIGHT = Weight(slot=1, source=2, axis=0, zero_point=False, dynamic=None)
_RIGHT_MATRIX = Weight(slot=1, source=0, axis=None, zero_point=True, dynamic=None)
_GATHERED = Weight(slot=0, source=1, axis=0, zero_point=False, dynamic=_ROWS_INT8)
_LOOKED_UP = Weight(slot=1, source=0, axis=0, zero_point=False, dynamic=_ROWS_INT8)
_LSTM_WEIGHT = Weight(
    slot=1, source=0, axis=None, zero_point=False, beside=(*range(2, 9), 16),
    dynamic=Dynamic(weights=(DType.INT8,), version=3, version_by_channel=3, blocks=False),
)  # fmt: skip
"""Of four gates, each for the input and for the output of the step before, and the projection."""
_LOOP_WEIGHT = Weight(
    slot=PASSED, source=PASSED, axis=0, zero_point=False,
    dynamic=Dynamic(weights=(DType.INT8,), version=1, version_by_channel=1, blocks=False),
)  # fmt: skip
"""Of the dense layers in its body, which are those of `_DENSE_WEIGHT`."""


def _int8(scale: float, zero_point: int) -> QParams:
    return QParams(DType.INT8, (scale,), (zero_point,))


_SUMMED = 2.0**19
"""`add.cc` and `sub.cc` shift left by 20 bits, and want a multiplier below 1 for the way back."""

_ROWS = (
    OpRow("CONV_2D", FREE, "spec", CONVOLUTION, NEW, 3, FULL,
          weight=_CONV_WEIGHT, bias=Bias(slot=2, is_int64=True)),
    OpRow("DEPTHWISE_CONV_2D", FREE, "spec", DEPTHWISE, NEW, 3, FULL,
          weight=_DEPTHWISE_WEIGHT, bias=Bias(slot=2, is_int64=True)),
    OpRow("TRANSPOSE_CONV", FREE, "oplist", TRANSPOSED, NEW, 2, FULL,
          weight=_TRANSPOSED_WEIGHT, bias=Bias(slot=3, is_int64=True)),
    OpRow("FULLY_CONNECTED", FREE, "spec", DENSE, NEW, 4, FULL,
          weight=_DENSE_WEIGHT, bias=Bias(slot=2, is_int64=False)),
    OpRow("BATCH_MATMUL", FREE, "trait", MATMUL, NEW, 2, FULL, weight=_RIGHT_MATRIX),
    OpRow("ADD", FREE, "spec", ELEMENTWISE, SUMS, 2, SAME_SHAPES, most_ratio=_SUMMED),
    OpRow("SUB", FREE, "spec", ELEMENTWISE, NEW, 2, FULL, most_ratio=_SUMMED),
    OpRow("MUL", FREE, "spec", ELEMENTWISE, NEW, 2, FULL),
    OpRow("DIV", FREE, "trait", NONLINEAR, NEW, 1, FULL, makes_nan=True, pole=1, never_zero=1),
    OpRow("MEAN", FREE, "spec", ELEMENTWISE, BETWEEN, 2, FULL, options="ReducerOptions"),
    OpRow("SUM", FREE, "trait", ELEMENTWISE, SUMS, 2, FULL, options="ReducerOptions"),
    OpRow("REDUCE_PROD", FREE, "trait", ELEMENTWISE, NEW, 2, FULL, options="ReducerOptions"),
    OpRow("SQUARED_DIFFERENCE", FREE, "trait", ELEMENTWISE, NEW, 2, NO_KERNEL),
    OpRow("ABS", FREE, "trait", ELEMENTWISE, NEW, 2, FULL, non_negative=True),
    OpRow("EXP", FREE, "trait", NONLINEAR, NEW, 2, FULL),
    OpRow("LOG", FREE, "trait", NONLINEAR, NEW, 2, NOT_MADE, makes_nan=True, pole=0),
    OpRow("SQRT", FREE, "trait", NONLINEAR, NEW, 2, FULL, makes_nan=True),
    OpRow("RSQRT", FREE, "trait", NONLINEAR, NEW, 2, NOT_MADE, makes_nan=True, pole=0),
    OpRow("RELU", FREE, "trait", ELEMENTWISE, NEW, 2, FULL, non_negative=True),
    OpRow("RELU6", FREE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE, non_negative=True),
    OpRow("RELU_N1_TO_1", FREE, "trait", ELEMENTWISE, NEW, 1, NO_KERNEL),
    OpRow("RELU_0_TO_1", FREE, "trait", ELEMENTWISE, NEW, 1, NO_KERNEL, non_negative=True),
    OpRow("LEAKY_RELU", FREE, "trait", ELEMENTWISE, NEW, 1, FULL),
    OpRow("PRELU", FREE, "trait", ELEMENTWISE, NEW, 1, NOT_MADE),
    OpRow("HARD_SWISH", FREE, "trait", ELEMENTWISE, NEW, 1, NO_KERNEL),
    OpRow("ELU", FREE, "kernel", NONLINEAR, NEW, 1, NOT_MADE),
    OpRow("GELU", FREE, "trait", NONLINEAR, NEW, 2, NOT_MADE),
    OpRow("CONCATENATION", SAME, "spec, kernel", ELEMENTWISE, ALL, 2, NOT_MADE,
          rescales_uint8=True),
    OpRow("AVERAGE_POOL_2D", SAME, "spec", ELEMENTWISE, BETWEEN, 2, FULL, options="Pool2DOptions"),
    OpRow("MAX_POOL_2D", SAME, "spec", ELEMENTWISE, LARGEST, 2, FULL, options="Pool2DOptions"),
    OpRow("RESHAPE", SAME, "spec", MOVE, ALL, 1, FULL),
    OpRow("TRANSPOSE", SAME, "spec", ELEMENTWISE, ALL, 2, FULL),
    OpRow("SQUEEZE", SAME, "spec", MOVE, ALL, 1, FULL),
    OpRow("SLICE", SAME, "spec", ELEMENTWISE, SOME, 2, FULL),
    OpRow("PAD", SAME, "spec", ELEMENTWISE, SOME, 2, FULL),
    OpRow("PADV2", SAME, "spec", ELEMENTWISE, SOME, 2, NOT_MADE),
    OpRow("GATHER", SAME, "spec", ELEMENTWISE, SOME, 2, FULL, table=_GATHERED),
    OpRow("RESIZE_BILINEAR", SAME, "spec", ELEMENTWISE, BETWEEN, 2, FULL),
    OpRow("MAXIMUM", SAME, "spec", ELEMENTWISE, LARGEST, 2, FULL, options="MaximumMinimumOptions"),
    OpRow("MINIMUM", SAME, "spec", ELEMENTWISE, SMALLEST, 2, FULL, options="MaximumMinimumOptions"),
    OpRow("SPACE_TO_DEPTH", SAME, "spec", ELEMENTWISE, ALL, 2, NO_KERNEL),
    OpRow("SPACE_TO_BATCH_ND", SAME, "spec", ELEMENTWISE, SOME, 2, FULL),
    OpRow("BATCH_TO_SPACE_ND", SAME, "spec", ELEMENTWISE, SOME, 2, FULL),
    OpRow("DEPTH_TO_SPACE", SAME, "oplist, trait", ELEMENTWISE, ALL, 2, NO_KERNEL),
    OpRow("EXPAND_DIMS", SAME, "oplist, trait", MOVE, ALL, 1, FULL),
    OpRow("GATHER_ND", SAME, "oplist, trait", ELEMENTWISE, SOME, 1, NOT_MADE),
    OpRow("MIRROR_PAD", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("TILE", SAME, "oplist, trait", ELEMENTWISE, ALL, 3, NOT_MADE),
    OpRow("BROADCAST_TO", SAME, "kernel", ELEMENTWISE, ALL, 3, NOT_MADE),
    OpRow("TOPK_V2", SAME, "kernel", ELEMENTWISE, SOME, 2, NOT_MADE),
    OpRow("PACK", SAME, "oplist, trait", ELEMENTWISE, ALL, 2, FULL),
    OpRow("UNPACK", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("SPLIT", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("SPLIT_V", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("STRIDED_SLICE", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("REDUCE_MAX", SAME, "oplist, trait", ELEMENTWISE, LARGEST, 2, FULL,
          options="ReducerOptions"),
    OpRow("REDUCE_MIN", SAME, "oplist, trait", ELEMENTWISE, SMALLEST, 2, FULL,
          options="ReducerOptions"),
    OpRow("RESIZE_NEAREST_NEIGHBOR", SAME, "oplist, trait", ELEMENTWISE, SOME, 2, FULL),
    OpRow("REVERSE_V2", SAME, "oplist, trait", ELEMENTWISE, ALL, 3, FULL),
    OpRow("SELECT", SAME, "oplist, trait", ELEMENTWISE, CHOSEN, 1, NOT_MADE),
    OpRow("SELECT_V2", SAME, "oplist, trait", ELEMENTWISE, CHOSEN, 1, NOT_MADE),
    OpRow("EMBEDDING_LOOKUP", SAME, "kernel", ELEMENTWISE, SOME, 1, NOT_MADE, table=_LOOKED_UP),
    OpRow("DYNAMIC_UPDATE_SLICE", SAME, "trait", ELEMENTWISE, SOME, 1, NOT_MADE),
    OpRow("MATRIX_DIAG", SAME, "trait", ELEMENTWISE, SOME, 1, NOT_MADE),
    OpRow("MATRIX_SET_DIAG", SAME, "trait", ELEMENTWISE, SOME, 1, NOT_MADE),
    OpRow("LOGISTIC", FIXED, "spec, kernel", NONLINEAR, NEW, 2, FULL,
          fixed=_int8(1 / 256, -128), non_negative=True),
    OpRow("SOFTMAX", FIXED, "spec, kernel", NONLINEAR, NEW, 2, FULL,
          fixed=_int8(1 / 256, -128), non_negative=True),
    OpRow("TANH", FIXED, "spec, kernel", NONLINEAR, NEW, 2, FULL, fixed=_int8(1 / 128, 0)),
    OpRow("L2_NORMALIZATION", FIXED, "spec, kernel", NONLINEAR, NEW, 2, NO_KERNEL,
          fixed=_int8(1 / 128, 0), options="L2NormOptions"),
    OpRow("LOG_SOFTMAX", FIXED, "spec, kernel", NONLINEAR, NEW, 2, NO_KERNEL,
          fixed=_int8(16 / 256, 127)),
    OpRow("LESS", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("LESS_EQUAL", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("GREATER", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("GREATER_EQUAL", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("EQUAL", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("NOT_EQUAL", NONE, "trait", ELEMENTWISE, NEW, 2, NOT_MADE),
    OpRow("ARG_MAX", NONE, "trait", ELEMENTWISE, LARGEST, 2, NO_KERNEL),
    OpRow("ARG_MIN", NONE, "trait", ELEMENTWISE, SMALLEST, 2, NO_KERNEL),
)  # fmt: skip

OPS: dict[str, OpRow] = {row.name: row for row in _ROWS}
"""Row by builtin operator name."""

_OTHERS = (
    OtherOp("SHAPE", MOVE, NEW, False),
    OtherOp("SIN", NONLINEAR, NEW, False),
    OtherOp("COS", NONLINEAR, NEW, False),
    OtherOp("POW", NONLINEAR, NEW, False, pole=0),
    OtherOp("FILL", ELEMENTWISE, ALL, True),
    OtherOp("SCATTER_ND", ELEMENTWISE, SUMS, True),
    OtherOp("UNIDIRECTIONAL_SEQUENCE_LSTM", SEQUENCE, NEW, False, weight=_LSTM_WEIGHT),
    OtherOp("WHILE", SEQUENCE, NEW, False, weight=_LOOP_WEIGHT),
)

OTHER_OPS: dict[str, OtherOp] = {row.name: row for row in _OTHERS}
"""Facts of ops without a row in `OPS`, by builtin operator name."""


def kind_of(name: str) -> Kind:
    """How an op's work is estimated, by builtin operator name."""
    row = OPS.get(name) or OTHER_OPS.get(name)
    return Kind.ELEMENTWISE if row is None else row.kind


def holds(name: str) -> Holds:
    """Relation of an op's output to what it reads, by builtin operator name."""
    row = OPS.get(name) or OTHER_OPS.get(name)
    return Holds.NEW if row is None else row.holds


def pole(name: str) -> int | None:
    """Operand slot near whose 0 an op's result has no bound, by builtin operator name."""
    row = OPS.get(name) or OTHER_OPS.get(name)
    return None if row is None else row.pole


def storable(name: str) -> Weight | None:
    """The operand of an op that can be stored as integers, by builtin operator name."""
    row, other = OPS.get(name), OTHER_OPS.get(name)
    if row is None:
        return None if other is None else other.weight
    return row.storable


def is_table(name: str) -> bool:
    """Whether what can be stored of an op is a table of rows, by builtin operator name."""
    row = OPS.get(name)
    return row is not None and row.table is not None


def is_non_negative(name: str, fused_activation: str) -> bool:
    """Whether what an op with a fused activation puts out is never below 0."""
    rows = (OPS.get(name), OPS.get(fused_activation))
    return any(row is not None and row.non_negative for row in rows)
