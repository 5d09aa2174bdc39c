"""Complex numbers as pairs of real arrays: what each primitive makes of them.

The converter has no form of them. Fourier transforms become products with constant matrices.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from edgeq.export.frontends.jaxpr.canonical import CANONICAL


class Pair(NamedTuple):
    """A complex array.

    Attributes:
        real: Its real part.
        imag: Its imaginary part, of the same shape.
    """

    real: Any
    imag: Any


def is_complex(variable: Any) -> bool:
    """Whether a variable of a jaxpr holds complex numbers."""
    return str(getattr(variable.aval, "dtype", "")).startswith("complex")


def as_pair(value: Any) -> Pair:
    """A complex or real array as a pair."""
    if isinstance(value, Pair):
        return value
    if str(value.dtype).startswith("complex"):
        array = np.asarray(value)
        return Pair(array.real.astype(np.float32), array.imag.astype(np.float32))
    real = jnp.asarray(value, np.float32)
    return Pair(real, jnp.zeros_like(real))


def on_pairs(primitive: Any, params: dict[str, Any]) -> Callable[..., list[Any]] | None:
    """What a primitive computes of pairs and real arrays, as a list; None if nothing is known."""
    rule = RULES.get(primitive.name)
    if rule is not None:
        return lambda *operands: [rule(*operands, **params)]
    return functools.partial(_each, primitive, params) if primitive.name in MOVES else None


def _each(primitive: Any, params: dict[str, Any], *operands: Any) -> list[Pair]:
    """A primitive that does the same to both parts, with the real operands of both."""
    function = CANONICAL.get(primitive.name, primitive.bind)
    parts = []
    for place in (0, 1):
        values = [o[place] if isinstance(o, Pair) else o for o in operands]
        found = function(*values, **params)
        parts.append(list(found) if primitive.multiple_results else [found])
    return [Pair(*both) for both in zip(*parts, strict=True)]


def on_constants(primitive: Any, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    """What a primitive makes of complex constants, by JAX itself."""
    with jax.ensure_compile_time_eval():
        whole = [v.real + 1j * v.imag if isinstance(v, Pair) else v for v in values]
        found = primitive.bind(*map(jnp.asarray, whole), **params)
        results = list(found) if primitive.multiple_results else [found]
        return [as_pair(r) if jnp.iscomplexobj(r) else np.asarray(r) for r in results]


def _both(op: Callable[[Any, Any], Any], x: Any, y: Any, **_: Any) -> Pair:
    x, y = as_pair(x), as_pair(y)
    return Pair(op(x.real, y.real), op(x.imag, y.imag))


def _mul(x: Any, y: Any, **_: Any) -> Pair:
    if not isinstance(x, Pair):
        x, y = y, x
    if not isinstance(y, Pair):
        return Pair(x.real * y, x.imag * y)
    return Pair(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _div(x: Any, y: Any, **_: Any) -> Pair:
    if not isinstance(y, Pair):
        return Pair(x.real / y, x.imag / y)
    power = y.real * y.real + y.imag * y.imag
    return _mul(as_pair(x), Pair(y.real / power, -y.imag / power))


def _abs(x: Pair, **_: Any) -> Any:
    return jnp.sqrt(x.real * x.real + x.imag * x.imag)


def _exp(x: Pair, **_: Any) -> Pair:
    length = jnp.exp(x.real)
    return Pair(length * jnp.cos(x.imag), length * jnp.sin(x.imag))


def _integer_pow(x: Pair, *, y: int, **_: Any) -> Any:
    if y < 0:
        return _div(as_pair(jnp.ones_like(x.real)), _integer_pow(x, y=-y))
    return functools.reduce(_mul, [x] * y) if y else as_pair(jnp.ones_like(x.real))


def _convert(x: Any, *, new_dtype: Any, **_: Any) -> Any:
    if str(new_dtype).startswith("complex"):
        return as_pair(x)
    return x.real.astype(new_dtype)


def _dot(x: Any, y: Any, **params: Any) -> Pair:
    kept = {**params, "preferred_element_type": None}

    def product(one: Any, other: Any) -> Any:
        return jax.lax.dot_general_p.bind(one, other, **kept)

    if not isinstance(y, Pair):
        return Pair(product(x.real, y), product(x.imag, y))
    if not isinstance(x, Pair):
        return Pair(product(x, y.real), product(x, y.imag))
    return Pair(
        product(x.real, y.real) - product(x.imag, y.imag),
        product(x.real, y.imag) + product(x.imag, y.real),
    )


def _fft(x: Any, *, fft_type: Any, fft_lengths: Sequence[int], **_: Any) -> Any:
    """A transform along as many of the last axes as it has lengths."""
    kind = getattr(fft_type, "name", str(fft_type)).rpartition(".")[2]
    axes = [place - len(fft_lengths) for place in range(len(fft_lengths))]
    if kind == "RFFT":
        x = _along(axes[-1], _forwards, x, fft_lengths[-1] // 2 + 1)
        axes.pop()
    is_inverse = kind in ("IFFT", "IRFFT")
    last = axes.pop() if kind == "IRFFT" else None
    for axis in axes:
        size = as_pair(x).real.shape[axis]
        x = _along(axis, _backwards if is_inverse else _forwards, x, size)
    return x if last is None else _along(last, _to_real, x, fft_lengths[-1])


def _along(axis: int, transform: Callable[..., Any], x: Any, size: int) -> Any:
    """A transform of the last axis along another."""
    moved = [jnp.moveaxis(part, axis, -1) for part in (x if isinstance(x, Pair) else (x,))]
    made = transform(Pair(*moved) if len(moved) == 2 else moved[0], size)
    if isinstance(made, Pair):
        return Pair(*(jnp.moveaxis(part, -1, axis) for part in made))
    return jnp.moveaxis(made, -1, axis)


def _waves(rows: int, columns: int, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Cosines and sines of `2 pi * row * column / count`, `(rows, columns)` float32."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % count * (2 * np.pi / count)
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


def _forwards(x: Any, size: int) -> Pair:
    """The first `size` frequencies of the last axis."""
    count = as_pair(x).real.shape[-1]
    cosines, sines = _waves(count, size, count)
    if not isinstance(x, Pair):
        return Pair(x @ cosines, x @ -sines)
    return Pair(x.real @ cosines + x.imag @ sines, x.imag @ cosines - x.real @ sines)


def _backwards(x: Pair, size: int) -> Pair:
    cosines, sines = (wave / size for wave in _waves(size, size, size))
    return Pair(x.real @ cosines - x.imag @ sines, x.imag @ cosines + x.real @ sines)


def _to_real(x: Pair, size: int) -> Any:
    """`size` real numbers from the frequencies that are not repeated."""
    kept = size // 2 + 1
    cosines, sines = _waves(kept, size, size)
    times = np.full((kept, 1), 2.0 / size, np.float32)
    times[0] = 1.0 / size
    if size % 2 == 0:
        times[-1] = 1.0 / size
    return x.real[..., :kept] @ (cosines * times) - x.imag[..., :kept] @ (sines * times)


MOVES = frozenset(
    {
        "broadcast_in_dim", "concatenate", "copy", "cumsum", "dynamic_slice",
        "dynamic_update_slice", "gather", "neg", "pad", "reduce_sum", "reshape", "rev", "scatter",
        "scatter-add", "select_n", "slice", "split", "squeeze", "transpose",
    }
)  # fmt: skip
"""Primitives that do the same to both parts."""

RULES: dict[str, Callable[..., Any]] = {
    "abs": _abs,
    "add": functools.partial(_both, operator.add),
    "complex": lambda real, imag, **_: Pair(real, imag),
    "conj": lambda x, **_: Pair(x.real, -x.imag) if isinstance(x, Pair) else as_pair(x),
    "convert_element_type": _convert,
    "div": _div,
    "dot_general": _dot,
    "exp": _exp,
    "fft": _fft,
    "imag": lambda x, **_: x.imag,
    "integer_pow": _integer_pow,
    "mul": _mul,
    "real": lambda x, **_: x.real,
    "square": lambda x, **_: _mul(x, x),
    "sub": functools.partial(_both, operator.sub),
}
"""Other primitives, as functions of pairs, real arrays and the primitive's parameters."""
