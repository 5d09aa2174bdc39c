"""The Edge TPU with compiler 16 and runtime 14, from documents; nothing of it was compiled.

The compiler is closed: an op that keeps all of this may still not map ("unspecified limitation").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeq.flatbuffer import Graph
from edgeq.ops import OPS
from edgeq.targets.constraints import constraint
from edgeq.targets.target import Compiler, Placement, Purpose, Target
from edgeq.targets.views import OpView, TensorView
from edgeq.versions import Version

SRAM_BYTES = 8_000_000
"""On-chip memory, shared by code and parameters; what does not fit is sent at every inference."""

COMPILER_RUNTIME: Version = (2, 5)
"""The run time inside the compiler 16, which cannot parse a file with newer ops."""

COMPILER = Compiler(
    "edgetpu_compiler",
    "It runs on x86-64 Linux alone. On Debian or Ubuntu add Coral's package source as "
    "coral.ai/docs/edgetpu/compiler describes, then run "
    "`sudo apt-get update && sudo apt-get install edgetpu-compiler`",
)

SOFTMAX_ELEMENTS_MAX = 16_000
SLOPES = 1
"""Operand slot of the slopes of a PRELU."""

INTEGERS = ("int8", "uint8", "int32", "bool")
UNFUSED = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION")
REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")

RUNTIME: dict[str, int] = {
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "CONCATENATION"), 10),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D"), 10),
    **dict.fromkeys(("FULLY_CONNECTED", "SQUEEZE", "RESHAPE", "SLICE", "STRIDED_SLICE"), 10),
    **dict.fromkeys(("SPLIT", "PAD", "MEAN", "L2_NORMALIZATION", "LOGISTIC", "TANH"), 10),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "RESIZE_BILINEAR"), 10),
    **dict.fromkeys(("RESIZE_NEAREST_NEIGHBOR", "SOFTMAX", "SPACE_TO_DEPTH"), 10),
    **dict.fromkeys(("TRANSPOSE_CONV", "EXPAND_DIMS", "PACK", "SUM", "PRELU", "QUANTIZE"), 13),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "RSQRT", "SQUARED_DIFFERENCE"), 14),
    **dict.fromkeys(("TRANSPOSE", "UNIDIRECTIONAL_SEQUENCE_LSTM"), 14),
}
"""The ops that the compiler maps, with the oldest runtime that has them."""


@constraint()
def mapped_op(op: OpView) -> str | None:
    """The Edge TPU has the op.

    Source: coral.ai, models-intro, table of supported operations.
    """
    return None if op.name in RUNTIME else f"it has no {op.name}"


@constraint()
def integers_only(op: OpView) -> str | None:
    """The Edge TPU computes with 8-bit tensors, and int32 biases and indices.

    Source: coral.ai, models-intro, model requirements.
    """
    wrong = [t.dtype for t in op.tensors() if t.dtype not in INTEGERS]
    return f"{op.name} with {wrong[0]}" if wrong else None


@constraint()
def constant_sizes(op: OpView) -> str | None:
    """The Edge TPU needs tensor sizes that are constant when the model is compiled.

    Source: coral.ai, models-intro, model requirements.
    """
    return "a dynamic dimension" if any(-1 in t.shape for t in op.tensors()) else None


@constraint()
def three_dimensions(op: OpView) -> str | None:
    """The Edge TPU needs tensors of which only the innermost three dimensions exceed 1.

    Source: coral.ai, models-intro, model requirements.
    """
    computed = [t for t in op.tensors() if not t.is_constant]
    wrong = [t.shape for t in computed if any(d > 1 for d in t.shape[:-3])]
    return f"shape {'x'.join(map(str, wrong[0]))}" if wrong else None


@constraint("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "PRELU")
def constant_parameters(op: OpView) -> str | None:
    """The Edge TPU needs weights and biases as constants.

    Source: coral.ai, models-intro, model requirements.
    """
    row = OPS[op.name]
    slots = (SLOPES,) if row.weight is None else (row.weight_slot, row.bias_slot)
    parameters = [(s, op.operand(s)) for s in slots if s is not None]
    wrong = [s for s, t in parameters if t is not None and not t.is_constant]
    return f"operand {wrong[0]} is computed" if wrong else None


@constraint(*UNFUSED)
def no_fused_activation(op: OpView) -> str | None:
    """The Edge TPU pools and concatenates without a fused activation.

    Source: coral.ai, models-intro, table of supported operations.
    """
    return None if op.fused_activation == "NONE" else op.fused_activation


@constraint("CONCATENATION")
def concatenated_constant(op: OpView) -> str | None:
    """The Edge TPU concatenates a constant only if it is all zero and there is one other input.

    Source: coral.ai, models-intro, table of supported operations.
    """
    constants = [t for t in op.inputs if t is not None and t.is_constant]
    if not constants:
        return None
    if len(op.inputs) != 2:
        return f"{len(op.inputs)} inputs, one of them constant"
    return None if _is_zero(constants[0]) else "the constant is not zero"


def _is_zero(tensor: TensorView) -> bool:
    if tensor.data is None:
        return True
    zero = tensor.qparams.zero_point[0] if tensor.qparams else 0
    return bool((tensor.data == zero).all())


@constraint("CONV_2D", "DEPTHWISE_CONV_2D")
def equal_dilation(op: OpView) -> str | None:
    """The Edge TPU needs the same dilation in both directions.

    Source: coral.ai, models-intro, table of supported operations.
    """
    dilation = op.option("dilationHFactor", 1), op.option("dilationWFactor", 1)
    return None if dilation[0] == dilation[1] else f"{dilation[0]} and {dilation[1]}"


@constraint("FULLY_CONNECTED")
def flat_result(op: OpView) -> str | None:
    """The Edge TPU has FULLY_CONNECTED with default weight format and a result of one dimension.

    Source: coral.ai, models-intro, table of supported operations.
    """
    if op.option("weightsFormat"):
        return "shuffled weights"
    shape = op.outputs[0].shape
    return f"shape {'x'.join(map(str, shape))}" if math.prod(shape[:-1]) > 1 else None


@constraint(*REDUCTIONS)
def reduced_axes(op: OpView) -> str | None:
    """The Edge TPU does not reduce the batch, and the mean over channels only of a multiple of 4.

    Source: coral.ai, models-intro, table of supported operations.
    """
    axes, shape = op.operand(1), _shape(op)
    if axes is None or axes.data is None:
        return "computed axes"
    reduced = {int(a) % max(len(shape), 1) for a in axes.data.ravel()}
    if 0 in reduced and len(shape) > 1:
        return "axis 0"
    odd = op.name == "MEAN" and len(shape) - 1 in reduced and len(shape) > 2 and shape[-1] % 4 != 0
    return f"{shape[-1]} channels" if odd else None


def _shape(op: OpView, slot: int = 0) -> tuple[int, ...]:
    operand = op.operand(slot)
    return operand.shape if operand is not None else ()


@constraint("PAD")
def padded_batch(op: OpView) -> str | None:
    """The Edge TPU does not pad the batch.

    Source: coral.ai, models-intro, table of supported operations.
    """
    paddings = op.operand(1)
    if paddings is None or paddings.data is None:
        return "computed paddings"
    return "axis 0" if len(_shape(op)) > 3 and paddings.data.reshape(-1, 2)[0].any() else None


@constraint("PACK")
def packed_batch(op: OpView) -> str | None:
    """The Edge TPU does not pack along the batch.

    Source: coral.ai, models-intro, table of supported operations.
    """
    return "axis 0" if op.option("axis") % len(op.outputs[0].shape) == 0 else None


@constraint("SPLIT")
def split_batch(op: OpView) -> str | None:
    """The Edge TPU does not split the batch.

    Source: coral.ai, models-intro, table of supported operations.
    """
    axis = op.operand(0)
    if axis is None or axis.data is None:
        return "a computed axis"
    return "axis 0" if int(axis.data.ravel()[0]) % max(len(_shape(op, 1)), 1) == 0 else None


@constraint("PRELU")
def slope_shape(op: OpView) -> str | None:
    """The Edge TPU has PRELU with one slope for each channel (shared_axes=[1, 2] in Keras).

    Source: coral.ai, models-intro, table of supported operations.
    """
    shape = _shape(op, 1)
    return f"slopes {'x'.join(map(str, shape))}" if any(d > 1 for d in shape[:-1]) else None


@constraint("SOFTMAX")
def softmax_size(op: OpView) -> str | None:
    """The Edge TPU has SOFTMAX of one dimension with 16 000 elements at most.

    Source: coral.ai, models-intro, table of supported operations.
    """
    shape = _shape(op)
    if math.prod(shape[:-1]) > 1:
        return f"shape {'x'.join(map(str, shape))}"
    return f"{shape[-1]} elements" if shape[-1] > SOFTMAX_ELEMENTS_MAX else None


@constraint("STRIDED_SLICE")
def strided_slice(op: OpView) -> str | None:
    """The Edge TPU has STRIDED_SLICE with strides of 1 and without ellipsis or new axes.

    Source: coral.ai, models-intro, table of supported operations.
    """
    for mask in ("ellipsisMask", "newAxisMask"):
        if op.option(mask):
            return f"{mask} {op.option(mask)}"
    strides = op.operand(3)
    if strides is None or strides.data is None or (strides.data == 1).all():
        return None
    return f"strides {', '.join(map(str, strides.data.tolist()))}"


def _single_subgraph(graph: Graph, placement: Placement) -> Placement:
    """The compiler maps one piece: all that follows the first op that it cannot map stays outside.

    QUANTIZE and DEQUANTIZE at the model's inputs and outputs stay outside without ending the piece.
    """
    found = dict(placement)
    cut = None
    for op in graph.operators:
        if cut is not None and not found[op.index]:
            found[op.index] = (
                f"The Edge TPU compiler maps one piece, which ends at {cut.name} (op {cut.index})",
            )
        if cut is None and found[op.index] and not _is_boundary(graph, op.index):
            cut = op
    return found


def _is_boundary(graph: Graph, index: int) -> bool:
    op = graph.operators[index]
    if op.name == "QUANTIZE":
        return op.inputs[0] in graph.inputs
    return op.name == "DEQUANTIZE" and op.outputs[0] in graph.outputs


def parameter_bytes(graph: Graph, placement: Placement) -> int:
    """Bytes of the constants of all ops that map; `SRAM_BYTES` holds them and the code."""
    used = {t for op in graph.operators if not placement[op.index] for t in op.inputs if t >= 0}
    constants = (graph.tensors[t].data for t in used)
    return sum(data.nbytes for data in constants if data is not None)


def _file_notes(graphs: Sequence[tuple[Graph, Placement]]) -> tuple[str, ...]:
    """Whether the parameters fit on the chip, and which run time its ops need."""
    size = sum(parameter_bytes(graph, placement) for graph, placement in graphs)
    mapped = [op.name for graph, found in graphs for op in graph.operators if not found[op.index]]
    notes = []
    if size > SRAM_BYTES:
        notes.append(
            f"{size / 1e6:.1f} MB of parameters exceed about {SRAM_BYTES / 1e6:.0f} MB on the "
            "chip: the rest is sent to it at every inference"
        )
    elif mapped:
        notes.append(f"{size / 1e6:.2f} MB of parameters fit on the chip")
    if mapped:
        newest = max(mapped, key=lambda name: RUNTIME[name])
        if RUNTIME[newest] > 12:
            notes.append(f"{newest} needs version {RUNTIME[newest]} of the Edge TPU run time")
    return tuple(notes)


def _ops() -> dict[str, list[str]]:
    """The ops by the run time that brought them."""
    return {
        "In all versions of the run time" if since < 12 else f"From run time {since}": [
            name for name, version in RUNTIME.items() if version == since
        ]
        for since in sorted(set(RUNTIME.values()))
    }


EDGETPU = Target(
    name="edgetpu",
    title="the Edge TPU",
    about="From documents alone: no file was compiled for it. All that follows the first op that "
    "does not map runs on the CPU.",
    premises=(mapped_op, integers_only),
    constraints=(
        constant_sizes, three_dimensions, constant_parameters, no_fused_activation,
        concatenated_constant, equal_dilation, flat_result, reduced_axes, padded_batch,
        packed_batch, split_batch, slope_shape, softmax_size, strided_slice,
    ),
    whole=_single_subgraph,
    ops=_ops(),
    mixes_float=False,
    rewrites=frozenset({Purpose.FEWER_OPS, Purpose.MAPPING, Purpose.MAPPING_ALONE}),
    port_type="int8",
    layout="nhwc",
    oldest_runtime=COMPILER_RUNTIME,
    compiler=COMPILER,
    advice={
        "HARD_SWISH": "edgeq export rewrites it; or train with RELU6",
        "SOFTMAX": "leave it out of the model, and let the app compute it",
        "ARG_MAX": "leave it out of the model, and let the app compute it",
    },
    file_notes=_file_notes,
)  # fmt: skip
