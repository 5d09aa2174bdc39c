"""The op table: one row for each LiteRT op that has an int8 form, and nothing else about ops.

Calibration, planning, verification and the support table all loop over it, so a new op is a new row
(and a one-op model in the tests that proves it on the real converter and kernels). Operands that a
row does not name as weight or bias and that are float32 are activations.

The sources named in the rows:
    spec    LiteRT 8-bit quantization specification
    oplist  `operator_property.cc` of the LiteRT quantizer (`restrict_same_input_output_scale`)
    trait   `QuantizableResult` / `SameOperandsAndResultsScale` in the converter's `tfl_ops.td`
    kernel  the checks in the op's own `Prepare`
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgeq.qtypes import DType, QParams


class ScaleRule(enum.Enum):
    """How the scale of an op's output follows from its inputs."""

    FREE = "the output has a scale of its own"
    SAME = "the output and all activations share one scale"
    FIXED = "the kernel dictates the output scale"
    NONE = "the output is not a real number (a truth value or an index)"


@dataclass(frozen=True)
class OpRow:
    """Facts about one op.

    Attributes:
        name: The builtin operator's name.
        rule: How the output's scale is found.
        source: Where the row comes from (see the module's docstring).
        weight: Operand slot of a constant weight, quantized symmetrically.
        weight_axis: Channel axis of that weight; None is per-tensor.
        bias: Operand slot of the bias, which the converter makes int32.
        fixed: Output parameters in int8 where the rule is `FIXED`.
        fixed_int16: The same in int16.
    """

    name: str
    rule: ScaleRule
    source: str
    weight: int | None = None
    weight_axis: int | None = None
    bias: int | None = None
    fixed: QParams | None = None
    fixed_int16: QParams | None = None

    def fixed_for(self, dtype: DType) -> QParams | None:
        """Output parameters that the kernel dictates for activations of that type."""
        return self.fixed_int16 if dtype is DType.INT16 else self.fixed


def _free(source: str, *names: str) -> list[OpRow]:
    return [OpRow(name, ScaleRule.FREE, source) for name in names]


def _same(source: str, *names: str) -> list[OpRow]:
    return [OpRow(name, ScaleRule.SAME, source) for name in names]


def _fixed(name: str, scale: float, zero_point: int) -> OpRow:
    fixed = QParams(DType.INT8, (scale,), (zero_point,))
    wide = QParams(DType.INT16, (1 / 32768,), (0,))
    return OpRow(name, ScaleRule.FIXED, "spec, kernel", fixed=fixed, fixed_int16=wide)


