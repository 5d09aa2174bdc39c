"""Calls that stand for a GRU or a simple recurrent layer become a loop."""

from __future__ import annotations

from typing import Any

from edgeq.errors import ModelError
from edgeq.export.importing.layer_calls import LayerCall, with_calls_written
from edgeq.export.importing.loop_layer import LayerLoop
from edgeq.export.importing.loop_steps import Array, RecurrentLayer
from edgeq.export.importing.op_chain import OpChain
from edgeq.files import Content
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.subgraph_adder import SubgraphAdder

SEQUENCE_LOOP = "edgeq.sequence_loop"
"""Target of the calls: `(x, weight, recurrence, bias, recurrent_bias, state)` become the outputs of
all steps, as `sequence_loop` of the PyTorch front end has them."""


def with_sequence_loops(tflite: Content) -> Content:
    """The file with a loop in the place of each call; the file itself where it has none.

    Raises:
        ModelError: A weight of a call is computed.
    """
    return with_calls_written(tflite, SEQUENCE_LOOP, _loop)


def _loop(editor: GraphEditor, call: LayerCall, subgraphs: SubgraphAdder) -> list[Any]:
    """The ops that take the place of a call."""
    tensors, (source, *_, state) = call.graph.tensors, call.op.inputs
    weight, recurrence, bias, added_bias = (_constant(call, slot) for slot in range(1, 5))
    layer = RecurrentLayer(call.kind, weight, recurrence, bias, added_bias)
    chain = OpChain(editor, call.name, [t.shape for t in tensors])
    shape = tensors[source].shape
    steps, batch = shape[:2] if call.time_major else shape[1::-1]
    loop = LayerLoop(editor, chain, call.name, subgraphs, layer, (steps, batch))
    rows, _ = loop.outputs(source, [state], call.time_major)
    return loop.written(rows, call.op.outputs[0], call.time_major)


def _constant(call: LayerCall, slot: int) -> Array:
    data = call.graph.tensors[call.op.inputs[slot]].data
    if data is None:
        raise ModelError(
            f"a weight of the layer at {call.name} is computed, and the loop that takes "
            "its place has constants"
        )
    return data
