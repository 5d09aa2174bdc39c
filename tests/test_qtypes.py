"""Quantization arithmetic: what is promised of rounding, zero, ranges and channels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.qtypes import (
    SCALE_MIN,
    DType,
    QParams,
    affine,
    dequantize,
    float32,
    quantize,
    symmetric,
    symmetric_per_channel,
)

Float32 = npt.NDArray[np.float32]

reals = st.floats(-1e6, 1e6, width=32)
dtypes = st.sampled_from([DType.INT8, DType.INT16])
vectors = arrays.arrays(np.float32, st.integers(1, 20), elements=reals)
matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=reals
)


def floats(values: object) -> Float32:
    return np.asarray(values, np.float32)


def assert_within_half_a_step(real: Float32, qparams: QParams, scale: npt.ArrayLike) -> None:
    """The error of a round trip, with room for the float32 rounding of scale and result."""
    levels = 2**qparams.dtype.bits
    bound = np.asarray(scale, np.float64) * (0.5 + levels * 1e-7) + np.abs(real) * 2.0**-23
    error = np.abs(dequantize(quantize(real, qparams), qparams).astype(np.float64) - real)
    assert (error <= bound).all()


@given(vectors, dtypes)
def test_affine_round_trip_is_within_half_a_step_of_what_it_was_made_for(
    real: Float32, dtype: DType
) -> None:
    qparams = affine(float(real.min()), float(real.max()), dtype)
    assert_within_half_a_step(real, qparams, qparams.scale[0])


@given(reals, reals, dtypes)
def test_affine_holds_zero_exactly(low: float, high: float, dtype: DType) -> None:
    qparams = affine(min(low, high), max(low, high), dtype)
    zero = quantize(np.zeros(1), qparams)
    assert zero.tolist() == list(qparams.zero_point)
    assert dequantize(zero, qparams).tolist() == [0.0]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-2.0, 1.0, 3 / 255, 42),
        (0.0, 6.0, 6 / 255, -128),
        (2.0, 6.0, 6 / 255, -128),
        (-6.0, 0.0, 6 / 255, 127),
        (-6.0, -2.0, 6 / 255, 127),
        (-1.0, 3.0, 4 / 255, -64),
        (0.0, 0.0, 1 / 255, -128),
        (0.0, 1e-30, SCALE_MIN, -128),
        (0.0, 3.4e38, 3.4e38 / 255, -128),
    ],
)
def test_affine_parameters(low: float, high: float, scale: float, zero_point: int) -> None:
    assert affine(low, high) == QParams(DType.INT8, (float32(scale),), (zero_point,))


@given(reals, reals)
def test_affine_range_covers_what_it_was_made_for(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    qparams = affine(low, high)
    lowest, highest = qparams.range()
    half = qparams.scale[0] * 0.51
    assert lowest - half <= low
    assert high <= highest + half


@given(vectors, dtypes)
def test_symmetric_is_odd_and_leaves_the_lowest_integer_unused(real: Float32, dtype: DType) -> None:
    qparams = symmetric(float(np.abs(real).max()), dtype)
    integers = quantize(real * 2, qparams)
    assert qparams.zero_point == (0,)
    assert integers.min() >= -(2 ** (dtype.bits - 1) - 1)
    assert np.array_equal(quantize(-real, qparams), -quantize(real, qparams))
    assert_within_half_a_step(real, qparams, qparams.scale[0])


@given(matrices, st.sampled_from([0, 1]))
def test_each_channel_is_rounded_by_its_own_scale(weights: Float32, axis: int) -> None:
    absmax = np.abs(weights).max(axis=1 - axis)
    qparams = symmetric_per_channel(absmax, axis, np.zeros(len(absmax)))
    scale = np.asarray(qparams.scale)
    integers = quantize(weights, qparams)
    assert integers.dtype == np.int8
    assert integers.min() >= -127
    assert_within_half_a_step(weights, qparams, np.expand_dims(scale, 1 - axis))
    live = absmax > 1e-12
    assert (np.abs(integers).max(axis=1 - axis)[live] == 127).all()


@pytest.mark.parametrize(
    ("absmax", "floor", "scale"),
    [
        ([1.27, 12.7], [0, 0], [0.01, 0.1]),
        ([1.27, 0.0, 12.7], [0, 0, 0], [0.01, 0.01, 0.1]),
        ([0.0, 0.0], [0, 0], [1 / 127, 1 / 127]),
        ([1.27, 12.7], [0.05, 0.05], [0.05, 0.1]),
        ([1.27, 0.0], [0, 0.2], [0.01, 0.2]),
        ([1e-30, 1.27], [0, 0], [0.01, 0.01]),
    ],
    ids=["plain", "a dead channel", "all dead", "a floor", "a dead channel's floor", "denormal"],
)
def test_scales_of_channels(absmax: list[float], floor: list[float], scale: list[float]) -> None:
    qparams = symmetric_per_channel(floats(absmax), 0, floats(floor))
    assert qparams.scale == pytest.approx(tuple(scale), rel=1e-6)
    assert qparams.zero_point == (0,) * len(absmax)
    assert (qparams.axis, qparams.narrow_range) == (0, True)


@given(reals, reals)
def test_parameters_survive_float32(low: float, high: float) -> None:
    """What the file stores must be what was planned, to the bit."""
    assume(low <= high)
    made = [affine(low, high), symmetric(abs(high))]
    made.append(symmetric_per_channel(np.abs(floats([low, high])), 0, np.zeros(2)))
    for qparams in made:
        assert tuple(float32(s) for s in qparams.scale) == qparams.scale


@pytest.mark.parametrize(
    ("real", "integer"),
    [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.6, 127), (1e9, 127), (-1e9, -128)],
)
def test_rounding_is_to_even_and_saturates(real: float, integer: int) -> None:
    one = QParams(DType.INT8, (1.0,), (0,))
    assert quantize(np.asarray([real]), one).tolist() == [integer]


@given(st.integers(-128, 127), st.integers(-128, 127), st.floats(1e-6, 1e3))
def test_integers_survive_the_way_there_and_back(q: int, zero_point: int, scale: float) -> None:
    qparams = QParams(DType.INT8, (float32(scale),), (zero_point,))
    integers = np.asarray([q], np.int8)
    assert quantize(dequantize(integers, qparams), qparams).tolist() == [q]


@pytest.mark.parametrize(
    ("dtype", "narrow", "limits"),
    [
        (DType.INT8, False, (-128, 127)),
        (DType.INT8, True, (-127, 127)),
        (DType.UINT8, False, (0, 255)),
        (DType.INT16, True, (-32767, 32767)),
        (DType.INT32, False, (-(2**31), 2**31 - 1)),
    ],
)
def test_limits(dtype: DType, narrow: bool, limits: tuple[int, int]) -> None:
    assert dtype.limits(narrow) == limits
    assert np.dtype(dtype.numpy_name).itemsize * 8 == dtype.bits


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis", "narrow", "text"),
    [
        ((), (), None, False, "as many zero points as scales and at least one. Received: 0 scales"),
        ((1.0, 2.0), (0,), 0, False, "Received: 2 scales, 1 zero points"),
        ((1.0, 2.0), (0, 0), None, False, "per-tensor QParams take one scale. Received: 2"),
        ((0.0,), (0,), None, False, "scales must be finite and > 0. Received: 0.0"),
        ((1.0, -2.0), (0, 0), 0, False, "Received: -2.0"),
        ((math.nan,), (0,), None, False, "Received: nan"),
        ((math.inf,), (0,), None, False, "Received: inf"),
        ((1.0,), (128,), None, False, r"zero points must lie in \[-128, 127\]. Received: \(128,\)"),
        ((1.0,), (-128,), None, True, r"zero points must lie in \[-127, 127\]"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    scale: tuple[float, ...], zero_point: tuple[int, ...], axis: int | None, narrow: bool, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        QParams(DType.INT8, scale, zero_point, axis, narrow)


@pytest.mark.parametrize(
    ("qparams", "text"),
    [
        (QParams(DType.INT8, (0.0235,), (-128,)), "int8 scale 0.0235 zero point -128"),
        (
            QParams(DType.INT8, (0.5, 0.125), (0, 0), 3),
            "int8 per-channel axis 3 scale 0.125..0.5",
        ),
    ],
)
def test_describe(qparams: QParams, text: str) -> None:
    assert qparams.describe() == text
