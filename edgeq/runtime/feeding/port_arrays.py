"""Arrays of a caller as inputs hold them: types, widths, rows."""

from __future__ import annotations

import numpy as np

from edgeq.errors import DataError
from edgeq.ports import Port
from edgeq.runtime.entry import Array


def stored(port: Port, real: Array) -> Array:
    """Converts real numbers of any float type to what a port stores."""
    if port.qparams is None and port.dtype == "float32":
        return real.astype(np.float32, copy=False)
    return port.quantize(real)


def whole_numbers(port: Port, array: Array) -> Array:
    """Integers in the width of a port that takes them as they are, where they all fit.

    Raises:
        DataError: Some do not.
    """
    wanted = np.dtype(port.dtype)
    is_other = array.dtype.kind in "iu" and wanted.kind in "iu" and array.dtype != wanted
    if not is_other or port.qparams is not None or not array.size:
        return array
    limits, low, high = np.iinfo(wanted), int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise DataError(
            f"input {port.name!r} is {port.dtype}, and values from {low} to {high} do not fit it. "
            f"Received: {array.dtype.name} of shape {array.shape}"
        )
    return array.astype(wanted)


def way_in(port: Port, array: Array) -> str:
    """Says how real numbers get into a port that stores them otherwise."""
    holds_real = port.qparams is not None or port.dtype == "float32"
    if not holds_real or array.dtype.kind != "f" or array.dtype == port.dtype:
        return ""
    return "; run(..., real=True) takes real numbers and converts them"


def fits(dynamic: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an input of a shape, with -1 where any size will do, takes an array."""
    return len(dynamic) == len(shape) and all(
        size in (-1, given) for size, given in zip(dynamic, shape, strict=True)
    )


def filled(rows: Array, batch: int) -> Array:
    """A whole batch; the last row stands for those that are missing."""
    missing = batch - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows
