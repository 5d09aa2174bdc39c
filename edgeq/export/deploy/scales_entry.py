"""Scales and shifts of a model's channels, as entries of its file's metadata.

Who holds an exported file against the float model needs them to tell a scaled channel from a wrong
one. Knows the entries, nothing of what scales are good for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.flatbuffer.metadata_entries import entry_content, put_entry
from edgeq.foreign.documents import DocumentError, parse_json
from edgeq.qtypes import FloatArray

ENTRY = b"edgeq_channel_scales"
"""Name of the entry: a JSON object of tensor names, each with a byte for each channel."""

SHIFTS_ENTRY = b"edgeq_channel_shifts"
"""Name of the entry: a JSON object of tensor names, each with a float16 for each channel."""

STEPS = 16
"""Scales are powers of two of so many steps from one to the next, which a byte holds."""

Exponents = npt.NDArray[np.int8]


def on_grid(scales: FloatArray) -> FloatArray:
    """The nearest scales that can be stored and are not smaller."""
    found: FloatArray = np.exp2(np.ceil(np.log2(scales) * STEPS - 1e-6) / STEPS)
    return found


def write_scales(tree: Any, scales: Mapping[str, FloatArray]) -> None:
    """Puts scales into an object tree in place of what it has.

    Args:
        tree: The tree; its lists of metadata and buffers are replaced, not changed.
        scales: Of each channel, by tensor name; numbers of the grid.
    """
    text = {name: _text(values) for name, values in scales.items()}
    put_entry(tree, ENTRY, json.dumps(text, separators=(",", ":")).encode())


def carry_scales(source: Any, target: Any) -> None:
    """Puts the scales and shifts of one object tree into another, which has none yet."""
    for name in (ENTRY, SHIFTS_ENTRY):
        content = entry_content(source, name)
        if content is not None and entry_content(target, name) is None:
            put_entry(target, name, content)


def read_scales(tree: Any) -> dict[str, FloatArray]:
    """Scales of each channel, by tensor name; empty where the file has none.

    Raises:
        ModelError: The entry is damaged.
    """
    return _read(tree, ENTRY, "scales", _values)


def as_stored(shifts: FloatArray) -> FloatArray:
    """The nearest shifts that can be stored."""
    most = float(np.finfo(np.float16).max)
    found: FloatArray = np.clip(shifts, -most, most).astype(np.float16).astype(np.float64)
    return found


def write_shifts(tree: Any, shifts: Mapping[str, FloatArray]) -> None:
    """Puts shifts into an object tree in place of what it has.

    Args:
        tree: The tree; its lists of metadata and buffers are replaced, not changed.
        shifts: Of each channel, by tensor name, as `as_stored` has them.
    """
    contents = {name: values.astype(np.float16).tobytes() for name, values in shifts.items()}
    text = {name: base64.b64encode(content).decode() for name, content in contents.items()}
    put_entry(tree, SHIFTS_ENTRY, json.dumps(text, separators=(",", ":")).encode())


def read_shifts(tree: Any) -> dict[str, FloatArray]:
    """Shifts of each channel, by tensor name; empty where the file has none.

    Raises:
        ModelError: The entry is damaged.
    """
    return _read(tree, SHIFTS_ENTRY, "shifts", _shifts)


def _read(
    tree: Any, name: bytes, what: str, read: Callable[[str], FloatArray]
) -> dict[str, FloatArray]:
    content = entry_content(tree, name)
    if content is None:
        return {}
    try:
        return {key: read(text) for key, text in parse_json(content.decode()).items()}
    except (DocumentError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the {what} of channels in the file's metadata ({name.decode()}) cannot be read: "
            f"{error}. Export the model again"
        ) from None


def _shifts(text: str) -> FloatArray:
    found: FloatArray = np.frombuffer(base64.b64decode(text, validate=True), np.float16)
    return found.astype(np.float64)


def _text(scales: FloatArray) -> str:
    exponents = np.rint(np.log2(scales) * STEPS).astype(np.int8)
    return base64.b64encode(exponents.tobytes()).decode()


def _values(text: str) -> FloatArray:
    exponents: Exponents = np.frombuffer(base64.b64decode(text, validate=True), np.int8)
    found: FloatArray = np.exp2(exponents / STEPS)
    return found
