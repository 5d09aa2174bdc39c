"""The rules of weights and biases."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgeq.flatbuffer import Operator
from edgeq.linter.rules.roles import SCALE_TOLERANCE, bias_of, source_of, weight_of
from edgeq.linter.rules.rule import AGAIN, Found, error, warning
from edgeq.linter.subject import LIMITS, Stored, Subject
from edgeq.ops import OPS


@error(AGAIN)
def bias_type(subject: Subject, op: Operator) -> Iterator[Found]:
    """The bias of an integer op is int32 (int32 or int64 with int16 activations), has the zero
    point 0 and one value for each output channel.

    Source: LiteRT quantization specification; kernels refuse to load.
    """
    source, bias = source_of(subject, op), bias_of(subject, op)
    if source is None or bias is None or source.dtype not in LIMITS:
        return
    allowed = ("int32", "int64") if source.dtype == "int16" else ("int32",)
    if bias.dtype not in allowed:
        yield bias, bias.dtype
    stored, weight = subject.stored.get(bias.index), weight_of(subject, op)
    if stored is not None and any(stored.zero_point):
        yield bias, f"zero point {next(filter(None, stored.zero_point))}"
    axis = OPS[op.name].weight_axis
    if weight is not None and axis is not None and math.prod(bias.shape) != weight.shape[axis]:
        yield bias, f"{math.prod(bias.shape)} values for {weight.shape[axis]} channels"


@error(AGAIN)
def bias_scale(subject: Subject, op: Operator) -> Iterator[Found]:
    """The scale of an integer bias is input scale * weight scale, channel by channel.

    Source: LiteRT quantization specification; no kernel of int8 convolutions checks it: the bias is
    silently added by the wrong unit.
    """
    source, weight, bias = source_of(subject, op), weight_of(subject, op), bias_of(subject, op)
    if source is None or weight is None or bias is None or source.dtype not in LIMITS:
        return
    stored = [subject.stored.get(t.index) for t in (source, weight, bias)]
    of_source, of_weight, of_bias = stored
    if of_source is None or of_weight is None or bias.dtype not in ("int32", "int64"):
        return
    if of_bias is None:
        yield bias, "no scale"
        return
    expected = of_source.scale[0] * np.asarray(of_weight.scale)
    if len(of_bias.scale) not in (1, len(expected)):
        return  # number-of-scales says it.
    found = np.broadcast_to(np.asarray(of_bias.scale), expected.shape)
    wrong = ~np.isclose(found, expected, rtol=SCALE_TOLERANCE, atol=0)
    if wrong.any():
        channel = int(np.argmax(wrong))
        yield (
            bias,
            (
                f"{found[channel]:.6g} instead of {expected[channel]:.6g} in channel {channel}"
                + (f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else "")
            ),
        )


@error(AGAIN)
def weight_zero_point(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int8 weights of convolutions, and all per-channel weights, have the zero point 0.

    Source: LiteRT quantization specification; convolutions on integers refuse to load, and the
    dynamic-range ones silently take it for 0.
    """
    weight = weight_of(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    if stored is not None and any(stored.zero_point) and not _may_be_shifted(op, stored):
        yield weight, f"zero point {next(filter(None, stored.zero_point))}"


def _may_be_shifted(op: Operator, stored: Stored) -> bool:
    weight = OPS[op.name].weight
    return weight is not None and weight.zero_point and len(stored.scale) == 1


@warning("quantize the weights symmetrically")
def shifted_weight(subject: Subject, op: Operator) -> Iterator[Found]:
    """Weights of FULLY_CONNECTED and BATCH_MATMUL are symmetric: the zero point is 0.

    Source: LiteRT quantization specification; plain kernels compute with it, delegates do not take
    the op.
    """
    weight = weight_of(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    if stored is not None and any(stored.zero_point) and _may_be_shifted(op, stored):
        yield weight, f"zero point {stored.zero_point[0]}"


@error(AGAIN)
def weight_axis(subject: Subject, op: Operator) -> Iterator[Found]:
    """Per-channel weights have their scales along the output channels: dimension 3 of
    DEPTHWISE_CONV_2D, 0 of CONV_2D, TRANSPOSE_CONV and FULLY_CONNECTED.

    Source: `operator_property.cc`; where the dimensions are equally long no kernel can tell.
    """
    weight = weight_of(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    axis = OPS[op.name].weight_axis if weight is not None else None
    if stored is not None and axis is not None and len(stored.scale) > 1 and stored.axis != axis:
        yield weight, f"dimension {stored.axis} instead of {axis}"


@warning("quantize the weights to [-127, 127] (narrow range)")
def lowest_weight(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int8 weights are in [-127, 127].

    Source: LiteRT quantization specification; kernels that add pairs of products in 16 bits may
    overflow on -128.
    """
    weight = weight_of(subject, op)
    if weight is None or weight.data is None or weight.index not in subject.stored:
        return
    count = int((weight.data == -128).sum())
    if count:
        yield weight, f"{count} times -128"
