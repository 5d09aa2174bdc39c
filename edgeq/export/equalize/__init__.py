"""Scales channels so that integers lose less, and constants take the scales up: same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Fixed
from edgeq.data.rep_dataset import Sample
from edgeq.export.equalize.channels import Absorber, Channels, channels
from edgeq.export.equalize.scales import HEADROOM, scales
from edgeq.export.equalize.statistics import ChannelStatistics, channel_statistics
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind
from edgeq.qtypes import FloatArray


@dataclass(frozen=True)
class Equalized:
    """A model with scaled channels.

    Attributes:
        model: The model; ops and tensors keep their indices.
        calibration: Ranges of its tensors.
        count: Number of tensors of which channels were scaled.
    """

    model: LiteModel
    calibration: Calibration
    count: int


def equalize(
    model: LiteModel,
    calibration: Calibration,
    samples: Sequence[Sample],
    is_static: Callable[[Operator], bool],
    kept: frozenset[int] = frozenset(),
    threads: int | None = None,
) -> Equalized:
    """Scales the channels of activations."""
    found = channels(model.graph, is_static, kept)
    tensors = [t for t in found.free_tensors()]
    if not tensors or not samples:
        return Equalized(model, calibration, 0)
    seen = channel_statistics(model, tensors, samples, threads)
    seen = {t: one for t, one in seen.items() if np.isfinite(one.power).all()}
    factor = scales(found, seen)
    scaled = [t for t in seen if (factor[found.of(t)] != 1).any()]
    if not scaled:
        return Equalized(model, calibration, 0)
    equalized = _absorbed(model, found, factor)
    observers = dict(calibration.observers)
    for tensor in scaled:
        if tensor in calibration.ranges:
            observers[tensor] = _moved(
                calibration.ranges[tensor], seen[tensor], factor[found.of(tensor)]
            )
    moved = replace(calibration, model=equalized.digest, observers=observers)
    return Equalized(equalized, moved, len(scaled))


def _moved(old: tuple[float, float], seen: ChannelStatistics, scale: FloatArray) -> Fixed:
    """The range of a tensor whose channels were divided by scales."""

    def end(before: float, values: FloatArray, pick: Callable[[FloatArray], float]) -> float:
        present = float(pick(values[0]))
        share = before / present if present else 1.0
        return float(pick(values[0] / scale)) * max(share, 0.0) * HEADROOM

    low, high = end(old[0], seen.low, np.min), end(old[1], seen.high, np.max)
    low = old[0] if old[0] > 0 else low
    return Fixed(min(low, high), max(low, high))


def _absorbed(model: LiteModel, found: Channels, factor: FloatArray) -> LiteModel:
    graph, editor = model.graph, GraphEditor(model.tree)
    for absorber in found.absorbers:
        source, output = (_of(found, factor, t) for t in (absorber.source, absorber.output))
        if (source == 1).all() and (output == 1).all():
            continue
        for tensor, values in _constants(found, absorber, source, output):
            content = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
            editor.retyped(tensor, "float32", content, None)
    return replace(model, tflite=editor.finish())


def _of(found: Channels, factor: FloatArray, tensor: int) -> FloatArray:
    scale: FloatArray = factor[found.of(tensor)]
    return scale


def _constants(
    found: Channels, absorber: Absorber, source: FloatArray, output: FloatArray
) -> list[tuple[int, FloatArray]]:
    """`(tensor, values)` of the constants of an op that reads and writes scaled channels."""
    op, graph = absorber.op, found.graph
    row = OPS[op.name]
    if row.bias is None or row.weight is None:
        (tensor,) = (t for t in op.inputs if graph.tensors[t].data is not None)
        data = graph.tensors[tensor].data
        assert data is not None
        return [(tensor, data * source / output if op.name == "MUL" else data / output)]
    weight = op.inputs[row.weight.slot]
    data = graph.tensors[weight].data
    assert data is not None
    if row.kind is Kind.DEPTHWISE:
        scaled = data * np.repeat(source, data.shape[-1] // len(source)) / output
    elif row.kind is Kind.CONVOLUTION:
        groups = len(source) // data.shape[-1]
        columns = np.repeat(source.reshape(groups, 1, -1), len(data) // groups, axis=1)
        scaled = data * columns.reshape(len(data), 1, 1, -1) / output[:, None, None, None]
    else:
        columns = np.resize(source, data.shape[-1])
        scaled = data * columns / output.reshape(-1, *[1] * (data.ndim - 1))
    bias = op.inputs[row.bias.slot] if row.bias.slot < len(op.inputs) else -1
    if bias < 0:
        return [(weight, scaled)]
    shift = graph.tensors[bias].data
    assert shift is not None
    return [(weight, scaled), (bias, (shift.reshape(-1) / output).reshape(shift.shape))]
