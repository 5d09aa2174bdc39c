"""The scales that an ONNX model stored its weights with, for the weights of the float model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgeq.export.frontends.onnx.graph_interpreter import Program
from edgeq.export.frontends.onnx.operators.integer_ops import Grid
from edgeq.flatbuffer import Tensor
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import DType, QParams, is_on_grid


def with_stored_scales(model: LiteModel, program: Program) -> LiteModel:
    """The model with the scales of weights that were integers, where they still lie on the grid.

    The converter may have folded a factor into a weight; then its old scale says nothing any more.
    """
    stored: dict[str, list[Grid]] = {}
    for step in program.steps:
        for operand in step.operands():
            if operand.value.weights is not None:
                stored.setdefault(step.node.name, []).append(operand.value.weights)
    known = {name for name, _ in model.given}
    found = []
    for op in model.graph.operators:
        row = OPS.get(op.name)
        if row is None or row.weight is None or op.inputs[row.weight.slot] < 0:
            continue
        weight = model.graph.tensors[op.inputs[row.weight.slot]]
        if weight.data is None or weight.name in known:
            continue
        qparams = _matching(weight, row.weight_axis, stored.get(model.layer(op), ()))
        if qparams is not None:
            found.append((weight.name, qparams))
    if not found:
        return model
    note = f"{len(found)} weights keep the scales that the model brought"
    return replace(model, given=(*model.given, *found), notes=(*model.notes, note))


def _matching(weight: Tensor, axis: int | None, grids: Iterable[Grid]) -> QParams | None:
    """The parameters of the first grid that every number of a weight lies on."""
    values = np.asarray(weight.data, np.float64)
    channels = 1 if axis is None else values.shape[axis]
    for grid in grids:
        scale = grid.scale.astype(np.float64).reshape(-1)
        if scale.size not in (1, channels) or not (scale > 0).all():
            continue
        scales = tuple(map(float, np.broadcast_to(scale, channels)))
        qparams = QParams(DType.INT8, scales, (0,) * channels, axis, True)
        if is_on_grid(values, qparams):
            return qparams
    return None
