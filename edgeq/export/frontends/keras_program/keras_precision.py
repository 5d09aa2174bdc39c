"""Keras models of half precision, computed in float32 while they are traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

HALF = ("float16", "bfloat16")
"""Types of numbers that become float32."""


@contextmanager
def in_float32(layers: Sequence[Any]) -> Iterator[None]:
    """Layers compute in float32 whatever their variables are; their own policies come back after.

    A policy that is a map of other layers' is the user's to change, and is left as it is.
    """
    import keras

    class Wide(keras.DTypePolicy):  # type: ignore[misc]
        """Computes in float32 from variables of any type, which are cast where these differ."""

        def __init__(self, variables: str) -> None:
            super().__init__("float32")
            self._variable_dtype = variables

    policies = [(layer, layer.dtype_policy) for layer in layers]
    changed = [
        (layer, policy)
        for layer, policy in policies
        if isinstance(policy, keras.DTypePolicy) and policy.compute_dtype in HALF
    ]
    for layer, policy in changed:
        layer.dtype_policy = Wide(policy.variable_dtype)
    try:
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


@contextmanager
def wide_parameters(variables: Sequence[Any]) -> Iterator[None]:
    """Variables of half precision on PyTorch hold float32; what they held comes back after."""
    held = [(v.value, v.value.data) for v in variables if v.dtype in HALF]
    for parameter, data in held:
        parameter.data = data.float()
    try:
        yield
    finally:
        for parameter, data in held:
            parameter.data = data
