"""Functions of single numbers that litert-torch lacks, or lowers to what the converter refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import constant
from edgeq.export.special_functions import DIGAMMA_STEPS, ERFINV_FAR, ERFINV_NEAR, LANCZOS

aten = torch.ops.aten

BROADCAST_RANK = 4
"""Kernels of POW join tensors of up to so many axes. Source: tflite/kernels/pow.cc"""

LARGER_RANK = 5
"""The same of MAXIMUM and MINIMUM. Source: tflite/kernels/maximum_minimum.cc"""

ARITHMETIC_RANK = 6
"""The same of ADD, SUB, MUL and DIV. Source: tflite/kernels/add.cc"""


def power(x: Tensor, exponent: float) -> Any:
    """`pow.Tensor_Scalar` of whole numbers, or of more axes than the kernel joins."""
    is_whole = not x.is_floating_point()
    if x.ndim <= BROADCAST_RANK and not is_whole:
        return NotImplemented
    if exponent in (2, 3, 4):
        made = x * x
        return made if exponent == 2 else made * (x if exponent == 3 else made)
    if is_whole:
        return NotImplemented
    return aten.pow.Tensor_Scalar(x.flatten(), exponent).reshape(x.shape)


def power_of_number(base: Any, exponent: Tensor) -> Any:
    """`pow.Scalar` to whole numbers, which litert-torch computes in 64 bits, or in many axes."""
    if exponent.is_floating_point():
        if exponent.ndim <= BROADCAST_RANK:
            return NotImplemented
        return aten.pow.Scalar(base, exponent.flatten()).reshape(exponent.shape)
    made = aten.pow.Scalar(float(base), exponent.to(torch.float32))
    return made.round().to(exponent.dtype) if isinstance(base, int) else made


def either(x: Tensor, y: Tensor) -> Tensor:
    """`logical_xor`."""
    return torch.ne(x != 0, y != 0)


def erfc(x: Tensor) -> Tensor:
    """`erfc`."""
    return 1 - torch.erf(x)


def erfinv(x: Tensor) -> Tensor:
    """`erfinv`."""
    w = -torch.log((1 - x) * (1 + x))
    near, far = w - 2.5, w.clamp(min=5).sqrt() - 3
    low, high = _polynomial(ERFINV_NEAR, near), _polynomial(ERFINV_FAR, far)
    return torch.where(w < 5, low, high) * x


def _polynomial(factors: tuple[float, ...], x: Tensor) -> Tensor:
    made = torch.full_like(x, factors[0])
    for factor in factors[1:]:
        made = made * x + factor
    return made


def log_gamma(x: Tensor) -> Any:
    """`lgamma`; of numbers below a half by the reflection of those above."""
    if x.dtype != torch.float32:
        return NotImplemented
    is_low = x < 0.5
    z = torch.where(is_low, 1 - x, x) - 1
    series = torch.ones_like(z)
    for number, factor in enumerate(LANCZOS, 1):
        series = series + factor / (z + number)
    base = z + 7.5
    above = 0.5 * math.log(2 * math.pi) + (z + 0.5) * torch.log(base) - base + torch.log(series)
    mirrored = math.log(math.pi) - torch.log(torch.sin(math.pi * x).abs()) - above
    return torch.where(is_low, mirrored, above)


def digamma(x: Tensor) -> Any:
    """`digamma`, likewise."""
    if x.dtype != torch.float32:
        return NotImplemented
    is_low = x < 0.5
    z = torch.where(is_low, 1 - x, x)
    behind = torch.zeros_like(z)
    for step in range(DIGAMMA_STEPS):
        behind = behind + 1 / (z + step)
    z = z + DIGAMMA_STEPS
    square = 1 / (z * z)
    tail = square * (1 / 12 - square * (1 / 120 - square / 252))
    above = torch.log(z) - 0.5 / z - tail - behind
    angle = math.pi * x
    return torch.where(is_low, above - math.pi * torch.cos(angle) / torch.sin(angle), above)


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
    if not torch.result_type(x, y).is_floating_point:
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
    if _is_bool(x) and _is_bool(y):
        return torch.ne(x, y)
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


def with_sign(x: Tensor, y: Any) -> Tensor:
    """`copysign`."""
    if not isinstance(y, Tensor):
        return -x.abs() if math.copysign(1, y) < 0 else x.abs()
    return torch.where(y < 0, -x.abs(), x.abs())


def in_fewer_axes(op: Any, most: int) -> Callable[..., Any]:
    """An op of tensors of more axes than its kernel joins: those that go alike become one."""

    def joined(*operands: Any, **options: Any) -> Any:
        tensors = [v for v in operands if isinstance(v, Tensor)]
        if max(v.ndim for v in tensors) <= most:
            return NotImplemented
        shape = torch.broadcast_shapes(*(v.shape for v in tensors))
        merged = _merged_axes([[1] * (len(shape) - v.ndim) + [*v.shape] for v in tensors])
        fewer = iter([v.reshape(axes) for v, axes in zip(tensors, merged, strict=True)])
        given = (next(fewer) if isinstance(v, Tensor) else v for v in operands)
        return op(*given, **options).reshape(shape)

    return joined


def with_factor(op: Any) -> Callable[..., Any]:
    """A sum or difference with a factor of what is added, which litert-torch does not take."""
    joined = in_fewer_axes(op, ARITHMETIC_RANK)

    def summed(x: Any, y: Any, *, alpha: float = 1) -> Any:
        return joined(x, y) if alpha == 1 else op(x, y * alpha)

    return summed


def _merged_axes(shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Shapes of one rank in fewer axes: neighbours along which the same ones are repeated."""
    merged: list[list[int]] = [[] for _ in shapes]
    before: tuple[bool, ...] = ()
    for lengths in zip(*shapes, strict=True):
        if max(lengths) == 1:
            continue
        repeated = tuple(length == 1 for length in lengths)
        for axes, length in zip(merged, lengths, strict=True):
            if repeated == before:
                axes[-1] *= length
            else:
                axes.append(length)
        before = repeated
    return merged


