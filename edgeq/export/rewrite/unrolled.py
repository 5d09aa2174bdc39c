"""Recurrent layers written out step by step, for targets that compute in integers alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Site
from edgeq.flatbuffer import Graph, Operator, parse_tree, schema
from edgeq.targets import Purpose

_NOTHING = -1
"""In the place of a bias that there is none of, and of a state of zeros."""

_GATES = slice(1, 5), slice(5, 9)
"""Operand slots of the weights of the four gates: input, forget, cell, output."""

_BIASES = slice(12, 16)

_PROJECTION, _STATE, _CELL = 16, 18, 19
"""Operand slots of what outputs are multiplied with, and of the two states."""

_OTHERS = (9, 10, 11, 17, 20, 21, 22, 23)
"""Operand slots that are not written out: peepholes, and layer normalization."""


MOST_UNROLLED = 50_000
"""More ops than that are no use to a target."""


def _unrolled(site: Site, op: Operator) -> Sequence[Any] | None:
    """An LSTM whose states begin each run as zeros or as some tensor."""
    if any(slot < len(op.inputs) and op.inputs[slot] >= 0 for slot in _OTHERS):
        return None
    starts = [_start(site, op.inputs[slot]) for slot in (_STATE, _CELL)]
    weights = [_joined(site, op, slots) for slots in (*_GATES, _BIASES)]
    options = op.options
    is_put_out = any(r.outputs[0] in site.graph.outputs for r in _last_cells(site, op))
    if None in starts or is_put_out or options.cellClip or options.projClip:
        return None
    if any(weight is None for weight in weights):
        return None
    return _Steps(site, op, *weights).ops(*(start for start in starts if start is not None))


def _start(site: Site, state: int) -> int | None:
    """The tensor that a state begins each run as, `_NOTHING` for zeros; None if it lasts."""
    writer = site.producer(state, "FILL", "SELECT_V2")
    if writer is None:
        return None
    if writer.name == "SELECT_V2":
        return writer.inputs[1]
    value = site.value(writer.inputs[1])
    return None if value is None or value.any() else _NOTHING


def _joined(site: Site, op: Operator, slots: slice) -> Array | None:
    parts = [site.value(t) for t in op.inputs[slots]]
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _last_cells(site: Site, op: Operator) -> list[Operator]:
    """Copies of the cell state that are made behind an LSTM."""
    readers = {reader.index: reader for reader, _ in site.graph.uses[op.inputs[_CELL]]}
    return [reader for reader in readers.values() if reader.name == "SELECT_V2"]


class _Steps:
    """Builds the steps of one layer; each method returns the tensor that it writes."""

    def __init__(self, site: Site, op: Operator, weight: Any, recurrence: Any, bias: Any) -> None:
        self._site = site
        self._op = op
        self._ops: list[Any] = []
        self._weight = site.constant(op, "weight", weight[:, None, None])
        self._recurrence = site.constant(op, "recurrence", recurrence)
        self._bias = site.constant(op, "bias", bias)
        self._hidden = len(bias) // 4
        self._width = recurrence.shape[1]
        shape = site.shape(op.outputs[0])
        time = 0 if op.options.timeMajor else 1
        self._steps, self._batch = shape[time], shape[1 - time]
        self._is_turned = time == 1 and self._batch > 1

    def ops(self, state: int, cell: int) -> list[Any]:
        inputs = self._inputs()
        made = []
        for step in range(self._steps):
            gates = self._slice(inputs, (step * self._batch, 0), 4 * self._hidden)
            if state != _NOTHING:
                again = self._dense(state, self._recurrence, _NOTHING, 4 * self._hidden)
                gates = self._binary("ADD", gates, again, 4 * self._hidden)
            state, cell = self._step(gates, cell)
            made.append(state)
        self._outputs(made)
        for reader in _last_cells(self._site, self._op):
            self._site.gone.add(reader.index)
            self._site.same[reader.outputs[0]] = cell
        return self._ops

    def _inputs(self) -> int:
        """What all steps add to their gates, `(T * B, 4 * H)`."""
        site, source = self._site, self._op.inputs[0]
        ordered = site.producer(source, "SELECT_V2")
        if ordered is not None and ordered.inputs[1] == ordered.inputs[2]:
            source = ordered.inputs[1]
        depth = site.shape(source)[-1]
        if self._is_turned:
            turned = site.tensor(self._op, (self._steps, self._batch, depth))
            self._ops.append(site.transpose(self._op, source, turned, (1, 0, 2)))
            source = turned
        rows, columns = self._steps * self._batch, 4 * self._hidden
        laid_out, mixed = (site.tensor(self._op, (1, 1, rows, n)) for n in (depth, columns))
        flat = self._made(columns, rows)
        self._ops += [
            site.reshape(self._op, source, laid_out, (1, 1, rows, depth)),
            self._convolution(laid_out, mixed),
            site.reshape(self._op, mixed, flat, (rows, columns)),
        ]
        return flat

    def _convolution(self, source: int, output: int) -> Any:
        """A product of many rows; the Edge TPU has no FULLY_CONNECTED of more than one."""
        return self._site.editor.op(
            "CONV_2D", [source, self._weight, self._bias], [output], padding=schema.Padding.VALID,
            strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=0,
        )  # fmt: skip

    def _step(self, gates: int, cell: int) -> tuple[int, int]:
        """State and cell state behind a step, from the sums of its gates."""
        width = self._hidden
        parts = [self._slice(gates, (0, gate * width), width) for gate in range(4)]
        names = ("LOGISTIC", "LOGISTIC", "TANH", "LOGISTIC")
        let_in, kept, new, out = map(self._unary, names, parts)
        added = self._binary("MUL", let_in, new, width)
        if cell != _NOTHING:
            added = self._binary("ADD", self._binary("MUL", kept, cell, width), added, width)
        state = self._binary("MUL", out, self._unary("TANH", added), width)
        projection = self._op.inputs[_PROJECTION]
        if projection >= 0:
            state = self._dense(state, projection, _NOTHING, self._width)
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

    def _dense(self, source: int, weight: int, bias: int, columns: int) -> int:
        made = self._made(columns)
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
