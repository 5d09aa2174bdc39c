"""Regions of a graph that no weight cuts: what joins a normalisation, and streams between them.

A transformer adds what its layers give to a stream and normalises that before or after each. All of
it is sums, products and means, one behind the other, so that its integers round the same numbers
again and again. Knows structure alone: no ranges and no target.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import MOVED, OPS, Kind, holds, kind_of, pole

_WITHIN = (Kind.ELEMENTWISE, Kind.MOVE)


def regions(graph: Graph) -> Iterator[frozenset[int]]:
    """Ops without a weight that tensors join with one that divides, by index.

    What multiplies each channel with a number of its own is no weight here. Ops that only move
    numbers into a region or out of it are not of it: they may as well move integers.
    """
    seen = set[int]()
    for op in graph.operators:
        if pole(op.name) is not None and op.index not in seen:
            found = _joined(graph, op)
            seen |= found
            yield _without_edges(graph, found)


def _joined(graph: Graph, first: Operator) -> frozenset[int]:
    """An op, and all that tensors join with it."""
    found, left = {first.index}, [first]
    while left:
        for near in _neighbours(graph, left.pop()):
            if near.index not in found and _is_within(graph, near):
                found.add(near.index)
                left.append(near)
    return frozenset(found)


def _neighbours(graph: Graph, op: Operator) -> Iterator[Operator]:
    """Ops that write what an op reads of real numbers, or read what it or the same one writes."""
    for tensor in (*op.inputs, *op.outputs):
        if tensor < 0 or graph.tensors[tensor].dtype != "float32":
            continue
        if tensor in graph.producers:
            yield graph.producers[tensor]
        elif graph.tensors[tensor].is_constant:
            continue
        yield from (reader for reader, _ in graph.uses.get(tensor, []))


def _is_within(graph: Graph, op: Operator) -> bool:
    row = OPS.get(op.name)
    if row is None or row.table is not None:
        return False
    is_plain = row.kind in _WITHIN or row.makes_nan or row.pole is not None
    return is_plain or is_by_channel(graph, op)


def is_by_channel(graph: Graph, op: Operator) -> bool:
    """Whether an op is a depthwise convolution that multiplies each channel with one number."""
    if kind_of(op.name) is not Kind.DEPTHWISE:
        return False
    source, weight = (graph.tensors[t].shape for t in op.inputs[:2])
    return weight[1:3] == (1, 1) and weight[-1] == source[-1]


def _without_edges(graph: Graph, region: frozenset[int]) -> frozenset[int]:
    """A region without the ops that move numbers and that only one side of it touches."""
    found = region
    while True:
        edges = {i for i in found if _is_edge(graph, graph.operators[i], found)}
        if not edges:
            return found
        found -= edges


def _is_edge(graph: Graph, op: Operator, region: frozenset[int]) -> bool:
    if holds(op.name) not in MOVED:
        return False
    readers = {reader.index for t in op.outputs for reader, _ in graph.uses.get(t, [])}
    writers = {graph.producers[t].index for t in op.inputs if t in graph.producers}
    return region.isdisjoint(readers) or region.isdisjoint(writers)
