"""`Network`: nodes that must be parted in two at the least cost.

Knows nothing of what the nodes are. The maximum flow is SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Node: TypeAlias = Hashable

CAPACITY = 2**30
"""Sum of all finite costs after scaling: SciPy's flows are 32-bit integers."""


class Network:
    """Directed edges between a source and a sink, each with what it costs to cut it.

    Args:
        source: Node on the one side.
        sink: Node on the other.
        most: Costs above this count as this much. No cut worth making may cost as much.
    """

    def __init__(self, source: Node, sink: Node, most: float) -> None:
        self._places: dict[Node, int] = {source: 0, sink: 1}
        self._costs: dict[tuple[int, int], float] = {}
        self._most = most

    def add(self, start: Node, end: Node, cost: float = math.inf) -> None:
        """Adds to the cost of parting `start` on the source's side from `end` on the sink's.

        Without a cost, the two are never parted so.
        """
        place = self._place(start), self._place(end)
        self._costs[place] = self._costs.get(place, 0.0) + min(cost, self._most)
        if math.isinf(cost):
            self._costs[place] = math.inf

    def _place(self, node: Node) -> int:
        return self._places.setdefault(node, len(self._places))

    def tie(self, one: Node, other: Node) -> None:
        """Never parts two nodes."""
        if one != other:
            self.add(one, other)
            self.add(other, one)

    def source_side(self) -> set[Node]:
        """The nodes on the source's side of the cheapest cut."""
        # Imported here, as boards that only run models have no SciPy.
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        size = len(self._places)
        rows, columns = np.array(list(self._costs), np.int32).reshape(-1, 2).T
        shape = (size, size)
        capacity = csr_array((self._capacities(), (rows, columns)), shape=shape)
        flow = maximum_flow(capacity, 0, 1, method="dinic").flow
        left = capacity - flow
        left.eliminate_zeros()
        reached = breadth_first_order(left, 0, return_predecessors=False)
        nodes = list(self._places)
        return {nodes[int(place)] for place in reached}

    def _capacities(self) -> npt.NDArray[np.int32]:
        costs = np.array(list(self._costs.values()))
        finite = np.isfinite(costs)
        total = float(costs[finite].sum())
        scaled = np.full(len(costs), CAPACITY + len(costs), np.int64)
        # A share first: the capacity over a total of next to nothing would be infinite.
        scaled[finite] = np.rint(costs[finite] / (total or 1.0) * CAPACITY)
        return scaled.astype(np.int32)
