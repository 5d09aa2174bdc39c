"""Regions of a graph whose integers round the same again and again: streams and recurrences.

A transformer adds what its layers give to a stream and normalises that before or after each. All of
it is sums, products and means, one behind the other, so that its integers round the same numbers
again and again. Knows structure alone: no ranges and no target.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import MOVED, OPS, Kind, holds, kind_of, pole

_WITHIN = (Kind.ELEMENTWISE, Kind.MOVE)

LEAST_REPEATS = 8
"""Steps of an unrolled network at least: of fewer, rounding errors do not add up to much."""


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


def unrolled(graph: Graph) -> list[frozenset[int]]:
    """Ops that an unrolled recurrent network repeats at each step, each behind the one before it.

    Of a deep network, whose blocks are alike but for their weights, there are none.
    """
    kinds: dict[_Alike, int] = {}
    members: dict[int, list[int]] = {}
    before: dict[int, int] = {}
    after, follows = dict[int, int](), Counter[int]()
    for op in graph.operators:
        kind = kinds.setdefault(_alike(graph, op), len(kinds))
        seen = functools.reduce(operator.or_, (before.get(t, 0) for t in op.inputs), 0)
        members.setdefault(kind, []).append(op.index)
        follows[kind] += seen >> kind & 1
        after[kind] = after.get(kind, 0) | seen
        before.update(dict.fromkeys(op.outputs, seen | 1 << kind))
    single = [kind for key, kind in kinds.items() if len(members[kind]) == 1 and key.constants]
    again = [kind for kind in kinds.values() if follows[kind] >= LEAST_REPEATS - 1]
    found = {frozenset(b for b in again if after[a] >> b & 1 and after[b] >> a & 1) for a in again}
    return [
        frozenset(i for kind in group for i in members[kind])
        for group in sorted(found, key=min)
        if not any(_is_between(kind, group, after) for kind in single)
    ]


def _is_between(kind: int, group: frozenset[int], after: Mapping[int, int]) -> bool:
    """Whether an op of a kind is behind some of a group and in front of others."""
    return any(after[kind] >> g & 1 for g in group) and any(after[g] >> kind & 1 for g in group)


class _Alike(NamedTuple):
    """What repeats of an op have in common."""

    name: str
    activation: str
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[bytes, ...]


def _alike(graph: Graph, op: Operator) -> _Alike:
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    real = [tensor for tensor in tensors if tensor.dtype == "float32"]
    constants = tuple(t.data.ravel()[:16].tobytes() for t in real if t.data is not None)
    return _Alike(op.name, op.fused_activation, tuple(t.shape for t in tensors), constants)
