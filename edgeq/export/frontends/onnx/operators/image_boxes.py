"""ONNX ops on boxes in images, and what finds boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Node, op


@op("RoiAlign")
def roi_align(node: Node, values: Tensor, boxes: Tensor, owners: Tensor) -> Tensor:
    """Each box's image `(C, H, W)` times the shares that its rows and columns have in the crop."""
    samples = node.get("sampling_ratio", 0)
    if samples <= 0:
        raise node.refused(
            "reads as many points of a box as the box is large; the file has fixed sizes: export "
            "it with a sampling_ratio, as 2"
        )
    if node.get("mode", "avg") != "avg":
        raise node.refused(
            "takes the largest of the points in each part, where averages have a form"
        )
    where = node.get("coordinate_transformation_mode", "half_pixel")
    centred = node.version >= 16 and where == "half_pixel"
    boxes = boxes * node.get("spatial_scale", 1.0) - (0.5 if centred else 0.0)
    left, top, right, low = boxes.unbind(1)
    _, _, height, width = values.shape
    rows = _shares(top, low, height, node.get("output_height", 1), samples, centred)
    columns = _shares(left, right, width, node.get("output_width", 1), samples, centred)
    if values.shape[0] > 1:
        values = torch.index_select(values, 0, owners.long())
    made = torch.matmul(rows.unsqueeze(1), values)  # (boxes, C, rows, W)
    return torch.matmul(made, columns.transpose(1, 2).unsqueeze(1))


def _shares(
    low: Tensor, high: Tensor, size: int, parts: int, samples: int, centred: bool
) -> Tensor:
    """`(boxes, parts, size)`: what each part of a box is made of along one axis."""
    length = high - low if centred else torch.clamp(high - low, min=1.0)
    points = (torch.arange(parts * samples, dtype=torch.float32) + 0.5) / (parts * samples)
    places = low[:, None] + length[:, None] * points
    inside = (places >= -1.0) & (places <= size)
    places = places.clamp(0.0, size - 1.0)
    distance = (places[..., None] - torch.arange(size, dtype=torch.float32)).abs()
    weights = torch.relu(1.0 - distance) * inside[..., None].to(torch.float32)
    return weights.reshape(-1, parts, samples, size).mean(2)


@op("MaxUnpool", known=(2,))
def max_unpool(node: Node, values: Tensor, places: Tensor, size: Any = None) -> Tensor:
    """Each value where it lay, counted through the whole tensor, and zeros elsewhere."""
    kernel = node.get("kernel_shape")
    rank = len(kernel)
    strides, pads = node.get("strides") or [1] * rank, node.get("pads") or [0] * (2 * rank)
    inner = [
        (values.shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i]
        for i in range(rank)
    ]
    shape = [*values.shape[:2], *inner]
    if size is not None and list(size) != shape:
        raise node.refused("has an output_shape beyond what its windows cover")
    flat = values.new_zeros(torch.Size(shape).numel())
    return torch.scatter(flat, 0, places.reshape(-1), values.reshape(-1)).reshape(shape)


@op("NonMaxSuppression")
def non_max_suppression(node: Node, *values: Tensor | None) -> Tensor:
    read = " and ".join(repr(name) for name in node.inputs[:2])
    raise node.refused(
        "keeps as many boxes as the input decides, and a file has fixed sizes: end the model at "
        f"what it reads, {read} (onnx.utils.extract_model cuts a file), export that, and keep the "
        "boxes in your own code"
    )


@op("Det")
def determinant(node: Node, values: Tensor) -> Tensor:
    return torch.linalg.det(values)


@op("DeformConv")
def deformable_convolution(
    node: Node,
    values: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A convolution that reads points beside those of its window: samples, and one product."""
    if values.ndim != 4:
        raise node.refused(f"has {values.ndim - 2} spatial axes, where a form has 2")
    batch, channels, _, _ = values.shape
    rows, columns = offset.shape[-2:]
    count, groups = weight.shape[2] * weight.shape[3], node.get("offset_group", 1)
    places = _window_places(node, weight, rows, columns)
    places = places + offset.reshape(batch * groups, count, 2, rows, columns).transpose(1, 2)
    planes = values.reshape(batch * groups, channels // groups, *values.shape[2:])
    found = _sampled(planes, places.reshape(batch * groups, 2, count * rows, columns))
    found = found.reshape(batch, groups, channels // groups, count, rows, columns)
    if mask is not None:
        found = found * mask.reshape(batch, groups, 1, count, rows, columns)
    parts = node.get("group", 1)
    read = found.reshape(batch, parts, channels // parts * count, rows * columns)
    made = torch.matmul(weight.reshape(parts, weight.shape[0] // parts, -1), read)
    made = made.reshape(batch, weight.shape[0], rows, columns)
    return made if bias is None else made + bias.reshape(-1, 1, 1)


def _window_places(node: Node, weight: Tensor, rows: int, columns: int) -> Tensor:
    """`(2, points, rows, columns)`: row and column of each point of each window."""
    ones = [1, 1]
    strides, dilations = node.get("strides") or ones, node.get("dilations") or ones
    pads = node.get("pads") or [0] * 4
    axes = []
    for axis, size in enumerate((rows, columns)):
        starts = torch.arange(size) * strides[axis] - pads[axis]
        steps = torch.arange(weight.shape[2 + axis]) * dilations[axis]
        axes.append((steps[:, None] + starts).float())  # (k, size)
    height, width = (int(n) for n in weight.shape[2:])
    down = axes[0].reshape(height, 1, rows, 1).expand(height, width, rows, columns)
    across = axes[1].reshape(1, width, 1, columns).expand(height, width, rows, columns)
    return torch.stack([down, across]).reshape(2, height * width, rows, columns)


def _sampled(values: Tensor, places: Tensor) -> Tensor:
    """Values at places `(N, 2, rows, columns)` between pixels; zeros lie around the image."""
    height, width = values.shape[2:]
    down, across = places.unbind(1)
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], -1)
    return functional.grid_sample(values, grid, "bilinear", "zeros", False)
