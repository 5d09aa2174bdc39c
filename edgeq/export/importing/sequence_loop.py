"""Calls that stand for a GRU or a simple recurrent layer become a WHILE with a small body.

The inputs of all steps are multiplied at once in front of it. What a step reads of them lies in a
tensor whose rows the loop replaces by its states. A round has a few steps, as each costs copies of
all that the loop carries; a long sequence has several loops for the same reason, with one body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.export.importing.layer_calls import LayerCall, with_calls_written
from edgeq.export.importing.op_chain import OpChain
from edgeq.files import Content
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree

SEQUENCE_LOOP = "edgeq.sequence_loop"
"""Target of the calls: `(x, weight, recurrence, bias, recurrent_bias, state)` become the outputs of
all steps, as `sequence_loop` of the PyTorch front end has them."""

GRU, GRU_BEFORE, RNN_TANH, RNN_RELU = "gru", "gru_before", "rnn_tanh", "rnn_relu"
"""Kinds of layers: a GRU whose reset gate comes behind the product with its state, one where it
comes before, and simple ones."""

GATES = {GRU: 3, GRU_BEFORE: 3, RNN_TANH: 1, RNN_RELU: 1}
"""How many times the width of the state the rows of a layer's weights are."""

LEAST_STEPS = 8
"""A shorter sequence is better written out."""

MOST_IN_ROUND = 5
"""Steps of a round. The delegate keeps the weights of each apart, and so in `MOST_WEIGHTS`."""

MOST_WEIGHTS = 1 << 18
"""Numbers of the weights of all steps of a round."""

MOST_IN_LOOP = 128
"""Steps of one loop."""

Array = npt.NDArray[Any]


def with_sequence_loops(tflite: Content) -> Content:
    """The file with a loop in the place of each call; the file itself where it has none.

    Raises:
        ModelError: A weight of a call is computed.
    """
    return with_calls_written(
        tflite, SEQUENCE_LOOP, lambda editor, call, added: _Layer(editor, call, added).ops()
    )


