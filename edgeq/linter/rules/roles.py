"""The part a tensor plays at an op: weight, bias, activation, and the parameters it has."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.flatbuffer import Operator, Tensor
from edgeq.linter.subject import LIMITS, Stored, Subject
from edgeq.ops import OPS

SCALE_TOLERANCE = 1e-3
"""Relative difference from which a bias scale is wrong; far below half an int8 step."""


def stored_parameters(subject: Subject, op: Operator) -> Iterator[tuple[Tensor, Stored]]:
    """The tensors of an op that have quantization parameters, and these."""
    for tensor in subject.tensors(op):
        if tensor.index in subject.stored:
            yield tensor, subject.stored[tensor.index]


def activations(subject: Subject, op: Operator) -> list[Tensor]:
    """Operands and results of integer type that are neither weight nor bias."""
    row = OPS.get(op.name)
    parameters: tuple[int | None, ...] = (row.weight_slot, row.bias_slot) if row else ()
    if row is not None and row.table is not None and _looks_up_floats(subject, op):
        parameters = (row.table.slot,)
    operands = [
        t for slot, t in subject.operands(op) if slot not in parameters or not t.is_constant
    ]
    return [t for t in (*operands, *subject.results(op)) if t.dtype in LIMITS]


def _looks_up_floats(subject: Subject, op: Operator) -> bool:
    """Whether an op makes the rows that it picks of a table float, each by its own scale."""
    return subject.results(op)[0].dtype == "float32"


def weight_of(subject: Subject, op: Operator) -> Tensor | None:
    """The constant integer weight."""
    row = OPS.get(op.name)
    tensor = subject.operand(op, row.weight_slot) if row else None
    return tensor if tensor is not None and tensor.is_constant and tensor.dtype == "int8" else None


def source_of(subject: Subject, op: Operator) -> Tensor | None:
    """The activation that a weight is applied to."""
    row = OPS.get(op.name)
    return subject.operand(op, row.weight.source if row and row.weight else 0)


def bias_of(subject: Subject, op: Operator) -> Tensor | None:
    """The bias, by the op table."""
    row = OPS.get(op.name)
    return subject.operand(op, row.bias_slot) if row else None


def described(subject: Subject, tensor: Tensor) -> str:
    """A tensor's scale and zero point in words."""
    stored = subject.stored.get(tensor.index)
    if stored is None:
        return "no scale"
    points = ", ".join(map(str, stored.zero_point)) or "0"
    return f"scale {', '.join(f'{s:.9g}' for s in stored.scale)} zero point {points}"
