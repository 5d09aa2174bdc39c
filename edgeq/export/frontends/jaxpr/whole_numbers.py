"""Operations on the bits of whole numbers, by sums, products and the shifts that kernels have.

Knows shapes, nothing of layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BITS = 32
_POWERS = np.left_shift(np.uint32(1), np.arange(BITS, dtype=np.uint32)).astype(np.int32)
"""2 to the n by n, of which the last is the least number."""


def _is_bool(x: Any) -> bool:
    return bool(x.dtype == bool)


def _half(x: Any) -> Any:
    return jax.lax.shift_right_arithmetic(x, jnp.ones_like(x))


def bitwise_and(x: Any, y: Any) -> Any:
    """`and`: the sum of two numbers counts what both have twice, and what one has once.

    The halves are summed, so that nothing overflows.
    """
    if _is_bool(x):
        return jax.lax.and_p.bind(x, y)
    first, second = _half(x), _half(y)
    above = first + second - (first ^ second)
    return above + (x - first - first) * (y - second - second)


def bitwise_or(x: Any, y: Any) -> Any:
    """`or`."""
    return jax.lax.or_p.bind(x, y) if _is_bool(x) else (x ^ y) + bitwise_and(x, y)


def bitwise_not(x: Any) -> Any:
    """`not`."""
    return jax.lax.not_p.bind(x) if _is_bool(x) else -1 - x


def bitwise_xor(x: Any, y: Any) -> Any:
    """`xor`, which kernels have of whole numbers alone."""
    return x != y if _is_bool(x) else jax.lax.xor_p.bind(x, y)


def shift_left(x: Any, count: Any) -> Any:
    """`shift_left`: a product with a power of two."""
    inside = jnp.clip(count, 0, BITS - 1)
    made = x * jnp.asarray(_POWERS).at[inside].get(mode="promise_in_bounds")
    return jnp.where(count == inside, made, 0)


def _bits(x: Any) -> Any:
    """The number that is left of each when it is shifted by 0 to 31, along a new last axis."""
    wide = jnp.broadcast_to(x[..., None], (*x.shape, BITS))
    counts = jnp.broadcast_to(np.arange(BITS, dtype=np.int32), wide.shape)
    return jax.lax.shift_right_arithmetic(wide, counts)


def population_count(x: Any) -> Any:
    """`population_count`."""
    shifted = _bits(x)
    return jnp.sum(shifted - 2 * _half(shifted), -1, dtype=np.int32)


def leading_zeros(x: Any) -> Any:
    """`clz`: by how many places a number can be shifted until nothing is left, from 32."""
    return jnp.sum((_bits(x) == 0).astype(np.int32), -1, dtype=np.int32)
