"""Complex numbers as pairs of real tensors, and the Fourier transform as a product with a matrix.

A program that computes with complex numbers is traced once more with each of those ops replaced by
one of pairs. The runtime has neither the type nor, but for one case, the transform.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeq.errors import ModelError, UnsupportedOpError
from edgeq.export.frontends.torch_program.program_constants import constant
from edgeq.export.frontends.torch_program.source_places import where
from edgeq.export.frontends.decompositions.resampling import times

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


def uses_complex(program: Any) -> bool:
    """Whether a program computes with complex numbers."""
    return any(_is_complex(node) for node in program.graph.nodes)


def mark(program: Any) -> None:
    """Replaces the complex ops of a program by ones of pairs; it has to be traced again then.

    Args:
        program: A `torch.export.ExportedProgram` of core ATen ops, which is changed.

    Raises:
        ModelError: An input or output is complex.
        UnsupportedOpError: An op has no form for pairs.
    """
    graph = program.graph
    _check_ports(program)
    for node in list(graph.nodes):
        reads = any(_is_complex(argument) for argument in node.all_input_nodes)
        if node.op == "placeholder" and _is_complex(node):
            _open_placeholder(program, node)
        elif node.op == "call_function" and (reads or _is_complex(node)):
            node.target = _on_pairs(node)
    program.graph_module.recompile()


def _is_complex(node: Any) -> bool:
    values = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(v, Tensor) and v.is_complex() for v in values)


def _check_ports(program: Any) -> None:
    signature = program.graph_signature
    given, made = set(signature.user_inputs), set(signature.user_outputs)
    for node in program.graph.nodes:
        if _is_complex(node) and node.name in given:
            raise ModelError(
                f"input {node.name!r} is complex, which the runtime has no type for; take real and "
                "imaginary parts as a last axis of two and begin with torch.view_as_complex"
            )
        if _is_complex(node) and node.name in made:
            raise ModelError(
                f"the output of {where(node)} is complex, which the runtime has no type for; "
                "return torch.view_as_real of it"
            )


def _open_placeholder(program: Any, node: Any) -> None:
    """Has a complex constant held as real numbers with a last axis of two."""
    signature = program.graph_signature
    spec = next(s for s in signature.input_specs if s.arg.name == node.name)
    held = program.constants if spec.target in program.constants else program.state_dict
    value = torch.view_as_real(held[spec.target].detach().resolve_conj()).clone()
    is_parameter = isinstance(held[spec.target], torch.nn.Parameter)
    held[spec.target] = torch.nn.Parameter(value, False) if is_parameter else value
    with node.meta["val"].fake_mode:
        fake = torch.empty(value.shape)
    with program.graph.inserting_after(node):
        opened = program.graph.call_function(_paired, (node,))
    opened.meta = dict(node.meta)
    node.replace_all_uses_with(opened, lambda user: user is not opened)
    node.meta["val"] = fake


def _paired(x: Tensor) -> Pair:
    """`view_as_complex`."""
    return Pair(x.select(-1, 0), x.select(-1, 1))


def _on_pairs(node: Any) -> Callable[..., Any]:
    op = node.target
    rule = _RULES.get(op) or (functools.partial(_each, op) if op in _LINEAR else None)
    if rule is None:
        raise UnsupportedOpError(
            f"{op} of complex numbers at {where(node)} has no form in real numbers here; compute "
            "with real and imaginary parts, from torch.view_as_real, instead"
        )

    def on_pairs(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **kwargs)

    return on_pairs


def _each(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An op that is the same for both parts."""
    parts = [
        op(*_parts(args, name), **_parts(kwargs, name)) for name in ("real", "imag")
    ]
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


def _as_pair(value: Any) -> Pair:
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
        return _add(x, _as_pair(y)) if isinstance(y, Tensor) else Pair(x.real + y, x.imag)
    if _is_real(x):
        return _add(y, x)
    x, y = _as_pair(x), _as_pair(y)
    return Pair(x.real + y.real, x.imag + y.imag)


def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Pair:
    return _add(x, _mul(y, -alpha))


def _rsub(x: Any, y: Any, *, alpha: Any = 1) -> Pair:
    return _sub(y, x, alpha=alpha)


