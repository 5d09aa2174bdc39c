"""Which outputs hold indices: they agree or they do not, however near their numbers are.

And which hold rows that indices have picked: where scores are nearly equal, others are picked.

An integer that was rounded from a real number is not one, nor is a count.
"""

from __future__ import annotations

from edgeq.flatbuffer import Graph, Operator

SELECTING = frozenset({"ARG_MAX", "ARG_MIN", "TOPK_V2"})
"""Ops whose integers are places in what they read."""

PICKING = frozenset({"GATHER", "GATHER_ND"})
"""Ops that pick rows by the places that they read second."""

SUMMING = frozenset({"SUM", "MEAN", "CUMSUM"})
"""Ops that make quantities of integers."""


def holds_indices(graph: Graph, tensor: int) -> bool:
    """Whether a tensor's integers come from ops that select, and none from a real number."""
    todo, seen, selected = [tensor], {tensor}, False
    while todo:
        found = graph.tensors[todo.pop()]
        op = graph.producers.get(found.index)
        if "int" not in found.dtype or found.qparams is not None:
            return False
        if op is None:
            continue
        if op.name in SUMMING:
            return False
        if op.name in SELECTING:
            selected = True
            continue
        sources = [t.index for _, t in graph.operands(op) if not t.is_constant]
        if op.name != "CAST":  # gathered by a mask, or chosen by one
            sources = [s for s in sources if graph.tensors[s].dtype != "bool"]
        todo += [s for s in sources if s not in seen]
        seen.update(sources)
    return selected


def picking_op(graph: Graph, output: int) -> Operator | None:
    """The op whose places pick the rows that an output is made of; None without one."""
    todo, seen = [output], {output}
    while todo:
        op = graph.producers.get(todo.pop())
        if op is None:
            continue
        if op.name in PICKING and holds_indices(graph, op.inputs[1]):
            return op
        sources = [t.index for _, t in graph.operands(op) if not t.is_constant]
        todo += [s for s in sources if s not in seen]
        seen.update(sources)
    return None
