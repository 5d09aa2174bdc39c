"""Convolutions: what stands around them goes into their weights and padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.arithmetic import affine
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.export.rewrite.windows import Window, windows
from edgeq.flatbuffer import Operator, schema
from edgeq.model import layer
from edgeq.ops import MOST_TAPS
from edgeq.targets import Purpose

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}

TILE = 64
"""Output channels that an int8 kernel may compute at once: fewer take it the same time."""

CHANNEL_GROUP = 8
"""The int8 kernels work on groups of this many input channels and fill what is missing."""


def _padding(site: Site, op: Operator) -> Sequence[Any] | None:
    """Reads what is padded, where SAME pads alike."""
    pad = site.producer(op.inputs[0], "PAD")
    margins = None if pad is None else site.value(pad.inputs[1])
    if pad is None or margins is None or op.options.padding != schema.Padding.VALID:
        return None
    if margins.shape != (4, 2) or margins[[0, 3]].any():
        return None
    inner = [
        side.without(*(int(m) for m in margins[axis]))
        for axis, side in enumerate(windows(site, op), 1)
    ]
    if not all(side is not None and side.is_same for side in inner):
        return None
    inputs, same = [pad.inputs[0], *op.inputs[1:]], schema.Padding.SAME
    return [site.editor.copied(op.index, inputs, op.outputs, padding=same)]


def _scaled(site: Site, op: Operator) -> Sequence[Any] | None:
    """A convolution with the MUL or ADD behind it in its weights and bias."""
    found = affine(site, op)
    if found is None:
        return None
    source, (factor, summand) = found
    before = site.producer(source, *_OUTPUT_AXIS)
    if before is None or before.fused_activation != "NONE" or not site.is_read_once(source):
        return None
    channels = site.shape(source)[-1]
    if any(v.size not in (1, channels) or v.size != v.shape[-1:][0] if v.ndim else False
           for v in (factor, summand)):  # fmt: skip
        return None
    axis = _OUTPUT_AXIS[before.name]
    weights = site.value(before.inputs[1])
    has_bias = len(before.inputs) > 2 and before.inputs[2] >= 0
    bias = site.value(before.inputs[2]) if has_bias else np.zeros(channels)
    if weights is None or bias is None or before.options is None:
        return None
    factor, summand = (np.broadcast_to(v.ravel(), channels) for v in (factor, summand))
    shape = [-1 if a == axis else 1 for a in range(weights.ndim)]
    inputs = [
        before.inputs[0],
        site.constant(before, "weights", weights * factor.reshape(shape)),
        site.constant(before, "bias", bias.ravel() * factor + summand),
    ]
    fused = getattr(schema.ActivationFunctionType, op.fused_activation)
    return [site.editor.copied(before.index, inputs, op.outputs, fusedActivationFunction=fused)]


def _channel_scale(site: Site, op: Operator) -> Sequence[Any] | None:
    """A MUL by a constant for each channel as a depthwise convolution."""
    found = site.constant_operand(op)
    shape, output = site.shape(op.outputs[0]), op.outputs[0]
    if found is None or len(shape) < 2 or found[1].shape[-1:] != (found[1].size,):
        return None
    source, factor = found
    if factor.size != shape[-1] or factor.min() == factor.max():
        return None
    if math.prod(shape) == factor.size and not _is_shifted(site, op):
        return None
    weights = site.constant(op, "factor", factor.reshape(1, 1, 1, -1))
    bias = site.constant(op, "bias", np.zeros(factor.size))
    before, after = [], []
    if len(shape) != 4:
        image = (1, 1, math.prod(shape[:-1]), shape[-1])
        whole, scaled = site.tensor(op, image), site.tensor(op, image)
        before = [site.reshape(op, source, whole, image)]
        after = [site.reshape(op, scaled, output, shape)]
        source, output = whole, scaled
    scale = site.editor.op(
        "DEPTHWISE_CONV_2D", [source, weights, bias], [output],
        padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
        depthMultiplier=1, fusedActivationFunction=op.options.fusedActivationFunction,
    )  # fmt: skip
    return [*before, scale, *after]


def _is_shifted(site: Site, op: Operator) -> bool:
    """Whether a sum with a constant alone reads an op: a convolution takes it as its bias."""
    if not site.is_read_once(op.outputs[0]):
        return False
    ((reader, _),) = site.graph.uses[op.outputs[0]]
    return reader.name in ("ADD", "SUB") and site.constant_operand(reader) is not None


def _side_by_side(site: Site, op: Operator) -> Sequence[Any] | None:
    """Narrow convolutions of one input in one layer as one, whose channels are cut apart again."""
    found = [other for other, _ in site.graph.uses[op.inputs[0]] if _is_beside(site, op, other)]
    if len(found) < 2 or found[0].index != op.index:
        return None
    found.sort(key=lambda other: other.inputs[1])  # equal weights of other steps are there once
    channels = site.shape(op.inputs[1])[0]
    weights = np.concatenate([site.value(other.inputs[1]) for other in found])
    bias = np.concatenate([site.value(other.inputs[2]) for other in found])
    shape = site.shape(op.outputs[0])
    whole = site.tensor(op, (*shape[:-1], len(weights)))
    parameters = [site.constant(op, "weights", weights), site.constant(op, "bias", bias)]
    made = [site.editor.copied(op.index, [op.inputs[0], *parameters], [whole])]
    for place, other in enumerate(found):
        output = other.outputs[0]
        if other is not op:
            site.gone.add(other.index)
            site.same[output] = output = site.tensor(other, shape)
        made.append(site.slice(op, whole, output, (0, 0, 0, place * channels), shape))
    return made


def _is_beside(site: Site, op: Operator, other: Operator) -> bool:
    """Whether two convolutions differ in their weights alone, and nothing goes into these yet."""
    if other.name != "CONV_2D" or other.inputs[0] != op.inputs[0]:
        return False
    output, weights = other.outputs[0], site.value(other.inputs[1])
    return (
        weights is not None
        and len(weights) < TILE
        and site.shape(other.inputs[1]) == site.shape(op.inputs[1])
        and (
            len(other.inputs) < 3 or other.inputs[2] < 0 or site.value(other.inputs[2]) is not None
        )
        and vars(other.options) == vars(op.options)
        and layer(site.graph, other) == layer(site.graph, op)
        and output not in site.graph.outputs
        and other.index not in site.gone
        and output not in site.same
        and not any(_goes_in(site, user) for user, _ in site.graph.uses.get(output, ()))
    )


def _goes_in(site: Site, op: Operator) -> bool:
    """Whether an op behind a convolution may become a part of it."""
    return op.name.startswith("RELU") or (
        op.name in ("MUL", "ADD", "SUB", "DIV")
        and any(site.value(t) is not None for t in op.inputs)
    )


def _wave(site: Site, op: Operator) -> Sequence[Any] | None:
    """A strided one-dimensional convolution of few channels, with the stride turned to channels."""
    rows, columns = windows(site, op)
    (batch, _, width, channels), output = site.shape(op.inputs[0]), op.outputs[0]
    stride, weights = columns.stride, site.value(op.inputs[1])
    if weights is None or rows.size != 1 or rows.kernel != 1 or stride == 1 or columns.is_padded:
        return None
    if op.options.dilationWFactor != 1 or channels * stride > CHANNEL_GROUP or width % stride:
        return None
    if op.name == "DEPTHWISE_CONV_2D":
        if channels != 1:
            return None
        weights = np.transpose(weights, (3, 1, 2, 0))
    taps = -(-columns.kernel // stride)
    kernel = np.zeros((len(weights), 1, taps * stride, channels), np.float32)
    kernel[:, :, : columns.kernel] = weights
    folded = (batch, 1, width // stride, channels * stride)
    source = site.tensor(op, folded)
    parameters = [
        site.constant(op, "weights", kernel.reshape(len(weights), 1, taps, channels * stride)),
        op.inputs[2],
    ]
    return [
        site.reshape(op, op.inputs[0], source, folded),
        site.editor.op(
            "CONV_2D", [source, *parameters], [output], padding=schema.Padding.VALID,
            strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
            fusedActivationFunction=op.options.fusedActivationFunction,
        ),
    ]  # fmt: skip


def _bands(site: Site, op: Operator) -> Sequence[Any] | None:
    """A depthwise convolution of many taps as the sum of some with a band of the kernel each."""
    weights = site.value(op.inputs[1])
    if weights is None or weights[0, ..., 0].size <= MOST_TAPS:
        return None
    if weights.shape[3] != site.shape(op.inputs[0])[3]:
        return None  # several results of a channel: that is run as a convolution
    sides, axis = windows(site, op), int(np.argmax(weights.shape[1:3])) + 1
    rows = MOST_TAPS // weights.shape[3 - axis]
    if rows == 0:
        return None
    new, image = _padded(site, op, sides)
    parts = []
    for start in range(0, weights.shape[axis], rows):
        band = weights.take(range(start, min(start + rows, weights.shape[axis])), axis)
        read, part = _seen_by(site, op, image, sides[axis - 1], axis, start, band.shape[axis])
        parts.append(site.tensor(op, site.shape(op.outputs[0])))
        bias = op.inputs[2:] if start == 0 else ()
        zeros = site.constant(op, "bias", np.zeros(band.shape[3]))
        inputs = [part, site.constant(op, "weights", band), *(bias or [zeros])]
        none = schema.ActivationFunctionType.NONE
        plain = {"padding": schema.Padding.VALID, "fusedActivationFunction": none}
        new += [read, site.editor.copied(op.index, inputs, parts[-1:], **plain)]
    return [*new, *_sum(site, op, parts)]


def _sum(site: Site, op: Operator, parts: Sequence[int]) -> Iterator[Any]:
    """ADDs of all parts, the last of which does the rest of what the op did."""
    total = parts[0]
    for part in parts[1:-1]:
        before, total = total, site.tensor(op, site.shape(op.outputs[0]))
        yield site.binary("ADD", before, part, total)
    yield site.binary("ADD", total, parts[-1], op.outputs[0], op.fused_activation)


def _padded(
    site: Site, op: Operator, sides: Sequence[Window]
) -> tuple[list[Any], tuple[int, list[int]]]:
    """Pads the image as the windows see it; returns it with its shape."""
    source = op.inputs[0]
    shape = list(site.shape(source))
    if not any(side.is_padded for side in sides):
        return [], (source, shape)
    margins = [[0, 0], *([side.before, side.after] for side in sides), [0, 0]]
    shape = [size + sum(margin) for size, margin in zip(shape, margins, strict=True)]
    padded = site.tensor(op, shape)
    pad = site.editor.op("PAD", [source, site.ints(op, "margins", margins)], [padded])
    return [pad], (padded, shape)


def _seen_by(
    site: Site, op: Operator, image: tuple[int, list[int]], side: Window, axis: int, start: int,
    rows: int,
) -> tuple[Any, int]:  # fmt: skip
    """The SLICE of an image that some rows of the kernel see, and what it makes."""
    source, shape = image
    dilation = (op.options.dilationHFactor, op.options.dilationWFactor)[axis - 1]
    begin, size = [0, 0, 0, 0], list(shape)
    begin[axis] = start * dilation
    size[axis] = (side.outputs - 1) * side.stride + (rows - 1) * dilation + 1
    part = site.tensor(op, size)
    return site.slice(op, source, part, begin, size), part


REWRITES = (
    Rewrite(
        "padding of a convolution", _CONVOLUTIONS, "padding SAME, where it pads alike",
        "PAD copies the tensor", True, _padding,
    ),
    Rewrite(
        "scale and shift behind a convolution", ("MUL", "ADD", "SUB", "DIV"),
        "the convolution with other weights and bias",
        "each int8 op rounds once more", False, _scaled,
    ),
    Rewrite(
        "scale of channels", ("MUL",), "DEPTHWISE_CONV_2D of 1x1",
        "its int8 weights have a scale for each channel, those of a MUL one for all; a single row "
        "stays where nothing is added, as the MUL is faster", False, _channel_scale,
    ),
    Rewrite(
        "strided convolution of a wave", _CONVOLUTIONS, "RESHAPE, CONV_2D without stride",
        f"the int8 kernels work on {CHANNEL_GROUP} channels at a time, and a wave has one", False,
        _wave, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "narrow convolutions side by side", ("CONV_2D",),
        f"one CONV_2D and a SLICE for each, where they have fewer than {TILE} channels, one input "
        "and one layer, as gates do",
        f"int8 kernels compute up to {TILE} channels at once", False, _side_by_side,
        Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "large depthwise kernel", ("DEPTHWISE_CONV_2D",),
        "PAD, SLICE and a DEPTHWISE_CONV_2D for each band of rows, ADD",
        f"the kernels for more than {MOST_TAPS} taps are several times slower", False, _bands,
        Purpose.DELEGATION_ALONE,
    ),
)  # fmt: skip
