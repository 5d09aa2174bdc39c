"""Calls that stand for an LSTM layer become UNIDIRECTIONAL_SEQUENCE_LSTM.

The op keeps its output and its cell state in variable tensors, which would last from one run to the
next. So other ops write them before: zeros by FILL, anything else by a SELECT_V2 of twice the same.
No delegate takes those, and what the LSTM reads then comes from behind them, so that no order of
partitions lets it run first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.export.importing.layer_calls import LayerCall, with_calls_written
from edgeq.export.importing.op_chain import OpChain
from edgeq.files import Content
from edgeq.flatbuffer import Tensor, schema
from edgeq.flatbuffer.graph_editor import GraphEditor

SEQUENCE_LSTM = "edgeq.sequence_lstm"
"""Target of the calls: `(x, weight, recurrence, bias, state, cell[, projection])` become
`(outputs, last cell)`, as `sequence_lstm` of the PyTorch front end has them."""

GATES = 4

OPERANDS = 24
"""Of the op: 4 gates each of input and recurrent weights, 3 peepholes, 4 biases, the projection and
its bias, both states, and 4 for layer normalization."""


def with_sequence_lstms(tflite: Content) -> Content:
    """The file with the op in the place of each call; the file itself where it has none.

    Raises:
        ModelError: A weight of a call is computed.
    """
    return with_calls_written(
        tflite, SEQUENCE_LSTM, lambda editor, call, _: _Layer(editor, call).ops()
    )


class _Layer:
    """The ops that take the place of one call."""

    def __init__(self, editor: GraphEditor, call: LayerCall) -> None:
        self._editor = editor
        self._graph = call.graph
        self._call = call.op
        self._time_major = call.time_major
        self._name = call.name
        self._chain = OpChain(editor, self._name, [t.shape for t in call.graph.tensors])

    def ops(self) -> list[Any]:
        source, weight, recurrence, bias, state, cell, *projection = self._call.inputs
        outputs, last_cell = self._call.outputs
        states = [self._written(state), self._written(cell)]
        if not all(self._tensor(t).is_constant for t in (state, cell)):
            source = self._behind(states, source)
        gates = [*self._parts(weight), *self._parts(recurrence)]
        ends = [*self._parts(bias), *(projection or [-1]), -1, *states]
        inputs = [source, *gates, -1, -1, -1, *ends]
        self._chain.ops.append(self._editor.op(
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            [*inputs, *[-1] * (OPERANDS - len(inputs))],
            [outputs],
            fusedActivationFunction=schema.ActivationFunctionType.TANH,
            timeMajor=self._time_major,
        ))  # fmt: skip
        if self._graph.uses.get(last_cell) or last_cell in self._graph.outputs:
            self._chain.into(last_cell, self._behind([outputs], states[1]))
        return self._chain.ops

    def _tensor(self, index: int) -> Tensor:
        return self._graph.tensors[index]

    def _parts(self, index: int) -> list[int]:
        """The constants of the gates that one constant holds."""
        data = self._tensor(index).data
        if data is None:
            raise ModelError(
                f"a weight of the LSTM at {self._name} is computed, and the op takes constants"
            )
        parts = (np.ascontiguousarray(part) for part in np.split(data, GATES))
        return [self._editor.constant(f"{self._name}/gate", part) for part in parts]

    def _written(self, index: int) -> int:
        """A state that begins each run as a tensor that the call was given."""
        shape, data = self._tensor(index).shape, self._tensor(index).data
        state = self._editor.state(self._name, shape)
        if data is not None and not data.any():
            zero = self._editor.constant("edgeq/zero", np.zeros((), np.float32))
            operands = [self._chain.constant(shape, np.int32), zero]
            self._chain.ops.append(self._editor.op("FILL", operands, [state]))
        else:
            self._chain.into(state, self._same(self._chain.constant([True], np.bool_), index))
        self._chain.know(state, shape)
        return state

    def _same(self, condition: int, source: int) -> int:
        """A copy, whatever the condition."""
        shape = self._chain.shape(source)
        return self._chain.op("SELECT_V2", [condition, source, source], shape, "float32")

    def _behind(self, before: Sequence[int], source: int) -> int:
        """A copy that is made when other tensors have been written."""
        first = [self._first(tensor) for tensor in before]
        condition = self._chain.binary("EQUAL", first[0], first[-1], "bool")
        return self._same(condition, source)

    def _first(self, tensor: int) -> int:
        """The first number of a tensor, `(1,)`."""
        place = self._chain.constant([[0] * len(self._chain.shape(tensor))], np.int32)
        return self._chain.op("GATHER_ND", [tensor, place], (1,), "float32")
