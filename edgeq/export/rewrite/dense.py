"""Dense layers: what can be one becomes one, in the form that the delegate takes in int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.arithmetic import affine, affine_before
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator, schema
from edgeq.ops import OPS
from edgeq.targets import Purpose

_KEEPS_DIMENSIONS = 5
"""Version from which FULLY_CONNECTED keeps all dimensions but the last."""

_NO_BIAS = -1

_BIASED = ("FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV")


def _matrix(site: Site, op: Operator) -> Sequence[Any] | None:
    """A product with one constant matrix on the right as a dense layer."""
    value = site.value(op.inputs[1])
    if value is None or value.size != value.shape[-1] * value.shape[-2]:
        return None
    matrix = value.reshape(value.shape[-2:])
    weights = site.constant(op, "weights", matrix if op.options.adjY else matrix.T)
    source, shape = op.inputs[0], list(site.shape(op.inputs[0]))
    before, after, output = [], [], op.outputs[0]
    if op.options.adjX:
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        shape = [shape[axis] for axis in order]
        turned = site.tensor(op, shape)
        before, source = [site.transpose(op, source, turned, order)], turned
    if len(site.shape(output)) != len(shape):
        product = site.tensor(op, [*shape[:-1], site.shape(output)[-1]])
        after, output = [site.reshape(op, product, output, site.shape(output))], product
    dense = site.editor.op(
        "FULLY_CONNECTED", [source, weights, _NO_BIAS], [output], _KEEPS_DIMENSIONS,
        keepNumDims=True,
    )  # fmt: skip
    return [*before, dense, *after]


def _flat_bias(site: Site, op: Operator) -> Sequence[Any] | None:
    """A dense layer or convolution whose bias has one dimension."""
    slot = OPS[op.name].bias_slot
    bias = site.value(op.inputs[slot]) if slot is not None and len(op.inputs) > slot else None
    if bias is None or bias.ndim == 1:
        return None
    inputs = [*op.inputs[:slot], site.constant(op, "bias", bias.ravel())]
    return [site.editor.copied(op.index, inputs, op.outputs)]


def _scaled_input(site: Site, op: Operator) -> Sequence[Any] | None:
    """A dense layer with the MUL or ADD in front of it in its weights and bias.

    The converter does so itself, but not where a constant has as many dimensions as what it scales,
    as with one row: a weight that two graphs share would be another one in each.
    """
    before = site.producer(op.inputs[0], "ADD", "SUB", "MUL")
    found = None if before is None else affine(site, before)
    weights, depth = site.value(op.inputs[1]), site.shape(op.inputs[0])[-1]
    if before is None or found is None or weights is None or before.fused_activation != "NONE":
        return None
    source, (factor, summand), _ = affine_before(site, *found)
    by_column = all(v.size == 1 or v.shape[-1:] == (v.size,) for v in (factor, summand))
    if not by_column or weights.shape[-1] != depth or not site.is_read_once(op.inputs[1]):
        return None
    factor, summand = (np.broadcast_to(v.ravel(), depth) for v in (factor, summand))
    bias, made = op.inputs[2] if len(op.inputs) > 2 else _NO_BIAS, list(op.inputs[:2])
    if (factor != 1).any():
        made[1] = site.constant(op, "weights", weights * factor)
    if not summand.any():
        made += op.inputs[2:]
    elif bias == _NO_BIAS or site.value(bias) is not None:
        shift = weights.astype(np.float64) @ summand
        known = site.value(bias)
        made.append(site.constant(op, "bias", shift if known is None else known.ravel() + shift))
    else:
        return None
    return [site.editor.copied(op.index, [source, *made[1:]], op.outputs)]


def _rows(site: Site, op: Operator) -> Sequence[Any] | None:
    """A dense layer on several rows as a convolution of 1x1."""
    source, slot, *rest = op.inputs
    weight, output = site.value(slot), op.outputs[0]
    shape = site.shape(output)
    rows = math.prod(shape[:-1])
    bias = rest[0] if rest and rest[0] >= 0 else None
    if weight is None or rows < 2 or op.options.weightsFormat:
        return None
    if bias is not None and (site.value(bias) is None or len(site.shape(bias)) != 1):
        return None
    count, depth = weight.shape
    laid_out, mixed = (site.tensor(op, (1, 1, rows, n)) for n in (depth, count))
    if bias is None:
        bias = site.constant(op, "bias", np.zeros(count))
    kernel = site.constant(op, "weight", weight[:, None, None])
    convolution = site.editor.op(
        "CONV_2D", [laid_out, kernel, bias], [mixed],
        padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
        fusedActivationFunction=op.options.fusedActivationFunction,
    )  # fmt: skip
    return [
        site.reshape(op, source, laid_out, (1, 1, rows, depth)),
        convolution,
        site.reshape(op, mixed, output, shape),
    ]


REWRITES = (
    Rewrite(
        "product with a constant matrix", ("BATCH_MATMUL",),
        "FULLY_CONNECTED, behind a TRANSPOSE where the left matrix is turned",
        "its weights have a scale for each channel, and the delegate has dynamic kernels for them",
        True, _matrix,
    ),
    Rewrite(
        "bias of many dimensions", _BIASED, "the op with a flat bias",
        "in int8 no other is delegated, and no convolution in float either", False, _flat_bias,
    ),
    Rewrite(
        "scale and shift in front of a dense layer", ("FULLY_CONNECTED",),
        "FULLY_CONNECTED with other weights", "each op rounds once more", False, _scaled_input,
    ),
    Rewrite(
        "dense layer on several rows", ("FULLY_CONNECTED",), "CONV_2D of 1x1 between RESHAPEs",
        "the Edge TPU has FULLY_CONNECTED with one row alone", True, _rows, Purpose.MAPPING,
    ),
)  # fmt: skip
