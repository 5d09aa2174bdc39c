"""ONNX's branches and loops, which become straight lines.

A branch is chosen, or both are computed and selected from; a loop is unrolled.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from edgeq.export.frontends.onnx.graph_interpreter import Interpreter, NotKnown, Value, turns
from edgeq.export.frontends.onnx.op_table import Node, find, flow

Scope = MutableMapping[str, Value]

MOST_OPEN_TURNS = 256
"""Turns of a loop that the input may end; each becomes ops of its own."""

_SCALAR = Value(torch.zeros(0, dtype=torch.int64))
"""The shape of a scalar."""


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


@flow("And", "Or")
def connected(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Value]:
    """What one side decides alone is known, so that a counter bounds a loop."""
    deciding = node.op == "Or"
    one, other = given
    for value in given:
        if not value.depends and bool((value.tensor == deciding).all()):
            size = torch.broadcast_shapes(one.tensor.shape, other.tensor.shape)
            return [Value(torch.full(size, deciding))]
    return called(run, node, node.op, given)


@flow("Loop")
def loop(run: Interpreter, node: Node, given: Sequence[Any], scope: Scope) -> list[Value]:
    """A `Loop`, turn after turn; behind an end that the input decides, turns change nothing."""
    most = math.inf
    if given[0] is not None:
        most = run.known(node, "its number of turns beforehand", given[0]).item()
    turning = _Turning(run, node, given[2:])
    goes_on = given[1] is None or turning.goes_on(given[1])
    rows, turn, body = [], 0, node.get("body")
    while goes_on and turn < most:
        turns(node, turn + 1)
        number, condition = (
            Value(torch.tensor(value).reshape(_declared_ones(body, place)))
            for place, value in enumerate((turn, True))
        )
        made = run.nested(body, scope, [number, condition, *turning.view])
        count = len(turning.states)
        turning.take(made[1 : 1 + count])
        rows.append(made[1 + count :])
        turn += 1
        goes_on = turn == most or turning.goes_on(made[0])
    wanted = [name for name in node.outputs[len(turning.states) :] if name]
    if wanted and turning.running is not None:
        raise node.refused(
            f"returns a row of {wanted[0]!r} for each turn, and the input decides how many it "
            "takes; a file has fixed sizes: return what the loop carries alone"
        )
    return turning.states + _stacked(run, node, rows, len(node.outputs) - len(turning.states))


def _declared_ones(body: Any, place: int) -> list[int]:
    """Shape of one number: a scalar, or as many axes as an input of the body is declared with."""
    if place >= len(body.input):
        return []
    return [1] * len(body.input[place].type.tensor_type.shape.dim)


class _Turning:
    """What a loop carries.

    Attributes:
        states: What it carries.
        view: The same, but what is made of constants alone as if no input ended the loop.
        running: Whether the input has not ended the loop; None as long as it could not.
    """

    def __init__(self, run: Interpreter, node: Node, states: Sequence[Value]) -> None:
        self._run = run
        self._node = node
        self._open = 0
        self.states = self.view = list(states)
        self.running: Value | None = None

    def goes_on(self, condition: Value) -> bool:
        """Whether there is another turn, for some inputs at least.

        Raises:
            NotKnown: The input decides, and nothing bounds the number of turns.
        """
        if not condition.depends:
            return bool(condition.plain.item())
        self._open += 1
        if self._open > MOST_OPEN_TURNS:
            what = f"its condition beforehand, or a first input of at most {MOST_OPEN_TURNS} turns"
            raise NotKnown(self._node, what, condition.depends)
        if self.running is None:
            self.running = _called(self._run, self._node, "Reshape", (condition, _SCALAR))
        else:
            both = (self.running, condition)
            self.running = _called(self._run, self._node, "And", both)
        return True

    def take(self, made: Sequence[Value]) -> None:
        """Takes the results of a turn.

        Raises:
            UnsupportedOpError: They have another size than before, and the input may end the loop.
        """
        if self.running is None:
            self.states = self.view = list(made)
            return
        if any(map(_differ, made, self.states)):
            raise self._node.refused(
                "changes the size or type of what it carries, and the input decides how often; a "
                "file has fixed sizes"
            )
        chosen = [
            new if new is old else _called(self._run, self._node, "Where", (self.running, new, old))
            for new, old in zip(made, self.states, strict=True)
        ]
        self.states = chosen
        self.view = [c if m.depends else m for m, c in zip(made, chosen, strict=True)]


def _differ(one: Any, other: Any) -> bool:
    is_tensor = isinstance(one, Value) and isinstance(other, Value)
    return not is_tensor or _kind(one) != _kind(other)


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
    along = node.get("scan_output_axes") or [0] * outputs
    flipped = node.get("scan_output_directions") or [0] * outputs
    stacked = _stacked(run, node, rows, outputs, along)
    return states + [
        _called(run, node, "Gather", (v, _order(length)), axis=axis) if back else v
        for v, back, axis in zip(stacked, flipped, along, strict=True)
    ]


def _order(length: int) -> Value:
    return Value(torch.arange(length - 1, -1, -1))


def _row(run: Interpreter, node: Node, value: Value, axis: int, place: int) -> Value:
    return _called(run, node, "Gather", (value, Value(torch.tensor(place))), axis=axis)


def _stacked(
    run: Interpreter,
    node: Node,
    rows: Sequence[Sequence[Value]],
    count: int,
    axes: Sequence[int] | None = None,
) -> list[Value]:
    """Outputs of all turns, each stacked along a new axis, by default the first."""
    if count and not rows:
        raise node.refused("runs no turn, and so gives outputs of no known shape")
    made = []
    for i, axis in enumerate(axes or [0] * count):
        along = Value(torch.tensor([axis]))
        parts = [_called(run, node, "Unsqueeze", (row[i], along)) for row in rows]
        made.append(_called(run, node, "Concat", parts, axis=axis))
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
