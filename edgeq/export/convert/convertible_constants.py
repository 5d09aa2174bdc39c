"""Gives constants a form that the converter makes the right integers of.

It divides by the scale and casts, and what no int32 holds comes out as anything: so masks are put
within their range. It rounds halves away from zero, edgeq to even: so what has numbers halfway
between two integers is put on its grid, and has the same integers wherever else it is stored. Of a
bias whose numbers are all the same it makes one integer, with the scale of the first channel: so
the first number becomes the next one above it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

import numpy as np

from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import FloatArray, QParams, broadcast, dequantize, quantize, row_slices

HALF = 2.0**-21
"""What is as near to a half, over its own size, may be one to who divides in float32."""


Place: TypeAlias = tuple[int, int]
"""An op by its index, and the operand slot that it reads a constant at."""

Changed: TypeAlias = tuple[int, set[Place], FloatArray]
"""A constant, who may read it changed, and what it is then."""


def convertible(model: LiteModel, plan: Plan) -> LiteModel:
    """The model with each constant that a static op reads as the converter must find it.

    Returns:
        The model itself where all are; tensors and ops keep their indices.
    """
    graph, editor = model.graph, GraphEditor(model.tree)
    rewired: dict[int, dict[int, int]] = defaultdict(dict)
    changed = False
    for tensor, places, values in chain(_on_grid(graph, plan), _told_apart(graph, plan)):
        changed = True
        if _readers(graph, tensor) <= places:
            editor.retyped(tensor, "float32", values.reshape(-1).view(np.uint8), None)
            continue
        made = editor.constant(f"{graph.tensors[tensor].name}/convertible/{min(places)[0]}", values)
        for index, slot in places:
            rewired[index][slot] = made
    editor.rewire(rewired)
    return replace(model, tflite=editor.finish()) if changed else model


def _readers(graph: Graph, tensor: int) -> set[Place]:
    """Who reads a constant; what is put out as well has one more."""
    put_out = {(-1, 0)} if tensor in graph.outputs else set[Place]()
    return {(op.index, slot) for op, slot in graph.uses[tensor]} | put_out


def _on_grid(graph: Graph, plan: Plan) -> Iterator[Changed]:
    """Constants that the converter would make other integers of than `quantize`."""
    readers: dict[tuple[int, QParams], set[Place]] = defaultdict(set)
    for (index, slot), qparams in plan.operands.items():
        readers[graph.operators[index].inputs[slot], qparams].add((index, slot))
    for (tensor, qparams), places in readers.items():
        data = graph.tensors[tensor].data
        if data is None or not data.size:
            continue
        if _is_beyond(data, qparams) or _has_halves(data, qparams):
            values = dequantize(quantize(data, qparams), qparams)
            stored = (p for p in _readers(graph, tensor) if p in plan.stored)
            yield tensor, places | {p for p in stored if plan.stored[p].qparams == qparams}, values


def _is_beyond(data: FloatArray, qparams: QParams) -> bool:
    """Whether numbers with one scale are off its range by more than a step."""
    if qparams.axis is not None:
        return False
    low, high = qparams.range()
    margin = qparams.scale[0]
    return bool(data.min() < low - margin or data.max() > high + margin)


def _has_halves(data: FloatArray, qparams: QParams) -> bool:
    """Whether numbers lie halfway between two integers."""
    scale = broadcast(qparams.scale, qparams.axis, data.ndim)
    for rows in row_slices(data):
        steps = np.abs(data[rows] / scale[rows if qparams.axis == 0 else ...])
        if (np.abs(steps - np.floor(steps) - 0.5) <= HALF * steps).any():
            return True
    return False


def _told_apart(graph: Graph, plan: Plan) -> Iterator[Changed]:
    """Equal biases whose weights have a scale for each channel."""
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
            yield bias, {(index, row.bias.slot)}, found
