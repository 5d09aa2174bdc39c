"""Rewrites a float model into ops that stay integer on the delegate, with the same numbers.

Each rewrite is exact up to float rounding and belongs to one op. Knows the graph, nothing of
quantization parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeq.editor import GraphEditor
from edgeq.flatbuffer import Operator, schema
from edgeq.model import FloatModel

Rewrite = Callable[[FloatModel, GraphEditor, Operator], Sequence[Any]]
"""Gives the ops that take an op's place; the last of them writes the op's output."""


def rewrite(model: FloatModel) -> FloatModel:
    """The model with every op that `REWRITES` knows replaced; the model itself if there is none."""
    operators = model.graph.operators
    if not any(op.name in REWRITES for op in operators):
        return model
    editor = GraphEditor(model.tree)

    def replacement(index: int) -> Sequence[Any] | None:
        op = operators[index]
        return REWRITES[op.name](model, editor, op) if op.name in REWRITES else None

    editor.replace(replacement)
    return replace(model, tflite=editor.finish())


def _hard_swish(model: FloatModel, editor: GraphEditor, op: Operator) -> Sequence[Any]:
    """`x * (relu6(x + 3) / 6)`: XNNPACK has no int8 HARD_SWISH, and each one splits the graph."""
    source = op.inputs[0]
    layer, shape = model.layer(op), model.graph.tensors[source].shape
    three = editor.constant(f"{layer}/three", np.asarray(3, np.float32))
    sixth = editor.constant(f"{layer}/sixth", np.asarray(1 / 6, np.float32))
    clipped, gate = editor.tensor(layer, shape), editor.tensor(layer, shape)
    relu6 = schema.ActivationFunctionType.RELU6
    none = schema.ActivationFunctionType.NONE
    return [
        editor.op("ADD", [source, three], [clipped], fusedActivationFunction=relu6),
        editor.op("MUL", [clipped, sixth], [gate], fusedActivationFunction=none),
        editor.op("MUL", [source, gate], op.outputs, fusedActivationFunction=none),
    ]


REWRITES: dict[str, Rewrite] = {"HARD_SWISH": _hard_swish}
"""Rewrite by the name of the op it replaces."""
