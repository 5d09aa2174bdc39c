"""ONNX ops that are layers: convolutions, products, normalisations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Node, op

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def padded(
    node: Node, values: Tensor, kernel: list[int], strides: list[int], fill: float = 0.0
) -> tuple[Tensor, list[int]]:
    """Input that a window slides over, and the padding left to a function of PyTorch."""
    rank = len(kernel)
    dilations = node.get("dilations") or [1] * rank
    before, after = _pads(node, list(values.shape[2:]), kernel, strides, dilations)
    if before == after:
        return values, before
    widths = [n for i in reversed(range(rank)) for n in (before[i], after[i])]
    return functional.pad(values, widths, value=fill), [0] * rank


def _pads(
    node: Node, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after along each spatial axis."""
    rank, mode = len(kernel), node.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = node.get("pads") or [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    before, after = [], []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        wanted = (math.ceil(size / stride) - 1) * stride + (window - 1) * dilation + 1 - size
        small, large = max(wanted, 0) // 2, max(wanted, 0) - max(wanted, 0) // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


@op("Conv")
def convolution(node: Node, values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    function = _CONVOLUTIONS.get(len(kernel))
    if function is None:
        raise node.refused(f"has {len(kernel)} spatial axes; there are kernels for 1 to 3")
    strides = node.get("strides") or [1] * len(kernel)
    values, padding = padded(node, values, kernel, strides)
    made: Tensor = function(
        values, weight, bias, strides, padding, node.get("dilations") or 1, node.get("group", 1)
    )
    return made


@op("ConvTranspose")
def transposed_convolution(
    node: Node, values: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    extra = node.get("output_padding") or [0] * rank
    before, after = _transposed_pads(node, list(values.shape[2:]), kernel, strides, dilations)
    function, groups = _TRANSPOSED[rank], node.get("group", 1)
    if before == after:
        made: Tensor = function(values, weight, bias, strides, before, extra, groups, dilations)
        return made
    made = function(values, weight, None, strides, 0, 0, groups, dilations)
    widths = [n for i in reversed(range(rank)) for n in (-before[i], extra[i] - after[i])]
    made = functional.pad(made, widths)
    return made if bias is None else made + bias.reshape([-1] + [1] * rank)


def _transposed_pads(
    node: Node, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """How much of the result is cut off before and after along each spatial axis."""
    rank, wanted = len(kernel), node.get("output_shape")
    extra = node.get("output_padding") or [0] * rank
    mode = node.get("auto_pad", "NOTSET")
    if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return _pads(node, sizes, kernel, strides, dilations)
    if wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    before, after = [], []
    for i in range(rank):
        whole = strides[i] * (sizes[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        cut = whole - wanted[-rank:][i]
        small, large = max(cut, 0) // 2, max(cut, 0) - max(cut, 0) // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append((large if mode == "SAME_UPPER" else small) + min(cut, 0))
    return before, after


@op("Gemm")
def matrix_product(node: Node, one: Tensor, other: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    one = one.T if node.get("transA") else one
    weight = other if node.get("transB") else other.T
    if alpha != 1.0:
        weight = weight * alpha
    if bias is not None and beta != 1.0:
        bias = bias * beta
    if bias is not None and bias.ndim == 1 and bias.shape[0] == weight.shape[0]:
        return functional.linear(one, weight, bias)
    made = functional.linear(one, weight)
    return made if bias is None else made + bias


@op("MatMul")
def product(node: Node, one: Tensor, other: Tensor) -> Tensor:
    return torch.matmul(one, other)


@op("Einsum")
def einsum(node: Node, *values: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *values)


@op("BatchNormalization")
def batch_norm(
    node: Node, values: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.get("training_mode"):
        raise node.refused("is in training mode; export the model for inference")
    return functional.batch_norm(
        values, mean, variance, scale, bias, training=False, eps=node.get("epsilon", 1e-5)
    )


@op("InstanceNormalization")
def instance_norm(node: Node, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(values, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@op("LayerNormalization")
@op("LayerNormalization", domain=MICROSOFT)
def layer_norm(
    node: Node, values: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis = node.get("axis", -1) % values.ndim
    shape, eps = list(values.shape[axis:]), node.get("epsilon", 1e-5)
    if list(scale.shape) != shape or (bias is not None and list(bias.shape) != shape):
        made = functional.layer_norm(values, shape, eps=eps) * scale
        made = made if bias is None else made + bias
    else:
        made = functional.layer_norm(values, shape, scale, bias, eps)
    if len(node.outputs) == 1:
        return made
    axes = list(range(axis, values.ndim))
    mean = values.mean(axes, keepdim=True)
    spread = torch.rsqrt((values - mean).square().mean(axes, keepdim=True) + eps)
    return made, mean, spread


@op("RMSNormalization")
@op("SimplifiedLayerNormalization")
@op("SimplifiedLayerNormalization", domain=MICROSOFT)
def rms_norm(node: Node, values: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.get("axis", -1) % values.ndim, values.ndim))
    mean = values.square().mean(axes, keepdim=True)
    return values * torch.rsqrt(mean + node.get("epsilon", 1e-5)) * scale


@op("GroupNormalization")
def group_norm(node: Node, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = node.get("num_groups"), values.shape[1]
    if scale.shape[0] != channels:  # before opset 21 a number for each group
        scale = scale.repeat_interleave(channels // groups)
        bias = bias.repeat_interleave(channels // groups)
    return functional.group_norm(values, groups, scale, bias, node.get("epsilon", 1e-5))


@op("LRN")
def local_response_norm(node: Node, values: Tensor) -> Tensor:
    size, alpha, beta = node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75)
    return functional.local_response_norm(values, size, alpha, beta, node.get("bias", 1.0))


@op("LpNormalization")
def lp_norm(node: Node, values: Tensor) -> Tensor:
    smallest = 1e-30  # of zeros, it gives zeros
    return functional.normalize(values, node.get("p", 2), node.get("axis", -1), smallest)


@op("MeanVarianceNormalization")
def mean_variance_norm(node: Node, values: Tensor) -> Tensor:
    axes = node.get("axes") or [0, 2, 3]
    centred = values - values.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@op("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node, values: Tensor) -> Tensor:
    if node.version >= 13:
        return _along(node, values, node.get("axis", -1))
    axis = node.get("axis", 1) % values.ndim
    if math.prod(values.shape[axis + 1 :]) == 1:
        return _along(node, values, axis)
    rows = values.reshape(math.prod(values.shape[:axis]), -1)
    return _along(node, rows, 1).reshape(values.shape)


def _along(node: Node, values: Tensor, axis: int) -> Tensor:
    if node.op == "Softmax":
        return torch.softmax(values, axis)
    if node.op == "LogSoftmax":
        return torch.log_softmax(values, axis)
    axis = axis % values.ndim
    classes = torch.arange(values.shape[axis]).reshape([-1] + [1] * (values.ndim - 1 - axis))
    return (values.argmax(axis, keepdim=True) == classes).to(values.dtype)


@op("GridSample")
@op("GridSample", domain=MICROSOFT)
def grid_sample(node: Node, values: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(m := node.get("mode", "bilinear"), m)
    corners = bool(node.get("align_corners"))
    return functional.grid_sample(values, grid, mode, node.get("padding_mode", "zeros"), corners)


@op("AffineGrid", known=(1,))
def affine_grid(node: Node, theta: Tensor, size: Any) -> Tensor:
    return functional.affine_grid(theta, [int(n) for n in size], bool(node.get("align_corners")))
