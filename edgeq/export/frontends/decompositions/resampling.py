"""Resampling to sizes that litert-torch has no right form of.

Resampling is linear and goes axis by axis: along each, by an index where every number is copied,
or by a matrix. Which index and which matrix PyTorch says itself, on ramps and unit vectors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten

Sizes = Sequence[int] | None
Scales = Sequence[float] | None
Resample = Callable[[Tensor, int, float | None], Tensor]
"""`(rows of shape (N, 1, in), out, scale)` to `(N, 1, out)`."""


def along(x: Tensor, axis: int, matrix: Callable[[], Tensor]) -> Tensor:
    """`x` with the numbers along an axis multiplied by a constant matrix `(in, out)`."""
    if axis % x.ndim == x.ndim - 1:
        return times(x, constant(matrix))
    return times(x.movedim(axis, -1), constant(matrix)).movedim(-1, axis)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """`(..., in)` by `(in, out)`, as one product of two matrices whatever the layout of `x` is."""
    rows = torch.mm(x.reshape(-1, x.shape[-1]), matrix)
    return rows.reshape(*x.shape[:-1], matrix.shape[-1])


def waves(length: int, bins: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a Fourier transform, `(length, bins)`, with the zeros that they have."""
    ramp = torch.arange(length, dtype=torch.float64)[:, None]
    turns = (ramp * torch.arange(bins, dtype=torch.float64)) % length / length
    angle = 2 * math.pi * turns
    cosines, sines = angle.cos(), angle.sin()
    cosines[(turns == 0.25) | (turns == 0.75)] = 0.0
    sines[turns == 0.5] = 0.0
    return cosines, sines


def picked(x: Tensor, axis: int, index: Callable[[], Tensor]) -> Tensor:
    """`x` with the entries along an axis that a constant index names."""
    return x.index_select(axis, constant(index))


def unit_rows(size: int) -> Tensor:
    """`(size, 1, size)`: a unit vector in each row."""
    return torch.eye(size).reshape(size, 1, size)


def _sizes(x: Tensor, sizes: Sizes, scales: Scales) -> list[int]:
    if sizes is not None:
        return [int(size) for size in sizes]
    assert scales is not None
    return [int(size * scale) for size, scale in zip(x.shape[2:], scales, strict=True)]


def _by_index(resample: Resample, x: Tensor, sizes: Sizes, scales: Scales) -> Tensor:
    """Nearest neighbours, axis by axis."""
    wanted = _sizes(x, sizes, scales)
    given = scales if scales is not None else [None] * len(wanted)
    for axis, (size, scale) in enumerate(zip(wanted, given, strict=True), 2):
        length = int(x.shape[axis])
        if size != length:
            x = picked(x, axis, functools.partial(_index, resample, length, size, scale))
    return x


def _index(resample: Resample, length: int, size: int, scale: float | None) -> Tensor:
    ramp = torch.arange(length, dtype=torch.float64).reshape(1, 1, length)
    return resample(ramp, size, scale).reshape(size).long()


def _by_matrix(resample: Resample, x: Tensor, sizes: Sizes, scales: Scales) -> Tensor:
    """Weighted sums of neighbours, axis by axis; the axis that grows least comes first."""
    wanted = _sizes(x, sizes, scales)
    given = scales if scales is not None else [None] * len(wanted)
    steps = list(zip(range(2, x.ndim), wanted, given, strict=True))
    for axis, size, scale in sorted(steps, key=lambda step: step[1] / int(x.shape[step[0]])):
        length = int(x.shape[axis])
        make = functools.partial(_matrix, resample, length, size, scale)
        if size != length or scale not in (None, 1.0):
            x = along(x, axis, make)
    return x


def _matrix(resample: Resample, length: int, size: int, scale: float | None) -> Tensor:
    return resample(unit_rows(length), size, scale).reshape(length, size)


def _is_exact(x: Tensor, sizes: Sizes, scales: Scales) -> bool:
    """Whether the factors are those between the sizes, by which litert-torch goes."""
    if sizes is not None or scales is None:
        return True
    return all(
        size * scale == int(size * scale) for size, scale in zip(x.shape[2:], scales, strict=True)
    )


def _is_multiple(x: Tensor, sizes: Sizes, scales: Scales) -> bool:
    if not _is_exact(x, sizes, scales):
        return False
    return all(a % b == 0 for a, b in zip(_sizes(x, sizes, scales), x.shape[2:], strict=True))


