"""A recurrent layer as a WHILE with a small body.

The inputs of all steps are multiplied at once in front of it. What a step reads of them lies in
tensors whose rows the loop carries and replaces by its states. A round has a few steps, as each
costs copies of all that is carried; a long sequence has several loops for the same reason, with one
body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.importing.loop_steps import GATES, GRU, Array, RecurrentLayer, Steps, Subgraph
from edgeq.export.importing.op_chain import OpChain
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.subgraph_adder import SubgraphAdder

LEAST_STEPS = 8
"""A shorter sequence is better written out."""

MOST_IN_ROUND = 5
"""Steps of a round. The delegate keeps the weights of each apart, and so in `MOST_WEIGHTS`."""

MOST_WEIGHTS = 1 << 18
"""Numbers of the weights of all steps of a round."""

MOST_IN_LOOP = 128
"""Steps of one loop."""

MOST_CARRIED = 3 << 14
"""Numbers that one loop carries, if it does not have fewer than `LEAST_STEPS` for that."""


@dataclass(frozen=True)
class Rounds:
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
    def of(cls, count: int, weights: int, carried: int) -> Rounds:
        """Of so many steps, each with so many weights and numbers of what it reads."""
        longest = max(LEAST_STEPS, min(MOST_IN_LOOP, MOST_CARRIED // carried))
        most = max(1, min(MOST_IN_ROUND, MOST_WEIGHTS // weights))
        return min(
            (cls._with(count, steps, longest) for steps in range(1, most + 1)),
            key=lambda r: (r.total > count + count // 16, -r.steps),
        )

    @classmethod
    def _with(cls, count: int, steps: int, longest: int) -> Rounds:
        rounds = -(-count // steps)
        loops = -(-rounds * steps // longest)
        return cls(loops, -(-rounds // loops), steps)


class LayerLoop:
    """The ops of a layer in the main graph.

    Args:
        editor: What they are made with.
        chain: What builds them.
        name: What their tensors are named by.
        subgraphs: Adds the graphs that a loop runs.
        layer: The layer.
        shape: Steps and batch of what it reads.
        keeps_cell: Whether the cell state behind the last step is wanted.
    """

    def __init__(
        self, editor: GraphEditor, chain: OpChain, name: str, subgraphs: SubgraphAdder,
        layer: RecurrentLayer, shape: tuple[int, int], keeps_cell: bool = False,
    ) -> None:  # fmt: skip
        self._editor = editor
        self._chain = chain
        self._name = name
        self._subgraphs = subgraphs
        self._layer = layer
        self._count, self._batch = shape
        gates = layer.width * (GATES[layer.kind] - 1)
        self._read = [layer.width, *([gates] if gates else [])]
        carried = self._batch * sum(self._read)
        self._rounds = Rounds.of(self._count, layer.recurrence.size, carried)
        self._own = [layer.state_width] if layer.state_width != layer.width else []
        if keeps_cell and self._rounds.total > self._count:
            self._own = [layer.state_width, layer.width]

    def outputs(self, source: int, states: Sequence[int], time_major: bool) -> tuple[int, int]:
        """The states of all steps, `(T * B, P)`, and the last state behind the last one.

        Args:
            source: What the layer reads, `(T, B, I)`, or `(B, T, I)` where time is not first.
            states: The states that it begins with.
            time_major: Whether time is first.
        """
        tensors = self._products(self._rows(source, time_major))
        cond, body = self._subgraphs.indices(self._condition(), self._body())
        made: list[list[int]] = []
        for parts in zip(*map(self._parts, tensors), strict=True):
            states, written = self._loop(cond, body, states, [*parts, *self._blank()])
            made.append(written)
        rows, *cells = (self._whole(parts) for parts in zip(*made, strict=True))
        return rows, self._last(cells[0]) if cells else states[-1]

    def _blank(self) -> list[int]:
        """Rows that states are written to."""
        chain = self._chain
        zero = self._editor.constant("edgeq/zero", np.zeros((), np.float32))
        made = []
        for columns in self._own:
            shape = self._rows_shape(columns)
            made.append(chain.op("FILL", [chain.constant(shape, np.int32), zero], shape, "float32"))
        return made

    def _whole(self, parts: Sequence[int]) -> int:
        """The rows of all steps, of those of each loop."""
        chain, columns = self._chain, self._chain.shape(parts[0])[-1]
        whole = parts[0] if len(parts) == 1 else chain.concat(parts, 0)
        whole = chain.reshape(whole, (self._rounds.total * self._batch, columns))
        if self._rounds.total > self._count:
            whole = chain.slice(whole, (0, 0), (self._count * self._batch, columns))
        return whole

    def _last(self, rows: int) -> int:
        begin = (self._count - 1) * self._batch, 0
        return self._chain.slice(rows, begin, (self._batch, self._chain.shape(rows)[1]))

    def written(self, rows: int, output: int, time_major: bool) -> list[Any]:
        """All ops; the last one writes the states of all steps in the layout of an output."""
        chain = self._chain
        if time_major or self._batch == 1:
            return chain.into(output, chain.reshape(rows, chain.shape(output)))
        shape = self._count, self._batch, self._layer.state_width
        operands = [chain.reshape(rows, shape), chain.constant((1, 0, 2), np.int32)]
        return chain.into(output, chain.op("TRANSPOSE", operands, chain.shape(output)))

    def _rows(self, source: int, time_major: bool) -> int:
        """The inputs of all steps, those of a step side by side, `(T * B, I)`."""
        chain = self._chain
        depth = chain.shape(source)[-1]
        if not time_major and self._batch > 1:
            order = chain.constant((1, 0, 2), np.int32)
            source = chain.op("TRANSPOSE", [source, order], (self._count, self._batch, depth))
        rows = chain.reshape(source, (self._count * self._batch, depth))
        missing = (self._rounds.total - self._count) * self._batch
        if not missing:
            return rows
        ends = chain.constant(((0, missing), (0, 0)), np.int32)
        return chain.op("PAD", [rows, ends], (self._rounds.total * self._batch, depth))

    def _products(self, rows: int) -> list[int]:
        """What all steps read of the inputs: for a tanh or RELU, `(T * B, H)`, and for sigmoids."""
        layer = self._layer
        width, gates = layer.width, len(layer.bias) - layer.width
        both = layer.bias + layer.recurrent_bias
        own = (layer.bias if layer.kind == GRU else both)[-width:]
        made = [self._dense(rows, layer.weight[-width:], own)]
        return made + ([self._dense(rows, layer.weight[:gates], both[:gates])] if gates else [])

    def _dense(self, rows: int, weight: Array, bias: Array) -> int:
        chain = self._chain
        operands = [rows, self._stored("weight", weight), self._stored("bias", bias)]
        shape = (chain.shape(rows)[0], len(bias))
        return chain.op("FULLY_CONNECTED", operands, shape, fusedActivationFunction=0)

    def _stored(self, name: str, values: Array) -> int:
        return self._editor.constant(f"{self._name}/{name}", np.ascontiguousarray(values))

    def _rows_shape(self, columns: int) -> tuple[int, int, int]:
        """Of what a loop carries; the rows of a round are one."""
        return self._rounds.rounds, self._rounds.steps * self._batch, columns

    def _parts(self, tensor: int) -> list[int]:
        """The rows of each loop."""
        editor, chain, loops = self._editor, self._chain, self._rounds.loops
        shape = self._rows_shape(chain.shape(tensor)[1])
        whole = chain.reshape(tensor, (loops * shape[0], *shape[1:]))
        if loops == 1:
            return [whole]
        parts = [editor.tensor(self._name, shape) for _ in range(loops)]
        for part in parts:
            chain.know(part, shape)
        axis = editor.constant("edgeq/axis", np.zeros((), np.int32))
        chain.ops.append(editor.op("SPLIT", [axis, whole], parts, numSplits=loops))
        return parts

    def _loop(
        self, cond: int, body: int, states: Sequence[int], parts: Sequence[int]
    ) -> tuple[Sequence[int], list[int]]:
        """The states behind the last step, and those of all steps as far as they are kept."""
        editor, chain, name = self._editor, self._chain, self._name
        inputs = [chain.constant((0,), np.int32), *states, *parts]
        results = [editor.typed(name, (1,), "int32")]
        results += [editor.tensor(name, chain.shape(tensor)) for tensor in inputs[1:]]
        for made, tensor in zip(results, inputs, strict=True):
            chain.know(made, chain.shape(tensor))
        options = {"condSubgraphIndex": cond, "bodySubgraphIndex": body}
        chain.ops.append(editor.op("WHILE", inputs, results, **options))
        behind = 1 + len(states)
        return results[1:behind], [results[behind + place] for place in self._written]

    @property
    def _written(self) -> range:
        """Places among what is carried that states replace: what is read, if it is as wide."""
        return range(len(self._read), len(self._read) + len(self._own)) if self._own else range(1)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Of what the loop carries: the round, the states, and the rows of all rounds."""
        states = [(self._batch, width) for width in self._layer.states]
        columns = [*self._read, *self._own]
        return [(1,), *states, *(self._rows_shape(count) for count in columns)]

    def _condition(self) -> Any:
        graph = Subgraph("step", self._shapes())
        most = graph.chain.constant((self._rounds.rounds,), np.int32)
        return graph.tree([graph.chain.op("LESS", [graph.inputs[0], most], (1,), "bool")])

    def _body(self) -> Any:
        graph = Subgraph("step", self._shapes())
        chain, count = graph.chain, len(self._layer.states)
        round_, *others = graph.inputs
        states, carried = others[:count], others[count:]
        rows = [self._of_round(chain, t, round_) for t in carried[: len(self._read)]]
        steps, made = Steps(chain, self._layer), []
        for place in range(self._rounds.steps):
            states = steps.after(states, *(self._of_step(chain, tensor, place) for tensor in rows))
            made.append(states)
        begin = chain.op(
            "CONCATENATION", [round_, chain.constant((0, 0), np.int32)], (3,), "int32", axis=0
        )
        for place, parts in zip(self._written, zip(*made, strict=True), strict=False):
            carried[place] = self._replaced(chain, carried[place], parts, begin)
        after = chain.binary("ADD", round_, chain.constant((1,), np.int32), "int32")
        return graph.tree([after, *states, *carried])

    def _replaced(self, chain: OpChain, rows: int, parts: Sequence[int], begin: int) -> int:
        """What a loop carries with the rows of a round replaced by those of its steps."""
        made = parts[0] if len(parts) == 1 else chain.concat(parts, 0)
        made = chain.reshape(made, (1, *chain.shape(rows)[1:]))
        return chain.op("DYNAMIC_UPDATE_SLICE", [rows, made, begin], chain.shape(rows))

    def _of_round(self, chain: OpChain, tensor: int, round_: int) -> int:
        rows = chain.gather(tensor, round_, 0)
        return chain.reshape(rows, chain.shape(tensor)[1:])

    def _of_step(self, chain: OpChain, rows: int, place: int) -> int:
        if self._rounds.steps == 1:
            return rows
        size = (self._batch, chain.shape(rows)[1])
        return chain.slice(rows, (place * self._batch, 0), size)
