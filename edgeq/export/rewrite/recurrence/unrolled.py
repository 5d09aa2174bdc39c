"""Recurrent layers written out step by step, for targets that compute in integers alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.export.importing.loop_layer import LEAST_STEPS
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.export.rewrite.recurrence.lstm_operands import NOTHING, LstmOperands
from edgeq.flatbuffer import Graph, Operator, parse_tree
from edgeq.targets import Purpose

MOST_UNROLLED = 50_000
"""More ops than that are no use to a target."""


def _few(site: Site, op: Operator) -> Sequence[Any] | None:
    """An LSTM of so few steps that a loop is not worth it, such as one that is fed its states."""
    found = LstmOperands.of(site, op)
    return None if found is None or found.steps >= LEAST_STEPS else _unrolled(site, op)


def _unrolled(site: Site, op: Operator) -> Sequence[Any] | None:
    """An LSTM whose states begin each run as zeros or as some tensor."""
    layer = LstmOperands.of(site, op)
    if layer is None or layer.cell_clip or layer.state_clip:
        return None
    return _Steps(site, op, layer).ops()


class _Steps:
    """Builds the steps of one layer; each method returns the tensor that it writes."""

    def __init__(self, site: Site, op: Operator, layer: LstmOperands) -> None:
        self._site = site
        self._op = op
        self._layer = layer
        self._ops: list[Any] = []
        self._weight = site.constant(op, "weight", layer.weight)
        self._recurrence = site.constant(op, "recurrence", layer.recurrence)
        self._bias = site.constant(op, "bias", layer.bias)
        self._hidden, self._width = layer.width, layer.state_width
        self._steps, self._batch = layer.steps, layer.batch
        self._is_turned = not layer.time_major and self._batch > 1

    def ops(self) -> list[Any]:
        inputs, (state, cell) = self._inputs(), self._layer.states
        made = []
        for step in range(self._steps):
            gates = self._slice(inputs, (step * self._batch, 0), 4 * self._hidden)
            if state != NOTHING:
                again = self._dense(state, self._recurrence, NOTHING, 4 * self._hidden)
                gates = self._binary("ADD", gates, again, 4 * self._hidden)
            state, cell = self._step(gates, cell)
            made.append(state)
        self._outputs(made)
        return [*self._ops, *self._layer.gone(self._site, cell)]

    def _inputs(self) -> int:
        """What all steps add to their gates, `(T * B, 4 * H)`."""
        site, source = self._site, self._layer.source
        depth = site.shape(source)[-1]
        if self._is_turned:
            turned = site.tensor(self._op, (self._steps, self._batch, depth))
            self._ops.append(site.transpose(self._op, source, turned, (1, 0, 2)))
            source = turned
        shape = self._steps * self._batch, depth
        rows = site.tensor(self._op, shape)
        self._ops.append(site.reshape(self._op, source, rows, shape))
        return self._dense(rows, self._weight, self._bias, 4 * self._hidden, shape[0])

    def _step(self, gates: int, cell: int) -> tuple[int, int]:
        """State and cell state behind a step, from the sums of its gates."""
        width = self._hidden
        parts = [self._slice(gates, (0, gate * width), width) for gate in range(4)]
        names = ("LOGISTIC", "LOGISTIC", "TANH", "LOGISTIC")
        let_in, kept, new, out = map(self._unary, names, parts)
        added = self._binary("MUL", let_in, new, width)
        if cell != NOTHING:
            added = self._binary("ADD", self._binary("MUL", kept, cell, width), added, width)
        state = self._binary("MUL", out, self._unary("TANH", added), width)
        if self._layer.projection is not None:
            projection = self._site.constant(self._op, "projection", self._layer.projection)
            state = self._dense(state, projection, NOTHING, self._width)
        return state, added

    def _outputs(self, made: Sequence[int]) -> None:
        """Writes the states of all steps to the layer's output."""
        site, op, output = self._site, self._op, self._op.outputs[0]
        rows = site.tensor(op, (self._steps * self._batch, self._width))
        self._ops.append(
            site.editor.op("CONCATENATION", made, [rows], axis=0, fusedActivationFunction=0)
        )
        if not self._is_turned:
            self._ops.append(site.reshape(op, rows, output, site.shape(output)))
            return
        shape = (self._steps, self._batch, self._width)
        turned = site.tensor(op, shape)
        self._ops.append(site.reshape(op, rows, turned, shape))
        self._ops.append(site.transpose(op, turned, output, (1, 0, 2)))

    def _made(self, columns: int, rows: int = 0) -> int:
        return self._site.tensor(self._op, (rows or self._batch, columns))

    def _dense(self, source: int, weight: int, bias: int, columns: int, rows: int = 0) -> int:
        made = self._made(columns, rows)
        inputs = [source, weight, bias]
        self._ops.append(self._site.editor.op(
            "FULLY_CONNECTED", inputs, [made], fusedActivationFunction=0, keepNumDims=False
        ))  # fmt: skip
        return made

    def _slice(self, source: int, begin: Sequence[int], columns: int) -> int:
        made = self._made(columns)
        size = (self._batch, columns)
        self._ops.append(self._site.slice(self._op, source, made, begin, size))
        return made

    def _binary(self, name: str, one: int, other: int, columns: int) -> int:
        made = self._made(columns)
        self._ops.append(self._site.binary(name, one, other, made))
        return made

    def _unary(self, name: str, source: int) -> int:
        made = self._made(self._hidden)
        self._ops.append(self._site.editor.op(name, [source], [made]))
        return made


