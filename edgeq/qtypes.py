"""Quantized types, quantization parameters and their reference arithmetic in numpy.

Knows nothing of models, files or runtimes. The one equation everything rests on is
`real = (q - zero_point) * scale`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

STAND_IN_FOR_INFINITY = 1e30
"""A number this large stands for infinity (a mask, the padding of a max pool): no integer holds it
beside the others."""

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

SCALE_MIN = 1e-18
"""Smallest scale handed out: a bias scale is the product of two and must stay a normal float32."""


class DType(enum.Enum):
    """An integer storage type, by the name the `quant.fake_quant` composite uses."""

    INT2 = "i2"
    INT4 = "i4"
    INT8 = "i8"
    UINT8 = "ui8"
    INT16 = "i16"
    INT32 = "i32"
    INT64 = "i64"

    @property
    def is_signed(self) -> bool:
        """Whether it holds negative integers."""
        return self.value.startswith("i")

    @property
    def bits(self) -> int:
        """Width in bits."""
        return int(self.value.removeprefix("u")[1:])

    @property
    def type_name(self) -> str:
        """Name of the tensor type in a file, for example `"int4"`."""
        return f"int{self.bits}" if self.is_signed else f"uint{self.bits}"

    @property
    def numpy_name(self) -> str:
        """Name of the smallest numpy dtype that holds it, for example `"int8"` of INT4."""
        bits = max(self.bits, 8)
        return f"int{bits}" if self.is_signed else f"uint{bits}"

    def limits(self, narrow_range: bool = False) -> tuple[int, int]:
        """Lowest and highest integer; a narrow range gives up the lowest one."""
        if not self.is_signed:
            return int(narrow_range), (1 << self.bits) - 1
        half = 1 << (self.bits - 1)
        return -half + int(narrow_range), half - 1


@dataclass(frozen=True)
class QParams:
    """How one tensor is stored as integers: `real = (q - zero_point) * scale`.

    Attributes:
        dtype: Storage type.
        scale: One scale (per-tensor), or one for each index of `axis` (per-channel).
        zero_point: As many zero points as scales; 0 for what kernels compute with per channel.
        axis: The channel axis, or None for per-tensor.
        narrow_range: Whether the lowest integer is left unused (weights: [-127, 127]).
    """

    dtype: DType
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    narrow_range: bool = False

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise ValueError(
                f"QParams needs as many zero points as scales and at least one. "
                f"Received: {len(self.scale)} scales, {len(self.zero_point)} zero points"
            )
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"per-tensor QParams take one scale. Received: {len(self.scale)}")
        bad = [s for s in self.scale if not (math.isfinite(s) and s > 0)]
        if bad:
            raise ValueError(f"scales must be finite and > 0. Received: {bad[0]}")
        low, high = self.dtype.limits(self.narrow_range)
        if any(not low <= z <= high for z in self.zero_point):
            raise ValueError(
                f"zero points must lie in [{low}, {high}]. Received: {self.zero_point}"
            )

    def range(self) -> tuple[float, float]:
        """The real numbers that a per-tensor type can hold, as `(lowest, highest)`."""
        low, high = self.dtype.limits(self.narrow_range)
        scale, zero_point = self.scale[0], self.zero_point[0]
        return (low - zero_point) * scale, (high - zero_point) * scale

    def describe(self) -> str:
        """Short text for reports, for example `int8 scale 0.0235 zero point -128`."""
        if self.axis is not None:
            points = f" zero point {min(self.zero_point)}..{max(self.zero_point)}"
            return (
                f"{self.dtype.type_name} per-channel axis {self.axis} "
                f"scale {min(self.scale):.3g}..{max(self.scale):.3g}"
                + (points if any(self.zero_point) else "")
            )
        name = self.dtype.type_name
        return f"{name} scale {self.scale[0]:.6g} zero point {self.zero_point[0]}"


@dataclass(frozen=True)
class BlockQParams:
    """How a weight `(rows, columns)` is stored with a scale for each block of columns of a row.

    Attributes:
        dtype: Storage type; zero points are 0 and the range is narrow.
        block_size: Columns that share a scale.
        scale: `(rows, columns / block_size)`.
    """

    dtype: DType
    block_size: int
    scale: tuple[tuple[float, ...], ...]

    def describe(self) -> str:
        """Short text for reports."""
        return f"{self.dtype.type_name} in blocks of {self.block_size}"


def float32(value: float) -> float:
    """The float32 nearest to `value`, as a Python float: what the file can store."""
    return float(np.float32(value))


def affine(low: float, high: float, dtype: DType = DType.INT8) -> QParams:
    """Per-tensor parameters that cover `[low, high]` and hold 0 exactly.

    Args:
        low: Lowest real value seen.
        high: Highest real value seen.
        dtype: Storage type.

    Returns:
        Per-tensor `QParams`; scale `(high - low) / (levels - 1)` after widening the range to 0.

    Source:
        LiteRT 8-bit quantization specification: activations are per-tensor, any zero point.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = dtype.limits()
    if low == high:
        return QParams(dtype, (float32(1 / (top - bottom)),), (bottom,))
    scale = float32(max((high - low) / (top - bottom), SCALE_MIN))
    # Not from the rounded scale: of a symmetric range this is 0 for certain.
    zero_point = round(bottom - low / (high - low) * (top - bottom))
    return QParams(dtype, (scale,), (zero_point,))


