"""Whole numbers in float tensors that become integers: places that are computed and looked up.

A scale of int8 moves them, and the cast behind cuts off what is left: 3 becomes 2.97 and then 2.
"""

from __future__ import annotations

import numpy as np

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.ops import MOVED, Holds, holds

ROUNDING = frozenset({"FLOOR", "CEIL", "ROUND", "FLOOR_DIV"})
"""Ops whose results are whole."""

KEEPING = frozenset(
    {"ADD", "SUB", "MUL", "NEG", "ABS", "RELU", "RELU6", "RELU_N1_TO_1", "SUM", "FLOOR_MOD"}
)
"""Ops whose results are whole where all that they read is; so are those that choose or move."""

WHY = "it computes whole numbers that become integers, which a scale of int8 would change"


def is_whole(graph: Graph, tensor: int, known: dict[int, bool] | None = None) -> bool:
    """Whether a tensor's values are whole numbers, whatever the inputs are.

    Args:
        graph: The graph.
        tensor: Index of a tensor.
        known: What was found of others, which is filled.
    """
    known = {} if known is None else known
    left = [tensor]
    while left:
        found = graph.tensors[left[-1]]
        op = graph.producers.get(found.index)
        sources = [] if op is None or not _keeps(op) else _real(graph, op)
        unknown = [t for t in sources if t not in known]
        if unknown:
            left += unknown
            continue
        known[left.pop()] = (
            _is_plainly_whole(graph, found, op) if not sources else all(known[t] for t in sources)
        )
    return known[tensor]


def become_integers(graph: Graph) -> frozenset[int]:
    """Ops that compute whole numbers, in float, that a CAST makes integers."""
    known: dict[int, bool] = {}
    found: set[int] = set()
    left = [op.inputs[0] for op in graph.operators if _is_cast_to_integer(graph, op)]
    while left:
        tensor = left.pop()
        op = graph.producers.get(tensor)
        if op is None or op.index in found or graph.tensors[tensor].dtype != "float32":
            continue
        if is_whole(graph, tensor, known):
            found.add(op.index)
            left += _real(graph, op) if _keeps(op) else ()
    return frozenset(found)


def _keeps(op: Operator) -> bool:
    return op.name in KEEPING or holds(op.name) in (*MOVED, Holds.LARGEST, Holds.SMALLEST)


def _real(graph: Graph, op: Operator) -> list[int]:
    return [t.index for _, t in graph.operands(op) if t.dtype == "float32"]


def _is_plainly_whole(graph: Graph, tensor: Tensor, op: Operator | None) -> bool:
    if tensor.data is not None:
        return bool((np.isfinite(tensor.data) & (tensor.data == np.rint(tensor.data))).all())
    if op is None:
        return False
    return op.name in ROUNDING or (op.name == "CAST" and not _real(graph, op))


def _is_cast_to_integer(graph: Graph, op: Operator) -> bool:
    return op.name == "CAST" and "int" in graph.tensors[op.outputs[0]].dtype
