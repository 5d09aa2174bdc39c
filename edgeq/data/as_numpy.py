"""Arrays and tensors of any framework become numpy arrays; frameworks stay unimported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError

Array = npt.NDArray[Any]


def to_numpy(value: Any) -> Array:
    """A numpy array of the user's array or tensor; a tensor is detached and bfloat16 widened."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()
    elif "bfloat16" in str(getattr(value, "dtype", "")):
        value = np.asarray(value).astype(np.float32)
    return np.asarray(value)


def array_of(value: Any, where: str) -> Array:
    """`to_numpy` with an error that says where."""
    try:
        return to_numpy(value)
    except ValueError as error:
        raise DataError(f"{where}: {type(value).__name__} is not an array: {error}") from None


def is_tensor(value: object) -> bool:
    """Whether it is a framework's tensor, told by what it can do: frameworks stay unimported."""
    return hasattr(value, "__array__") and hasattr(value, "shape") and hasattr(value, "dtype")


def has_items(value: object) -> bool:
    """Whether it can be read by index."""
    kind = type(value)
    return (
        hasattr(kind, "__len__")
        and hasattr(kind, "__getitem__")
        and not isinstance(value, Mapping | str | bytes)
        and getattr(value, "ndim", 1) > 0
    )


def kind_of(value: object) -> str:
    """How errors name a value of the wrong kind."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
