"""The rules of scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeq.flatbuffer import Operator
from edgeq.linter.rules.roles import SCALE_TOLERANCE, activations, described, stored_parameters
from edgeq.linter.rules.rule import AGAIN, Found, error
from edgeq.linter.subject import LIMITS, Subject
from edgeq.ops import OPS, ScaleRule

ALSO_SAME_SCALE = frozenset({"BROADCAST_TO", "FILL", "SCATTER_ND", "TOPK_V2"})
"""Ops without a row in the op table that only move values."""

FIXED_OUTPUT: dict[tuple[str, str], tuple[float, int]] = {
    **{
        (row.name, "int8"): (row.fixed.scale[0], row.fixed.zero_point[0])
        for row in OPS.values()
        if row.fixed is not None
    },
    ("LOGISTIC", "int16"): (1 / 32768, 0),
    ("SOFTMAX", "int16"): (1 / 32768, 0),
    ("TANH", "int16"): (1 / 32768, 0),
    ("LOGISTIC", "uint8"): (1 / 256, 0),
    ("SOFTMAX", "uint8"): (1 / 256, 0),
    ("TANH", "uint8"): (1 / 128, 128),
    ("L2_NORMALIZATION", "uint8"): (1 / 128, 128),
}
"""Scale and zero point that the kernel dictates, by op and type."""


@error(AGAIN)
def scale_positive(subject: Subject, op: Operator) -> Iterator[Found]:
    """Every scale is a finite number above 0.

    Source: kernels divide by it, and silently compute NaN or 0.
    """
    for tensor, stored in stored_parameters(subject, op):
        wrong = stored.wrong_scale()
        if wrong is not None:
            yield tensor, f"scale {wrong:g}"


@error(AGAIN)
def zero_point_range(subject: Subject, op: Operator) -> Iterator[Found]:
    """A zero point is an integer that the tensor's type can hold.

    Source: kernels cast it to that type; padding checks it, most others compute silently.
    """
    for tensor, stored in stored_parameters(subject, op):
        wrong = stored.wrong_zero_point(tensor.dtype) if tensor.dtype in LIMITS else None
        if wrong is not None:
            yield tensor, f"zero point {wrong} in {tensor.dtype}"


@error(AGAIN)
def number_of_scales(subject: Subject, op: Operator) -> Iterator[Found]:
    """A tensor has one scale, or one for each index of its quantized dimension.

    Source: `kernel_util.cc`; convolutions refuse to load, others silently read the first.
    """
    for tensor, stored in stored_parameters(subject, op):
        wrong = stored.wrong_count(tensor.shape)
        if wrong is not None:
            yield tensor, wrong


@error(AGAIN)
def missing_parameters(subject: Subject, op: Operator) -> Iterator[Found]:
    """An integer activation of an op that computes has a scale.

    Source: by experiment: without a scale the process is aborted when the model is loaded.
    """
    row = OPS.get(op.name)
    if row is None or row.rule is ScaleRule.SAME:
        return
    for tensor in activations(subject, op):
        if tensor.index not in subject.stored:
            yield tensor, f"{tensor.dtype} without scale"


@error(AGAIN)
def symmetric_int16(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int16 activations have the zero point 0.

    Source: LiteRT quantization specification; kernels refuse to load.
    """
    for tensor, stored in stored_parameters(subject, op):
        if tensor.dtype == "int16" and any(stored.zero_point):
            yield tensor, f"zero point {stored.zero_point[0]}"


@error(AGAIN)
def per_channel_activation(subject: Subject, op: Operator) -> Iterator[Found]:
    """Activations have one scale; only weights and biases have one a channel.

    Source: LiteRT quantization specification; kernels silently read the first scale.
    """
    if op.name not in OPS:
        return
    for tensor in activations(subject, op):
        stored = subject.stored.get(tensor.index)
        if stored is not None and len(stored.scale) > 1 and not stored.is_custom:
            yield tensor, f"{len(stored.scale)} scales"


@error(f"requantize the input with QUANTIZE, or {AGAIN}")
def same_scale(subject: Subject, op: Operator) -> Iterator[Found]:
    """An op that only moves values has the same scale and zero point at its inputs and outputs.

    Source: LiteRT quantization specification, `operator_property.cc` and `tfl_ops.td`; some kernels
    refuse to load, but RESHAPE, GATHER, MAXIMUM, AVERAGE_POOL_2D and others silently compute wrong
    numbers.
    """
    row = OPS.get(op.name)
    moves = op.name in ALSO_SAME_SCALE or (row is not None and row.rule is ScaleRule.SAME)
    results = [t for t in subject.results(op) if t.dtype in LIMITS]
    if not moves or not results or (op.name == "CONCATENATION" and results[0].dtype == "uint8"):
        return
    expected = described(subject, results[0])
    for tensor in activations(subject, op):
        found = described(subject, tensor)
        if tensor.dtype == results[0].dtype and found != expected:
            yield tensor, f"{found} against {expected} of {results[0].name!r}"


@error(f"give the output exactly these parameters, or {AGAIN}")
def fixed_output(subject: Subject, op: Operator) -> Iterator[Found]:
    """The outputs of LOGISTIC, SOFTMAX, TANH, L2_NORMALIZATION and LOG_SOFTMAX have the scale and
    zero point that their kernels dictate.

    Source: LiteRT quantization specification; most kernels refuse to load, int8 TANH and LOGISTIC
    silently compute by the scale that they expect.
    """
    for tensor in subject.results(op):
        expected = FIXED_OUTPUT.get((op.name, tensor.dtype))
        stored = subject.stored.get(tensor.index)
        if expected is None or stored is None:
            continue
        scale, zero_point = expected
        exact = math.isclose(stored.scale[0], scale, rel_tol=SCALE_TOLERANCE)
        if not exact or (stored.zero_point[:1] or (0,)) != (zero_point,):
            found = described(subject, tensor)
            yield tensor, f"{found} instead of scale {scale:g} zero point {zero_point}"
