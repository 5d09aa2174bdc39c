"""What a TensorFlow function declares of its inputs. Importing it does not import TensorFlow."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from edgeq.export.frontends.arguments import Declared


def specs_of(function: Any, signature: inspect.Signature) -> dict[str, Any]:
    """The `TensorSpec` of each input that a function declares; none of one that declares none."""
    if hasattr(function, "structured_input_signature"):
        specs = {**by_position(function), **function.structured_input_signature[1]}
    else:
        traced = function if hasattr(function, "python_function") else type(function).__call__
        declared = getattr(traced, "input_signature", None) or ()
        specs = dict(zip(signature.parameters, declared, strict=False))
    return {name: spec for name, spec in specs.items() if hasattr(spec, "shape")}


def by_position(function: Any) -> dict[str, Any]:
    """The specs of what a concrete function takes by position, by the names that they have."""
    specs = function.structured_input_signature[0]
    return {getattr(s, "name", None) or f"input_{i}": s for i, s in enumerate(specs)}


def shapes_of(specs: Mapping[str, Any]) -> dict[str, Declared]:
    """Shapes as `TensorSpec`s have them."""
    shapes = {name: spec.shape for name, spec in specs.items()}
    return {n: None if s.rank is None else tuple(s.as_list()) for n, s in shapes.items()}


def as_declared(tensors: Mapping[str, Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of the types that a function declares: it takes int64 alone where it says so."""
    import tensorflow as tf

    return {n: tf.cast(t, specs[n].dtype) if n in specs else t for n, t in tensors.items()}


def traced_with_either(function: Callable[..., Any], trace: Callable[[Any], Any]) -> Any:
    """What a trace gives of a function by name, which may take whole numbers as int64 alone.

    Raises:
        Exception: What the trace with int32 raises, where that with int64 fails as well.
    """
    import tensorflow as tf

    def of_wide(**tensors: Any) -> Any:
        wide = {n: tf.cast(t, tf.int64) for n, t in tensors.items() if t.dtype == tf.int32}
        if not wide:
            raise TypeError("no whole numbers are passed")
        return function(**{**tensors, **wide})

    try:
        return trace(function)
    except Exception:  # whatever the user's code raises; of two errors the first is told
        with contextlib.suppress(Exception):
            return trace(of_wide)
        raise
