"""Constants that take scales of channels up: times those it reads, over those it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeq.export.deploy.scales_entry import read_scales, write_scales
from edgeq.export.equalize.channel_groups import Absorber, ChannelGroups, channel_groups
from edgeq.flatbuffer import Graph, schema
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
        The model with other constants, and the scales in its metadata; tensors and ops keep their
        indices.
    """
    graph, editor = model.graph, GraphEditor(model.tree)
    changed: dict[tuple[int, int], FloatArray] = {}
    cut: dict[int, FloatArray] = {}
    for absorber in groups.absorbers:
        op = absorber.op
        source, output = (scales[groups.of(t)] for t in (absorber.source, op.outputs[0]))
        if (source == 1).all() and (output == 1).all():
            continue
        if absorber.is_cut:
            cut[op.index] = source
            continue
        for slot, values in _constants(groups, absorber, source, output):
            changed[op.index, slot] = values
    put_constants(editor, graph, changed)
    editor.replace(lambda i: [_cut(editor, graph, i, cut[i])] if i in cut else None)
    write_scales(editor.tree, _telling(groups, scales))
    return replace(model, tflite=editor.finish())


def _cut(editor: GraphEditor, graph: Graph, index: int, scales: FloatArray) -> Any:
    """A depthwise convolution in the place of an op that adds a number and cuts the sum off."""
    op = graph.operators[index]
    name = f"{graph.tensors[op.outputs[0]].name}/{index}"
    summand = np.full(len(scales), constant_of(graph, op.inputs[1]).item())
    weights = editor.constant(f"{name}/weights", scales.reshape(1, 1, 1, -1).astype(np.float32))
    bias = editor.constant(f"{name}/bias", summand.astype(np.float32))
    return editor.op(
        "DEPTHWISE_CONV_2D", [op.inputs[0], weights, bias], op.outputs,
        padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
        depthMultiplier=1, fusedActivationFunction=op.options.fusedActivationFunction,
    )  # fmt: skip


def put_constants(
    editor: GraphEditor, graph: Graph, changed: Mapping[tuple[int, int], FloatArray]
) -> None:
    """Gives ops other constants; what other ops read as well is left to them.

    Args:
        editor: The model, whose ops are the graph's.
        graph: The model's graph as it was.
        changed: Values by the index of an op and the slot of its operand.
    """
    rewired: dict[int, dict[int, int]] = {}
    for (index, slot), values in changed.items():
        tensor = graph.operators[index].inputs[slot]
        content = np.ascontiguousarray(values, np.float32)
        if len(graph.uses[tensor]) == 1:
            editor.retyped(tensor, "float32", content.reshape(-1).view(np.uint8), None)
        else:
            name = f"{graph.tensors[tensor].name}/{index}"
            rewired.setdefault(index, {})[slot] = editor.constant(name, content)
    editor.rewire(rewired)


def scaled_as(model: LiteModel, scales: Mapping[str, FloatArray]) -> LiteModel:
    """A float model with channels scaled as those of the file that was made from it.

    Args:
        model: The float model.
        scales: Of each channel, by tensor name, as the file has them.

    Returns:
        The model with these scales; as it is where it has them, or they are of another model.
    """
    if not scales or _is_same(read_scales(model.tree), scales):
        return model
    groups = channel_groups(model.graph, (), lambda _: True)
    found, known = np.ones(len(groups.is_free)), _by_name(groups)
    fitting = {known[name]: values for name, values in scales.items() if name in known}
    if len(fitting) < len(scales):
        return model
    for tensor, values in fitting.items():
        if len(values) != len(groups.of(tensor)):
            return model
        found[groups.of(tensor)] = values
    agree = all((found[groups.of(t)] == values).all() for t, values in fitting.items())
    return absorb(model, groups, found) if agree and (found[~groups.is_free] == 1).all() else model


def _is_same(one: Mapping[str, FloatArray], other: Mapping[str, FloatArray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


def _by_name(groups: ChannelGroups) -> dict[str, int]:
    """Tensors with channels whose name no other has."""
    tensors = groups.graph.tensors
    counts = Counter(tensor.name for tensor in tensors)
    return {tensors[t].name: t for t in groups.starts if counts[tensors[t].name] == 1}


def _telling(groups: ChannelGroups, scales: FloatArray) -> dict[str, FloatArray]:
    """Scales of so many tensors, by name, that those of all others follow."""
    told = scales == 1
    found = {}
    for name, tensor in _by_name(groups).items():
        group = groups.of(tensor)
        if not told[group].all():
            found[name], told[group] = scales[group], True
    return found


def _constants(
    groups: ChannelGroups, absorber: Absorber, source: FloatArray, output: FloatArray
) -> Iterator[tuple[int, FloatArray]]:
    """New values of an op's constants, by operand slot."""
    op, row = absorber.op, OPS[absorber.op.name]
    if row.kind is Kind.ELEMENTWISE:
        for slot, tensor in enumerate(op.inputs):
            if groups.graph.tensors[tensor].is_constant:
                data = constant_of(groups.graph, tensor)
                yield slot, (data * source if op.name == "MUL" else data) / output
        return
    assert row.weight is not None
    assert row.bias is not None
    weight, bias = row.weight.slot, row.bias.slot
    yield weight, _weight(constant_of(groups.graph, op.inputs[weight]), row.kind, source, output)
    if bias < len(op.inputs) and op.inputs[bias] >= 0:
        data = constant_of(groups.graph, op.inputs[bias])
        yield bias, (data.reshape(-1) / output).reshape(data.shape)


def constant_of(graph: Graph, tensor: int) -> FloatArray:
    """What a constant holds, in float64."""
    data = graph.tensors[tensor].data
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
