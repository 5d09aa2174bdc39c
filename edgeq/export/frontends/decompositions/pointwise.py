"""Functions of single numbers that litert-torch lacks, or lowers to what the converter refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten

BROADCAST_RANK = 4
"""Kernels of POW join tensors of up to so many axes. Source: tflite/kernels/pow.cc"""

_ERFINV_NEAR = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_ERFINV_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip
"""Polynomials in `-log(1 - x * x)`, below and above 5. Source: M. Giles, "Approximating the erfinv
function", GPU Computing Gems, 2012, the single-precision version."""


def power(x: Tensor, exponent: float) -> Any:
    """`pow.Tensor_Scalar` of more axes than the kernel joins."""
    if x.ndim <= BROADCAST_RANK or not x.is_floating_point():
        return NotImplemented
    if exponent in (2, 3, 4):
        made = x * x
        return made if exponent == 2 else made * (x if exponent == 3 else made)
    return aten.pow.Tensor_Scalar(x.flatten(), exponent).reshape(x.shape)


def erfc(x: Tensor) -> Tensor:
    """`erfc`."""
    return 1 - torch.erf(x)


def erfinv(x: Tensor) -> Tensor:
    """`erfinv`."""
    w = -torch.log((1 - x) * (1 + x))
    near, far = w - 2.5, w.clamp(min=5).sqrt() - 3
    low, high = _polynomial(_ERFINV_NEAR, near), _polynomial(_ERFINV_FAR, far)
    return torch.where(w < 5, low, high) * x


def _polynomial(factors: tuple[float, ...], x: Tensor) -> Tensor:
    made = torch.full_like(x, factors[0])
    for factor in factors[1:]:
        made = made * x + factor
    return made


def is_nan(x: Tensor) -> Tensor:
    """`isnan`: what is neither above nor below; the converter takes `x != x` for false."""
    if not x.is_floating_point():
        return torch.zeros_like(x, dtype=torch.bool)
    return torch.logical_not(torch.logical_or(x <= 0, x >= 0))


def truncated(x: Tensor) -> Tensor:
    """`trunc`."""
    if not x.is_floating_point():
        return x
    return torch.where(x < 0, torch.ceil(x), torch.floor(x))


def divided(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """`div.Tensor_mode` of floats."""
    if rounding_mode is None:
        return torch.true_divide(x, y)
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        return NotImplemented
    quotient = torch.true_divide(x, y)
    return torch.floor(quotient) if rounding_mode == "floor" else truncated(quotient)


def remainder_like_c(x: Tensor, y: Any) -> Any:
    """`fmod` of floats: with the sign of the first."""
    if not x.is_floating_point():
        return NotImplemented
    size, step = x.abs(), abs(y) if isinstance(y, float | int) else y.abs()
    rest = size - torch.floor(size / step) * step
    return torch.where(x < 0, -rest, rest)


def _powers_of_two(count: Any) -> Any:
    """2 to whole numbers from 0 to 30, int32."""
    if not isinstance(count, Tensor):
        return 1 << int(count)
    table = constant(lambda: torch.bitwise_left_shift(1, torch.arange(31, dtype=torch.int32)))
    return table.index_select(0, count.reshape(-1).long()).reshape(count.shape)


def left_shift(x: Tensor, count: Any) -> Tensor:
    """`bitwise_left_shift`."""
    return x * _powers_of_two(count)


def right_shift(x: Tensor, count: Any) -> Tensor:
    """`bitwise_right_shift`."""
    return torch.div(x, _powers_of_two(count), rounding_mode="floor")


def bitwise_and(x: Any, y: Any) -> Any:
    """`bitwise_and` of whole numbers of up to 32 bits.

    The sum of two numbers counts the bits that both have twice, and those that one has once. The
    halves are summed, so that nothing overflows.
    """
    if _is_bool(x) or _is_bool(y):
        return NotImplemented
    if isinstance(y, int) and y & (y + 1) == 0 and 0 < y < (1 << 30):
        return torch.remainder(x, y + 1)
    kind = torch.result_type(x, y)
    first, second = _as_int32(x), _as_int32(y)
    half, other = (torch.div(number, 2, rounding_mode="floor") for number in (first, second))
    above = half + other - torch.bitwise_xor(half, other)
    return (above + (first - half * 2) * (second - other * 2)).to(kind)


def bitwise_or(x: Any, y: Any) -> Any:
    """`bitwise_or` of whole numbers of up to 32 bits."""
    if _is_bool(x) or _is_bool(y):
        return NotImplemented
    kind = torch.result_type(x, y)
    first, second = _as_int32(x), _as_int32(y)
    return (torch.bitwise_xor(first, second) + bitwise_and(first, second)).to(kind)


def bitwise_xor(x: Any, y: Any) -> Any:
    """`bitwise_xor`, which kernels have of 32 bits."""
    if _is_bool(x) or _is_bool(y) or torch.result_type(x, y) == torch.int32:
        return NotImplemented
    kind = torch.result_type(x, y)
    return torch.bitwise_xor(_as_int32(x), _as_int32(y)).to(kind)


def bitwise_not(x: Tensor) -> Any:
    """`bitwise_not`."""
    return NotImplemented if _is_bool(x) else -1 - x


def _is_bool(x: Any) -> bool:
    return isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype == torch.bool)


