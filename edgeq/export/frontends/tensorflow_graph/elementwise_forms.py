"""Functions of single numbers, by those that the runtime has.

Each is exact to float32's rounding, or to what its polynomial says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgeq.export.special_functions import (
    DIGAMMA_STEPS,
    ERF,
    ERF_SCALE,
    ERFINV_FAR,
    ERFINV_NEAR,
    LANCZOS,
)


def _polynomial(factors: Sequence[float], x: Any) -> Any:
    made = tf.fill(tf.shape(x), tf.constant(factors[0], x.dtype))
    for factor in factors[1:]:
        made = made * x + factor
    return made


def _erf(x: Any) -> Any:
    size = tf.abs(x)
    part = 1.0 / (1.0 + ERF_SCALE * size)
    return tf.sign(x) * (1.0 - part * _polynomial(ERF, part) * tf.exp(-x * x))


def _erfinv(x: Any) -> Any:
    w = -tf.math.log((1.0 - x) * (1.0 + x))
    near, far = w - 2.5, tf.sqrt(tf.maximum(w, 5.0)) - 3.0
    return tf.where(w < 5.0, _polynomial(ERFINV_NEAR, near), _polynomial(ERFINV_FAR, far)) * x


def _other_leg(x: Any) -> Any:
    """Of a right triangle with the long side 1."""
    return tf.sqrt((1.0 - x) * (1.0 + x))


def _asinh(x: Any) -> Any:
    size = tf.abs(x)
    above = size + size * size / (1.0 + tf.sqrt(size * size + 1.0))
    return tf.sign(x) * tf.math.log(1.0 + above)


def _lgamma(x: Any) -> Any:
    """Of numbers below a half by the reflection of those above."""
    is_low = x < 0.5
    z = tf.where(is_low, 1.0 - x, x) - 1.0
    series = tf.ones_like(z)
    for number, factor in enumerate(LANCZOS, 1):
        series += factor / (z + float(number))
    base = z + 7.5
    above = 0.5 * math.log(2 * math.pi) + (z + 0.5) * tf.math.log(base) - base
    above += tf.math.log(series)
    mirrored = math.log(math.pi) - tf.math.log(tf.abs(tf.sin(math.pi * x))) - above
    return tf.where(is_low, mirrored, above)


def _digamma(x: Any) -> Any:
    is_low = x < 0.5
    z = tf.where(is_low, 1.0 - x, x)
    behind = tf.zeros_like(z)
    for step in range(DIGAMMA_STEPS):
        behind += 1.0 / (z + float(step))
    z += float(DIGAMMA_STEPS)
    square = 1.0 / (z * z)
    tail = square * (1 / 12 - square * (1 / 120 - square / 252))
    above = tf.math.log(z) - 0.5 / z - tail - behind
    angle = math.pi * x
    return tf.where(is_low, above - math.pi * tf.cos(angle) / tf.sin(angle), above)


def _bitwise_and(x: Any, y: Any) -> Any:
    """The sum of two numbers counts the bits that both have twice, those that one has once.

    The halves are summed, so that nothing overflows.
    """
    half, other = (tf.bitwise.right_shift(number, tf.ones_like(number)) for number in (x, y))
    above = half + other - tf.bitwise.bitwise_xor(half, other)
    return above + (x - half - half) * (y - other - other)


def _left_shift(x: Any, y: Any) -> Any:
    """By products with powers of two; of 32 bits, where the highest one is below 0."""
    bits = 8 * x.dtype.size
    powers = np.left_shift(np.ones(bits, x.dtype.as_numpy_dtype), np.arange(bits))
    return x * tf.gather(powers.astype(x.dtype.as_numpy_dtype), y)


def _truncated_remainder(x: Any, y: Any) -> Any:
    rest = tf.math.floormod(tf.abs(x), tf.abs(y))
    return tf.where(x < 0, -rest, rest)


def _cross(x: Any, y: Any) -> Any:
    (second, third), (fourth, fifth) = (
        [tf.gather(part, places, axis=-1) for places in ([1, 2, 0], [2, 0, 1])] for part in (x, y)
    )
    return second * fifth - third * fourth


FORMS: dict[str, Callable[..., Any]] = {
    "Acos": lambda x: tf.atan2(_other_leg(x), x),
    "Acosh": lambda x: tf.math.log(x + tf.sqrt((x - 1.0) * (x + 1.0))),
    "Asin": lambda x: tf.atan2(x, _other_leg(x)),
    "Asinh": _asinh,
    "Atan": lambda x: tf.atan2(x, tf.ones_like(x)),
    "Atanh": lambda x: 0.5 * tf.math.log((1.0 + x) / (1.0 - x)),
    "BitwiseAnd": _bitwise_and,
    "BitwiseOr": lambda x, y: tf.bitwise.bitwise_xor(x, y) + _bitwise_and(x, y),
    "Cosh": lambda x: 0.5 * (tf.exp(x) + tf.exp(-x)),
    "Cross": _cross,
    "Digamma": _digamma,
    "Erf": _erf,
    "Erfc": lambda x: 1.0 - _erf(x),
    "Erfinv": _erfinv,
    "Invert": lambda x: -1 - x,
    "LeftShift": _left_shift,
    "Lgamma": _lgamma,
    "Ndtri": lambda x: math.sqrt(2) * _erfinv(2.0 * x - 1.0),
    "Sinh": lambda x: 0.5 * (tf.exp(x) - tf.exp(-x)),
    "Tan": lambda x: tf.sin(x) / tf.cos(x),
    "TruncateMod": _truncated_remainder,
}
"""By the kind of op that they stand for."""
