"""Parameters of weights whose ops read and write float."""

from __future__ import annotations

import numpy as np

from edgeq.qtypes import DType, FloatArray, QParams, symmetric, symmetric_per_channel

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
    others = None if axis is None else tuple(a for a in range(data.ndim) if a != axis)
    absmax = np.atleast_1d(np.abs(data).max(axis=others))
    if dtype.bits < 8:
        absmax = absmax * _best_clip(data, absmax, axis, dtype)
    if axis is None:
        return symmetric(float(absmax[0]), dtype)
    return symmetric_per_channel(absmax, axis, np.zeros(len(absmax)), dtype)


def _best_clip(data: FloatArray, absmax: FloatArray, axis: int | None, dtype: DType) -> FloatArray:
    """Share of each channel's largest magnitude that loses least, `(channels,)`."""
    rows = data.reshape(1, -1) if axis is None else np.moveaxis(data, axis, 0)
    rows = rows.reshape(len(absmax), -1)
    top = dtype.limits(narrow_range=True)[1]
    errors = []
    for clip in CLIPS:
        step = np.maximum(absmax * clip / top, np.finfo(np.float32).tiny)[:, None]
        rounded = np.clip(np.rint(rows / step), -top, top) * step
        errors.append(np.square(rounded - rows).sum(axis=1))
    best: FloatArray = CLIPS[np.argmin(errors, axis=0)]
    return best
