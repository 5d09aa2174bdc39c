"""The rules of quantized files that hold on every target, those that no kernel checks included.

The docstring of a rule is its only wording: messages and docs/targets.md are made of it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.linter.result import Severity
from edgeq.linter.subject import LIMITS, Stored, Subject
from edgeq.ops import OPS, WEIGHTS, ScaleRule

Found = tuple[Tensor | None, str]
"""The tensor at fault (None for the op as such) and what was found, in a few words."""

Check = Callable[[Subject, Operator], Iterable[Found]]

BOUNDARY = ("QUANTIZE", "DEQUANTIZE")
SCALE_TOLERANCE = 1e-3
"""Relative difference from which a bias scale is wrong; far below half an int8 step."""

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


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        check: The rule as a function with a docstring that ends in `Source: ...`.
        severity: How bad it is to break it.
        advice: What to do then.
    """

    check: Check
    severity: Severity
    advice: str

    @property
    def name(self) -> str:
        """Name that findings show, for example `bias-scale`."""
        return self.check.__name__.replace("_", "-")

    @property
    def sentence(self) -> str:
        """The rule in one sentence, without its full stop."""
        return self._documented()[0].rstrip(".")

    @property
    def source(self) -> str:
        """Where it comes from, and what happens if it is broken."""
        return self._documented()[1].rstrip(".")

    def _documented(self) -> tuple[str, str]:
        sentence, _, source = (inspect.getdoc(self.check) or "").partition("Source:")
        return " ".join(sentence.split()), " ".join(source.split())


def _error(advice: str) -> Callable[[Check], Rule]:
    return lambda check: Rule(check, Severity.ERROR, advice)


def _warning(advice: str) -> Callable[[Check], Rule]:
    return lambda check: Rule(check, Severity.WARNING, advice)


AGAIN = "quantize the float model again; edgeq export keeps this rule"


def _parameters(subject: Subject, op: Operator) -> Iterator[tuple[Tensor, Stored]]:
    for tensor in subject.tensors(op):
        if tensor.index in subject.stored:
            yield tensor, subject.stored[tensor.index]


def _activations(subject: Subject, op: Operator) -> list[Tensor]:
    """Operands and results of integer type that are neither weight nor bias."""
    row = OPS.get(op.name)
    parameters: tuple[int | None, ...] = (row.weight, row.bias) if row else ()
    if _looks_up_floats(subject, op):
        parameters = (WEIGHTS[op.name].slot,)
    operands = [
        t for slot, t in subject.operands(op) if slot not in parameters or not t.is_constant
    ]
    return [t for t in (*operands, *subject.results(op)) if t.dtype in LIMITS]


def _looks_up_floats(subject: Subject, op: Operator) -> bool:
    """Whether an op makes the rows that it picks of a table float, each by its own scale."""
    row = WEIGHTS.get(op.name)
    return row is not None and row.table and subject.results(op)[0].dtype == "float32"


def _weight(subject: Subject, op: Operator) -> Tensor | None:
    """The constant integer weight."""
    row = OPS.get(op.name)
    tensor = subject.operand(op, row.weight) if row else None
    return tensor if tensor is not None and tensor.is_constant and tensor.dtype == "int8" else None


def _source(subject: Subject, op: Operator) -> Tensor | None:
    """The activation that a weight is applied to."""
    return subject.operand(op, 2 if op.name == "TRANSPOSE_CONV" else 0)


@_error(AGAIN)
def scale_positive(subject: Subject, op: Operator) -> Iterator[Found]:
    """Every scale is a finite number above 0.

    Source: kernels divide by it, and silently compute NaN or 0.
    """
    for tensor, stored in _parameters(subject, op):
        wrong = stored.wrong_scale()
        if wrong is not None:
            yield tensor, f"scale {wrong:g}"


@_error(AGAIN)
def zero_point_range(subject: Subject, op: Operator) -> Iterator[Found]:
    """A zero point is an integer that the tensor's type can hold.

    Source: kernels cast it to that type; padding checks it, most others compute silently.
    """
    for tensor, stored in _parameters(subject, op):
        wrong = stored.wrong_zero_point(tensor.dtype) if tensor.dtype in LIMITS else None
        if wrong is not None:
            yield tensor, f"zero point {wrong} in {tensor.dtype}"


@_error(AGAIN)
def number_of_scales(subject: Subject, op: Operator) -> Iterator[Found]:
    """A tensor has one scale, or one for each index of its quantized dimension.

    Source: `kernel_util.cc`; convolutions refuse to load, others silently read the first.
    """
    for tensor, stored in _parameters(subject, op):
        wrong = stored.wrong_count(tensor.shape)
        if wrong is not None:
            yield tensor, wrong


@_error(AGAIN)
def missing_parameters(subject: Subject, op: Operator) -> Iterator[Found]:
    """An integer activation of an op that computes has a scale.

    Source: by experiment: without a scale the process is aborted when the model is loaded.
    """
    row = OPS.get(op.name)
    if row is None or row.rule is ScaleRule.SAME:
        return
    for tensor in _activations(subject, op):
        if tensor.index not in subject.stored:
            yield tensor, f"{tensor.dtype} without scale"


