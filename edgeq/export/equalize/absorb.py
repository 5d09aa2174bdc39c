"""Constants that take scales of channels up: times those it reads, over those it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgeq.export.equalize.channel_groups import Absorber, ChannelGroups
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind
from edgeq.qtypes import FloatArray


def absorb(model: LiteModel, groups: ChannelGroups, scales: FloatArray) -> LiteModel:
    """The model with its channels divided by scales.

    Args:
        model: The float model.
        groups: Its channels.
        scales: Of each group, `(groups,)`.

    Returns:
        The model with other constants; tensors and ops keep their indices.
    """
    graph, editor = model.graph, GraphEditor(model.tree)
    rewired: dict[int, dict[int, int]] = {}
    for absorber in groups.absorbers:
        op = absorber.op
        source, output = (scales[groups.of(t)] for t in (absorber.source, op.outputs[0]))
        if (source == 1).all() and (output == 1).all():
            continue
        for slot, values in _constants(groups, absorber, source, output):
            tensor, content = op.inputs[slot], np.ascontiguousarray(values, np.float32)
            if len(graph.uses[tensor]) == 1:
                editor.retyped(tensor, "float32", content.reshape(-1).view(np.uint8), None)
            else:
                name = f"{graph.tensors[tensor].name}/{op.index}"
                rewired.setdefault(op.index, {})[slot] = editor.constant(name, content)
    editor.rewire(rewired)
    return replace(model, tflite=editor.finish())


def _constants(
    groups: ChannelGroups, absorber: Absorber, source: FloatArray, output: FloatArray
) -> Iterator[tuple[int, FloatArray]]:
    """New values of an op's constants, by operand slot."""
    op, row = absorber.op, OPS[absorber.op.name]
    if row.kind is Kind.ELEMENTWISE:
        for slot, tensor in enumerate(op.inputs):
            if groups.graph.tensors[tensor].is_constant:
                data = _value(groups, tensor)
                yield slot, (data * source if op.name == "MUL" else data) / output
        return
    assert row.weight is not None
    assert row.bias is not None
    weight, bias = row.weight.slot, row.bias.slot
    yield weight, _weight(_value(groups, op.inputs[weight]), row.kind, source, output)
    if bias < len(op.inputs) and op.inputs[bias] >= 0:
        data = _value(groups, op.inputs[bias])
        yield bias, (data.reshape(-1) / output).reshape(data.shape)


def _value(groups: ChannelGroups, tensor: int) -> FloatArray:
    data = groups.graph.tensors[tensor].data
    assert data is not None
    found: FloatArray = data.astype(np.float64)
    return found


def _weight(weight: FloatArray, kind: Kind, source: FloatArray, output: FloatArray) -> FloatArray:
    depth = weight.shape[-1]
    if kind is Kind.DEPTHWISE:
        return weight * np.repeat(source, depth // len(source)) / output
    by_row = output.reshape(-1, *[1] * (weight.ndim - 1))
    if kind is not Kind.CONVOLUTION:
        return weight * np.resize(source, depth) / by_row
    parts = source.reshape(-1, 1, 1, 1, depth)
    rows = weight.reshape(len(parts), -1, *weight.shape[1:])
    return (rows * parts).reshape(weight.shape) / by_row
