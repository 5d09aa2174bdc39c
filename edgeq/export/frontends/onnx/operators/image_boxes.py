"""ONNX ops on boxes in images, and what finds boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