def _as_int32(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.to(torch.int32)
    return torch.full((), x, dtype=torch.int32)


def rrelu(
    x: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    """`rrelu` in evaluation mode."""
    if training:
        return NotImplemented
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def hypotenuse(x: Tensor, y: Tensor) -> Tensor:
    """`hypot`."""
    return (x * x + y * y).sqrt()


def distance(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """`dist`: between all numbers of two tensors."""
    return torch.linalg.vector_norm(x - y, p)


def power_of_two(x: Tensor) -> Tensor:
    """`exp2`."""
    return (x * math.log(2)).exp()


def absolute(x: Tensor) -> Any:
    """`abs` of integers."""
    is_integer = not (x.is_floating_point() or x.is_complex())
    return torch.where(x < 0, -x, x) if is_integer else NotImplemented


TABLE: dict[Any, Callable[..., Any]] = {
    aten._neg_view.default: torch.neg,
    aten.abs.default: absolute,
    aten.dist.default: distance,
    aten.exp2.default: power_of_two,
    aten.signbit.default: lambda x: x < 0,
    aten.fmax.default: torch.maximum,
    aten.fmin.default: torch.minimum,
    aten.hypot.default: hypotenuse,
    aten.pow.Tensor_Scalar: power,
    aten.erfc.default: erfc,
    aten.special_erfc.default: erfc,
    aten.erfinv.default: erfinv,
    aten.special_erfinv.default: erfinv,
    aten.isnan.default: is_nan,
    aten.trunc.default: truncated,
    aten.fix.default: truncated,
    aten.div.Tensor_mode: divided,
    aten.div.Scalar_mode: divided,
    aten.fmod.Tensor: remainder_like_c,
    aten.fmod.Scalar: remainder_like_c,
    aten.__lshift__.Scalar: left_shift,
    aten.__rshift__.Scalar: right_shift,
    aten.bitwise_left_shift.Tensor_Scalar: left_shift,
    aten.bitwise_right_shift.Tensor_Scalar: right_shift,
    aten.bitwise_left_shift.Tensor: left_shift,
    aten.bitwise_right_shift.Tensor: right_shift,
    aten.__lshift__.Tensor: left_shift,
    aten.__rshift__.Tensor: right_shift,
    aten.bitwise_and.Tensor: bitwise_and,
    aten.bitwise_and.Scalar: bitwise_and,
    aten.bitwise_or.Tensor: bitwise_or,
    aten.bitwise_or.Scalar: bitwise_or,
    aten.bitwise_xor.Tensor: bitwise_xor,
    aten.bitwise_xor.Scalar: bitwise_xor,
    aten.bitwise_not.default: bitwise_not,
    aten.rrelu.default: rrelu,
}
