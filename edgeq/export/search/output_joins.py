"""Ops that join what an output holds: rows of very different size share one scale by them alone."""

from __future__ import annotations

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, Holds, ScaleRule


def output_joins(graph: Graph) -> frozenset[int]:
    """Ops that only move values to an output, where one of them joins several tensors."""
    found: dict[int, Operator] = {}
    left = list(graph.outputs)
    while left:
        op = graph.producers.get(left.pop())
        if op is not None and _moves(op) and op.index not in found:
            found[op.index] = op
            left += _computed(graph, op)
    joins = any(len(_computed(graph, op)) > 1 for op in found.values())
    return frozenset(found) if joins else frozenset()


def _moves(op: Operator) -> bool:
    row = OPS.get(op.name)
    return row is not None and row.rule is ScaleRule.SAME and row.holds is Holds.ALL


def _computed(graph: Graph, op: Operator) -> list[int]:
    """Real numbers that an op reads, constants aside."""
    real = (t for _, t in graph.operands(op) if t.dtype == "float32" and not t.is_constant)
    return [tensor.index for tensor in real]