def affine_per_channel(
    low: FloatArray, high: FloatArray, axis: int, dtype: DType = DType.INT8
) -> QParams:
    """As `affine` for each channel: parameters of a weight that becomes float before it is used.

    Args:
        low: Lowest real value of each channel, `(channels,)`.
        high: Highest one, likewise.
        axis: Channel axis of the weight.
        dtype: Storage type.
    """
    found = [affine(*ends, dtype) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    scale, zero_point = ([getattr(q, name)[0] for q in found] for name in ("scale", "zero_point"))
    return QParams(dtype, tuple(scale), tuple(zero_point), _channel_axis(axis, len(found)))


def _channel_axis(axis: int, channels: int) -> int | None:
    """The axis; None for a single channel, whose scale is that of the tensor: no file tells them
    apart."""
    return axis if channels > 1 else None


def symmetric(absmax: float, dtype: DType = DType.INT8) -> QParams:
    """Per-tensor parameters with zero point 0 and a narrow range that cover `[-absmax, absmax]`."""
    top = dtype.limits(narrow_range=True)[1]
    scale = float32(max(absmax / top, SCALE_MIN)) if absmax else 1.0
    return QParams(dtype, (scale,), (0,), narrow_range=True)


def symmetric_affine(low: float, high: float, dtype: DType) -> QParams:
    """Per-tensor activation parameters with zero point 0: what int16 kernels take."""
    return replace(symmetric(max(-low, high, 0.0), dtype), narrow_range=False)


def covering(found: tuple[float, float], dtype: DType) -> QParams:
    """Activation parameters that cover a range `(low, high)`."""
    return affine(*found) if dtype is DType.INT8 else symmetric_affine(*found, dtype)


def symmetric_per_channel(
    absmax: FloatArray, axis: int, floor: FloatArray, dtype: DType = DType.INT8
) -> QParams:
    """Per-channel weight parameters `absmax / 127`, zero point 0, narrow range.

    Args:
        absmax: Largest magnitude of each channel, `(channels,)`.
        axis: Channel axis of the weight.
        floor: Smallest scale that each channel can have without its int32 bias overflowing,
            `(channels,)`; 0 where there is no bias.
        dtype: Storage type.

    Returns:
        `QParams` with `channels` scales, per-tensor for one channel. A dead channel (all weights 0)
        takes the smallest scale of the live ones, so that its bias, all it has to say, keeps its
        resolution.

    Source:
        LiteRT 8-bit quantization specification: weights are in [-127, 127] with zero point 0.
    """
    top = dtype.limits(narrow_range=True)[1]
    scale = absmax.astype(np.float64) / top
    live = scale >= SCALE_MIN
    scale[~live] = scale[live].min() if live.any() else 1.0 / top
    stored = np.maximum(scale, floor).astype(np.float32)
    return QParams(
        dtype,
        tuple(stored.astype(float).tolist()),
        (0,) * len(stored),
        _channel_axis(axis, len(stored)),
        narrow_range=True,
    )


def broadcast(values: tuple[float, ...], axis: int | None, rank: int) -> FloatArray:
    shape = [1] * rank
    if axis is not None:
        shape[axis] = len(values)
    return np.asarray(values, np.float64).reshape(shape)


OFF_GRID = 0.01
"""How far from an integer a rounded number may be in units of its scale: float32 rounds it."""

PIECE = 1 << 20
"""Elements that arithmetic takes at once, so that what it needs in between stays small."""


def row_slices(values: npt.NDArray[Any]) -> Iterator[Any]:
    """Slices of the first axis that together are the whole array."""
    if values.ndim == 0:
        yield ()
    else:
        count = max(1, PIECE * len(values) // max(1, values.size))
        yield from (slice(start, start + count) for start in range(0, len(values), count))


def largest(values: FloatArray, axis: int | None) -> FloatArray:
    """Largest magnitude for each index of an axis, `(channels,)`; of all, `(1,)`, without one."""
    others = tuple(a for a in range(values.ndim) if a != axis)
    pieces = [np.abs(values[rows]).max(axis=others) for rows in row_slices(values)]
    found: FloatArray = np.concatenate(pieces) if axis == 0 else np.max(pieces, axis=0)
    return np.atleast_1d(found)


def all_finite(values: FloatArray) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(values[rows]).all()) for rows in row_slices(values))


