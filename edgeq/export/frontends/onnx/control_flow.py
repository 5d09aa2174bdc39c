"""ONNX's branches and loops, which become straight lines.

A branch is chosen, or both are computed and selected from; a loop is unrolled.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from edgeq.export.frontends.onnx.graph_interpreter import Interpreter, Value, turns
from edgeq.export.frontends.onnx.op_table import Node, find, flow

Scope = MutableMapping[str, Value]


@flow("If")
def branch(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Value]:
    """The branch that an `If` takes for the sample's shapes, or both where the input decides."""
    if not run.differs(given[0]):
        chosen = run.known(node, "its condition beforehand", given[0])
        return run.nested(node.get("then_branch" if chosen.item() else "else_branch"), scope, ())
    on_true, on_false = (
        run.nested(node.get(name), scope, ()) for name in ("then_branch", "else_branch")
    )
    if not all(isinstance(value, Value) for value in (*on_true, *on_false)):
        raise node.refused("takes one of two sequences by what the input holds; return tensors")
    if any(_kind(a) != _kind(b) for a, b in zip(on_true, on_false, strict=True)):
        raise node.refused(
            "takes one of two branches by what the input holds, and their results differ in shape "
            "or type; the file computes both and selects: make them of one shape (pad them)"
        )
    return [
        _called(run, node, "Where", (given[0], a, b))
        for a, b in zip(on_true, on_false, strict=True)
    ]


def _kind(value: Value) -> tuple[Any, ...]:
    return tuple(value.tensor.shape), value.tensor.dtype


@flow("Loop")
def loop(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Value]:
    """A `Loop`, turn after turn."""
    most = math.inf
    if given[0] is not None:
        most = run.known(node, "its number of turns beforehand", given[0]).item()
    goes_on = given[1] is None or bool(run.known(node, "its condition beforehand", given[1]))
    states, rows, turn = list(given[2:]), [], 0
    condition = Value(torch.tensor(True))
    while goes_on and turn < most:
        turns(node, turn + 1)
        number = Value(torch.tensor(turn, dtype=torch.int64))
        made = run.nested(node.get("body"), scope, [number, condition, *states])
        goes_on = bool(run.known(node, "its condition beforehand", made[0]))
        states, row = made[1 : 1 + len(states)], made[1 + len(states) :]
        rows.append(row)
        turn += 1
    return states + _stacked(run, node, rows, len(node.outputs) - len(states))


@flow("Scan")
def scan(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Value]:
    """A `Scan`, row after row."""
    if node.version < 9:
        raise node.refused("is of an opset below 9")
    count = node.get("num_scan_inputs")
    states, read = list(given[: len(given) - count]), given[len(given) - count :]
    axes = node.get("scan_input_axes") or [0] * count
    backwards = node.get("scan_input_directions") or [0] * count
    length = turns(node, read[0].tensor.shape[axes[0]])
    rows = []
    for turn in range(length):
        places = [length - 1 - turn if back else turn for back in backwards]
        row = [_row(run, node, v, a, p) for v, a, p in zip(read, axes, places, strict=True)]
        made = run.nested(node.get("body"), scope, [*states, *row])
        states = made[: len(states)]
        rows.append(made[len(states) :])
    outputs = len(node.outputs) - len(states)
    if any(node.get("scan_output_axes") or ()):
        raise node.refused("stacks its outputs along another axis than the first")
    flipped = node.get("scan_output_directions") or [0] * outputs
    stacked = _stacked(run, node, rows, outputs)
    return states + [
        _called(run, node, "Gather", (v, _order(length)), axis=0) if back else v
        for v, back in zip(stacked, flipped, strict=True)
    ]


def _order(length: int) -> Value:
    return Value(torch.arange(length - 1, -1, -1))


def _row(run: Interpreter, node: Node, value: Value, axis: int, place: int) -> Value:
    return _called(run, node, "Gather", (value, Value(torch.tensor(place))), axis=axis)


def _stacked(
    run: Interpreter, node: Node, rows: Sequence[Sequence[Value]], count: int
) -> list[Value]:
    """Outputs of all turns, each stacked along a new first axis."""
    if count and not rows:
        raise node.refused("runs no turn, and so gives outputs of no known shape")
    first = Value(torch.tensor([0]))
    made = []
    for i in range(count):
        parts = [_called(run, node, "Unsqueeze", (row[i], first)) for row in rows]
        made.append(_called(run, node, "Concat", parts, axis=0))
    return made


def called(
    run: Interpreter, node: Node, op: str, given: Sequence[Value], results: int = 1,
    **attributes: Any,
) -> list[Value]:  # fmt: skip
    """Runs an op in the name of a node."""
    made = Node(node.name, op, "", 13, attributes, ("",) * len(given), ("",) * results)
    row = find(made)
    assert row is not None
    return run.compute(made, row, given)


def _called(
    run: Interpreter, node: Node, op: str, given: Sequence[Value], **attributes: Any
) -> Value:
    return called(run, node, op, given, **attributes)[0]
