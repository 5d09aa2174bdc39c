"""The rules of what an op's kernel takes: types, versions and values."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeq.flatbuffer import Operator
from edgeq.linter.rules.roles import SCALE_TOLERANCE, activations
from edgeq.linter.rules.rule import Found, error, warning
from edgeq.linter.subject import LIMITS, Subject
from edgeq.ops import OPS, Int16

CELL_STATE_SLOT = 19
CELL_STATE_SCALE_LOG2_MAX = -9


@error("take the zero out of the divisor, or leave the op float", "DIV")
def constant_divisor(subject: Subject, op: Operator) -> Iterator[Found]:
    """An integer divisor is nowhere zero, that is, equal to its zero point.

    Source: `div.cc`; the model fails when it runs.
    """
    divisor = subject.operand(op, 1)
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
    row, kinds = OPS.get(op.name), {t.dtype for t in activations(subject, op)}
    if row is not None and row.int16 is Int16.NO_KERNEL and "int16" in kinds:
        yield None, f"{op.name} in int16"


@error(
    "quantize the float model again with the state's range rounded up to a power of two",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM",
)  # fmt: skip
def cell_state(subject: Subject, op: Operator) -> Iterator[Found]:
    """The int16 cell state of an LSTM has a power of two of at most 2^-9 for its scale.

    Source: `CheckedLog2` in `lstm.cc`; the kernel refuses to load.
    """
    state = subject.operand(op, CELL_STATE_SLOT)
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
    row = OPS.get(op.name)
    is_int8 = "int8" in {t.dtype for t in activations(subject, op)}
    if row is not None and is_int8 and op.version < row.int8_version:
        yield None, f"version {op.version} of {op.name}, int8 since {row.int8_version}"
