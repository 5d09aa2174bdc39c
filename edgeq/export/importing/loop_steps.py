"""One step of a recurrent layer in the body of a loop, and the graphs that loops run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.export.importing.op_chain import OpChain
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree

GRU, GRU_BEFORE, RNN_TANH, RNN_RELU, LSTM = "gru", "gru_before", "rnn_tanh", "rnn_relu", "lstm"
"""Kinds of layers: a GRU whose reset gate comes behind the product with its state, one where it
comes before, simple ones, and an LSTM."""

GATES = {GRU: 3, GRU_BEFORE: 3, RNN_TANH: 1, RNN_RELU: 1, LSTM: 4}
"""How many times the width of the state the rows of a layer's weights are."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RecurrentLayer:
    """The numbers of a layer.

    The last rows of weights and biases, as many as the layer is wide, are those of what a tanh or a
    RELU reads; the ones before are those of its sigmoids, of an LSTM in the order input, forget and
    output.

    Attributes:
        kind: Which layer it is, a key of `GATES`.
        weight: What inputs are multiplied with, `(gates * H, I)`.
        recurrence: What states are multiplied with, `(gates * H, P)`.
        bias: What is added to the products with inputs, `(gates * H,)`.
        recurrent_bias: What is added to those with states, `(gates * H,)`.
        projection: What an LSTM multiplies its outputs with, `(P, H)`; None without one.
        cell_clip: Largest magnitude of a cell state; 0 without a limit.
        state_clip: Likewise of an output that is projected.
    """

    kind: str
    weight: Array
    recurrence: Array
    bias: Array
    recurrent_bias: Array
    projection: Array | None = None
    cell_clip: float = 0.0
    state_clip: float = 0.0

    @property
    def width(self) -> int:
        """Numbers of a gate, `H`."""
        return len(self.bias) // GATES[self.kind]

    @property
    def state_width(self) -> int:
        """Numbers of a state, `P`: `H` without a projection."""
        return int(self.recurrence.shape[1])

    @property
    def states(self) -> tuple[int, ...]:
        """Width of each state that a step gives to the next."""
        return (self.state_width, *([self.width] if self.kind == LSTM else []))


class Steps:
    """Builds one step of a layer after the other.

    Args:
        chain: What builds them.
        layer: The layer.
    """

    def __init__(self, chain: OpChain, layer: RecurrentLayer) -> None:
        self._chain = chain
        self._layer = layer
        width, rows = layer.width, layer.recurrence
        joined = [rows] if layer.kind == LSTM else [rows[:-width], rows[-width:]]
        self._recurrence = [chain.constant(part) if len(part) else -1 for part in joined]
        bias = layer.recurrent_bias[-width:]
        self._bias = chain.constant(bias) if layer.kind == GRU and bias.any() else -1
        self._projection = -1 if layer.projection is None else chain.constant(layer.projection)

    def after(self, states: Sequence[int], own: int, gates: int = -1) -> list[int]:
        """The states behind a step, the output first.

        Args:
            states: The states before it, `(B, P)`, and an LSTM's cell state, `(B, H)`.
            own: What it reads of the inputs for its tanh or RELU, `(B, H)`.
            gates: The same for its sigmoids, `(B, (gates - 1) * H)`.
        """
        kind = self._layer.kind
        if kind == LSTM:
            return self._lstm(states[0], states[1], own, gates)
        if GATES[kind] > 1:
            return [self._gru(states[0], own, gates)]
        product = self._dense(states[0], self._recurrence[1])
        return [self._unary("TANH" if kind == RNN_TANH else "RELU", self._chain.add(own, product))]

    def _lstm(self, state: int, cell: int, own: int, gates: int) -> list[int]:
        chain, layer = self._chain, self._layer
        product = self._dense(state, self._recurrence[0])
        to_gates, to_own = self._parts(product, chain.shape(gates)[1], layer.width)
        opened = self._unary("LOGISTIC", chain.add(gates, to_gates))
        let_in, kept, out = self._parts(opened, *[layer.width] * 3)
        new = self._unary("TANH", chain.add(own, to_own))
        cell = chain.add(chain.mul(kept, cell), chain.mul(let_in, new))
        cell = self._clipped(cell, layer.cell_clip)
        state = chain.mul(out, self._unary("TANH", cell))
        if self._projection >= 0:
            state = self._clipped(self._dense(state, self._projection), layer.state_clip)
        return [state, cell]

    def _gru(self, state: int, own: int, gates: int) -> int:
        chain = self._chain
        to_gates, to_own = self._recurrence
        both = self._unary("LOGISTIC", chain.add(gates, self._dense(state, to_gates)))
        reset, kept = self._parts(both, *[self._layer.width] * 2)
        if self._layer.kind == GRU:
            product = chain.mul(reset, self._dense(state, to_own, self._bias))
        else:
            product = self._dense(chain.mul(reset, state), to_own)
        new = self._unary("TANH", chain.add(own, product))
        return chain.add(new, chain.mul(kept, chain.sub(state, new)))

    def _dense(self, source: int, weight: int, bias: int = -1) -> int:
        shape = (self._chain.shape(source)[0], self._chain.shape(weight)[0])
        operands = [source, weight, bias]
        return self._chain.op("FULLY_CONNECTED", operands, shape, fusedActivationFunction=0)

    def _unary(self, kind: str, source: int) -> int:
        return self._chain.op(kind, [source], self._chain.shape(source))

    def _parts(self, source: int, *columns: int) -> list[int]:
        """The columns of a tensor, so many in each part."""
        chain, begin, found = self._chain, 0, []
        for count in columns:
            found.append(chain.slice(source, (0, begin), (chain.shape(source)[0], count)))
            begin += count
        return found

    def _clipped(self, source: int, most: float) -> int:
        if not most:
            return source
        below = self._chain.binary("MINIMUM", source, self._chain.constant(most))
        return self._chain.binary("MAXIMUM", below, self._chain.constant(-most))


class Subgraph:
    """A graph to be added to a file.

    Args:
        name: What its tensors are named by.
        shapes: Of its inputs.

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
