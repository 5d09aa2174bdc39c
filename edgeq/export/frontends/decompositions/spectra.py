"""The short-time Fourier transform as one product of all frames, and its inverse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from edgeq.export.frontends.decompositions.resampling import times, waves
from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten


def stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """`stft` of a real signal that is padded already: `(N, samples)` to `(N, bins, frames)`."""
    if x.is_complex() or align_to_window:
        return NotImplemented
    hop = hop_length or n_fft // 4
    bins = n_fft // 2 + 1 if onesided is None or onesided else n_fft
    factor = 1 / math.sqrt(n_fft) if normalized else 1.0
    turning = constant(lambda: _kernel(n_fft, bins) * factor)
    kernel = turning * _window(window, win_length or n_fft, n_fft)
    made = times(_frames(x, n_fft, hop), kernel.T).transpose(-1, -2)  # (N, 2 * bins, frames)
    real, imag = made.split(bins, -2)
    return torch.complex(real, imag) if return_complex else torch.stack([real, imag], -1)


def _frames(x: Tensor, length: int, hop: int) -> Tensor:
    """`(..., samples)` as `(..., frames, length)`: side by side where they begin at whole steps."""
    if length % hop:
        return x.unfold(-1, length, hop)
    steps, count = length // hop, (int(x.shape[-1]) - length) // hop + 1
    blocks = x[..., : (count + steps - 1) * hop].unflatten(-1, (-1, hop))
    return torch.cat([blocks[..., i : i + count, :] for i in range(steps)], -1)


def _kernel(n_fft: int, bins: int) -> Tensor:
    """Cosines, then negative sines: `(2 * bins, n_fft)`."""
    cosines, sines = waves(n_fft, bins)
    return torch.cat([cosines, -sines], 1).T.float()


def _window(window: Tensor | None, length: int, n_fft: int) -> Tensor:
    """The window in the middle of as many numbers as are transformed."""
    window = torch.ones(length) if window is None else window
    left = (n_fft - length) // 2
    return functional.pad(window, (left, n_fft - length - left))


def istft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Any:
    """`istft` of half a spectrum, `(N, bins, frames)` complex, to `(N, samples)`."""
    bins = n_fft // 2 + 1
    if return_complex or not (onesided is None or onesided) or int(x.shape[-2]) != bins:
        return NotImplemented
    hop, frames = hop_length or n_fft // 4, int(x.shape[-1])
    shape = _window(window, win_length or n_fft, n_fft)
    factor = math.sqrt(n_fft) if normalized else 1.0
    kernel = constant(lambda: _inverse_waves(n_fft, bins) * factor) * shape
    both = torch.cat([x.real, x.imag], -2).reshape(-1, 2 * bins, frames)
    signal = functional.conv_transpose1d(both, kernel.unsqueeze(1), stride=hop).squeeze(1)
    power = (shape * shape).reshape(1, 1, n_fft)
    weights = functional.conv_transpose1d(torch.ones(1, 1, frames), power, stride=hop)[0, 0]
    first = n_fft // 2 if center else 0
    whole = n_fft + hop * (frames - 1)
    end = first + length if length is not None else whole - (n_fft // 2 if center else 0)
    known = min(end, whole)
    made = signal[:, first:known] / weights[first:known]
    made = functional.pad(made, (0, end - known)) if end > known else made
    return made.reshape(*x.shape[:-2], -1)


def _inverse_waves(n_fft: int, bins: int) -> Tensor:
    """What each bin's real and imaginary part adds to a frame: `(2 * bins, n_fft)`."""
    weights = torch.full((bins, 1), 2.0)
    weights[0] = 1.0
    if n_fft % 2 == 0:
        weights[-1] = 1.0
    return _kernel(n_fft, bins) * torch.cat([weights, weights]) / n_fft


TABLE: dict[Any, Callable[..., Any]] = {aten.stft.default: stft, aten.istft.default: istft}
