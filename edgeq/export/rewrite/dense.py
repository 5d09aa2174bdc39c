"""Dense layers: what can be one becomes one, in the form that the delegate takes in int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator

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
)  # fmt: skip
