"""`TensorMerger` takes ops out of a graph.

Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

from typing import Any

from edgeq.flatbuffer.object_tree import prune, renumber


class TensorMerger:
    """Takes ops out of a graph and makes what they read and what they write one tensor.

    Args:
        tree: The file's object tree, which is changed by `apply`.
        graph: Index of the graph in it.
    """

    def __init__(self, tree: Any, graph: int = 0) -> None:
        self._tree = tree
        self._index = graph
        self._graph = tree.subgraphs[graph]
        self._computed = {int(t) for op in self._graph.operators for t in op.outputs}
        self._results = {int(t) for t in self._graph.outputs}
        self._same: dict[int, int] = {}
        self._dropped: set[int] = set()

    def root(self, tensor: int) -> int:
        """The tensor that stands for `tensor`."""
        while tensor in self._same:
            tensor = self._same[tensor]
        return tensor

    def merge(self, one: int, other: int) -> int:
        """Makes two tensors one.

        Returns:
            Index of the one that stands for both: inputs, constants and variables before outputs of
            the graph, and these before all others, so that ports keep their names.
        """
        pair = self.root(one), self.root(other)
        kept = max(pair, key=self._rank)
        self._same.update({gone: kept for gone in pair if gone != kept})
        return kept

    def drop(self, op: int) -> None:
        """Takes an op out."""
        self._dropped.add(op)

    def _rank(self, tensor: int) -> int:
        return 2 if tensor not in self._computed else int(tensor in self._results)

    def apply(self) -> None:
        """Changes the tree, and takes out of it what nothing mentions any more."""
        graph = self._graph
        graph.operators = [op for i, op in enumerate(graph.operators) if i not in self._dropped]
        renumber(self._tree, self._index, self.root)
        prune(self._tree)