def _unrolled_loop(site: Site, op: Operator) -> Sequence[Any] | None:
    """A loop that counts its rounds, and reads and writes a row of what it carries in each."""
    if any(site.graph.uses.get(t) for t in op.outputs[:1]):
        return None
    tree = site.editor.tree
    cond, body = (
        parse_tree(tree).graphs[index]
        for index in (op.options.condSubgraphIndex, op.options.bodySubgraphIndex)
    )
    count = _rounds(site, op, cond)
    is_long = count is not None and count * len(body.operators) > MOST_UNROLLED
    if count is None or is_long or not _RoundBody.suits(body):
        return None
    return _RoundBody(site, op, body, tree.subgraphs[body.index].operators).ops(count)


def _rounds(site: Site, op: Operator, cond: Graph) -> int | None:
    """Number of rounds of a loop whose first operand counts them; None for any other."""
    start = site.value(op.inputs[0])
    if start is None or start.size != 1 or len(cond.operators) != 1:
        return None
    (asked,) = cond.operators
    most = cond.tensors[asked.inputs[-1]].data
    counts = asked.name == "LESS" and asked.inputs[0] == cond.inputs[0] and most is not None
    return int(most.item() - start.item()) if counts and most is not None else None


class _RoundBody:
    """Writes out the rounds of a loop; each value of a round is a tensor, an integer or rows."""

    def __init__(self, site: Site, op: Operator, body: Graph, entries: Sequence[Any]) -> None:
        self._site = site
        self._op = op
        self._body = body
        self._entries = entries
        self._ops: list[Any] = []
        self._rows: dict[int, list[int]] = {}

    @staticmethod
    def suits(body: Graph) -> bool:
        """Whether rows are all that rounds read by their number, and write by it."""
        counter, sliced = body.inputs[0], {"GATHER": 0, "DYNAMIC_UPDATE_SLICE": 0}
        read = {op.inputs[sliced[op.name]] for op in body.operators if op.name in sliced}
        others = (op for op in body.operators if op.name not in sliced)
        whole = any(t in body.inputs for t in read) and not any(
            t in read for op in others for t in op.inputs
        )
        integers = [op for op in body.operators if body.tensors[op.outputs[0]].dtype == "int32"]
        known = {op.name for op in integers} <= {"ADD", "CONCATENATION"}
        return whole and known and body.tensors[counter].dtype == "int32"

    def ops(self, count: int) -> list[Any]:
        site, op, body = self._site, self._op, self._body
        values: list[Any] = [site.value(op.inputs[0]), *op.inputs[1:]]
        for _ in range(count):
            values = self._round(dict(zip(body.inputs, values, strict=True)))
        for place, (tensor, value) in enumerate(zip(op.outputs, values, strict=True)):
            if not place or not (site.graph.uses.get(tensor) or tensor in site.graph.outputs):
                continue
            if isinstance(value, list):
                self._joined(value, tensor)
            elif value == op.inputs[place]:
                site.same[tensor] = value
            else:
                self._ops.append(site.reshape(op, value, tensor, site.shape(tensor)))
        return self._ops

    def _round(self, values: dict[int, Any]) -> list[Any]:
        body = self._body
        for op, entry in zip(body.operators, self._entries, strict=True):
            values[op.outputs[0]] = self._value(op, entry, values)
        return [values[t] for t in body.outputs]

    def _value(self, op: Operator, entry: Any, values: Mapping[int, Any]) -> Any:
        read = [self._read(t, values) for t in op.inputs]
        made = self._body.tensors[op.outputs[0]]
        if made.dtype == "int32":
            return read[0] + read[1] if op.name == "ADD" else np.concatenate(read)
        if op.name == "GATHER":
            return self._rows_of(read[0], op.inputs[0])[int(read[1].item())]
        if op.name == "DYNAMIC_UPDATE_SLICE":
            rows = list(self._rows_of(read[0], op.inputs[0]))
            rows[int(read[2][0])] = read[1]
            return rows
        operands = [self._site.ints(self._op, "ints", t) if _is_known(t) else t for t in read]
        output = self._site.tensor(self._op, made.shape)
        new = copy.copy(entry)
        new.inputs, new.outputs = np.asarray(operands, np.int32), np.asarray([output], np.int32)
        self._ops.append(new)
        return output

    def _read(self, tensor: int, values: Mapping[int, Any]) -> Any:
        if tensor < 0 or tensor in values:
            return values.get(tensor, tensor)
        data = self._body.tensors[tensor].data
        assert data is not None
        is_integer = data.dtype == np.int32
        return data if is_integer else self._site.constant(self._op, "weight", data)

    def _rows_of(self, value: Any, carried: int) -> list[int]:
        """The rows of what a round carries, `(1, ...)` each."""
        if isinstance(value, list):
            return value
        if value not in self._rows:
            site, shape = self._site, self._body.tensors[carried].shape
            self._rows[value] = []
            for row in range(shape[0]):
                made = site.tensor(self._op, (1, *shape[1:]))
                begin = (row, *[0] * (len(shape) - 1))
                self._ops.append(site.slice(self._op, value, made, begin, (1, *shape[1:])))
                self._rows[value].append(made)
        return self._rows[value]

    def _joined(self, rows: Sequence[int], output: int) -> None:
        self._ops.append(
            self._site.editor.op("CONCATENATION", rows, [output], axis=0, fusedActivationFunction=0)
        )


def _is_known(value: Any) -> bool:
    return isinstance(value, np.ndarray)


REWRITES = (
    Rewrite(
        "LSTM of few steps", ("UNIDIRECTIONAL_SEQUENCE_LSTM",),
        "the ops of each step, where there are fewer than 8",
        "the delegate runs them, in int8 as well, and gives each row of a weight a scale", False,
        _few, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "unrolled LSTM", ("UNIDIRECTIONAL_SEQUENCE_LSTM",),
        "the ops of each step, the inputs of all of them multiplied at once",
        "its state is float, and these targets compute in integers alone", False, _unrolled,
        Purpose.MAPPING,
    ),
    Rewrite(
        "unrolled loop", ("WHILE",), "the ops of each round",
        "what it carries is float, and these targets compute in integers alone", True,
        _unrolled_loop, Purpose.MAPPING,
    ),
)  # fmt: skip
