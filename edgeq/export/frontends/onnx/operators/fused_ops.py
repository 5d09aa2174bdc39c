"""onnxruntime's own ops, into which its optimizer fuses what models have."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, op
from edgeq.export.frontends.onnx.operators.elementwise import leaky_relu
from edgeq.export.frontends.onnx.operators.network_layers import (
    convolution,
    layer_norm,
    matrix_product,
    rms_norm,
)


@op("FusedConv", domain=MICROSOFT)
def fused_convolution(
    node: Node,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    made = convolution(node, values, weight, bias)
    made = made if added is None else made + added
    return _activated(node, made)


def _activated(node: Node, values: Tensor) -> Tensor:
    name, parameters = node.get("activation"), node.get("activation_params") or []
    if not name:
        return values
    if name == "Clip":
        return torch.clamp(values, *parameters)
    if name == "LeakyRelu":
        return (
            leaky_relu(node, values)
            if not parameters
            else functional.leaky_relu(values, parameters[0])
        )
    if name == "HardSigmoid" and parameters:
        return torch.clamp(values * parameters[0] + parameters[1], 0.0, 1.0)
    simple = {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}
    if name not in simple:
        raise node.refused(f"has the activation {name}")
    return simple[name](values)


@op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_product(node: Node, one: Tensor, other: Tensor) -> Tensor:
    one = one.movedim(0, -2) if node.get("transBatchA") else one
    other = other.movedim(0, -2) if node.get("transBatchB") else other
    one = one.transpose(-1, -2) if node.get("transA") else one
    other = other.transpose(-1, -2) if node.get("transB") else other
    alpha = node.get("alpha", 1.0)
    return torch.matmul(one, other) if alpha == 1.0 else torch.matmul(one, other) * alpha


@op("FusedGemm", domain=MICROSOFT)
def fused_matrix_product(
    node: Node, one: Tensor, other: Tensor, bias: Tensor | None = None
) -> Tensor:
    given = [node.get(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    attributes = {**node.attributes, "activation_params": [p for p in given if p is not None]}
    return _activated(replace(node, attributes=attributes), matrix_product(node, one, other, bias))


@op("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def channels_last_convolution(
    node: Node,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """The weights keep ONNX's own layout."""
    added = None if added is None else added.movedim(-1, 1)
    return fused_convolution(node, values.movedim(-1, 1), weight, bias, added).movedim(1, -1)


@op("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm(
    node: Node, values: Tensor, gamma: Tensor, beta: Tensor, *skip: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of images with their channels last; a residual sum and a bias come before it."""
    last = bool(node.get("channels_last", 1))
    total = values
    for term in skip:
        if term is not None:
            shape = (term.shape[0], 1, 1, -1) if term.ndim == 2 and total.ndim == 4 else term.shape
            total = total + term.reshape(shape)
    made = functional.group_norm(
        total.movedim(-1, 1) if last else total, node.get("groups"), gamma, beta,
        node.get("epsilon", 1e-5),
    )  # fmt: skip
    made = made.movedim(1, -1) if last else made
    return (functional.silu(made) if node.get("activation") else made), total


@op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(node: Node, values: Tensor, bias: Tensor) -> Tensor:
    one, gate = (values + bias).chunk(2, -1)
    return one * functional.gelu(gate)


@op("BiasAdd", domain=MICROSOFT)
def bias_add(node: Node, values: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return values + bias + skip


@op("Inverse", domain=MICROSOFT)
def inverse(node: Node, values: Tensor) -> Tensor:
    return torch.linalg.inv(values)


@op("ExpandDims", domain=MICROSOFT, known=(1,))
def expand_dims(node: Node, values: Tensor, axis: Known) -> Tensor:
    return values.unsqueeze(int(axis.item()))


@op("CDist", domain=MICROSOFT)
def distances(node: Node, one: Tensor, other: Tensor) -> Tensor:
    squares = (one.unsqueeze(1) - other.unsqueeze(0)).square().sum(-1)
    return squares if node.get("metric", "sqeuclidean") == "sqeuclidean" else squares.sqrt()


@op("BiasGelu", "FastGelu", domain=MICROSOFT)
def bias_gelu(node: Node, values: Tensor, bias: Tensor | None = None) -> Tensor:
    values = values if bias is None else values + bias
    return functional.gelu(values, approximate="tanh" if node.op == "FastGelu" else "none")


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: Node, values: Tensor) -> Tensor:
    return values * torch.sigmoid(values * node.get("alpha", 1.702))


@op("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    node: Node, values: Tensor, skip: Tensor, scale: Tensor, *more: Tensor | None
) -> tuple[Tensor, ...]:
    """A residual sum and its normalisation; beta follows where there is one, then the bias."""
    left = list(more)
    beta = left.pop(0) if left and node.op == "SkipLayerNormalization" else None
    total = values + skip
    if left and left[0] is not None:
        total = total + left[0]
    attributes = {"epsilon": 1e-12, **node.attributes}
    one = Node(node.name, node.op, node.domain, node.version, attributes, (), ("made",))
    if node.op == "SkipLayerNormalization":
        made = layer_norm(one, total, scale, beta)
    else:
        made = rms_norm(one, total, scale)
    return made, torch.empty(0), torch.empty(0), total
