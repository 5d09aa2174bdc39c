"""Values of variables while a program is emitted.

Knows arrays, constants and pairs of parts, nothing of primitives or layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.export.frontends.jaxpr.complex_parts import Pair, as_pair

NUMBERS_MAX = 1 << 22
"""Numbers that a computed constant may have, unless what it is made of has as many."""


@dataclass(frozen=True)
class Value:
    """Value of a variable while the program is emitted.

    Attributes:
        array: The traced or given array.
        computed: Whether it depends on the model's inputs; otherwise it is a constant.
        owner: Path of the layer that owns the parameter that it is made of, where known.
    """

    array: Any
    computed: bool
    owner: str = ""


def arrays_of(values: Sequence[Value]) -> list[Any]:
    """The arrays of values."""
    return [value.array for value in values]


def known(value: Value) -> Any:
    """The numbers of a constant; None of what is computed, traced or complex."""
    if value.computed or is_traced(value.array) or isinstance(value.array, Pair):
        return None
    return (
        None if jnp.issubdtype(value.array.dtype, jax.dtypes.extended) else np.asarray(value.array)
    )


def is_traced(array: Any) -> bool:
    """Whether an array, or a part of a complex one, has no numbers yet."""
    parts = array if isinstance(array, Pair) else (array,)
    return any(isinstance(part, jax.core.Tracer) for part in parts)


def computed_now(function: Callable[..., list[Any]], arrays: Sequence[Any]) -> list[Any] | None:
    """What is computed of constants; None where those are traced, or would make the file large."""
    if any(is_traced(array) for array in arrays):
        return None
    with jax.ensure_compile_time_eval():
        made = function(*arrays)
    most = max([NUMBERS_MAX, *(np.size(array) for array in arrays)])
    return made if all(np.size(array) <= most for array in made) else None


def is_unsigned(param: Any) -> bool:
    """Whether a parameter of a primitive asks for uint32."""
    return isinstance(param, np.dtype) and param == np.uint32


def unsigned_iota(*, dimension: int, shape: Sequence[int], **_: Any) -> Any:
    """Numbers from 0 on along an axis, uint32."""
    sizes = [size if axis == dimension else 1 for axis, size in enumerate(shape)]
    return np.broadcast_to(np.arange(shape[dimension], dtype=np.uint32).reshape(sizes), shape)


def signed(operands: Sequence[Value]) -> list[Value]:
    """Values with int32 in the place of uint32, which kernels do not compute with."""
    return [
        replace(o, array=jax.lax.convert_element_type(o.array, np.int32))
        if getattr(o.array, "dtype", None) == np.uint32
        else o
        for o in operands
    ]


def joined_parts(found: Iterator[Value]) -> Value:
    """A complex value of the next two."""
    real, imag = next(found), next(found)
    return replace(real, array=Pair(real.array, imag.array))


def as_constant(value: Any) -> Value:
    """A constant or literal of a program as a value."""
    if str(getattr(value, "dtype", type(value).__name__)).startswith("complex"):
        return Value(as_pair(np.asarray(value)), False)
    return Value(wide(value) if hasattr(value, "dtype") else jnp.asarray(value), False)


NARROW = ("float16", "bfloat16")
"""Types that are emitted as float32."""


def wide(value: Any) -> Any:
    """Arrays and types of fewer bits than float32 as that; all else as it is."""
    if isinstance(value, np.dtype | type):
        return np.dtype(np.float32) if _is_narrow(value) else value
    return value.astype(np.float32) if _is_narrow(getattr(value, "dtype", None)) else value


def _is_narrow(dtype: Any) -> bool:
    return str(getattr(dtype, "name", getattr(dtype, "__name__", dtype))) in NARROW


def looked_up(values: Mapping[Any, Value], atom: Any) -> Value:
    """Value of a variable, or a literal as one."""
    return as_constant(atom.val) if hasattr(atom, "val") else values[atom]
