"""ONNX's sequences of tensors, and optional ones: told apart while the graph is interpreted.

A file has tensors alone, so how many a sequence holds and which of them is read must be known.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgeq.export.frontends.onnx.control_flow import called
from edgeq.export.frontends.onnx.graph_interpreter import Interpreter, Value
from edgeq.export.frontends.onnx.op_table import Node, flow

Scope = MutableMapping[str, Any]


@dataclass(frozen=True)
class Listed:
    """A sequence of values."""

    values: tuple[Value, ...]


@flow("SequenceConstruct")
def construct(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [Listed(tuple(given))]


@flow("SequenceEmpty")
def empty(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [Listed(())]


@flow("SequenceInsert")
def insert(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    values = list(_listed(node, given[0]).values)
    end = len(values)
    place = end if len(given) < 3 or given[2] is None else _place(run, node, given[2], end + 1)
    values.insert(place, given[1])
    return [Listed(tuple(values))]


@flow("SequenceErase")
def erase(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    values = list(_listed(node, given[0]).values)
    count = len(values)
    del values[-1 if len(given) < 2 or given[1] is None else _place(run, node, given[1], count)]
    return [Listed(tuple(values))]


@flow("SequenceAt")
def at(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    values = _listed(node, given[0]).values
    return [values[_place(run, node, given[1], len(values))]]


@flow("SequenceLength")
def length(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [Value(torch.tensor(len(_listed(node, given[0]).values)))]


@flow("SplitToSequence")
def split(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    """Parts of the sizes that are given, or of one, of which the last may be smaller."""
    values, axis = given[0], node.get("axis", 0)
    count = values.tensor.shape[axis]
    keeps = len(given) > 1 and given[1] is not None
    wanted = run.known(node, "its sizes beforehand", given[1]) if keeps else np.asarray(1)
    sizes = [int(n) for n in wanted.reshape(-1)]
    if not wanted.ndim:
        size = sizes[0]
        sizes = [min(size, count - i * size) for i in range(math.ceil(count / size))]
    attributes = {"axis": axis}
    given_sizes = Value(torch.tensor(sizes))
    parts = called(run, node, "Split", (values, given_sizes), len(sizes), **attributes)
    if keeps or node.get("keepdims", 1):
        return [Listed(tuple(parts))]
    along = Value(torch.tensor([axis]))
    return [Listed(tuple(called(run, node, "Squeeze", (p, along))[0] for p in parts))]


@flow("ConcatFromSequence")
def joined(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    values, axis = _listed(node, given[0]).values, node.get("axis")
    if node.get("new_axis"):
        new = Value(torch.tensor([axis]))
        values = tuple(called(run, node, "Unsqueeze", (value, new))[0] for value in values)
    return called(run, node, "Concat", values, axis=axis)


@flow("SequenceMap")
def mapped(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    """A body run for each of a sequence; further inputs are sequences as long, or tensors."""
    count = len(_listed(node, given[0]).values)
    if any(isinstance(one, Listed) and len(one.values) != count for one in given):
        raise node.refused("runs over sequences of several lengths")
    rows = [
        run.nested(
            node.get("body"), scope,
            [one.values[i] if isinstance(one, Listed) else one for one in given],
        )
        for i in range(count)
    ]  # fmt: skip
    return [Listed(tuple(row[i] for row in rows)) for i in range(len(node.outputs))]


@flow("Optional")
def optional(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [given[0] if given else None]


@flow("OptionalGetElement")
def element(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [given[0]]


@flow("OptionalHasElement")
def has_element(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Any]:
    return [Value(torch.tensor(bool(given) and given[0] is not None))]


def _listed(node: Node, value: Any) -> Listed:
    if not isinstance(value, Listed):
        raise node.refused("reads a sequence where a tensor is given")
    return value


def _place(run: Interpreter, node: Node, value: Value, count: int) -> int:
    """A place in a sequence, of so many."""
    place = int(run.known(node, "which tensor it takes beforehand", value).item())
    if not -count <= place < count:
        raise node.refused(f"takes place {place} of a sequence that has {count}")
    return place
