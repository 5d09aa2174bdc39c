"""Gives constants a form that the converter makes the right integers of.

It divides by the scale and casts, and what no int32 holds comes out as anything: so masks are put
within their range. Of a bias whose numbers are all the same it makes one integer, with the scale of
the first channel: so the first number becomes the next one above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import FloatArray


def convertible(model: LiteModel, plan: Plan) -> LiteModel:
    """The model with each constant that a static op reads as the converter must find it.

    Returns:
        The model itself where all are; tensors and ops keep their indices.
    """
    graph, editor = model.graph, GraphEditor(model.tree)
    rewired: dict[int, dict[int, int]] = {}
    for index, slot, values in (*_saturated(graph, plan), *_told_apart(graph, plan)):
        name = graph.tensors[graph.operators[index].inputs[slot]].name
        made = editor.constant(f"{name}/convertible/{index}", values.astype(np.float32))
        rewired.setdefault(index, {})[slot] = made
    if not rewired:
        return model
    editor.rewire(rewired)
    return replace(model, tflite=editor.finish())


def _saturated(graph: Graph, plan: Plan) -> Iterator[tuple[int, int, FloatArray]]:
    """`(op, slot, values)` of constants with one scale, cut off at the ends of its range."""
    for (index, slot), qparams in plan.operands.items():
        data = graph.tensors[graph.operators[index].inputs[slot]].data
        if data is None or qparams.axis is not None or not data.size:
            continue
        low, high = qparams.range()
        margin = qparams.scale[0]
        if data.min() < low - margin or data.max() > high + margin:
            yield index, slot, np.clip(data, low, high)


def _told_apart(graph: Graph, plan: Plan) -> Iterator[tuple[int, int, FloatArray]]:
    """`(op, slot, values)` of equal biases whose weights have a scale for each channel."""
    for (index, slot), qparams in plan.operands.items():
        op = graph.operators[index]
        row = OPS.get(op.name)
        if row is None or row.bias is None or slot != row.weight_slot or len(qparams.scale) == 1:
            continue
        bias = op.inputs[row.bias.slot] if row.bias.slot < len(op.inputs) else -1
        data = graph.tensors[bias].data if bias >= 0 else None
        if data is not None and data.size and data.min() == data.max() != 0:
            found = data.astype(np.float32)
            found.flat[0] = np.nextafter(found.flat[0], np.float32(np.inf))
            yield index, row.bias.slot, found
