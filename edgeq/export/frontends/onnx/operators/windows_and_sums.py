"""ONNX ops that reduce: pooling windows, sums over axes, what is largest where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Known, Node, axes_of, op
from edgeq.export.frontends.onnx.operators.network_layers import padded

_AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@op("MaxPool", keeps_grid=True)
def max_pool(node: Node, values: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    kernel, strides, dilations = _window(node)
    dtype, size = values.dtype, values.shape
    values = values if values.is_floating_point() else values.float()
    values = _padded_to_ceil(node, values, kernel, strides, dilations, float("-inf"))
    values, padding = padded(node, values, kernel, strides, float("-inf"))
    if any(2 * n > size for n, size in zip(padding, kernel, strict=True)):
        widths = [n for size in reversed(padding) for n in (size, size)]
        values, padding = functional.pad(values, widths, value=float("-inf")), [0] * len(kernel)
    wants_places = len([name for name in node.outputs if name]) > 1
    if wants_places and (values.shape != size or node.get("storage_order")):
        raise node.refused(
            "also returns where the largest values were, with pads that differ between sides, "
            "windows rounded up, or columns first"
        )
    pool: Callable[..., Any] = _MAX_POOLS[len(kernel)]
    made = pool(values, kernel, strides, padding, dilations, return_indices=wants_places)
    return (made[0].to(dtype), _through_all(made[1], size)) if wants_places else made.to(dtype)


def _through_all(places: Tensor, size: Sequence[int]) -> Tensor:
    """Places in each plane as places in the whole tensor of a size."""
    planes = torch.arange(size[0] * size[1]) * math.prod(size[2:])
    return places + planes.reshape(*size[:2], *[1] * (len(size) - 2))


@op("AveragePool")
def average_pool(node: Node, values: Tensor) -> Tensor:
    kernel, strides, dilations = _window(node)
    counted = bool(node.get("count_include_pad"))
    wide = _padded_to_ceil(node, values, kernel, strides, dilations, 0.0)
    filled, padding = padded(node, wide, kernel, strides)
    if wide is values and filled is values and (counted or not any(padding)):
        return _averages(values, kernel, strides, padding, dilations)
    sums = _averages(filled, kernel, strides, padding, dilations)
    ones = torch.ones_like(values[:1, :1])
    if counted:  # the padding counts, what rounding up adds behind it does not
        ones, pads = padded(node, ones, kernel, strides, 1.0)
        ones = functional.pad(ones, [n for size in reversed(pads) for n in (size, size)], value=1.0)
        short = [a - b for a, b in zip(filled.shape[2:], ones.shape[2:], strict=True)]
        short = [n + 2 * p for n, p in zip(short, padding, strict=True)]
        shares = _averages(
            functional.pad(ones, [n for more in reversed(short) for n in (0, more)]),
            kernel, strides, [0] * len(kernel), dilations,
        )  # fmt: skip
    else:
        ones, padding = padded(
            node, _padded_to_ceil(node, ones, kernel, strides, dilations, 0.0), kernel, strides
        )
        shares = _averages(ones, kernel, strides, padding, dilations)
    return sums * (1.0 / shares)


def _averages(
    values: Tensor,
    kernel: list[int],
    strides: list[int],
    padding: list[int],
    dilations: list[int],
) -> Tensor:
    """Averages over windows that count the padding; over windows with gaps, a convolution."""
    spread = any(step > 1 for step in dilations)
    if spread or any(2 * n > size for n, size in zip(padding, kernel, strict=True)):
        values = functional.pad(values, [n for size in reversed(padding) for n in (size, size)])
        padding = [0] * len(kernel)
    if not spread:
        averaged: Callable[..., Tensor] = _AVERAGE_POOLS[len(kernel)]
        return averaged(values, kernel, strides, padding, count_include_pad=True)
    shares = torch.full((values.shape[1], 1, *kernel), 1 / math.prod(kernel))
    convolved: Callable[..., Tensor] = _CONVOLUTIONS[len(kernel)]
    return convolved(values, shares, None, strides, padding, dilations, values.shape[1])


def _window(node: Node) -> tuple[list[int], list[int], list[int]]:
    """Sizes, strides and dilations of a pooling window."""
    kernel = list(node.get("kernel_shape"))
    ones = [1] * len(kernel)
    return kernel, list(node.get("strides") or ones), list(node.get("dilations") or ones)


def _padded_to_ceil(
    node: Node,
    values: Tensor,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    fill: float,
) -> Tensor:
    """The values with what a last, partial window of `ceil_mode` reads behind them."""
    if not node.get("ceil_mode") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return values
    rank, widths = len(kernel), []
    pads = node.get("pads") or [0] * (2 * rank)
    for i in reversed(range(rank)):
        size = values.shape[2 + i] + pads[i] + pads[rank + i]
        reach = (kernel[i] - 1) * dilations[i] + 1
        count = math.ceil((size - reach) / strides[i]) + 1
        if (count - 1) * strides[i] >= values.shape[2 + i] + pads[i]:
            count -= 1  # a window that would start in the padding behind is left out
        widths += [0, max((count - 1) * strides[i] + reach - size, 0)]
    return functional.pad(values, widths, value=fill) if any(widths) else values


@op("GlobalAveragePool")
def global_average_pool(node: Node, values: Tensor) -> Tensor:
    return values.mean(list(range(2, values.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(node: Node, values: Tensor) -> Tensor:
    return values.amax(list(range(2, values.ndim)), keepdim=True)


@op("LpPool", "GlobalLpPool")
def lp_pool(node: Node, values: Tensor) -> Tensor:
    p = node.get("p", 2)
    if node.op == "GlobalLpPool":
        total = values.abs().pow(p).sum(list(range(2, values.ndim)), keepdim=True)
        return total.pow(1 / p)
    kernel, strides, dilations = _window(node)
    wide = _padded_to_ceil(node, values.abs().pow(p), kernel, strides, dilations, 0.0)
    filled, padding = padded(node, wide, kernel, strides)
    averages = _averages(filled, kernel, strides, padding, dilations)
    return (averages * math.prod(kernel)).pow(1 / p)


_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(values: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        values = values.prod(axis, keepdim=keep, dtype=values.dtype)
    return values


def _sum(values: Tensor, axes: list[int], keep: bool) -> Tensor:
    return values.sum(axes, keepdim=keep, dtype=values.dtype)


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceSum": _sum,
    "ReduceMean": lambda v, a, k: v.mean(a, k) if v.is_floating_point() else _floor_mean(v, a, k),
    "ReduceMax": lambda v, a, k: v.amax(a, k),
    "ReduceMin": lambda v, a, k: v.amin(a, k),
    "ReduceProd": _product,
    "ReduceL1": lambda v, a, k: _sum(v.abs(), a, k),
    "ReduceL2": lambda v, a, k: _sum(v.square(), a, k).sqrt(),
    "ReduceSumSquare": lambda v, a, k: _sum(v.square(), a, k),
    "ReduceLogSum": lambda v, a, k: _sum(v, a, k).log(),
    "ReduceLogSumExp": lambda v, a, k: torch.logsumexp(v, a, k),
}


def _floor_mean(values: Tensor, axes: list[int], keep: bool) -> Tensor:
    count = math.prod(values.shape[axis] for axis in axes)
    return torch.div(_sum(values, axes, keep), count, rounding_mode="trunc")


@op(*_REDUCTIONS, known=(1,))
def reduce(node: Node, values: Tensor, given: Known | None = None) -> Tensor:
    axes = axes_of(node, given)
    if not axes and (node.get("noop_with_empty_axes") or not values.ndim):
        return values.clone()
    along = [axis % values.ndim for axis in axes or range(values.ndim)]
    return _REDUCTIONS[node.op](values, along, bool(node.get("keepdims", 1)))


@op("ArgMax", "ArgMin")
def arg_extreme(node: Node, values: Tensor) -> Tensor:
    axis, keep = node.get("axis", 0) % values.ndim, bool(node.get("keepdims", 1))
    function = torch.argmax if node.op == "ArgMax" else torch.argmin
    if not node.get("select_last_index"):
        return function(values, axis, keep)
    return values.shape[axis] - 1 - function(values.flip(axis), axis, keep)


@op("TopK", known=(1,))
def top_k(node: Node, values: Tensor, given: Known | None = None) -> tuple[Tensor, Tensor]:
    count = int(node.get("k") if given is None else given.item())
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    if torch.compiler.is_exporting():  # of equal values, the runtime takes the first ones
        found: Any = torch.topk(values, count, axis, largest, True)
        return found[0], found[1]
    ordered, places = torch.sort(values, dim=axis, descending=largest, stable=True)
    return ordered.narrow(axis, 0, count), places.narrow(axis, 0, count)
