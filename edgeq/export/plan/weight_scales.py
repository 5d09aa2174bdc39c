"""Parameters of weights whose ops read and write float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.export.plan.choices import Choice
from edgeq.ops import storable
from edgeq.qtypes import (
    BlockQParams,
    DType,
    FloatArray,
    QParams,
    affine_per_channel,
    dequantize,
    largest,
    quantize,
    row_slices,
    symmetric,
    symmetric_per_channel,
)

SMALLEST_BLOCK_SCALE = 2.0**-14
"""Smallest normal float16."""

CLIPS = np.linspace(1.0, 0.5, 26)
"""Shares of a channel's largest magnitude that are tried as its range."""


def stored_qparams(data: FloatArray, axis: int | None, dtype: DType) -> QParams:
    """Symmetric parameters of a stored weight, narrow range, zero point 0.

    Args:
        data: The weight.
        axis: Channel axis, or None for one scale.
        dtype: Type to store; below 8 bits the range of each channel is the one with the smallest
            squared error, clipping included.
    """
    absmax = largest(data, axis)
    if dtype.bits < 8:
        absmax = absmax * _best_clip(data, absmax, axis, dtype)
    if axis is None:
        return symmetric(float(absmax[0]), dtype)
    return symmetric_per_channel(absmax, axis, np.zeros(len(absmax)), dtype)


def affine_qparams(data: FloatArray, axis: int | None, dtype: DType) -> QParams:
    """Parameters of a stored weight with the zero points that lose least, full range.

    Args:
        data: The weight.
        axis: Channel axis, or None for one scale and zero point.
        dtype: Type to store; below 8 bits both ends of the range of each channel are clipped where
            that has a smaller squared error.
    """
    rows = data.reshape(1, -1) if axis is None else np.moveaxis(data, axis, 0)
    rows = rows.reshape(len(rows), -1)
    ends = np.stack([rows.min(axis=1), rows.max(axis=1)]).astype(np.float64)
    for end in (0, 1) if dtype.bits < 8 else ():
        ends[end] *= _best_end(rows, ends, end, dtype)
    qparams = affine_per_channel(ends[0], ends[1], 0, dtype)
    return qparams if qparams.axis is None else replace(qparams, axis=axis)


def _best_end(rows: FloatArray, ends: FloatArray, end: int, dtype: DType) -> FloatArray:
    """Share of one end of each row's range that loses least."""
    errors = []
    for clip in CLIPS:
        tried = ends.copy()
        tried[end] *= clip
        qparams = affine_per_channel(tried[0], tried[1], 0, dtype)
        errors.append(np.square(dequantize(quantize(rows, qparams), qparams) - rows).sum(axis=1))
    best: FloatArray = CLIPS[np.argmin(errors, axis=0)]
    return best


def block_qparams(data: FloatArray, block_size: int, dtype: DType) -> BlockQParams:
    """Symmetric parameters of a weight `(rows, columns)`, one scale for each block of columns.

    Source:
        The kernels read the scales as float16; with the 8 leading bits of bfloat16 they are the
        same in every kernel.
    """
    blocks = data.reshape(-1, block_size)
    absmax = largest(blocks, 0)
    clipped = absmax * _best_clip(blocks, absmax, 0, dtype)
    scale = np.maximum(clipped / dtype.limits(narrow_range=True)[1], SMALLEST_BLOCK_SCALE)
    bits = scale.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
    rows = rounded.view(np.float32).astype(float).reshape(len(data), -1)
    return BlockQParams(dtype, block_size, tuple(map(tuple, rows.tolist())))


def _best_clip(data: FloatArray, absmax: FloatArray, axis: int | None, dtype: DType) -> FloatArray:
    """Share of each channel's largest magnitude that loses least, `(channels,)`."""
    channels = data[None] if axis is None else np.moveaxis(data, axis, 0)
    top = dtype.limits(narrow_range=True)[1]
    best = np.empty(len(absmax))
    for some in row_slices(channels):
        rows = channels[some].reshape(len(absmax[some]), -1)
        errors = []
        for clip in CLIPS:
            step = np.maximum(absmax[some] * clip / top, np.finfo(np.float32).tiny)[:, None]
            rounded = np.clip(np.rint(rows / step), -top, top) * step
            errors.append(np.square(rounded - rows).sum(axis=1))
        best[some] = CLIPS[np.argmin(errors, axis=0)]
    return best


def stored_weight_qparams(
    name: str, data: FloatArray, choice: Choice
) -> QParams | BlockQParams | None:
    """Parameters of a stored weight of an op of that name; None for float16."""
    weight, dtype, scheme = storable(name), choice.mode.weight_dtype, choice.weights
    if dtype is None:
        return None
    if scheme.block_size:
        return block_qparams(data, scheme.block_size, dtype)
    axis = weight.axis if weight is not None and scheme.per_channel else None
    return (stored_qparams if scheme.symmetric else affine_qparams)(data, axis, dtype)