@_error(AGAIN)
def symmetric_int16(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int16 activations have the zero point 0.

    Source: LiteRT quantization specification; kernels refuse to load.
    """
    for tensor, stored in _parameters(subject, op):
        if tensor.dtype == "int16" and any(stored.zero_point):
            yield tensor, f"zero point {stored.zero_point[0]}"


@_error(AGAIN)
def per_channel_activation(subject: Subject, op: Operator) -> Iterator[Found]:
    """Activations have one scale; only weights and biases have one a channel.

    Source: LiteRT quantization specification; kernels silently read the first scale.
    """
    if op.name not in OPS:
        return
    for tensor in _activations(subject, op):
        stored = subject.stored.get(tensor.index)
        if stored is not None and len(stored.scale) > 1 and not stored.is_custom:
            yield tensor, f"{len(stored.scale)} scales"


@_error(f"requantize the input with QUANTIZE, or {AGAIN}")
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
    expected = _described(subject, results[0])
    for tensor in _activations(subject, op):
        found = _described(subject, tensor)
        if tensor.dtype == results[0].dtype and found != expected:
            yield tensor, f"{found} against {expected} of {results[0].name!r}"


def _described(subject: Subject, tensor: Tensor) -> str:
    stored = subject.stored.get(tensor.index)
    if stored is None:
        return "no scale"
    points = ", ".join(map(str, stored.zero_point)) or "0"
    return f"scale {', '.join(f'{s:.9g}' for s in stored.scale)} zero point {points}"


@_error(f"give the output exactly these parameters, or {AGAIN}")
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
            found = _described(subject, tensor)
            yield tensor, f"{found} instead of scale {scale:g} zero point {zero_point}"


@_error(AGAIN)
def bias_type(subject: Subject, op: Operator) -> Iterator[Found]:
    """The bias of an integer op is int32 (int32 or int64 with int16 activations), has the zero
    point 0 and one value for each output channel.

    Source: LiteRT quantization specification; kernels refuse to load.
    """
    source, bias = _source(subject, op), _bias(subject, op)
    if source is None or bias is None or source.dtype not in LIMITS:
        return
    allowed = ("int32", "int64") if source.dtype == "int16" else ("int32",)
    if bias.dtype not in allowed:
        yield bias, bias.dtype
    stored, weight = subject.stored.get(bias.index), _weight(subject, op)
    if stored is not None and any(stored.zero_point):
        yield bias, f"zero point {next(filter(None, stored.zero_point))}"
    axis = OPS[op.name].weight_axis
    if weight is not None and axis is not None and math.prod(bias.shape) != weight.shape[axis]:
        yield bias, f"{math.prod(bias.shape)} values for {weight.shape[axis]} channels"


def _bias(subject: Subject, op: Operator) -> Tensor | None:
    row = OPS.get(op.name)
    return subject.operand(op, row.bias) if row else None


@_error(AGAIN)
def bias_scale(subject: Subject, op: Operator) -> Iterator[Found]:
    """The scale of an integer bias is input scale * weight scale, channel by channel.

    Source: LiteRT quantization specification; no kernel of int8 convolutions checks it: the bias is
    silently added by the wrong unit.
    """
    source, weight, bias = _source(subject, op), _weight(subject, op), _bias(subject, op)
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


@_error(AGAIN)
def weight_zero_point(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int8 weights of convolutions, and all per-channel weights, have the zero point 0.

    Source: LiteRT quantization specification; convolutions on integers refuse to load, and the
    dynamic-range ones silently take it for 0.
    """
    weight = _weight(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    if stored is not None and any(stored.zero_point) and not _may_be_shifted(op, stored):
        yield weight, f"zero point {next(filter(None, stored.zero_point))}"


def _may_be_shifted(op: Operator, stored: Stored) -> bool:
    return op.name in ("FULLY_CONNECTED", "BATCH_MATMUL") and len(stored.scale) == 1


@_warning("quantize the weights symmetrically")
def shifted_weight(subject: Subject, op: Operator) -> Iterator[Found]:
    """Weights of FULLY_CONNECTED and BATCH_MATMUL are symmetric: the zero point is 0.

    Source: LiteRT quantization specification; plain kernels compute with it, delegates do not take
    the op.
    """
    weight = _weight(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    if stored is not None and any(stored.zero_point) and _may_be_shifted(op, stored):
        yield weight, f"zero point {stored.zero_point[0]}"


@_error(AGAIN)
def weight_axis(subject: Subject, op: Operator) -> Iterator[Found]:
    """Per-channel weights have their scales along the output channels: dimension 3 of
    DEPTHWISE_CONV_2D, 0 of CONV_2D, TRANSPOSE_CONV and FULLY_CONNECTED.

    Source: `operator_property.cc`; where the dimensions are equally long no kernel can tell.
    """
    weight = _weight(subject, op)
    stored = subject.stored.get(weight.index) if weight is not None else None
    axis = OPS[op.name].weight_axis if weight is not None else None
    if stored is not None and axis is not None and len(stored.scale) > 1 and stored.axis != axis:
        yield weight, f"dimension {stored.axis} instead of {axis}"


@_warning("quantize the weights to [-127, 127] (narrow range)")
def lowest_weight(subject: Subject, op: Operator) -> Iterator[Found]:
    """Int8 weights are in [-127, 127].

    Source: LiteRT quantization specification; kernels that add pairs of products in 16 bits may
    overflow on -128.
    """
    weight = _weight(subject, op)
    if weight is None or weight.data is None or weight.index not in subject.stored:
        return
    count = int((weight.data == -128).sum())
    if count:
        yield weight, f"{count} times -128"


@_error("take the zero out of the divisor, or leave the op float")
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


@_error("leave the op int8 or float")
def int16_form(subject: Subject, op: Operator) -> Iterator[Found]:
    """An op with int16 activations is one that has an int16 kernel.

    Source: by experiment; the model does not load, or fails when it runs.
    """
    kinds = {t.dtype for t in _activations(subject, op)}
    if op.name in NO_INT16 and "int16" in kinds:
        yield None, f"{op.name} in int16"


@_error("quantize the float model again with the state's range rounded up to a power of two")
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


@_warning("convert with a tool that writes the version, so that old run times refuse cleanly")
def op_version(subject: Subject, op: Operator) -> Iterator[Found]:
    """An int8 op has at least the version from which its kernel knows int8.

    Source: `op_version.cc` of the converter; an older run time loads the file and fails inside.
    """
    oldest = OLDEST_INT8_VERSION.get(op.name, 1)
    is_int8 = "int8" in {t.dtype for t in _activations(subject, op)}
    if is_int8 and op.version < oldest:
        yield None, f"version {op.version} of {op.name}, int8 since {oldest}"


@_warning("give the op an int8 form, or leave its neighbours float as well")
def float_between_integers(subject: Subject, op: Operator) -> Iterator[Found]:
    """No op computes in float between integers, where it costs two conversions and stays unnoticed.

    Source: converters leave ops without an int8 form float without a message.
    """
    graph = subject.graph
    if op.name in BOUNDARY or not any(t.dtype == "float32" for t in subject.results(op)):
        return
    if _from_integers(graph, op) and _to_integers(graph, op):
        yield None, f"{op.name} in float32"


def _from_integers(graph: Graph, op: Operator) -> bool:
    """Whether a float that `op` reads was an integer before."""
    waiting, seen = [op], {op.index}
    while waiting:
        for index in waiting.pop().inputs:
            producer = graph.producers.get(index)
            if (
                producer is None
                or producer.index in seen
                or graph.tensors[index].dtype != "float32"
            ):
                continue
            if producer.name == "DEQUANTIZE":
                if not graph.tensors[producer.inputs[0]].is_constant:
                    return True
                continue
            seen.add(producer.index)
            waiting.append(producer)
    return False


def _to_integers(graph: Graph, op: Operator) -> bool:
    """Whether a float that `op` makes becomes an integer later."""
    waiting, seen = [op], {op.index}
    while waiting:
        for index in waiting.pop().outputs:
            for user, _ in graph.uses.get(index, []):
                if graph.tensors[index].dtype != "float32" or user.index in seen:
                    continue
                if user.name == "QUANTIZE":
                    return True
                seen.add(user.index)
                waiting.append(user)
    return False


@_warning("drop both conversions, or let one QUANTIZE go from integer to integer")
def conversion_pair(subject: Subject, op: Operator) -> Iterator[Found]:
    """No conversion undoes the one before it, and none changes nothing.

    Source: converters leave such pairs where parts were quantized apart.
    """
    if op.name != "QUANTIZE":
        return
    graph, source = subject.graph, subject.graph.tensors[op.inputs[0]]
    result, before = graph.tensors[op.outputs[0]], graph.producers.get(op.inputs[0])
    if source.dtype == result.dtype and _same(subject, source, result):
        yield result, "QUANTIZE to the parameters that its input has"
    elif before is not None and before.name in BOUNDARY:
        start = graph.tensors[before.inputs[0]]
        if before.name == "DEQUANTIZE" and not start.is_constant:
            what = "back to the same" if _same(subject, start, result) else "to other"
            yield result, f"DEQUANTIZE and QUANTIZE {what} parameters"
        elif start.dtype == result.dtype and _same(subject, start, result):
            yield result, "two QUANTIZE back to the same parameters"


def _same(subject: Subject, one: Tensor, other: Tensor) -> bool:
    return subject.stored.get(one.index) == subject.stored.get(other.index)


RULES: tuple[Rule, ...] = (
    scale_positive, zero_point_range, number_of_scales, missing_parameters, symmetric_int16,
    per_channel_activation, same_scale, fixed_output, bias_type, bias_scale, weight_zero_point,
    shifted_weight, weight_axis, lowest_weight, constant_divisor, int16_form, cell_state,
    op_version, float_between_integers, conversion_pair,
)  # fmt: skip
"""All rules, in the order in which their findings are shown."""
