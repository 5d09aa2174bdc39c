"""The XNNPACK delegate of ai-edge-litert 2.3: the ops it takes in float, int8 and dynamic range.

Most of it is what the delegate checks before it takes an op (`xnnpack_delegate.cc`); an op that
fails there runs on the plain kernels without a word. What the library below it refuses shows only
when the model is loaded, and then the whole model does not load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgeq.flatbuffer import Graph
from edgeq.ops import OPS
from edgeq.targets.constraints import Effect, constraint
from edgeq.targets.target import Placement, Purpose, Target
from edgeq.targets.views import UNPACKED, OpView, TensorView, is_unpacked

QUANTIZED = ("int8", "uint8")
RANK_MAX = 6
REQUANTIZATION_MAX = 256.0
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
VALID_PADDING = 1
"""The schema's code of VALID padding; 0 is SAME."""


@dataclass(frozen=True)
class Form:
    """How the delegate takes one op.

    Attributes:
        integer: Whether it takes it in int8 as well as in float.
        data: Slots of the activations; None for all operands.
        static: Slots of operands that must be constants.
        operands: Smallest and largest number of operands.
        results: Smallest and largest number of results.
    """

    integer: bool
    data: tuple[int, ...] | None = (0,)
    static: tuple[int, ...] = ()
    operands: tuple[int, int] = (1, 1)
    results: tuple[int, int] = (1, 1)


_UNARY = Form(integer=True)
_FLOAT_UNARY = Form(integer=False)
_BINARY = Form(integer=True, data=(0, 1), operands=(2, 2))
_FLOAT_BINARY = Form(integer=False, data=(0, 1), operands=(2, 2))
_SHAPED = Form(integer=True, static=(1,), operands=(2, 2))
_CONVOLUTION = Form(integer=True, static=(1, 2), operands=(3, 3))

FORMS: dict[str, Form] = {
    "CONV_2D": _CONVOLUTION,
    "DEPTHWISE_CONV_2D": _CONVOLUTION,
    "TRANSPOSE_CONV": Form(True, data=(2,), static=(0, 1, 3), operands=(3, 4)),
    "FULLY_CONNECTED": Form(True, static=(1, 2), operands=(2, 3)),
    "BATCH_MATMUL": _BINARY,
    **dict.fromkeys(("ADD", "SUB", "MUL"), _BINARY),
    "CONCATENATION": Form(True, data=None, operands=(2, 5)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _SHAPED),
    **dict.fromkeys(("PAD", "RESIZE_BILINEAR", "TRANSPOSE"), _SHAPED),
    "RESHAPE": Form(True, static=(1,), operands=(1, 2)),
    "SLICE": Form(True, static=(1, 2), operands=(3, 3)),
    "STRIDED_SLICE": Form(True, static=(1, 2, 3), operands=(4, 4)),
    "SPLIT": Form(True, data=(1,), static=(0,), operands=(2, 2), results=(2, 4)),
    **dict.fromkeys(("MAX_POOL_2D", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _UNARY),
    **dict.fromkeys(("LOGISTIC", "TANH", "ELU", "LEAKY_RELU", "QUANTIZE", "DEQUANTIZE"), _UNARY),
    "AVERAGE_POOL_2D": _FLOAT_UNARY,
    "SOFTMAX": _FLOAT_UNARY,
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "GELU"), _FLOAT_UNARY),
    **dict.fromkeys(("ABS", "NEG", "CEIL", "FLOOR", "ROUND", "SQUARE"), _FLOAT_UNARY),
    **dict.fromkeys(("EXP", "LOG", "SIN", "COS", "SQRT", "RSQRT"), _FLOAT_UNARY),
    **dict.fromkeys(("DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"), _FLOAT_BINARY),
    "PRELU": Form(False, data=(0, 1), static=(1,), operands=(2, 2)),
}
"""The ops that the delegate has."""

_RANK_UNCHECKED = (
    "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "CONCATENATION", "SPLIT", "SOFTMAX", "BATCH_MATMUL",
)  # fmt: skip
"""Ops that the delegate takes at any rank, although the library below it does not."""

_SAME_PARAMETERS = (
    "CONCATENATION", "MAX_POOL_2D", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "PAD",
    "RESIZE_BILINEAR", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
)  # fmt: skip


def _activations(op: OpView) -> Iterator[TensorView]:
    """Activations that an op reads and writes: no weights, biases, axes or shapes."""
    form = FORMS[op.name]
    slots = range(len(op.inputs)) if form.data is None else form.data
    yield from (t for t in map(op.operand, slots) if t is not None)
    yield from op.outputs