def _mul(x: Any, y: Any) -> Any:
    if _is_real(x) and _is_real(y):
        return x * y
    if _is_real(y):
        return _scaled(_as_pair(x), y)
    if _is_real(x):
        return _scaled(_as_pair(y), x)
    x, y = _as_pair(x), _as_pair(y)
    return Pair(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _reciprocal(x: Pair) -> Pair:
    power = x.real * x.real + x.imag * x.imag
    return Pair(x.real / power, -x.imag / power)


def _div(x: Any, y: Any) -> Any:
    if _is_real(y):
        x = _as_pair(x)
        return Pair(x.real / y, x.imag / y)
    return _mul(x, _reciprocal(_as_pair(y)))


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


def _sgn(x: Pair) -> Pair:
    length = _abs(x)
    factor = torch.where(length > 0, 1 / length, torch.zeros_like(length))
    return _scaled(x, factor)


def _pow(x: Pair, exponent: Any) -> Pair:
    if exponent == 2:
        return _mul(x, x)
    return _polar(_abs(x) ** exponent, _angle(x) * exponent)


def _polar(length: Tensor, angle: Tensor) -> Pair:
    return Pair(length * angle.cos(), length * angle.sin())


def _view_as_real(x: Pair) -> Tensor:
    return torch.stack([x.real, x.imag], -1)


def _to_copy(x: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    if isinstance(x, Pair):
        return x if dtype is None or dtype.is_complex else x.real.to(dtype)
    return _as_pair(x.to(torch.float32))


def _product(op: Any, x: Any, y: Any) -> Any:
    """A product of matrices."""
    if _is_real(y):
        return Pair(op(x.real, y), op(x.imag, y))
    if _is_real(x):
        return Pair(op(x, y.real), op(x, y.imag))
    return Pair(op(x.real, y.real) - op(x.imag, y.imag), op(x.real, y.imag) + op(x.imag, y.real))


def _einsum(equation: str, operands: Sequence[Any], **options: Any) -> Any:
    if len(operands) == 1:
        return _each(aten.einsum.default, equation, operands, **options)
    if len(operands) > 2:
        return aten.einsum.default.decompose(equation, operands, **options)
    return _product(lambda *pair: aten.einsum.default(equation, list(pair)), *operands)


def _equal(x: Any, y: Any) -> Tensor:
    x, y = _as_pair(x), _as_pair(y)
    return (x.real == y.real) & (x.imag == y.imag)


# The Fourier transform, of which PyTorch says the factors itself: on unit vectors.


def _norm(mode: int, count: int) -> float:
    """What PyTorch multiplies by. Source: `fft_norm_mode` in ATen/native/SpectralOpsUtils.h"""
    return {0: 1.0, 1: 1 / math.sqrt(count), 2: 1 / count}[mode]


def _wave(length: int, bins: int, forward: bool) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the transform's matrix, `(length, bins)`."""
    ramp = torch.arange(length, dtype=torch.float64)[:, None]
    turns = (ramp * torch.arange(bins, dtype=torch.float64)) % length / length
    angle = 2 * math.pi * turns
    return angle.cos(), -angle.sin() if forward else angle.sin()


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
    x = _as_pair(x)
    factor = _norm(norm, math.prod(int(x.real.shape[a]) for a in axes))
    for axis in axes:
        x, factor = _turned(x, axis, forward, factor), 1.0
    return x


def _complex_to_real(x: Any, axes: Sequence[int], norm: int, last_size: int) -> Tensor:
    """`_fft_c2r`: the last of the axes last, of which half is given."""
    x = _as_pair(x)
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


_LINEAR = frozenset(
    {
        aten.alias.default, aten.as_strided.default, aten.cat.default, aten.clone.default,
        aten.constant_pad_nd.default, aten.cumsum.default, aten.detach.default,
        aten.diagonal.default, aten.expand.default, aten.flip.default, aten.gather.default,
        aten.index.Tensor, aten.index_select.default, aten.lift_fresh_copy.default,
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


_RULES: dict[Any, Callable[..., Any]] = {
    aten.complex.default: Pair,
    aten.polar.default: _polar,
    aten.view_as_complex.default: _paired,
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
    aten.sgn.default: _sgn,
    aten.pow.Tensor_Scalar: _pow,
    aten.eq.Tensor: _equal,
    aten.eq.Scalar: _equal,
    aten.mm.default: functools.partial(_product, aten.mm.default),
    aten.bmm.default: functools.partial(_product, aten.bmm.default),
    aten.matmul.default: functools.partial(_product, aten.matmul.default),
    aten.einsum.default: _einsum,
    aten._fft_r2c.default: _real_to_complex,
    aten._fft_c2c.default: _complex_to_complex,
    aten._fft_c2r.default: _complex_to_real,
    operator.getitem: operator.getitem,
}