def quantize(real: FloatArray, qparams: QParams) -> IntArray:
    """Rounds to the nearest integer of `qparams`, ties to even, saturating.

    Args:
        real: Any shape; the channel axis must have as many entries as there are scales.
        qparams: How to store it.

    Returns:
        Integers of the same shape.
    """
    scale = broadcast(qparams.scale, qparams.axis, real.ndim)
    zero_point = broadcast(qparams.zero_point, qparams.axis, real.ndim)
    low, high = qparams.dtype.limits(qparams.narrow_range)
    integers = np.empty(real.shape, qparams.dtype.numpy_name)
    for rows in row_slices(real):
        own = rows if qparams.axis == 0 else ...
        integers[rows] = np.clip(np.rint(real[rows] / scale[own]) + zero_point[own], low, high)
    return integers


def quantize_blocks(real: FloatArray, qparams: BlockQParams) -> IntArray:
    """As `quantize`, for a weight `(rows, columns)` in blocks."""
    top = qparams.dtype.limits(narrow_range=True)[1]
    integers = np.empty(real.shape, qparams.dtype.numpy_name)
    for rows in row_slices(real):
        scale = np.repeat(np.asarray(qparams.scale[rows]), qparams.block_size, axis=1)
        integers[rows] = np.clip(np.rint(real[rows] / scale), -top, top)
    return integers


def dequantize_blocks(integers: IntArray, qparams: BlockQParams) -> FloatArray:
    """As `dequantize`, for a weight `(rows, columns)` in blocks."""
    scale = np.repeat(np.asarray(qparams.scale), qparams.block_size, axis=1)
    real: FloatArray = (integers * scale).astype(np.float32)
    return real


def dequantize(integers: IntArray, qparams: QParams) -> FloatArray:
    """The real numbers `(q - zero_point) * scale` as float32, same shape."""
    scale = broadcast(qparams.scale, qparams.axis, integers.ndim)
    zero_point = broadcast(qparams.zero_point, qparams.axis, integers.ndim)
    return ((integers.astype(np.float64) - zero_point) * scale).astype(np.float32)


def is_on_grid(real: FloatArray, qparams: QParams) -> bool:
    """Whether numbers are integers of `qparams` already, up to the rounding of float32."""
    off = np.abs(dequantize(quantize(real, qparams), qparams) - real)
    return bool((off < OFF_GRID * broadcast(qparams.scale, qparams.axis, real.ndim)).all())


def pack_bits(integers: IntArray, dtype: DType) -> npt.NDArray[np.uint8]:
    """The bytes that a file stores: types below 8 bits share bytes, the first in the lowest bits.

    Args:
        integers: Any shape, in row-major order.
        dtype: Storage type.

    Returns:
        One-dimensional; the last byte is filled up with 0.
    """
    if dtype.bits >= 8:
        return np.ascontiguousarray(integers).reshape(-1).view(np.uint8)
    each = 8 // dtype.bits
    codes = integers.reshape(-1).astype(np.uint8) & ((1 << dtype.bits) - 1)
    codes = np.pad(codes, (0, -len(codes) % each)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * dtype.bits
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(codes << shifts, axis=1)
    return packed


def unpack_bits(
    packed: npt.NDArray[np.uint8], shape: tuple[int, ...], dtype: DType
) -> npt.NDArray[np.int8]:
    """The integers that `pack_bits` stored below 8 bits, with `shape`."""
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    codes = (packed[:, None] >> shifts & ((1 << dtype.bits) - 1)).reshape(-1)
    codes = codes[: math.prod(shape)].astype(np.int8)
    half = 1 << (dtype.bits - 1)
    return ((codes ^ half) - half).reshape(shape)
