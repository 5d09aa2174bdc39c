"""Calls that need no subgraph: its ops are written out where the call stands.

A loop or a branch stays a call; a composite, a plain call, and a branch whose condition is known do
not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.flatbuffer import op_name
from edgeq.flatbuffer.object_tree import prune, renumber
from edgeq.flatbuffer.subgraphs import bottom_up, called, called_by, keep_subgraphs, reached

_CALLS = {"CALL": "subgraph", "STABLEHLO_COMPOSITE": "decompositionSubgraphIndex"}
"""Ops that do what their subgraph does, and the option that names it."""

_BRANCHES = {True: "thenSubgraphIndex", False: "elseSubgraphIndex"}
"""Options of IF that name the subgraph for a condition."""


MOST_OPS = 50_000
"""More ops than that in a graph are not written out: calls of calls stand for any number of them in
a few bytes."""


def write_out_calls(tree: Any) -> int:
    """Puts the ops of called subgraphs in the place of plain calls.

    Args:
        tree: The object tree of a file that was checked; it is changed.

    Returns:
        Number of calls that were written out.

    Raises:
        ModelError: A call passes another number of tensors than its subgraph takes, or calls of
            calls stand for too many ops.
    """
    count = 0
    for index in bottom_up(tree):
        places = _places(tree, index)
        while places:
            for place in places:
                _write_out(tree, index, place)
                _check_count(len(tree.subgraphs[index].operators))
            count += len(places)
            places = _places(tree, index)
    if count:
        roots = {0, *(signature.subgraphIndex for signature in tree.signatureDefs or ())}
        keep_subgraphs(tree, reached(tree, roots))
        prune(tree)
    return count


def _check_count(ops: int) -> None:
    if ops > MOST_OPS:
        raise ModelError(
            f"the calls of subgraphs in the .tflite file stand for more than {MOST_OPS:,} ops "
            "when they are written out: export a part of the model"
        )


def _places(tree: Any, index: int) -> list[int]:
    """Where the calls to write out are, the last one first: those before it keep their places."""
    operators = tree.subgraphs[index].operators or ()
    found = [p for p, op in enumerate(operators) if _body(tree, index, op) is not None]
    return found[::-1]


def _body(tree: Any, index: int, op: Any) -> int | None:
    """The subgraph to put in the place of an op; None where the op stays."""
    if not called_by(op):
        return None
    name, _ = op_name(tree.operatorCodes[op.opcodeIndex])
    options, _ = next(called(op))
    if name in _CALLS:
        return int(getattr(options, _CALLS[name]))
    if name != "IF":
        return None
    condition = _content(tree, tree.subgraphs[index].tensors[op.inputs[0]])
    return None if condition is None else int(getattr(options, _BRANCHES[bool(condition[0])]))


def _content(tree: Any, tensor: Any) -> Any:
    """Stored bytes of a constant; None of a computed tensor."""
    content = tree.buffers[tensor.buffer].data
    return content if content is not None and len(content) else None


def _write_out(tree: Any, index: int, place: int) -> None:
    graph = tree.subgraphs[index]
    call = graph.operators[place]
    name, _ = op_name(tree.operatorCodes[call.opcodeIndex])
    body = tree.subgraphs[_body(tree, index, call)]
    read = [int(t) for t in call.inputs][1 if name == "IF" else 0 :]
    number = {-1: -1, **_paired(name, body.inputs, read)}
    same: dict[int, int] = {}
    for result, own in _paired(name, call.outputs, body.outputs).items():
        if own in number:
            same[result] = number[own]
            continue
        number[own] = result
        graph.tensors[result].buffer = body.tensors[own].buffer
    for own, tensor in enumerate(body.tensors):
        if own not in number:
            graph.tensors.append(copy.copy(tensor))
            number[own] = len(graph.tensors) - 1
    graph.operators[place : place + 1] = [_copied(op, number) for op in body.operators or ()]
    if same:
        renumber(tree, index, lambda tensor: _last(same, tensor))


def _paired(name: str, ones: Sequence[Any], others: Sequence[Any]) -> dict[int, int]:
    if len(ones) != len(others):
        raise ModelError(
            f"the .tflite file is damaged: a {name} passes {len(others)} tensors where its "
            f"subgraph has {len(ones)}. Make it again with its converter"
        )
    return dict(zip(map(int, ones), map(int, others), strict=True))


def _last(same: Mapping[int, int], tensor: int) -> int:
    while tensor in same:
        tensor = same[tensor]
    return tensor


def _copied(op: Any, number: Mapping[int, int]) -> Any:
    made = copy.copy(op)
    for side in ("inputs", "outputs", "intermediates"):
        tensors = getattr(op, side)
        if tensors is not None:
            setattr(made, side, np.asarray([number[int(t)] for t in tensors], np.int32))
    return made
