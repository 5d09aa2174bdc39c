"""Complex numbers as pairs of real tensors: what each op makes of them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

aten = torch.ops.aten


@dataclass(frozen=True)
class Pair:
    """A complex tensor.

    Attributes:
        real: Its real part; of a Python number, that.
        imag: Its imaginary part, likewise.
    """

    real: Any
    imag: Any


def paired(x: Tensor) -> Pair:
    """`view_as_complex`."""
    return Pair(x.select(-1, 0), x.select(-1, 1))


def each(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An op that is the same for both parts."""
    parts = [op(*_parts(args, name), **_parts(kwargs, name)) for name in ("real", "imag")]
    if isinstance(parts[0], Tensor):
        return Pair(*parts)
    return [Pair(real, imag) for real, imag in zip(*parts, strict=True)]


def _parts(tree: Any, name: str) -> Any:
    """A tree with one part of each pair; a real tensor beside pairs has an imaginary part of 0."""
    has_pairs = any(isinstance(v, Pair) for v in _leaves(tree))

    def part(value: Any) -> Any:
        if isinstance(value, Pair):
            return getattr(value, name)
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return torch.zeros_like(value) if is_number and has_pairs and name == "imag" else value

    return pytree.tree_map(part, tree)


def _leaves(tree: Any) -> list[Any]:
    return list(pytree.tree_leaves(tree))


def as_pair(value: Any) -> Pair:
    if isinstance(value, Pair):
        return value
    if isinstance(value, Tensor):
        return Pair(value, torch.zeros_like(value))
    return Pair(value.real, value.imag)


def _scaled(x: Pair, factor: Any) -> Pair:
    return Pair(x.real * factor, x.imag * factor)


def _is_real(value: Any) -> bool:
    return not isinstance(value, Pair | complex)


def _add(x: Any, y: Any, *, alpha: Any = 1) -> Pair:
    if alpha != 1:
        y = _mul(y, alpha)
    if _is_real(y):
        return _add(x, as_pair(y)) if isinstance(y, Tensor) else Pair(x.real + y, x.imag)
    if _is_real(x):
        return _add(y, x)
    x, y = as_pair(x), as_pair(y)
    return Pair(x.real + y.real, x.imag + y.imag)


def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Pair:
    return _add(x, _mul(y, -alpha))


def _rsub(x: Any, y: Any, *, alpha: Any = 1) -> Pair:
    return _sub(y, x, alpha=alpha)


