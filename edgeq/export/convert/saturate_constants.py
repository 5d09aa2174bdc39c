"""Puts masks and other constants within the range of the integers that they become.

The converter divides by the scale and casts, and what no int32 holds comes out as anything.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel


def saturated(model: LiteModel, plan: Plan) -> LiteModel:
    """The model with each constant that a static op reads at the ends of its planned range.

    Returns:
        The model itself where all lie within; tensors and ops keep their indices.
    """
    graph, editor = model.graph, GraphEditor(model.tree)
    rewired: dict[int, dict[int, int]] = {}
    for (index, slot), qparams in plan.operands.items():
        tensor = graph.tensors[graph.operators[index].inputs[slot]]
        if tensor.data is None or qparams.axis is not None or not tensor.data.size:
            continue
        low, high = qparams.range()
        margin = qparams.scale[0]
        if tensor.data.min() >= low - margin and tensor.data.max() <= high + margin:
            continue
        values = np.clip(tensor.data, low, high).astype(np.float32)
        made = editor.constant(f"{tensor.name}/saturated/{index}", values)
        rewired.setdefault(index, {})[slot] = made
    if not rewired:
        return model
    editor.rewire(rewired)
    return replace(model, tflite=editor.finish())
