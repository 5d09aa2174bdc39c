"""Tells which tensor is which behind the converter, whatever their names are.

The converter keeps names that no two tensors have, and changes others. So every tensor goes in with
its index as its name, and what comes out gets the user's own names back.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from edgeq.export.exported_graph import ROWS, TWIN
from edgeq.flatbuffer import Graph, op_name
from edgeq.ops import BOUNDARY

_PREFIX = "edgeq.tensor"
_NUMBERED = re.compile(rf"{re.escape(_PREFIX)}(\d+)\.(\d*(?:[/#].*)?)", re.DOTALL)
"""The index and what was put behind it: digits by the converter, of which a copy has some."""

_JOINT = ";"
"""Between the names of what the converter made one op of."""

_BEFORE = b"/before"
"""Ends the name of what is made on the way to a tensor."""


def _numbered_name(index: int) -> bytes:
    return f"{_PREFIX}{index}.".encode()


def numbered(tree: Any) -> Any:
    """An object tree whose tensors are named by their indices; the one given is not changed."""
    made = copy.copy(tree)
    graph = copy.copy(tree.subgraphs[0])
    graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    graph.operators = [copy.copy(op) for op in graph.operators]
    for index, tensor in enumerate(graph.tensors):
        tensor.name = _numbered_name(index)
    made.subgraphs = [graph, *tree.subgraphs[1:]]
    return made


def origins(graph: Graph) -> dict[int, int]:
    """For each tensor of a converted graph that was numbered, its index in the float model."""
    found = {}
    for tensor in graph.tensors:
        match = _NUMBERED.fullmatch(tensor.name)
        if match and match[2] in ("", ROWS, TWIN):
            found[tensor.index] = int(match[1])
    return found


def settle_names(tree: Any) -> None:
    """Gives a tensor's number to the last of the ops that the converter made of its producer.

    The first of them has it otherwise, as the TRANSPOSE before a FULLY_CONNECTED that was a
    BATCH_MATMUL.
    """
    tensors = tree.subgraphs[0].tensors
    _part_results(tree.subgraphs[0])
    for op in tree.subgraphs[0].operators:
        if op_name(tree.operatorCodes[op.opcodeIndex])[0] in BOUNDARY:
            continue
        read = {_name(tensors[t]): tensors[t] for t in op.inputs if t >= 0}
        for tensor in (tensors[t] for t in op.outputs):
            numbers = (_NUMBERED.fullmatch(part) for part in _name(tensor).split(_JOINT))
            own = [_numbered_name(int(number[1])) for number in numbers if number]
            first = next((name for name in own if name.decode() in read), None)
            if first is not None:
                read[first.decode()].name, tensor.name = first + _BEFORE, first


def _part_results(graph: Any) -> None:
    """Gives each of an op's several results its own number: the converter joins them in each."""
    taken = {_name(tensor) for tensor in graph.tensors}
    for op in graph.operators:
        if len(op.outputs) < 2:
            continue
        results = [graph.tensors[t] for t in op.outputs]
        parts = [_NUMBERED.fullmatch(part) for part in _name(results[0]).split(_JOINT)]
        if len(parts) != len(results):
            continue
        for tensor, part in zip(results, parts, strict=True):
            if part and part[2] == "":
                # What is made float behind it has the number itself.
                tensor.name = (part[0] + "1" if part[0] in taken else part[0]).encode()


def _name(tensor: Any) -> str:
    return (tensor.name or b"").decode("utf-8", "replace")


def give_back_names(tree: Any, names: Sequence[bytes | None]) -> None:
    """Gives the tensors of a converted tree, and what was made of them, the user's names.

    Args:
        tree: The tree, which is changed.
        names: Of the float model's tensors, by index.
    """
    for tensor in tree.subgraphs[0].tensors:
        name = _name(tensor)
        whole = _NUMBERED.fullmatch(name)
        parts = [whole] if whole else [_NUMBERED.fullmatch(part) for part in name.split(_JOINT)]
        if all(parts):
            given = [(names[int(m[1])] or b"") + m[2].encode() for m in parts if m]
            tensor.name = _JOINT.encode().join(given)