def clamped(x: Tensor, least: float | None = None, most: float | None = None) -> Any:
    """`clamp` by numbers, of more axes than the kernels join."""
    if x.ndim <= LARGER_RANK:
        return NotImplemented
    return aten.clamp.default(x.flatten(), least, most).reshape(x.shape)


def vector_norm(
    x: Tensor,
    p: float = 2.0,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    """`linalg_vector_norm`: the sum of magnitudes, or the root of a sum of other powers."""
    if p == 2 and x.ndim > ARITHMETIC_RANK and dtype is None:
        return (x * x).sum(list(dim) if dim else None, keepdim).sqrt()
    if p in (0, 2) or math.isinf(p) or dtype is not None or not x.is_floating_point():
        return NotImplemented
    axes = list(dim) if dim else list(range(x.ndim))
    if p == 1:
        return x.abs().sum(axes, keepdim)
    return x.abs().pow(p).sum(axes, keepdim).pow(1 / p)


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


_WITH_NUMBERS = (
    aten._prelu_kernel.default, aten.elu.default, aten.erf.default, aten.expm1.default,
    aten.hardtanh.default, aten.leaky_relu.default, aten.log1p.default, aten.mish.default,
    aten.neg.default, aten.reciprocal.default, aten.relu.default, aten.relu6.default,
    aten.sigmoid.default, aten.silu.default, aten.softplus.default,
)  # fmt: skip
"""Functions of a tensor that the converter makes of it and numbers, by ops of two tensors."""

TABLE: dict[Any, Callable[..., Any]] = {
    aten._neg_view.default: torch.neg,
    aten.abs.default: absolute,
    aten.dist.default: distance,
    aten.exp2.default: power_of_two,
    aten.signbit.default: lambda x: x < 0,
    aten.clamp.default: clamped,
    aten.clamp_min.default: clamped,
    aten.clamp_max.default: lambda x, most: clamped(x, None, most),
    aten.fmax.default: torch.maximum,
    aten.fmin.default: torch.minimum,
    aten.maximum.default: in_fewer_axes(aten.maximum.default, LARGER_RANK),
    aten.minimum.default: in_fewer_axes(aten.minimum.default, LARGER_RANK),
    aten.add.Tensor: with_factor(aten.add.Tensor),
    aten.sub.Tensor: with_factor(aten.sub.Tensor),
    aten.mul.Tensor: in_fewer_axes(aten.mul.Tensor, ARITHMETIC_RANK),
    **{op: in_fewer_axes(op, ARITHMETIC_RANK) for op in _WITH_NUMBERS},
    aten.div.Tensor: in_fewer_axes(aten.div.Tensor, ARITHMETIC_RANK),
    aten.hypot.default: hypotenuse,
    aten.copysign.Tensor: with_sign,
    aten.copysign.Scalar: with_sign,
    aten.linalg_vector_norm.default: vector_norm,
    aten.pow.Tensor_Scalar: power,
    aten.pow.Scalar: power_of_number,
    aten.erfc.default: erfc,
    aten.special_erfc.default: erfc,
    aten.erfinv.default: erfinv,
    aten.special_erfinv.default: erfinv,
    aten.lgamma.default: log_gamma,
    aten.special_gammaln.default: log_gamma,
    aten.digamma.default: digamma,
    aten.special_digamma.default: digamma,
    aten.special_psi.default: digamma,
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
    aten.logical_xor.default: either,
    aten.bitwise_not.default: bitwise_not,
    aten.rrelu.default: rrelu,
}
