"""Dense layers: what can be one becomes one, in the form that the delegate takes in int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator, schema
from edgeq.targets import Purpose

_KEEPS_DIMENSIONS = 5
"""Version from which FULLY_CONNECTED keeps all dimensions but the last."""

_NO_BIAS = -1


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
    """A dense layer whose bias has one dimension."""
    bias = site.value(op.inputs[2]) if len(op.inputs) > 2 else None
    if bias is None or bias.ndim == 1:
        return None
    inputs = [*op.inputs[:2], site.constant(op, "bias", bias.ravel())]
    return [site.editor.copied(op.index, inputs, op.outputs)]


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
        "bias of many dimensions", ("FULLY_CONNECTED",), "FULLY_CONNECTED with a flat bias",
        "in int8 no other is delegated", True, _flat_bias,
    ),
    Rewrite(
        "dense layer on several rows", ("FULLY_CONNECTED",), "CONV_2D of 1x1 between RESHAPEs",
        "the Edge TPU has FULLY_CONNECTED with one row alone", True, _rows, Purpose.MAPPING,
    ),
)  # fmt: skip
