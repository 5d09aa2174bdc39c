"""Whose numbers a tensor holds: rounding what an op has only moved is rounding what it reads."""

from __future__ import annotations

from collections.abc import Container, Mapping

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, ScaleRule


def moves(op: Operator) -> bool:
    """Whether an op's output and all that it reads share one scale."""
    row = OPS.get(op.name)
    return row is not None and row.rule is ScaleRule.SAME


def sources(graph: Graph, rounded: Container[int]) -> Mapping[int, frozenset[int]]:
    """For each computed tensor, those that its numbers are rounded in: itself, if it is not moved.

    Args:
        graph: The float model's.
        rounded: Tensors that may become integers; what is moved of any other is a source itself.
    """
    found = {tensor: frozenset([tensor]) for tensor in graph.inputs}
    for op in graph.operators:
        read = [found[t] for t in op.inputs if t in found and _is_real(graph, t)]
        held = frozenset[int]().union(*read)
        is_moved = moves(op) and bool(held) and all(t in rounded for t in held)
        found |= {tensor: held if is_moved else frozenset([tensor]) for tensor in op.outputs}
    return found


def _is_real(graph: Graph, tensor: int) -> bool:
    return graph.tensors[tensor].dtype == "float32"
