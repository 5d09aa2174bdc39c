"""Sampling an image or volume at computed places.

The corners around each place are read by their index in the flattened image, so that all channels
of a place are one row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

BILINEAR, NEAREST = 0, 1
ZEROS, BORDER, REFLECTION = 0, 1, 2
"""Modes as PyTorch numbers them. Source: `GridSamplerInterpolation` in ATen/native/GridSampler.h"""


def grid_sample(x: Tensor, grid: Tensor, mode: int, padding: int, aligned: bool) -> Any:
    """`grid_sampler_2d` and `grid_sampler_3d`.

    Args:
        x: `(N, C, *sizes)`.
        grid: `(N, *outs, axes)`, from -1 to 1, the last axis first.
        mode: How neighbours are joined.
        padding: What lies outside.
        aligned: Whether -1 and 1 are the centres of the outer pixels.
    """
    if mode not in (BILINEAR, NEAREST):
        return NotImplemented
    sizes = [int(size) for size in x.shape[2:]]
    axes = reversed(range(len(sizes)))
    places = [
        _place(grid[..., g], sizes[axis], padding, aligned)
        for g, axis in zip(range(len(sizes)), axes, strict=True)
    ][::-1]
    if mode == NEAREST:
        return _read(x, [torch.round(place) for place in places], sizes)
    lows = [torch.floor(place) for place in places]
    parts = [place - low for place, low in zip(places, lows, strict=True)]
    total: Tensor | None = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        weight: Any = 1
        for high, part in zip(corner, parts, strict=True):
            weight = weight * (part if high else 1 - part)
        values = _read(x, [low + high for low, high in zip(lows, corner, strict=True)], sizes)
        values = values * weight.unsqueeze(1)
        total = values if total is None else total + values
    return total


def _place(coordinate: Tensor, size: int, padding: int, aligned: bool) -> Tensor:
    """A coordinate from -1 to 1 as a place among the pixels."""
    place = (
        (coordinate + 1) * ((size - 1) / 2) if aligned else coordinate * (size / 2) + (size - 1) / 2
    )
    if padding == BORDER:
        return place.clamp(0, size - 1)
    if padding == REFLECTION:
        low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
        return _reflected(place, low, high).clamp(0, size - 1)
    return place


def _reflected(place: Tensor, low: float, high: float) -> Tensor:
    """A place that bounces between two walls."""
    span = high - low
    if span <= 0:
        return torch.zeros_like(place)
    way = place - low
    within = way - torch.floor(way / (2 * span)) * (2 * span)
    return span - (within - span).abs() + low


def _read(x: Tensor, places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """`(N, C, *outs)`: the numbers at whole places, 0 outside."""
    inside: Any = None
    flat: Any = 0
    for place, size in zip(places, sizes, strict=True):
        fits = (place >= 0) & (place <= size - 1)
        inside = fits if inside is None else inside & fits
        flat = flat * size + place.clamp(0, size - 1)
    index = flat.to(torch.int64)
    batch, channels = int(x.shape[0]), int(x.shape[1])
    rows = x.flatten(2)  # (N, C, places)
    if batch == 1:
        read = rows.index_select(2, index.reshape(-1))
    else:
        read = rows.gather(2, index.reshape(batch, 1, -1).expand(batch, channels, -1))
    values = read.reshape(batch, channels, *index.shape[1:])
    return values * inside.unsqueeze(1).to(x.dtype)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d.default: grid_sample,
    aten.grid_sampler_3d.default: grid_sample,
}