_ROWS = [
    OpRow("CONV_2D", ScaleRule.FREE, "spec", weight=1, weight_axis=0, bias=2),
    OpRow("DEPTHWISE_CONV_2D", ScaleRule.FREE, "spec", weight=1, weight_axis=3, bias=2),
    OpRow("TRANSPOSE_CONV", ScaleRule.FREE, "oplist", weight=1, weight_axis=0, bias=3),
    OpRow("FULLY_CONNECTED", ScaleRule.FREE, "spec", weight=1, weight_axis=0, bias=2),
    OpRow("BATCH_MATMUL", ScaleRule.FREE, "trait", weight=1),
    *_free("spec", "ADD", "SUB", "MUL", "MEAN"),
    *_free("trait", "DIV", "SUM", "SQUARED_DIFFERENCE", "ABS", "EXP", "LOG", "SQRT", "RSQRT"),
    *_free("trait", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "PRELU"),
    *_free("trait", "HARD_SWISH", "GELU", "REDUCE_PROD"),
    *_same("spec, kernel", "CONCATENATION"),
    *_same("spec", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE", "TRANSPOSE", "SQUEEZE", "SLICE"),
    *_same("spec", "PAD", "PADV2", "GATHER", "RESIZE_BILINEAR", "MAXIMUM", "MINIMUM"),
    *_same("spec", "SPACE_TO_DEPTH", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
    *_same("oplist, trait", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER_ND", "MIRROR_PAD", "TILE"),
    *_same("oplist, trait", "PACK", "UNPACK", "SPLIT", "SPLIT_V", "STRIDED_SLICE"),
    *_same("oplist, trait", "REDUCE_MAX", "REDUCE_MIN", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2"),
    *_same("oplist, trait", "SELECT", "SELECT_V2"),
    *_same("kernel", "EMBEDDING_LOOKUP"),
    *_same("trait", "DYNAMIC_UPDATE_SLICE", "MATRIX_DIAG", "MATRIX_SET_DIAG"),
    _fixed("LOGISTIC", 1 / 256, -128),
    _fixed("SOFTMAX", 1 / 256, -128),
    _fixed("TANH", 1 / 128, 0),
    _fixed("L2_NORMALIZATION", 1 / 128, 0),
    _fixed("LOG_SOFTMAX", 16 / 256, 127),
    *[
        OpRow(name, ScaleRule.NONE, "trait")
        for name in ("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL")
    ],
    OpRow("ARG_MAX", ScaleRule.NONE, "trait"),
    OpRow("ARG_MIN", ScaleRule.NONE, "trait"),
]

OPS: dict[str, OpRow] = {row.name: row for row in _ROWS}
"""Row by builtin operator name."""

MAKES_NAN = frozenset({"SQRT", "RSQRT", "LOG", "DIV"})
"""Ops that turn finite numbers into NaN, which a minimum or maximum on the delegate passes over."""

CHOICES = frozenset({"SELECT", "SELECT_V2"})
"""Ops that pick each value from one of two tensors, and so may leave out what no integer holds."""

MOVES_VALUES = CHOICES | {
    *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT"),
    *("SPLIT_V", "PACK", "UNPACK", "CONCATENATION", "PAD", "PADV2", "MIRROR_PAD", "TILE"),
    *("GATHER", "GATHER_ND", "REVERSE_V2", "BROADCAST_TO", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"),
    *("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "RESIZE_NEAREST_NEIGHBOR"),
    *("DYNAMIC_UPDATE_SLICE",),
}
"""Ops every result of which is one of the numbers that they read."""

TAKES_LARGEST = frozenset({"MAXIMUM", "MAX_POOL_2D", "REDUCE_MAX", "ARG_MAX"})
TAKES_SMALLEST = frozenset({"MINIMUM", "REDUCE_MIN", "ARG_MIN"})
"""Ops that see the largest (smallest) numbers alone."""

NON_NEGATIVE_OUTPUT = frozenset({"RELU", "RELU6", "RELU_0_TO_1", "LOGISTIC", "SOFTMAX", "ABS"})
"""Ops and fused activations whose output is never below 0: only its maximum is watched."""

MOST_TAPS = 25
"""Taps of the largest depthwise kernel that the delegate has fast code for."""

NO_INT16 = frozenset(
    {"LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "ARG_MAX", "ARG_MIN"}
    | {"SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "HARD_SWISH", "LOG_SOFTMAX", "L2_NORMALIZATION"}
    | {"PRELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "RSQRT", "LOG", "GELU"}
    | {"SQUARED_DIFFERENCE", "CONCATENATION", "DYNAMIC_UPDATE_SLICE", "PADV2", "GATHER_ND"}
    | {"TILE", "MATRIX_DIAG", "MATRIX_SET_DIAG", "SELECT", "SELECT_V2", "EMBEDDING_LOOKUP"}
)
"""Ops of the table without a form whose activations are int16: the converter or the kernel refuses
it, or computes wrong numbers (`quantizable_int16` in oplist, and as tried)."""

NO_INT16_BROADCAST = frozenset({"ADD"})
"""Ops that have an int16 form only where both operands have the output's shape."""


@dataclass(frozen=True)
class WeightRow:
    """How an op's weight can be stored while the op reads and writes float.

    Attributes:
        slot: Operand slot of the weight.
        axis: Channel axis; None is per-tensor.
        dynamic: Weight types for which the delegate has a dynamic-range kernel. That of
            TRANSPOSE_CONV is left out: it was not faster, and run times up to 2.14 refuse it.
        table: Whether the weight is a table of which the op picks rows.
    """

    slot: int
    axis: int | None
    dynamic: tuple[DType, ...] = ()
    table: bool = False


WEIGHTS: dict[str, WeightRow] = {
    "FULLY_CONNECTED": WeightRow(1, 0, (DType.INT8, DType.INT4)),
    "CONV_2D": WeightRow(1, 0, (DType.INT8,)),
    "DEPTHWISE_CONV_2D": WeightRow(1, 3),
    "TRANSPOSE_CONV": WeightRow(1, 0),
    "BATCH_MATMUL": WeightRow(1, None),
    "GATHER": WeightRow(0, 0, (DType.INT8, DType.INT4, DType.INT2), table=True),
    "EMBEDDING_LOOKUP": WeightRow(1, 0, (DType.INT8, DType.INT4, DType.INT2), table=True),
}
"""Ops whose weight may be stored as integers or float16, by builtin operator name."""
