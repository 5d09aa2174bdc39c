"""`SubgraphAdder` puts graphs that ops run into a file, equal ones once."""

from __future__ import annotations

import hashlib
from typing import Any

from edgeq.flatbuffer.packing import pack
from edgeq.flatbuffer.subgraphs import add_subgraphs


class SubgraphAdder:
    """Adds to the subgraphs of an object tree.

    Args:
        tree: The tree, which is changed.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._known: dict[bytes, tuple[int, ...]] = {}

    def indices(self, *graphs: Any) -> tuple[int, ...]:
        """Where graphs are that one op runs together, given as object trees with nothing else.

        Where the very same ones were asked for before they are not added again. Graphs that are
        alike but run beside others are added, as a loop has a condition of its own.
        """
        key = b"".join(hashlib.sha256(pack(graph)).digest() for graph in graphs)
        if key not in self._known:
            first = len(self._tree.subgraphs)
            for graph in graphs:
                add_subgraphs(self._tree, graph, graph.subgraphs)
            self._known[key] = tuple(range(first, len(self._tree.subgraphs)))
        return self._known[key]