def nearest_2d(x: Tensor, sizes: Sizes, scales: Scales) -> Any:
    """`upsample_nearest2d.vec`, which litert-torch has rightly for whole factors."""
    if _is_multiple(x, sizes, scales):
        return NotImplemented
    return nearest(x, sizes, scales)


def nearest_1d(x: Tensor, sizes: Sizes, scales: Scales) -> Tensor:
    """`upsample_nearest1d.vec`: whole factors as of an image of one row, which is no lookup."""
    if not _is_multiple(x, sizes, scales):
        return nearest(x, sizes, scales)
    size = _sizes(x, sizes, scales)[0]
    made: Tensor = aten.upsample_nearest2d.vec(x.unsqueeze(2), [1, size], None)
    return made.squeeze(2)


def nearest(x: Tensor, sizes: Sizes, scales: Scales) -> Tensor:
    """`upsample_nearest` over any number of axes."""
    return _by_index(_nearest_row, x, sizes, scales)


def nearest_exact(x: Tensor, sizes: Sizes, scales: Scales) -> Tensor:
    """`_upsample_nearest_exact` over any number of axes."""
    return _by_index(_nearest_exact_row, x, sizes, scales)


def _nearest_row(row: Tensor, size: int, scale: float | None) -> Tensor:
    made: Tensor = aten.upsample_nearest1d.default(row, [size], scale)
    return made


def _nearest_exact_row(row: Tensor, size: int, scale: float | None) -> Tensor:
    made: Tensor = aten._upsample_nearest_exact1d.default(row, [size], scale)
    return made


def bilinear(x: Tensor, sizes: Sizes, aligned: bool, scales: Scales) -> Any:
    """`upsample_bilinear2d.vec`, of which litert-torch forgets factors that are not whole."""
    if aligned or _is_exact(x, sizes, scales):
        return NotImplemented
    return linear(x, sizes, aligned, scales)


def linear(x: Tensor, sizes: Sizes, aligned: bool, scales: Scales) -> Tensor:
    """`upsample_linear1d.vec` and `upsample_trilinear3d.vec`."""

    def row(values: Tensor, size: int, scale: float | None) -> Tensor:
        made: Tensor = aten.upsample_linear1d.default(values, [size], aligned, scale)
        return made

    return _by_matrix(row, x, sizes, scales)


def _of_images(op: Any, aligned: bool) -> Resample:
    """A way to resample images as one to resample rows."""

    def row(values: Tensor, size: int, scale: float | None) -> Tensor:
        made: Tensor = op(values[:, :, None], [1, size], aligned, None, scale)
        return made[:, :, 0]

    return row


def bicubic(x: Tensor, sizes: Sizes, aligned: bool, scales: Scales) -> Tensor:
    """`upsample_bicubic2d.vec`."""
    return _by_matrix(_of_images(aten.upsample_bicubic2d.default, aligned), x, sizes, scales)


def bilinear_antialias(x: Tensor, sizes: Sizes, aligned: bool, scales: Scales) -> Tensor:
    """`_upsample_bilinear2d_aa.vec`."""
    return _by_matrix(_of_images(aten._upsample_bilinear2d_aa.default, aligned), x, sizes, scales)


def bicubic_antialias(x: Tensor, sizes: Sizes, aligned: bool, scales: Scales) -> Tensor:
    """`_upsample_bicubic2d_aa.vec`."""
    return _by_matrix(_of_images(aten._upsample_bicubic2d_aa.default, aligned), x, sizes, scales)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.upsample_nearest1d.vec: nearest_1d,
    aten.upsample_nearest2d.vec: nearest_2d,
    aten.upsample_nearest3d.vec: nearest,
    aten._upsample_nearest_exact1d.vec: nearest_exact,
    aten._upsample_nearest_exact2d.vec: nearest_exact,
    aten._upsample_nearest_exact3d.vec: nearest_exact,
    aten.upsample_linear1d.vec: linear,
    aten.upsample_bilinear2d.vec: bilinear,
    aten.upsample_trilinear3d.vec: linear,
    aten.upsample_bicubic2d.vec: bicubic,
    aten._upsample_bilinear2d_aa.vec: bilinear_antialias,
    aten._upsample_bicubic2d_aa.vec: bicubic_antialias,
}