def _mul(x: Any, y: Any) -> Any:
    if _is_real(x) and _is_real(y):
        return x * y
    if _is_real(y):
        return _scaled(as_pair(x), y)
    if _is_real(x):
        return _scaled(as_pair(y), x)
    x, y = as_pair(x), as_pair(y)
    return Pair(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _reciprocal(x: Pair) -> Pair:
    power = x.real * x.real + x.imag * x.imag
    return Pair(x.real / power, -x.imag / power)


def _div(x: Any, y: Any) -> Any:
    if _is_real(y):
        x = as_pair(x)
        return Pair(x.real / y, x.imag / y)
    return _mul(x, _reciprocal(as_pair(y)))


def _conj(x: Pair) -> Pair:
    return Pair(x.real, -x.imag)


def _abs(x: Pair) -> Tensor:
    return (x.real * x.real + x.imag * x.imag).sqrt()


def _angle(x: Any) -> Tensor:
    return torch.atan2(x.imag, x.real)


def _exp(x: Pair) -> Pair:
    return _polar(x.real.exp(), x.imag)


def _log(x: Pair) -> Pair:
    return Pair(_abs(x).log(), _angle(x))


def _sqrt(x: Pair) -> Pair:
    return _polar(_abs(x).sqrt(), _angle(x) / 2)


def _sinh(x: Pair) -> Pair:
    return Pair(x.real.sinh() * x.imag.cos(), x.real.cosh() * x.imag.sin())


def _cosh(x: Pair) -> Pair:
    return Pair(x.real.cosh() * x.imag.cos(), x.real.sinh() * x.imag.sin())


def _sin(x: Pair) -> Pair:
    return Pair(x.real.sin() * x.imag.cosh(), x.real.cos() * x.imag.sinh())


def _cos(x: Pair) -> Pair:
    return Pair(x.real.cos() * x.imag.cosh(), -x.real.sin() * x.imag.sinh())


def _tanh(x: Pair) -> Pair:
    small = (-2 * x.real.abs()).exp()  # never above one, as sinh and cosh would be
    below = 1 + small * small + 2 * small * (2 * x.imag).cos()
    real = x.real.sign() * (1 - small * small) / below
    return Pair(real, 2 * small * (2 * x.imag).sin() / below)


def _sigmoid(x: Pair) -> Pair:
    half = _tanh(_scaled(x, 0.5))
    return Pair(half.real * 0.5 + 0.5, half.imag * 0.5)


def _sgn(x: Pair) -> Pair:
    length = _abs(x)
    factor = torch.where(length > 0, 1 / length, torch.zeros_like(length))
    return _scaled(x, factor)


def _pow(x: Pair, exponent: Any) -> Pair:
    if exponent == 2:
        return Pair(x.real * x.real - x.imag * x.imag, 2 * x.real * x.imag)
    return _polar(_abs(x) ** exponent, _angle(x) * exponent)


def _polar(length: Tensor, angle: Tensor) -> Pair:
    return Pair(length * angle.cos(), length * angle.sin())


def _view_as_real(x: Pair) -> Tensor:
    return torch.stack([x.real, x.imag], -1)


def _to_copy(x: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    if isinstance(x, Pair):
        return x if dtype is None or dtype.is_complex else x.real.to(dtype)
    return as_pair(x.to(torch.float32))


def _product(op: Any, x: Any, y: Any) -> Any:
    """A product of matrices."""
    if _is_real(y):
        return Pair(op(x.real, y), op(x.imag, y))
    if _is_real(x):
        return Pair(op(x, y.real), op(x, y.imag))
    return Pair(op(x.real, y.real) - op(x.imag, y.imag), op(x.real, y.imag) + op(x.imag, y.real))


def _einsum(equation: str, operands: Sequence[Any], **options: Any) -> Any:
    if len(operands) == 1:
        return each(aten.einsum.default, equation, operands, **options)
    if len(operands) > 2:
        return aten.einsum.default.decompose(equation, operands, **options)
    return _product(lambda *pair: aten.einsum.default(equation, list(pair)), *operands)


def _filled(number: Any, size: Any, *args: Any, **_: Any) -> Pair:
    """A tensor of one number, which is the last argument where `number` is None.

    Args:
        number: What it is filled with.
        size: Its sizes, or the tensor that it is like.
        args: What the op takes behind them.
    """
    like = size.real if isinstance(size, Pair) else size
    sizes = [int(s) for s in (like.shape if isinstance(like, Tensor) else like)]
    if isinstance(like, Tensor) and args and isinstance(args[0], list | tuple):
        sizes = list(args[0])
    value = as_pair(args[-1] if number is None else number)
    return Pair(torch.full(sizes, value.real), torch.full(sizes, value.imag))


def _equal(x: Any, y: Any) -> Tensor:
    x, y = as_pair(x), as_pair(y)
    return (x.real == y.real) & (x.imag == y.imag)


LINEAR = frozenset(
    {
        aten.alias.default, aten.as_strided.default, aten.cat.default, aten.clone.default,
        aten.constant_pad_nd.default, aten.copy.default, aten.cumsum.default, aten.detach.default,
        aten.diagonal.default, aten.expand.default, aten.flip.default, aten.gather.default,
        aten.index.Tensor, aten.index_add.default, aten.index_put.default,
        aten.index_select.default, aten.lift_fresh_copy.default,
        aten.mean.dim, aten.mean.default, aten.neg.default, aten.permute.default,
        aten.repeat.default, aten.roll.default, aten.select.int, aten.slice.Tensor,
        aten.slice_scatter.default, aten.select_scatter.default, aten.split.Tensor,
        aten.split_with_sizes.default, aten.squeeze.dim, aten.squeeze.dims, aten.stack.default,
        aten.sum.default, aten.sum.dim_IntList, aten.t.default, aten.transpose.int,
        aten.unbind.int, aten.unfold.default, aten.unsqueeze.default, aten.view.default,
        aten._unsafe_view.default, aten.reshape.default, aten.where.self, aten.tril.default,
        aten.triu.default, aten.reflection_pad1d.default, aten.zeros_like.default,
    }
)  # fmt: skip
"""Ops that do the same to both parts."""


_FILLING = {
    aten.full.default: None, aten.full_like.default: None, aten.new_full.default: None,
    aten.zeros.default: 0.0, aten.new_zeros.default: 0.0, aten.empty.memory_format: 0.0,
    aten.empty_like.default: 0.0, aten.ones.default: 1.0, aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
}  # fmt: skip
"""Ops that make a tensor of one number, and the number; None is that of an argument."""

RULES: dict[Any, Callable[..., Any]] = {
    aten.complex.default: Pair,
    aten.polar.default: _polar,
    aten.view_as_complex.default: paired,
    aten.view_as_real.default: _view_as_real,
    aten.view_as_real_copy.default: _view_as_real,
    aten.real.default: lambda x: x.real,
    aten.imag.default: lambda x: x.imag,
    aten._to_copy.default: _to_copy,
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _sub,
    aten.sub.Scalar: _sub,
    aten.rsub.Scalar: _rsub,
    aten.rsub.Tensor: _rsub,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.reciprocal.default: _reciprocal,
    aten._conj.default: _conj,
    aten._conj_physical.default: _conj,
    aten.conj_physical.default: _conj,
    aten.resolve_conj.default: lambda x: x,
    aten.resolve_neg.default: lambda x: x,
    aten.abs.default: _abs,
    aten.angle.default: _angle,
    aten.exp.default: _exp,
    aten.log.default: _log,
    aten.sqrt.default: _sqrt,
    aten.sin.default: _sin,
    aten.cos.default: _cos,
    aten.sinh.default: _sinh,
    aten.cosh.default: _cosh,
    aten.tanh.default: _tanh,
    aten.sigmoid.default: _sigmoid,
    aten.sgn.default: _sgn,
    aten.pow.Tensor_Scalar: _pow,
    aten.eq.Tensor: _equal,
    aten.eq.Scalar: _equal,
    aten.mm.default: functools.partial(_product, aten.mm.default),
    aten.bmm.default: functools.partial(_product, aten.bmm.default),
    aten.matmul.default: functools.partial(_product, aten.matmul.default),
    aten.einsum.default: _einsum,
    **{op: functools.partial(_filled, number) for op, number in _FILLING.items()},
    operator.getitem: operator.getitem,
}