def _first(op: OpView) -> TensorView:
    return next(_activations(op))


def _weight(op: OpView) -> TensorView | None:
    slot = OPS[op.name].weight_slot if op.name in OPS else None
    return None if slot is None else op.operand(slot)


def _bias(op: OpView) -> TensorView | None:
    slot = OPS[op.name].bias_slot
    return None if slot is None else op.operand(slot)


def _is_unpacking(op: OpView) -> bool:
    """Whether the op turns a constant into floats, which happens once, when the model is loaded."""
    source = op.operand(0)
    return (
        op.name == "DEQUANTIZE"
        and source is not None
        and source.is_constant
        and source.dtype in UNPACKED
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


@constraint()
def delegated_op(op: OpView) -> str | None:
    """XNNPACK has the op.

    Source: the list of ops in `xnnpack_delegate.cc`.
    """
    return None if op.name in FORMS else f"it has no {op.name}"


@constraint()
def number_of_operands(op: OpView) -> str | None:
    """XNNPACK takes CONCATENATION of 2 to 5 inputs, SPLIT into 2 to 4, others with all operands.

    Source: the checks of the number of inputs and outputs in `xnnpack_delegate.cc`.
    """
    form = FORMS.get(op.name)
    if form is None:
        return None
    for count, (low, high), what in (
        (len(op.inputs), form.operands, "inputs"),
        (len(op.outputs), form.results, "outputs"),
    ):
        if not low <= count <= high:
            return f"{count} {what}"
    absent = [slot for slot in range(form.operands[0]) if op.inputs[slot] is None]
    return f"operand {absent[0]} is absent" if absent else None


@constraint()
def data_type(op: OpView) -> str | None:
    """XNNPACK has the op in the type that it computes in, and all its activations have that type.

    Source: the checks of tensor types in `xnnpack_delegate.cc`; int16 is never taken.
    """
    form = FORMS.get(op.name)
    if form is None or op.name in ("QUANTIZE", "DEQUANTIZE"):
        return None
    types = [t.dtype for t in _activations(op)]
    if op.name == "BATCH_MATMUL" and types == ["float32", "int8", "float32"]:
        return None
    allowed = ("float32", *QUANTIZED) if form.integer else ("float32",)
    wrong = [kind for kind in types if kind not in allowed]
    if wrong:
        return f"{op.name} in {wrong[0]}"
    return None if len(set(types)) == 1 else f"mixed types: {_listed(types)}"


@constraint("QUANTIZE", "DEQUANTIZE")
def conversion_type(op: OpView) -> str | None:
    """XNNPACK converts float32 to int8 or uint8, back, and either to itself.

    Source: the cases QUANTIZE and DEQUANTIZE in `xnnpack_delegate.cc`.
    """
    source, result = _first(op).dtype, op.outputs[0].dtype
    if op.name == "DEQUANTIZE":
        good = result == "float32" and (source in QUANTIZED or _is_unpacking(op))
    else:
        good = result in QUANTIZED and source in ("float32", result)
    return None if good else f"{source} to {result}"


@constraint(*CONVOLUTIONS)
def weight_type(op: OpView) -> str | None:
    """XNNPACK takes float and int8 weights as the activations, int8 with float activations but in
    DEPTHWISE_CONV_2D, and int4 and int2 in FULLY_CONNECTED alone.

    Source: the checks of mixed types in `xnnpack_delegate.cc`; int2 by experiment.
    """
    source, weight = _first(op).dtype, _weight(op)
    assert weight is not None
    allowed = {source}
    if source == "float32" and op.name != "DEPTHWISE_CONV_2D":
        allowed.add("int8")
    if op.name == "FULLY_CONNECTED" and source != "uint8":
        allowed |= {"int4", "int2"}
    return None if weight.dtype in allowed else f"{weight.dtype} weights with {source} activations"


@constraint()
def per_tensor_activations(op: OpView) -> str | None:
    """XNNPACK takes int8 activations with one scale each.

    Source: the checks of tensor types in `xnnpack_delegate.cc`.
    """
    if op.name not in FORMS or _is_unpacking(op):
        return None
    weight = _weight(op) if op.name == "BATCH_MATMUL" and _first(op).dtype == "float32" else None
    for tensor in _activations(op):
        if tensor is weight or tensor.dtype != "int8":
            continue
        if tensor.qparams is None:
            return "an int8 tensor without scale"
        if tensor.scale is None:
            return f"{len(tensor.qparams.scale)} scales"
    return None


@constraint()
def fused_activation(op: OpView) -> str | None:
    """XNNPACK fuses RELU, RELU6 and RELU_N1_TO_1 and no other activation.

    Source: `ConvertActivationToOutputRange` in `xnnpack_delegate.cc`.
    """
    return None if op.fused_activation in ACTIVATIONS else op.fused_activation


def _rank(op: OpView) -> str | None:
    ranks = [len(t.shape) for t in _activations(op)]
    return f"{max(ranks)} dimensions" if max(ranks) > RANK_MAX else None


@constraint()
def rank(op: OpView) -> str | None:
    """XNNPACK takes tensors of 6 dimensions at most.

    Source: `XNN_MAX_TENSOR_DIMS`.
    """
    return None if op.name in _RANK_UNCHECKED or op.name not in FORMS else _rank(op)


@constraint(*_RANK_UNCHECKED, effect=Effect.REFUSAL)
def rank_unchecked(op: OpView) -> str | None:
    """XNNPACK takes these ops at any rank, but works up to 6 dimensions.

    Source: `XNN_MAX_TENSOR_DIMS`; by experiment.
    """
    return _rank(op)


@constraint()
def static_operands(op: OpView) -> str | None:
    """XNNPACK needs weights, biases, shapes, axes, paddings and slopes as constants.

    Source: `CheckTensorStaticAllocation` in `xnnpack_delegate.cc`.
    """
    static = FORMS[op.name].static if op.name in FORMS else ()
    for slot in static:
        operand = op.operand(slot)
        if operand is not None and not operand.is_constant:
            return f"operand {slot} is computed"
    return None


@constraint("FULLY_CONNECTED")
def weight_matrix(op: OpView) -> str | None:
    """XNNPACK takes FULLY_CONNECTED weights of 2 dimensions in the default format, int4 with an
    even number of input channels, int2 with one that 4 divides.

    Source: `VisitFullyConnectedNode` in `xnnpack_delegate.cc`; int2 by experiment.
    """
    weight = _weight(op)
    assert weight is not None
    if len(weight.shape) != 2:
        return f"weights of {len(weight.shape)} dimensions"
    if op.option("weightsFormat"):
        return "shuffled weights"
    step = {"int4": 2, "int2": 4}.get(weight.dtype, 1)
    odd = weight.shape[1] % step != 0
    return f"{weight.shape[1]} input channels in {weight.dtype}" if odd else None


@constraint("FULLY_CONNECTED")
def bias_axis(op: OpView) -> str | None:
    """XNNPACK takes an int32 bias with scales along dimension 0: a bias of one dimension.

    Source: `CheckTensorFloat32OrFloat16OrQCInt32Type` in `xnnpack_delegate.cc`.
    """
    bias = _bias(op)
    if bias is None or bias.qparams is None or not bias.qparams.axis:
        return None
    return f"shape {'x'.join(map(str, bias.shape))}"


@constraint("FULLY_CONNECTED", "TRANSPOSE_CONV")
def weight_zero_point(op: OpView) -> str | None:
    """XNNPACK takes one zero point for all weights of an int8 FULLY_CONNECTED, and one a channel of
    TRANSPOSE_CONV, only where it is 0.

    Source: `xnn_validate_channelwise_quantized_tensor`; by experiment.
    """
    weight = _weight(op)
    assert weight is not None
    if op.name == "TRANSPOSE_CONV":
        return None if weight.scale else _zero_point(weight)
    return _zero_point(weight) if weight.scale and _first(op).dtype == "int8" else None


def _zero_point(tensor: TensorView) -> str | None:
    points = [z for z in tensor.qparams.zero_point if z] if tensor.qparams else []
    return f"zero point {points[0]}" if points and tensor.dtype == "int8" else None


@constraint("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", effect=Effect.REFUSAL)
def weight_zero_point_refused(op: OpView) -> str | None:
    """XNNPACK refuses weights with a zero point other than 0 only after it has taken the op.

    Source: `xnn_define_channelwise_quantized_tensor_value`; by experiment.
    """
    weight = _weight(op)
    assert weight is not None
    dynamic = _first(op).dtype == "float32"
    if (op.name == "CONV_2D" and dynamic) or (
        op.name == "FULLY_CONNECTED" and weight.scale and not dynamic
    ):
        return None
    return _zero_point(weight)


@constraint("CONV_2D")
def dynamic_weight_zero_point(op: OpView) -> str | None:
    """XNNPACK takes per-channel weights with float activations only at zero points of 0.

    Source: `xnn_validate_channelwise_quantized_tensor`; by experiment.
    """
    weight = _weight(op)
    assert weight is not None
    per_channel = weight.scale is None and _first(op).dtype == "float32"
    return _zero_point(weight) if per_channel else None


@constraint("BATCH_MATMUL")
def right_operand(op: OpView) -> str | None:
    """XNNPACK multiplies int8 matrices whose right one has one scale and the zero point 0.

    Source: by experiment.
    """
    left, right = op.operand(0), _weight(op)
    assert left is not None
    assert right is not None
    if left.dtype != "int8":
        return None
    if right.qparams is not None and right.scale is None:
        return f"{len(right.qparams.scale)} scales"
    return _zero_point(right)


@constraint("BATCH_MATMUL", effect=Effect.REFUSAL)
def dynamic_right_operand(op: OpView) -> str | None:
    """XNNPACK refuses a float matrix times an int8 one with a zero point, after it has taken it.

    Source: `VisitBatchMatMulNode` in `xnnpack_delegate.cc`; by experiment.
    """
    left, right = op.operand(0), _weight(op)
    assert left is not None
    assert right is not None
    return _zero_point(right) if left.dtype == "float32" else None


@constraint(*CONVOLUTIONS, "BATCH_MATMUL")
def weight_channel_axis(op: OpView) -> str | None:
    """XNNPACK takes weights with one scale for each output channel.

    Source: `expected_quantized_dimension` in `xnnpack_delegate.cc`.
    """
    weight = _weight(op)
    assert weight is not None
    if weight.qparams is None or weight.qparams.axis is None:
        return None
    axis = OPS[op.name].weight_axis
    if op.name == "BATCH_MATMUL":
        axis = len(weight.shape) - (2 if op.option("adjY") else 1)
    return None if weight.qparams.axis == axis else f"scales along axis {weight.qparams.axis}"


@constraint("TRANSPOSE_CONV")
def transposed_padding(op: OpView) -> str | None:
    """XNNPACK needs a TRANSPOSE_CONV kernel at least as large as the stride with SAME padding, and
    at most as large as the output with VALID padding.

    Source: `CalculateTransposeConvPaddings` in `xnnpack_delegate.cc`.
    """
    weight = _weight(op)
    assert weight is not None
    kernel = weight.shape[1:3]
    if op.option("padding") == VALID_PADDING:
        size = op.outputs[0].shape[1:3]
        large = kernel[0] > size[0] or kernel[1] > size[1]
        return f"kernel {kernel} on an output of {size}" if large else None
    stride = (op.option("strideH"), op.option("strideW"))
    small = kernel[0] < stride[0] or kernel[1] < stride[1]
    return f"kernel {kernel} at strides {stride}" if small else None


@constraint(*CONVOLUTIONS, effect=Effect.REFUSAL)
def requantization_scale(op: OpView) -> str | None:
    """XNNPACK needs input scale * weight scale / output scale below 256 in every channel.

    Source: `xnn_create_convolution2d_nhwc_qs8_qc8w` and its like; the limit by experiment.
    """
    source, weight, result = _first(op), _weight(op), op.outputs[0]
    if weight is None or weight.qparams is None or source.scale is None or result.scale is None:
        return None
    highest = source.scale * max(weight.qparams.scale) / result.scale
    return f"{highest:.6g}" if highest >= REQUANTIZATION_MAX else None


@constraint("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", effect=Effect.REFUSAL)
def bias_scales(op: OpView) -> str | None:
    """XNNPACK needs as many scales of an int32 bias as the weights have.

    Source: by experiment.
    """
    weight, bias = _weight(op), _bias(op)
    if bias is None or weight is None or weight.qparams is None or bias.qparams is None:
        return None
    counts = len(bias.qparams.scale), len(weight.qparams.scale)
    return None if counts[0] == counts[1] else f"{counts[0]} for {counts[1]}"


def _ratio(value: float) -> str:
    return f"{value:.6g}"


@constraint("ADD", "SUB")
def addition_scales(op: OpView) -> str | None:
    """XNNPACK adds and subtracts int8 where input scale / output scale is in [2^-10, 2^8).

    Source: the cases ADD and SUB in `VisitBinaryNode` in `xnnpack_delegate.cc`.
    """
    result = op.outputs[0].scale
    for slot in (0, 1):
        source = op.operand(slot)
        if source is None or source.scale is None or result is None:
            continue
        if not 2**-10 <= source.scale / result < 2**8:
            return f"{_ratio(source.scale / result)} for input {slot}"
    return None


@constraint("MUL")
def product_scales(op: OpView) -> str | None:
    """XNNPACK multiplies int8 where the product of the input scales / output scale is in
    [2^-16, 2^8).

    Source: the case MUL in `VisitBinaryNode` in `xnnpack_delegate.cc`.
    """
    scales = [t.scale for t in _activations(op) if t.scale is not None]
    if len(scales) != 3:
        return None
    ratio = scales[0] * scales[1] / scales[2]
    return None if 2**-16 <= ratio < 2**8 else _ratio(ratio)


@constraint("LEAKY_RELU", "QUANTIZE")
def rescaling(op: OpView) -> str | None:
    """XNNPACK rescales int8 where input scale / output scale is in [2^-8, 2^7].

    Source: the cases LEAKY_RELU and QUANTIZE in `VisitUnaryNode` in `xnnpack_delegate.cc`.
    """
    source, result = _first(op).scale, op.outputs[0].scale
    if source is None or result is None or 2**-8 <= source / result <= 2**7:
        return None
    return _ratio(source / result)


@constraint("LEAKY_RELU")
def negative_slope(op: OpView) -> str | None:
    """XNNPACK needs a LEAKY_RELU slope other than 0, and in int8 slope * input scale / output scale
    in [-127.996, 128] and at least 2^-8 in magnitude.

    Source: the case LEAKY_RELU in `VisitUnaryNode` in `xnnpack_delegate.cc`.
    """
    alpha = float(op.option("alpha", 0.0))
    if not abs(alpha) >= 2**-126:
        return f"slope {alpha:g}"
    source, result = _first(op).scale, op.outputs[0].scale
    if source is None or result is None:
        return None
    ratio = alpha * source / result
    good = -127.99609375 <= ratio <= 128 and abs(ratio) >= 2**-8
    return None if good else _ratio(ratio)


def _different(op: OpView) -> str | None:
    tensors = [t for t in _activations(op) if t.dtype == "int8"]
    kinds = {(t.qparams.scale, t.qparams.zero_point) for t in tensors if t.qparams}
    return f"{len(kinds)} different ones" if len(kinds) > 1 else None


@constraint("RESHAPE")
def reshape_parameters(op: OpView) -> str | None:
    """XNNPACK reshapes int8 where input and output have the same scale and zero point.

    Source: `VisitReshapeNode` in `xnnpack_delegate.cc`.
    """
    return _different(op)


@constraint(*_SAME_PARAMETERS, effect=Effect.REFUSAL)
def same_parameters(op: OpView) -> str | None:
    """XNNPACK needs the same scale and zero point of all int8 inputs and outputs, and checks it
    only after it has taken the op.

    Source: `xnn_define_static_slice` and its like; by experiment.
    """
    return _different(op)


@constraint("AVERAGE_POOL_2D", "MAX_POOL_2D")
def pool_strides(op: OpView) -> str | None:
    """XNNPACK pools with strides that do not exceed the window, and a 1x1 window with stride 1.

    Source: `CheckPoolingParams` in `xnnpack_delegate.cc`.
    """
    window = (op.option("filterHeight"), op.option("filterWidth"))
    stride = (op.option("strideH"), op.option("strideW"))
    large = stride[0] > window[0] or stride[1] > window[1]
    return f"window {window}, strides {stride}" if large else None


@constraint("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def block_size(op: OpView) -> str | None:
    """XNNPACK needs a block size above 1.

    Source: `VisitDepthToSpaceNode` and `VisitSpaceToDepthNode` in `xnnpack_delegate.cc`.
    """
    size = op.option("blockSize")
    return None if size > 1 else f"{size}"


@constraint("SOFTMAX")
def softmax_beta(op: OpView) -> str | None:
    """XNNPACK has SOFTMAX with beta 1 alone.

    Source: `VisitSoftmaxNode` in `xnnpack_delegate.cc`.
    """
    beta = op.option("beta", 0.0)
    return None if beta == 1 else f"beta {beta:g}"


@constraint("SLICE")
def slice_size(op: OpView) -> str | None:
    """XNNPACK slices with sizes that are written out and above 0.

    Source: `VisitSliceNode` in `xnnpack_delegate.cc`.
    """
    size = op.operand(2)
    if size is None or size.data is None or (size.data > 0).all():
        return None
    return f"size {_listed(size.data.tolist())}"


@constraint("STRIDED_SLICE")
def slice_steps(op: OpView) -> str | None:
    """XNNPACK has STRIDED_SLICE with strides of 1 and without ellipsis, new axes or dropped axes.

    Source: `VisitStridedSliceNode` in `xnnpack_delegate.cc`.
    """
    for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if op.option(mask):
            return f"{mask} {op.option(mask)}"
    strides = op.operand(3)
    if strides is None or strides.data is None or (strides.data == 1).all():
        return None
    return f"strides {_listed(strides.data.tolist())}"


def _unpacked_constants(graph: Graph, placement: Placement) -> Placement:
    """A DEQUANTIZE of a constant stays outside as soon as one of its readers does."""
    found = dict(placement)
    for op in graph.operators:
        result = graph.tensors[op.outputs[0]] if op.outputs else None
        if result is None or not is_unpacked(graph, result) or found[op.index]:
            continue
        outside = [user for user, _ in graph.uses.get(result.index, []) if placement[user.index]]
        if outside:
            found[op.index] = (f"XNNPACK does not take {outside[0].name}, which reads its result",)
    return found


ADVICE = {
    "AVERAGE_POOL_2D": "pool over all of an image with MEAN",
    "HARD_SWISH": "edgeq export rewrites it; or train with RELU6",
    "SQUEEZE": "use RESHAPE",
    "EXPAND_DIMS": "use RESHAPE",
    "CONCATENATION": "concatenate at most 5 at a time",
    "SPLIT": "split into at most 4 at a time",
    "RELU": "let it follow a convolution directly, which it then becomes part of",
    "RELU6": "let it follow a convolution directly, which it then becomes part of",
    "SOFTMAX": "leave it out of the model, and let the app compute it",
    "ARG_MAX": "leave it out of the model, and let the app compute it",
}
"""Remedies for ops that the delegate does not take."""

OUTSIDE = "the delegate has it in float alone, where it takes less time than outside of it in int8"

SHORT_ROW = 16
"""Columns from which on a softmax is faster in float: the delegate's kernel takes three passes over
each row."""


def _faster_in_float(op: OpView) -> str:
    """Why a GELU, or a softmax of rows that are not short, is faster in float between integers.

    Whole numbers, extremes and exponents are not: plain kernels look up what int8 values give.

    Source: measured between dense layers on a Xeon with AVX-512 VNNI, LiteRT 2.3, time of the whole
    in us, in float between integers and in int8: four GELU of 256 x 64 32 and 40, of 3,136 x 64 464
    and 574, of 32 x 32 4.3 and 4.9; one softmax of 128 x 128 21 and 53, of 256 x 32 18 and 32, of
    256 x 16 16 and 23, but of 256 x 8 24 and 16, of 256 x 4 24 and 14.
    """
    is_long = op.name == "SOFTMAX" and op.outputs[0].shape[-1] >= SHORT_ROW
    return OUTSIDE if op.name == "GELU" or is_long else ""


XNNPACK = Target(
    name="xnnpack",
    title="the XNNPACK delegate",
    about="The CPU delegate. The tests hold each row against the real delegate, limits from both "
    "sides.",
    premises=(delegated_op, number_of_operands, data_type, conversion_type),
    constraints=(
        weight_type, per_tensor_activations, fused_activation, rank, rank_unchecked,
        static_operands, weight_matrix, bias_axis, weight_zero_point,
        weight_zero_point_refused, dynamic_weight_zero_point, right_operand,
        dynamic_right_operand, weight_channel_axis, transposed_padding,
        requantization_scale, bias_scales, addition_scales, product_scales, rescaling,
        negative_slope, reshape_parameters, same_parameters, pool_strides, block_size,
        softmax_beta, slice_size, slice_steps,
    ),
    whole=_unpacked_constants,
    ops={
        "In float and int8": [name for name, form in FORMS.items() if form.integer],
        "In float alone": [name for name, form in FORMS.items() if not form.integer],
    },
    faster_in_float=_faster_in_float,
    mixes_float=True,
    rewrites=frozenset({Purpose.FEWER_OPS, Purpose.DELEGATION, Purpose.DELEGATION_ALONE}),
    advice=ADVICE,
)  # fmt: skip