@dataclass(frozen=True)
class _Rounds:
    """How the steps of a sequence are shared out.

    Attributes:
        loops: Number of loops.
        rounds: Rounds of each.
        steps: Steps of each round.
    """

    loops: int
    rounds: int
    steps: int

    @property
    def total(self) -> int:
        """All steps; those behind the sequence's own compute nothing that is read."""
        return self.loops * self.rounds * self.steps

    @classmethod
    def of(cls, count: int, weights: int) -> _Rounds:
        """Of a sequence of so many steps, each with so many weights."""
        most = max(1, min(MOST_IN_ROUND, MOST_WEIGHTS // weights))
        return min(
            (cls._with(count, steps) for steps in range(1, most + 1)),
            key=lambda r: (r.total > count + count // 16, -r.steps),
        )

    @classmethod
    def _with(cls, count: int, steps: int) -> _Rounds:
        rounds = -(-count // steps)
        loops = -(-rounds * steps // MOST_IN_LOOP)
        return cls(loops, -(-rounds // loops), steps)


class _Layer:
    """The ops that take the place of one call."""

    def __init__(self, editor: GraphEditor, call: LayerCall, added: Callable[[Any], int]) -> None:
        self._editor = editor
        self._call = call
        self._added = added
        self._tensors = call.graph.tensors
        self._chain = OpChain(editor, call.name, [t.shape for t in self._tensors])
        shape = self._tensors[call.op.inputs[0]].shape
        self._count, self._batch = shape[:2] if call.time_major else shape[1::-1]
        self._recurrence = self._constant(2)
        self._width = self._recurrence.shape[1]
        self._rounds = _Rounds.of(self._count, self._recurrence.size)

    def ops(self) -> list[Any]:
        chain, rounds, width = self._chain, self._rounds, self._width
        rows = self._rows()
        own, gates = self._products(rows)
        tensors = [own] if gates is None else [own, gates]
        cond, body = self._added(self._condition()), self._added(self._body(gates is not None))
        state, made = self._call.op.inputs[5], []
        for loop in range(rounds.loops):
            parts = [self._part(tensor, loop) for tensor in tensors]
            state, outputs = self._loop(cond, body, state, parts)
            made.append(chain.reshape(outputs, (rounds.total // rounds.loops * self._batch, width)))
        whole = made[0] if len(made) == 1 else chain.concat(made, 0)
        if rounds.total > self._count:
            whole = chain.slice(whole, (0, 0), (self._count * self._batch, width))
        return self._written(whole)

    def _constant(self, slot: int) -> Array:
        data = self._tensors[self._call.op.inputs[slot]].data
        if data is None:
            raise ModelError(
                f"a weight of the layer at {self._call.name} is computed, and the loop that takes "
                "its place has constants"
            )
        return data

    def _rows(self) -> int:
        """The inputs of all steps, those of a step side by side, `(T * B, I)`."""
        chain, source = self._chain, self._call.op.inputs[0]
        depth = chain.shape(source)[-1]
        if not self._call.time_major and self._batch > 1:
            order = chain.constant((1, 0, 2), np.int32)
            source = chain.op("TRANSPOSE", [source, order], (self._count, self._batch, depth))
        rows = chain.reshape(source, (self._count * self._batch, depth))
        missing = (self._rounds.total - self._count) * self._batch
        if not missing:
            return rows
        ends = chain.constant(((0, missing), (0, 0)), np.int32)
        return chain.op("PAD", [rows, ends], (self._rounds.total * self._batch, depth))

    def _products(self, rows: int) -> tuple[int, int | None]:
        """What all steps add to their state, `(T * B, H)`, and to a GRU's gates."""
        width = self._width
        weight, bias, added = (self._constant(slot) for slot in (1, 3, 4))
        if GATES[self._call.kind] == 1:
            return self._dense(rows, weight, bias + added), None
        both = bias + added
        own = bias[2 * width :] if self._call.kind == GRU else both[2 * width :]
        gates = self._dense(rows, weight[: 2 * width], both[: 2 * width])
        return self._dense(rows, weight[2 * width :], own), gates

    def _dense(self, rows: int, weight: Array, bias: Array) -> int:
        chain = self._chain
        operands = [rows, self._stored("weight", weight), self._stored("bias", bias)]
        shape = (chain.shape(rows)[0], len(bias))
        return chain.op("FULLY_CONNECTED", operands, shape, fusedActivationFunction=0)

    def _stored(self, name: str, values: Array) -> int:
        return self._editor.constant(f"{self._call.name}/{name}", np.ascontiguousarray(values))

    def _part(self, tensor: int, loop: int) -> int:
        """The rows of one loop, those of a round as one, `(rounds, steps * B, N)`."""
        rounds, columns = self._rounds, self._chain.shape(tensor)[1]
        each = rounds.rounds * rounds.steps * self._batch
        if rounds.loops > 1:
            tensor = self._chain.slice(tensor, (loop * each, 0), (each, columns))
        return self._chain.reshape(tensor, (rounds.rounds, rounds.steps * self._batch, columns))

    def _loop(self, cond: int, body: int, state: int, parts: Sequence[int]) -> tuple[int, int]:
        """State behind the last step, and the states of all `(rounds, steps * B, H)`."""
        editor, chain, name = self._editor, self._chain, self._call.name
        begin = chain.constant((0,), np.int32)
        inputs = [begin, state, *parts]
        results = [editor.typed(f"{name}/round", (1,), "int32")]
        results += [editor.tensor(name, chain.shape(tensor)) for tensor in inputs[1:]]
        for made, tensor in zip(results, inputs, strict=True):
            chain.know(made, chain.shape(tensor))
        options = {"condSubgraphIndex": cond, "bodySubgraphIndex": body}
        chain.ops.append(editor.op("WHILE", inputs, results, **options))
        return results[1], results[2]

    def _written(self, rows: int) -> list[Any]:
        """The ops, which write the outputs in the layout of the call."""
        chain, output = self._chain, self._call.op.outputs[0]
        shape = self._count, self._batch, self._width
        if self._call.time_major or self._batch == 1:
            return chain.into(output, chain.reshape(rows, chain.shape(output)))
        order = chain.constant((1, 0, 2), np.int32)
        operands = [chain.reshape(rows, shape), order]
        return chain.into(output, chain.op("TRANSPOSE", operands, chain.shape(output)))

    def _shapes(self, has_gates: bool) -> list[tuple[int, ...]]:
        """Of what the loop carries: the round, the state, and the rows of all rounds."""
        rows = self._rounds.rounds, self._rounds.steps * self._batch
        gates = [(*rows, 2 * self._width)] if has_gates else []
        return [(1,), (self._batch, self._width), (*rows, self._width), *gates]

    def _condition(self) -> Any:
        step = _Subgraph(self._call.name, self._shapes(GATES[self._call.kind] > 1))
        most = step.chain.constant((self._rounds.rounds,), np.int32)
        return step.tree([step.chain.op("LESS", [step.inputs[0], most], (1,), "bool")])

    def _body(self, has_gates: bool) -> Any:
        graph = _Subgraph(self._call.name, self._shapes(has_gates))
        chain = graph.chain
        round_, state, own, *gates = graph.inputs
        step = _Step(chain, self._call.kind, self._recurrence, self._constant(4))
        rows = [self._of_round(chain, tensor, round_) for tensor in (own, *gates)]
        states = []
        for place in range(self._rounds.steps):
            read = [self._of_step(chain, tensor, place) for tensor in rows]
            state = step.state(state, *read)
            states.append(state)
        made = states[0] if len(states) == 1 else chain.concat(states, 0)
        made = chain.reshape(made, (1, *chain.shape(own)[1:]))
        begin = chain.op(
            "CONCATENATION", [round_, chain.constant((0, 0), np.int32)], (3,), "int32", axis=0
        )
        own = chain.op("DYNAMIC_UPDATE_SLICE", [own, made, begin], chain.shape(own))
        after = chain.binary("ADD", round_, chain.constant((1,), np.int32), "int32")
        return graph.tree([after, state, own, *gates])

    def _of_round(self, chain: OpChain, tensor: int, round_: int) -> int:
        rows = chain.gather(tensor, round_, 0)
        return chain.reshape(rows, chain.shape(tensor)[1:])

    def _of_step(self, chain: OpChain, rows: int, place: int) -> int:
        if self._rounds.steps == 1:
            return rows
        size = (self._batch, chain.shape(rows)[1])
        return chain.slice(rows, (place * self._batch, 0), size)


class _Step:
    """Builds one step of a layer after the other.

    Args:
        chain: What builds it.
        kind: Of the layer.
        recurrence: What states are multiplied with, `(gates * H, H)`.
        bias: What is added to that, of which the part of a GRU's new state is left here.
    """

    def __init__(self, chain: OpChain, kind: str, recurrence: Array, bias: Array) -> None:
        self._chain = chain
        self._kind = kind
        width = recurrence.shape[1]
        gates = recurrence[:-width]
        self._gates = chain.constant(gates) if len(gates) else -1
        self._own = chain.constant(recurrence[-width:])
        self._bias = chain.constant(bias[-width:]) if kind == GRU and bias.any() else -1

    def state(self, state: int, own: int, gates: int = -1) -> int:
        """The state behind the step, `(B, H)`."""
        chain = self._chain
        if self._kind == RNN_TANH:
            return self._tanh(chain.add(own, self._dense(state, self._own)))
        if self._kind == RNN_RELU:
            return self._unary("RELU", chain.add(own, self._dense(state, self._own)))
        both = self._unary("LOGISTIC", chain.add(gates, self._dense(state, self._gates)))
        batch, width = chain.shape(state)
        reset, kept = (chain.slice(both, (0, at), (batch, width)) for at in (0, width))
        if self._kind == GRU:
            product = chain.mul(reset, self._dense(state, self._own, self._bias))
        else:
            product = self._dense(chain.mul(reset, state), self._own)
        new = self._tanh(chain.add(own, product))
        return chain.add(new, chain.mul(kept, chain.sub(state, new)))

    def _dense(self, source: int, weight: int, bias: int = -1) -> int:
        shape = (self._chain.shape(source)[0], self._chain.shape(weight)[0])
        operands = [source, weight, bias]
        return self._chain.op("FULLY_CONNECTED", operands, shape, fusedActivationFunction=0)

    def _tanh(self, source: int) -> int:
        return self._unary("TANH", source)

    def _unary(self, kind: str, source: int) -> int:
        return self._chain.op(kind, [source], self._chain.shape(source))


class _Subgraph:
    """A graph to be added to a file.

    Attributes:
        inputs: Its inputs; the first one is int32.
        chain: What builds its ops.
    """

    def __init__(self, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
        self._editor = GraphEditor(empty_tree())
        kinds = ["int32"] + ["float32"] * (len(shapes) - 1)
        self.inputs = [
            self._editor.typed(name, shape, kind) for shape, kind in zip(shapes, kinds, strict=True)
        ]
        self.chain = OpChain(self._editor, name, shapes)

    def tree(self, outputs: Sequence[int]) -> Any:
        """The object tree of a file with the graph alone."""
        for op in self.chain.ops:
            self._editor.append(op)
        self._editor.set_ports(self.inputs, outputs)
        return self._editor.tree
