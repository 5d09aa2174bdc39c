"""`Coverage`: what a delegate of a loaded model took.

Knows the interpreter's list of ops, nothing of the interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Coverage:
    """The ops that a delegate of a loaded model took.

    Attributes:
        delegated: Indices of the ops that run in the delegate.
        total: Number of ops of the graph.
        partitions: Number of pieces that the delegate runs.
    """

    delegated: frozenset[int]
    total: int
    partitions: int


def delegate_nodes(ops: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The ops that stand for a piece that a delegate runs."""
    return [op for op in ops if op["op_name"] == "DELEGATE"]


def coverage_of(ops: Sequence[Mapping[str, Any]], pieces: Sequence[Mapping[str, Any]]) -> Coverage:
    """Finds the ops that delegate nodes took, by walking back from what each of them computes."""
    nodes = [op for op in ops if op["op_name"] != "DELEGATE"]
    producer = {int(t): i for i, op in enumerate(nodes) for t in op["outputs"]}
    delegated: set[int] = set()
    for piece in pieces:
        stop = {int(t) for t in piece["inputs"]}
        delegated |= _walk_back(nodes, producer, [int(t) for t in piece["outputs"]], stop)
    return Coverage(frozenset(delegated), len(nodes), len(pieces))


def _walk_back(
    ops: Sequence[Mapping[str, Any]],
    producer: Mapping[int, int],
    tensors: list[int],
    stop: set[int],
) -> set[int]:
    """Ops that lead to `tensors`, not going past the tensors in `stop`."""
    found: set[int] = set()
    while tensors:
        tensor = tensors.pop()
        if tensor in stop or tensor not in producer or producer[tensor] in found:
            continue
        found.add(producer[tensor])
        tensors += [int(t) for t in ops[producer[tensor]]["inputs"] if t >= 0]
    return found
