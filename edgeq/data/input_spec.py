"""`InputSpec`: what an input of a model takes, in the form that representative data has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError
from edgeq.model import LiteModel

TO_NHWC = (0, 2, 3, 1)
"""The axes of an NCHW array in the order of NHWC."""


@dataclass(frozen=True)
class InputSpec:
    """Name, shape and dtype of one input of a model.

    Attributes:
        name: Name in the signature.
        shape: Static shape, batch included.
        dtype: numpy dtype name, for example `"float32"`.
        order: Axes of what the user gives, in the order in which the model takes them; empty where
            both are the same.
        fixed: The only value that the model computes with, whatever is given; None of most inputs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...] = ()
    fixed: float | None = None

    @property
    def given_shape(self) -> tuple[int, ...]:
        """Shape of what the user gives, batch included."""
        if not self.order:
            return self.shape
        return tuple(self.shape[self.order.index(axis)] for axis in range(len(self.shape)))

    def describe(self) -> str:
        """For example `'image' float32 (1, 3, 224, 224)`."""
        return f"{self.name!r} {self.dtype} {self.given_shape}"


def input_specs(model: LiteModel) -> tuple[InputSpec, ...]:
    """Lists the inputs of a model.

    Raises:
        ModelError: An input has a dynamic dimension, or the model has no input.
    """
    specs, fixed = [], dict(model.fixed)
    for name, tensor in model.input_tensors():
        if any(d < 0 for d in tensor.shape):
            raise ModelError(
                f"input {name!r} has the dynamic shape {tensor.shape}; export the model with "
                "every dimension fixed (batch 1 for a device)"
            )
        if not hasattr(np, tensor.dtype) and tensor.dtype != "bool":
            raise ModelError(
                f"input {name!r} is of type {tensor.dtype}, which has no numpy form; export the "
                "part of the model behind it"
            )
        order = TO_NHWC if name in model.nhwc else ()
        specs.append(InputSpec(name, tensor.shape, tensor.dtype, order, fixed.get(name)))
    if not specs:
        raise ModelError("the model has no input, so there is nothing to calibrate")
    return tuple(specs)
