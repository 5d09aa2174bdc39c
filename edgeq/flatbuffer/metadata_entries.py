"""Entries of a file's metadata in its object tree: bytes by name, whatever they say."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.flatbuffer.generated_schema import schema


def entry_content(tree: Any, name: bytes) -> bytes | None:
    """The bytes of an entry; None where there is none."""
    for entry in tree.metadata or ():
        if entry.name == name and entry.buffer < len(tree.buffers):
            data = tree.buffers[entry.buffer].data
            return None if data is None else bytes(data)
    return None


def put_entry(tree: Any, name: bytes, content: bytes) -> None:
    """Puts an entry into a tree in place of the one of that name.

    The tree's lists of metadata and buffers are replaced, not changed.
    """
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = name, len(tree.buffers)
    others = [known for known in tree.metadata or () if known.name != name]
    tree.metadata, tree.buffers = [*others, entry], [*tree.buffers, buffer]
