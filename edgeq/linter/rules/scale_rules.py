"""The rules of scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeq.flatbuffer import Operator
from edgeq.linter.rules.roles import SCALE_TOLERANCE, activations, described, stored_parameters
from edgeq.linter.rules.rule import AGAIN, Found, error
from edgeq.linter.subject import LIMITS, Subject
from edgeq.ops import OPS, OTHER_OPS, ScaleRule
from edgeq.qtypes import DType

TYPES = {dtype.type_name: dtype for dtype in (DType.INT8, DType.UINT8, DType.INT16)}
"""Types of activations by their name in a file."""


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
    results = [t for t in subject.results(op) if t.dtype in LIMITS]
    if not results or not _shares_scale(op.name, results[0].dtype):
        return
    expected = described(subject, results[0])
    for tensor in activations(subject, op):
        found = described(subject, tensor)
        if tensor.dtype == results[0].dtype and found != expected:
            yield tensor, f"{found} against {expected} of {results[0].name!r}"


def _shares_scale(name: str, dtype: str) -> bool:
    """Whether an op in some type has one scale at its inputs and outputs."""
    row, other = OPS.get(name), OTHER_OPS.get(name)
    if row is None:
        return other is not None and other.same_scale
    return row.rule is ScaleRule.SAME and not (row.rescales_uint8 and dtype == "uint8")


@error(f"give the output exactly these parameters, or {AGAIN}")
def fixed_output(subject: Subject, op: Operator) -> Iterator[Found]:
    """The output of an op whose kernel dictates its scale and zero point has these (LOGISTIC,
    SOFTMAX, TANH, L2_NORMALIZATION, LOG_SOFTMAX).

    Source: LiteRT quantization specification; most kernels refuse to load, int8 TANH and LOGISTIC
    silently compute by the scale that they expect.
    """
    for tensor in subject.results(op):
        row, dtype = OPS.get(op.name), TYPES.get(tensor.dtype)
        expected = None if row is None or dtype is None else row.fixed_for(dtype)
        stored = subject.stored.get(tensor.index)
        if expected is None or stored is None:
            continue
        (scale,), (zero_point,) = expected.scale, expected.zero_point
        exact = math.isclose(stored.scale[0], scale, rel_tol=SCALE_TOLERANCE)
        if not exact or (stored.zero_point[:1] or (0,)) != (zero_point,):
            found = described(subject, tensor)
            yield tensor, f"{found} instead of scale {scale:g} zero point {zero_point}"
