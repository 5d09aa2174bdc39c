"""ONNX ops of signals: Fourier transforms as products with constants, windows, mel scales."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Known, Node, op

Matrix = npt.NDArray[np.float64]


@op("DFT", known=(1, 2))
def fourier(
    node: Node, values: Tensor, length: Known | None = None, axis: Known | None = None
) -> Tensor:
    """Of real numbers `(..., 1)` or complex ones `(..., 2)`, in the last axis of which they lie."""
    along = int(axis.item()) if axis is not None else node.get("axis", 1)
    along = -2 if axis is None and node.version >= 20 else along
    inverse, half = bool(node.get("inverse")), bool(node.get("onesided"))
    parts = values.movedim(along, -2)
    if inverse and half:
        size = 2 * (parts.shape[-2] - 1) if length is None else int(length.item())
        return _from_half(parts, size).movedim(-2, along)
    size = parts.shape[-2] if length is None else int(length.item())
    parts = functional.pad(parts, (0, 0, 0, size - parts.shape[-2]))
    made = _transformed(parts.unbind(-1), size, size // 2 + 1 if half else size, inverse)
    return made.movedim(-2, along)


def _transformed(parts: tuple[Tensor, ...], size: int, bins: int, inverse: bool) -> Tensor:
    """`(..., bins, 2)` of a real part, and maybe an imaginary one, each `(..., size)`."""
    cosines, sines = _waves(size, bins)
    if inverse:
        cosines, sines = cosines / size, -sines / size
    real, imaginary = parts[0] @ cosines, parts[0] @ -sines
    if len(parts) == 2:
        real, imaginary = real + parts[1] @ sines, imaginary + parts[1] @ cosines
    return torch.stack([real, imaginary], -1)


def _from_half(parts: Tensor, size: int) -> Tensor:
    """`(..., size, 1)` real numbers of the `size // 2 + 1` bins `(..., bins, 2)` that decide."""
    bins = size // 2 + 1
    real, imaginary = functional.pad(parts, (0, 0, 0, bins - parts.shape[-2])).unbind(-1)
    counts = torch.full((bins,), 2.0 / size)  # each stands for its mirror image as well
    counts[0] = 1.0 / size
    if size % 2 == 0:
        counts[-1] = 1.0 / size
    cosines, sines = _waves(size, bins)
    made = real @ (cosines * counts).T - imaginary @ (sines * counts).T
    return made.unsqueeze(-1)


def _waves(size: int, bins: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each bin, `(size, bins)`."""
    turns = np.outer(np.arange(size), np.arange(bins)) % size * (2 * np.pi / size)
    cosines, sines = (
        torch.from_numpy(m.astype(np.float32)) for m in (np.cos(turns), np.sin(turns))
    )
    return cosines, sines


@op("STFT", known=(1, 3))
def short_time_fourier(
    node: Node,
    values: Tensor,
    step: Known,
    window: Tensor | None = None,
    length: Known | None = None,
) -> Tensor:
    """Of a signal `(N, samples)` or `(N, samples, 1 or 2)` to `(N, frames, bins, 2)`."""
    if length is not None:
        size = int(length.item())
    elif window is not None:
        size = int(window.shape[0])
    else:
        raise node.refused("has neither a window nor a length of frames")
    parts = values.unsqueeze(-1) if values.ndim == 2 else values
    frames = [part.unfold(1, size, int(step.item())) for part in parts.unbind(-1)]
    if window is not None:
        frames = [frame * window for frame in frames]
    half = node.get("onesided", 1) and len(frames) == 1
    return _transformed(tuple(frames), size, size // 2 + 1 if half else size, False)


_WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}
"""Shares of the constant and of the two cosines."""


@op(*_WINDOWS, known=(0,))
def window(node: Node, size: Known) -> Tensor:
    count = int(size.item())
    turns = np.arange(count) * (2 * np.pi / (count if node.get("periodic", 1) else count - 1))
    level, one, two = _WINDOWS[node.op]
    return torch.from_numpy(
        (level - one * np.cos(turns) + two * np.cos(2 * turns)).astype(np.float32)
    )


@op("MelWeightMatrix", known=(0, 1, 2, 3, 4))
def mel_weights(
    node: Node, bands: Known, size: Known, rate: Known, low: Known, high: Known
) -> Tensor:
    """`(bins, bands)`: triangles between bins, as ONNX's reference draws them."""
    count, bins = int(bands.item()), int(size.item()) // 2 + 1
    ends = [2595 * np.log10(1 + float(edge.item()) / 700) for edge in (low, high)]
    step = (ends[1] - ends[0]) / (count + 2)
    mels = np.arange(count + 2) * step + ends[0]
    hertz = 700 * (np.power(10, mels / 2595) - 1)
    places = ((int(size.item()) + 1) * hertz // int(rate.item())).astype(int)
    made = np.zeros((bins, count), np.float32)
    for band, (first, top, last) in enumerate(zip(places, places[1:], places[2:], strict=False)):
        rising = np.arange(first, top + 1)
        if top == first:
            made[top, band] = 1
        else:
            made[rising, band] = (rising - first) / (top - first)
        falling = np.arange(top, last)
        made[falling, band] = (last - falling) / max(last - top, 1)
    return torch.from_numpy(made)
