"""A file for those who look at its ops and shapes alone."""

from __future__ import annotations

from typing import Any

from edgeq.files import Content
from edgeq.flatbuffer import pack, parse_tree
from edgeq.flatbuffer.graph_editor import GraphEditor

FED_BYTES = 1 << 20
"""Constants of so many bytes are left out: they would only be copied, several times."""


def without_large_constants(tree: Any) -> Content:
    """The file of an object tree with the large constants of its main graph as inputs."""
    constants = [(t.index, t.data) for t in parse_tree(tree).graphs[0].tensors]
    large = [index for index, data in constants if data is not None and data.nbytes >= FED_BYTES]
    if not large:
        return pack(tree)
    editor = GraphEditor(tree)
    editor.feed(large)
    return editor.finish()
