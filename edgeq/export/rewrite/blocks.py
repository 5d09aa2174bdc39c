"""Strided convolutions whose blocks of pixels become channels, and transposed ones likewise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Site
from edgeq.export.rewrite.convolutions import CHANNEL_GROUP
from edgeq.flatbuffer import Operator, schema
from edgeq.qtypes import DType, is_on_grid, largest, symmetric_per_channel
from edgeq.targets import Purpose

ZEROS_MAX = 2.5
"""How many times the products of a transposed convolution a convolution may have."""


@dataclass(frozen=True)
class Side:
    """One side of a transposed convolution: each input pixel is one block of outputs.

    Attributes:
        size: Length of the input.
        kernel: Length of the kernel.
        stride: Length of a block.
        outputs: Length of the output.
        before: Outputs that are cut off before the first.
    """

    size: int
    kernel: int
    stride: int
    outputs: int
    before: int

    @property
    def taps(self) -> list[tuple[int, int, int]]:
        """Place in the block, entry of the kernel, and the pixel it takes, from the block's own."""
        return [
            (place, entry, (place + self.before - entry) // self.stride)
            for place in range(self.stride)
            for entry in range((place + self.before) % self.stride, self.kernel, self.stride)
        ]

    @property
    def blocks(self) -> int:
        """How many blocks the outputs fill."""
        return math.ceil(self.outputs / self.stride)

    @property
    def first(self) -> int:
        """First pixel that a block takes, from its own."""
        return min(pixel for _, _, pixel in self.taps)

    @property
    def window(self) -> int:
        """How many pixels a block takes."""
        return max(pixel for _, _, pixel in self.taps) - self.first + 1

    @property
    def margins(self) -> tuple[int, int]:
        """Rows of zeros that the first and the last block see."""
        return -self.first, self.blocks + self.first + self.window - 1 - self.size

    @property
    def is_same(self) -> bool:
        """Whether these margins are what the padding SAME adds."""
        around = self.window - 1
        return self.margins == (around // 2, around - around // 2)

    def spread(self, weights: Array, axis: int) -> Array:
        """Weights with the kernel's axis as two: places of a block, and pixels that it takes."""
        rows = np.moveaxis(weights, axis, 0)
        found = np.zeros((self.stride, self.window, *rows.shape[1:]), weights.dtype)
        for place, entry, pixel in self.taps:
            found[place, pixel - self.first] = rows[entry]
        return np.moveaxis(found, (0, 1), (axis, axis + 1))


def _sides(site: Site, op: Operator) -> tuple[Side, Side]:
    source, target = site.shape(op.inputs[2])[1:3], site.shape(op.outputs[0])[1:3]
    kernels, strides = site.shape(op.inputs[1])[1:3], (op.options.strideH, op.options.strideW)
    found = []
    for size, outputs, kernel, stride in zip(source, target, kernels, strides, strict=True):
        cut = max((size - 1) * stride + kernel - outputs, 0)
        is_same = op.options.padding == schema.Padding.SAME
        found.append(Side(size, kernel, stride, outputs, cut // 2 if is_same else 0))
    return found[0], found[1]


def _blocks(site: Site, op: Operator) -> Sequence[Any] | None:
    """A convolution whose channels are a block's pixels, which are then moved into space."""
    weights, sides = site.value(op.inputs[1]), _sides(site, op)
    slot = op.inputs[3] if len(op.inputs) > 3 else -1
    bias = site.value(slot)
    if weights is None or (bias is None and slot >= 0) or _is_rounded(weights):
        return None
    down, across = sides
    is_row = down.size == down.outputs == down.kernel == down.stride == 1
    if max(s.stride for s in sides) < 2 or not (is_row or down.stride == across.stride):
        return None
    if min(size for side in sides for size in side.margins) < 0:
        return None
    each = across.spread(down.spread(weights, 1), 3)
    if each.size > ZEROS_MAX * weights.size:
        return None
    # From output channels, two of height, two of width, input channels.
    each = each.transpose(1, 3, 0, 2, 4, 5).reshape(-1, down.window, across.window, each.shape[-1])
    bias = np.zeros(weights.shape[0], np.float32) if bias is None else bias
    channels = np.tile(bias.ravel(), down.stride * across.stride)
    return list(_ops(site, op, sides, each, channels))


def _is_rounded(weights: Array) -> bool:
    """Whether weights are integers already, with a scale for each channel: it is to stay theirs."""
    most, nothing = largest(weights, 0), np.zeros(len(weights))
    forms = (DType.INT8, DType.INT4, DType.INT2)
    return any(is_on_grid(weights, symmetric_per_channel(most, 0, nothing, d)) for d in forms)


def _ops(
    site: Site, op: Operator, sides: tuple[Side, Side], weights: Array, bias: Array
) -> Sequence[Any]:
    source, (down, across) = op.inputs[2], sides
    batch, channels = site.shape(source)[0], site.shape(op.outputs[0])[3]
    ops, padding = [], schema.Padding.SAME
    if not all(side.is_same for side in sides):
        margins = [[0, 0], *(list(side.margins) for side in sides), [0, 0]]
        padding = schema.Padding.VALID
        if np.any(margins):
            sizes = [side.size + sum(side.margins) for side in sides]
            padded = site.tensor(op, (batch, *sizes, site.shape(source)[3]))
            ops = [site.editor.op("PAD", [source, site.ints(op, "margins", margins)], [padded])]
            source = padded
    deep = site.tensor(op, (batch, down.blocks, across.blocks, len(weights)))
    whole = (batch, down.blocks * down.stride, across.blocks * across.stride, channels)
    is_cut = whole != site.shape(op.outputs[0])
    moved = site.tensor(op, whole) if is_cut else op.outputs[0]
    inputs = [source, site.constant(op, "weights", weights), site.constant(op, "bias", bias)]
    ops.append(_convolution(site, op, inputs, deep, padding))
    if down.stride == across.stride:
        ops.append(site.editor.op("DEPTH_TO_SPACE", [deep], [moved], blockSize=down.stride))
    else:
        ops.append(site.reshape(op, deep, moved, whole))
    if is_cut:
        begin, size = [0, 0, 0, 0], list(site.shape(op.outputs[0]))
        ops.append(site.slice(op, moved, op.outputs[0], begin, size))
    return ops


def _patches(site: Site, op: Operator) -> Sequence[Any] | None:
    """A convolution over patches apart, whose pixels become channels."""
    options, weights = op.options, site.value(op.inputs[1])
    (batch, *size, channels), (_, *made, _) = site.shape(op.inputs[0]), site.shape(op.outputs[0])
    patch, dilations = options.strideH, (options.dilationHFactor, options.dilationWFactor)
    if weights is None or patch < 2 or dilations != (1, 1) or channels >= CHANNEL_GROUP:
        return None
    if weights.shape[1:] != (patch, patch, channels) or options.strideW != patch:
        return None
    if size != [side * patch for side in made]:
        return None
    deep = site.tensor(op, (batch, *made, channels * patch**2))
    flat = site.constant(op, "weights", weights.reshape(len(weights), 1, 1, -1))
    return [
        site.editor.op("SPACE_TO_DEPTH", [op.inputs[0]], [deep], blockSize=patch),
        _convolution(site, op, [deep, flat, *op.inputs[2:]], op.outputs[0], schema.Padding.VALID),
    ]


def _convolution(site: Site, op: Operator, inputs: Sequence[int], output: int, padding: int) -> Any:
    """A CONV_2D without strides that has the activation of an op."""
    fused = getattr(schema.ActivationFunctionType, op.fused_activation)
    once = dict.fromkeys(("strideH", "strideW", "dilationHFactor", "dilationWFactor"), 1)
    return site.editor.op(
        "CONV_2D", inputs, [output], padding=padding, fusedActivationFunction=fused, **once
    )


REWRITES = (
    Rewrite(
        "convolution of patches apart", ("CONV_2D",), "SPACE_TO_DEPTH, CONV_2D of 1x1",
        f"the int8 kernels work on {CHANNEL_GROUP} channels at a time, and a picture has few",
        False, _patches, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "strided transposed convolution", ("TRANSPOSE_CONV",), "CONV_2D, DEPTH_TO_SPACE",
        "its kernels for int8 are several times slower, for dynamic int8 there are none", False,
        _blocks, Purpose.DELEGATION_ALONE,
    ),
)  # fmt: skip
