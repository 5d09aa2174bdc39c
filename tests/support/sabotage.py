"""The demo model with one layer spoilt, so that int8 loses what float keeps."""

from __future__ import annotations

import numpy as np

from edgeq.flatbuffer import pack, schema, unpack
from edgeq.model import LiteModel

LAYER, READER = "features.6.layers.0", "features.6.layers.3"
CHANNEL = 5
FACTOR = 1000.0


def sabotaged(model: LiteModel) -> bytes:
    """One channel of a layer is a thousand times as loud, and its reader's weight makes up for it.

    With RELU in place of RELU6, which would clip that channel, the float numbers stay the same but
    for rounding.
    """
    tree = unpack(model.tflite)
    (layer,) = (op for op in model.graph.operators if model.layer(op) == LAYER)
    (reader,) = (op for op in model.graph.operators if model.layer(op) == READER)
    tree.subgraphs[0].operators[
        layer.index
    ].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    for op, slot, axis, factor in (
        (layer, 1, 0, FACTOR), (layer, 2, 0, FACTOR), (reader, 1, 3, 1 / FACTOR),
    ):  # fmt: skip
        tensor = model.graph.tensors[op.inputs[slot]]
        assert tensor.data is not None
        values = np.moveaxis(tensor.data.copy(), axis, 0)
        values[CHANNEL] *= factor
        buffer = tree.buffers[tree.subgraphs[0].tensors[tensor.index].buffer]
        buffer.data = np.frombuffer(np.moveaxis(values, 0, axis).tobytes(), np.uint8)
    return bytes(pack(tree))
