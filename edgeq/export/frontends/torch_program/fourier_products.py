"""The Fourier transform as a product with a matrix, of complex numbers as pairs.

The runtime has the transform in one case alone, and no complex type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.resampling import times, waves
from edgeq.export.frontends.torch_program.complex_numbers import Pair, as_pair
from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten


def _norm(mode: int, count: int) -> float:
    """What PyTorch multiplies by. Source: `fft_norm_mode` in ATen/native/SpectralOpsUtils.h"""
    return {0: 1.0, 1: 1 / math.sqrt(count), 2: 1 / count}[mode]


def _wave(length: int, bins: int, forward: bool) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the transform's matrix, `(length, bins)`."""
    cosines, sines = waves(length, bins)
    return cosines, -sines if forward else sines


def _last(x: Tensor, axis: int) -> Tensor:
    return x if axis % x.ndim == x.ndim - 1 else x.movedim(axis, -1)


def _back(x: Tensor, axis: int) -> Tensor:
    return x if axis % x.ndim == x.ndim - 1 else x.movedim(-1, axis)


def _real_to_complex(x: Tensor, axes: Sequence[int], norm: int, onesided: bool) -> Pair:
    """`_fft_r2c`: the last of the axes first, which is real; then the others."""
    *others, axis = axes
    length = int(x.shape[axis])
    bins = length // 2 + 1 if onesided else length
    count = math.prod(int(x.shape[a]) for a in axes)

    def matrix() -> Tensor:
        return (torch.cat(_wave(length, bins, True), 1) * _norm(norm, count)).float()

    made = times(_last(x, axis), constant(matrix))
    real, imag = made.split(bins, -1)
    found = Pair(_back(real, axis), _back(imag, axis))
    for other in others:
        found = _turned(found, other, True, 1.0)
    return found


def _turned(x: Pair, axis: int, forward: bool, factor: float) -> Pair:
    """A complex transform along one axis: one product with both parts side by side."""
    length = int(x.real.shape[axis])

    def matrix() -> Tensor:
        cos, sin = _wave(length, length, forward)
        top, bottom = torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)
        return (torch.cat([top, bottom], 0) * factor).float()

    both = torch.cat([_last(x.real, axis), _last(x.imag, axis)], -1)
    real, imag = times(both, constant(matrix)).split(length, -1)
    return Pair(_back(real, axis), _back(imag, axis))


def _complex_to_complex(x: Any, axes: Sequence[int], norm: int, forward: bool) -> Pair:
    """`_fft_c2c`."""
    found = as_pair(x)
    factor = _norm(norm, math.prod(int(found.real.shape[a]) for a in axes))
    for axis in axes:
        found, factor = _turned(found, axis, forward, factor), 1.0
    return found


def _complex_to_real(x: Any, axes: Sequence[int], norm: int, last_size: int) -> Tensor:
    """`_fft_c2r`: the last of the axes last, of which half is given."""
    x = as_pair(x)
    *others, axis = axes
    count = last_size * math.prod(int(x.real.shape[a]) for a in others)
    for other in others:
        x = _turned(x, other, False, 1.0)
    bins = last_size // 2 + 1
    x = Pair(x.real.narrow(axis, 0, bins), x.imag.narrow(axis, 0, bins))

    def matrix() -> Tensor:
        cos, sin = _wave(last_size, bins, True)
        weights = torch.full((bins,), 2.0, dtype=torch.float64)
        weights[0] = 1.0
        if last_size % 2 == 0:
            weights[-1] = 1.0
        rows = torch.cat([(cos * weights).T, (sin * weights).T], 0)
        return (rows * _norm(norm, count)).float()

    both = torch.cat([_last(x.real, axis), _last(x.imag, axis)], -1)
    return _back(times(both, constant(matrix)), axis)


RULES: dict[Any, Callable[..., Any]] = {
    aten._fft_r2c.default: _real_to_complex,
    aten._fft_c2c.default: _complex_to_complex,
    aten._fft_c2r.default: _complex_to_real,
}
