"""Scales of a model's channels, as an entry of its file's metadata.

Who holds an exported file against the float model needs them to tell a scaled channel from a wrong
one. Knows the entry, nothing of what scales are good for.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.flatbuffer.metadata_entries import entry_content, put_entry
from edgeq.foreign.documents import DocumentError, parse_json
from edgeq.qtypes import FloatArray

ENTRY = b"edgeq_channel_scales"
"""Name of the entry: a JSON object of tensor names, each with a byte for each channel."""

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
    """Puts the scales of one object tree into another, which has none yet."""
    content = entry_content(source, ENTRY)
    if content is not None and entry_content(target, ENTRY) is None:
        put_entry(target, ENTRY, content)


def read_scales(tree: Any) -> dict[str, FloatArray]:
    """Scales of each channel, by tensor name; empty where the file has none.

    Raises:
        ModelError: The entry is damaged.
    """
    content = entry_content(tree, ENTRY)
    if content is None:
        return {}
    try:
        entry = parse_json(content.decode())
        return {name: _values(text) for name, text in entry.items()}
    except (DocumentError, UnicodeDecodeError, AttributeError, TypeError, binascii.Error) as error:
        raise ModelError(
            f"the scales of channels in the file's metadata ({ENTRY.decode()}) cannot be read: "
            f"{error}. Export the model again"
        ) from None


def _text(scales: FloatArray) -> str:
    exponents = np.rint(np.log2(scales) * STEPS).astype(np.int8)
    return base64.b64encode(exponents.tobytes()).decode()


def _values(text: str) -> FloatArray:
    exponents: Exponents = np.frombuffer(base64.b64decode(text, validate=True), np.int8)
    found: FloatArray = np.exp2(exponents / STEPS)
    return found
