"""The rules of what an op's kernel takes: types, versions and values."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeq.flatbuffer import Operator
from edgeq.linter.rules.roles import SCALE_TOLERANCE, activations
from edgeq.linter.rules.rule import Found, error, warning
from edgeq.linter.subject import LIMITS, Subject

NO_INT16 = frozenset({
    "ARG_MAX", "ARG_MIN", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "HARD_SWISH", "LOG_SOFTMAX",
    "L2_NORMALIZATION", "RELU_N1_TO_1", "RELU_0_TO_1", "SQUARED_DIFFERENCE",
})  # fmt: skip
"""Ops whose kernels refuse int16."""

OLDEST_INT8_VERSION: dict[str, int] = {
    "FULLY_CONNECTED": 4,
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TILE", "REVERSE_V2"), 3),
    **dict.fromkeys(
        (
            "TRANSPOSE_CONV", "BATCH_MATMUL", "ADD", "SUB", "MUL", "MEAN", "SUM", "REDUCE_PROD",
            "REDUCE_MAX", "REDUCE_MIN", "SQUARED_DIFFERENCE", "ABS", "EXP", "LOG", "SQRT", "RSQRT",
            "RELU", "RELU6", "GELU", "CONCATENATION", "AVERAGE_POOL_2D", "MAX_POOL_2D", "SOFTMAX",
            "LOGISTIC", "TANH", "L2_NORMALIZATION", "LOG_SOFTMAX", "TRANSPOSE", "SLICE",
            "STRIDED_SLICE", "SPLIT", "SPLIT_V", "PACK", "UNPACK", "PAD", "PADV2", "MIRROR_PAD",
            "GATHER", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "MAXIMUM", "MINIMUM",
            "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
            "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "ARG_MAX", "ARG_MIN",
        ),
        2,
    ),
}  # fmt: skip
"""Version from which an op has an int8 kernel, as the converter writes it."""

CELL_STATE_SLOT = 19
CELL_STATE_SCALE_LOG2_MAX = -9


@error("take the zero out of the divisor, or leave the op float")
def constant_divisor(subject: Subject, op: Operator) -> Iterator[Found]:
    """An integer divisor is nowhere zero, that is, equal to its zero point.

    Source: `div.cc`; the model fails when it runs.
    """
    divisor = subject.operand(op, 1) if op.name == "DIV" else None
    if divisor is None or divisor.data is None or divisor.dtype not in LIMITS:
        return
    stored = subject.stored.get(divisor.index)
    zero_point = (stored.zero_point[:1] if stored else ()) or (0,)
    count = int((divisor.data == zero_point[0]).sum())
    if count:
        yield divisor, f"{count} values are zero"


@error("leave the op int8 or float")
def int16_form(subject: Subject, op: Operator) -> Iterator[Found]:
    """An op with int16 activations is one that has an int16 kernel.

    Source: by experiment; the model does not load, or fails when it runs.
    """
    kinds = {t.dtype for t in activations(subject, op)}
    if op.name in NO_INT16 and "int16" in kinds:
        yield None, f"{op.name} in int16"


@error("quantize the float model again with the state's range rounded up to a power of two")
def cell_state(subject: Subject, op: Operator) -> Iterator[Found]:
    """The int16 cell state of an LSTM has a power of two of at most 2^-9 for its scale.

    Source: `CheckedLog2` in `lstm.cc`; the kernel refuses to load.
    """
    is_lstm = op.name in ("UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM")
    state = subject.operand(op, CELL_STATE_SLOT) if is_lstm else None
    stored = subject.stored.get(state.index) if state is not None else None
    if stored is None or state is None or state.dtype != "int16" or stored.wrong_scale():
        return
    power = math.log2(stored.scale[0])
    if abs(power - round(power)) > SCALE_TOLERANCE or round(power) > CELL_STATE_SCALE_LOG2_MAX:
        yield state, f"scale {stored.scale[0]:g}"


@warning("convert with a tool that writes the version, so that old run times refuse cleanly")
def op_version(subject: Subject, op: Operator) -> Iterator[Found]:
    """An int8 op has at least the version from which its kernel knows int8.

    Source: `op_version.cc` of the converter; an older run time loads the file and fails inside.
    """
    oldest = OLDEST_INT8_VERSION.get(op.name, 1)
    is_int8 = "int8" in {t.dtype for t in activations(subject, op)}
    if is_int8 and op.version < oldest:
        yield None, f"version {op.version} of {op.name}, int8 since {oldest}"
