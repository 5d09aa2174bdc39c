"""Centres channels: takes the mean of each off where biases take that up; less range is lost.

All channels of a tensor share one zero point. Where one of them stays around 5 and another around
-4, integers are spent on where channels are instead of on what they tell. An op with a bias may put
out any constant less, and an op that multiplies each number with a weight and adds a bias gives the
same with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.channel_statistics import ChannelStatistics, channel_statistics
from edgeq.calibrate.observers import Fixed, MinMax, Range
from edgeq.data.rep_dataset import Sample
from edgeq.export.deploy.scales_entry import as_stored, read_shifts, write_shifts
from edgeq.export.equalize.absorb import constant_of, put_constants
from edgeq.export.equalize.channel_groups import TAKE_UP
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind
from edgeq.qtypes import FloatArray

LEAST_GAIN = 0.95
"""Means are taken off where ranges are so much narrower after that, on average."""

_TINY = 1e-30

Shifts = Mapping[int, FloatArray]
"""What each channel of a tensor is less than before, by tensor."""


def centred(
    model: LiteModel,
    calibration: Calibration,
    kept: Collection[int],
    samples: Sequence[Sample],
    threads: int | None,
) -> tuple[LiteModel, Calibration, tuple[int, ...]]:
    """The model with the means of channels taken off where that makes ranges narrower.

    Args:
        model: The float model.
        calibration: Ranges of its tensors.
        kept: Indices of ops whose constants stay.
        samples: Inputs to look at the channels with.
        threads: Samples that run side by side; None takes what this process may use.

    Returns:
        The model with other biases, and the shifts in its metadata; its calibration; and the
        tensors with shifts. Tensors and ops keep their indices, all others their numbers.
    """
    free = shiftable(model.graph, kept)
    if not free:
        return model, calibration, ()
    before = channel_statistics(model, free, samples, threads)
    shifts = _consistent(model.graph, {t: as_stored(seen.mean) for t, seen in before.items()})
    after = channel_statistics(shifted(model, shifts), free, samples, threads)
    for part in _parts(model.graph, free):
        ratios = [_width(after[t]) / max(_width(before[t]), _TINY) for t in part]
        is_widest = all(isinstance(calibration.observers.get(t), MinMax) for t in part)
        # What is 0 in all samples, as behind a dead layer, has no range to be moved.
        is_dead = any(_width(after[t]) == 0 for t in part)
        if is_dead or not is_widest or np.mean(ratios) > LEAST_GAIN:
            shifts = {t: shift for t, shift in shifts.items() if t not in part}
    if not shifts:
        return model, calibration, ()
    made = shifted(model, shifts)
    observers = {
        tensor: Fixed(*_moved(calibration.ranges[tensor], before[tensor], after[tensor]))
        for tensor in shifts
    }
    moved = replace(
        calibration, model=made.digest, observers={**calibration.observers, **observers}
    )
    return made, moved, tuple(shifts)


def shiftable(graph: Graph, kept: Collection[int]) -> list[int]:
    """Tensors that may be a constant less in each channel, in the graph's order.

    What writes one has a bias, or adds such tensors up; what reads one has a bias and sees no
    padding, or adds such tensors up.
    """
    found = {
        op.outputs[0]
        for op in graph.operators
        if op.index not in kept and op.outputs and _may_write(graph, op)
    }
    while True:
        wrong = {t for t in found if not _is_moved_on(graph, t, kept, found)}
        if not wrong:
            return sorted(found, key=lambda t: graph.producers[t].index)
        found -= wrong


def _is_moved_on(graph: Graph, tensor: int, kept: Collection[int], others: set[int]) -> bool:
    """Whether all that reads a tensor may see it less, and what writes it may make it so."""
    if _is_sum(graph, tensor) and others.isdisjoint(graph.producers[tensor].inputs):
        return False
    return all(_may_read(graph, op, slot, kept, others) for op, slot in graph.uses[tensor])


def _is_sum(graph: Graph, tensor: int) -> bool:
    return graph.producers[tensor].name == "ADD"


def _may_write(graph: Graph, op: Operator) -> bool:
    output = op.outputs[0]
    if op.fused_activation != "NONE" or output in graph.outputs or not graph.uses.get(output):
        return False
    if op.name == "ADD":
        shapes = {graph.tensors[t].shape for t in (*op.inputs, output)}
        return len(shapes) == 1 and not any(graph.tensors[t].is_constant for t in op.inputs)
    return _has_bias(graph, op)


def _has_bias(graph: Graph, op: Operator) -> bool:
    """Whether an op multiplies with a weight and adds a bias, both known and finite."""
    if op.name not in TAKE_UP:
        return False
    row = OPS[op.name]
    assert row.weight is not None
    assert row.bias is not None
    slots = (row.weight.slot, row.bias.slot)
    tensors = [op.inputs[s] if s < len(op.inputs) else -1 for s in slots]
    values = [graph.tensors[t].data if t >= 0 else None for t in tensors]
    return all(
        v is not None and v.dtype == np.float32 and bool(np.isfinite(v).all()) for v in values
    )


def _may_read(
    graph: Graph, op: Operator, slot: int, kept: Collection[int], shifted_too: Collection[int]
) -> bool:
    if op.index in kept:
        return False
    if op.name == "ADD":
        return op.outputs[0] in shifted_too
    row = OPS.get(op.name)
    if row is None or row.weight is None or slot != row.weight.source or not _has_bias(graph, op):
        return False
    weight, depth = graph.tensors[op.inputs[row.weight.slot]], graph.tensors[op.inputs[slot]].shape
    if row.kind is Kind.DENSE:
        return weight.shape[-1] == depth[-1]
    is_pointwise = row.kind is Kind.CONVOLUTION and weight.shape[1:3] == (1, 1)
    return is_pointwise and weight.shape[-1] == depth[-1]


def _consistent(graph: Graph, shifts: Shifts) -> dict[int, FloatArray]:
    """The shifts, with those of sums as what is added up has them."""
    found: dict[int, FloatArray] = {}
    for tensor, shift in shifts.items():  # in the graph's order
        if _is_sum(graph, tensor):
            parts = (found[t] for t in graph.producers[tensor].inputs if t in found)
            shift = np.sum(list(parts), axis=0)
        found[tensor] = shift
    return found


def _parts(graph: Graph, tensors: Sequence[int]) -> Iterator[set[int]]:
    """Tensors that sums join."""
    left = {t: {t} for t in tensors}
    for tensor in tensors:
        if _is_sum(graph, tensor):
            joined = set().union(*(left[t] for t in graph.producers[tensor].inputs if t in left))
            joined |= left[tensor]
            left.update(dict.fromkeys(joined, joined))
    yield from {id(part): part for part in left.values()}.values()


def _width(seen: ChannelStatistics) -> float:
    return float(seen.high[0].max() - seen.low[0].min())


def _moved(old: Range, before: ChannelStatistics, after: ChannelStatistics) -> Range:
    """The range of a tensor with shifts, as much wider than the samples' as it was."""
    wider = max(1.0, (old[1] - old[0]) / max(_width(before), _TINY))
    return wider * float(after.low[0].min()), wider * float(after.high[0].max())


def shifted(model: LiteModel, shifts: Shifts) -> LiteModel:
    """The model with tensors a constant less in each channel; the others keep their numbers."""
    graph, editor = model.graph, GraphEditor(model.tree)
    changed: dict[tuple[int, int], FloatArray] = {}
    for op in graph.operators:
        row = OPS.get(op.name)
        if op.name not in TAKE_UP or row is None or row.weight is None or row.bias is None:
            continue
        source, output = op.inputs[row.weight.source], op.outputs[0]
        if source not in shifts and output not in shifts:
            continue
        bias = constant_of(graph, op.inputs[row.bias.slot])
        moved = bias.reshape(-1)
        if source in shifts:
            weight = constant_of(graph, op.inputs[row.weight.slot])
            moved = moved + weight.reshape(len(weight), -1) @ shifts[source]
        if output in shifts:
            moved = moved - shifts[output]
        changed[op.index, row.bias.slot] = moved.reshape(bias.shape)
    put_constants(editor, graph, changed)
    names = {t: graph.tensors[t].name for t in shifts if not _is_sum(graph, t)}
    write_shifts(editor.tree, {names[t]: shift for t, shift in shifts.items() if t in names})
    return replace(model, tflite=editor.finish())


def shifted_as(model: LiteModel, shifts: Mapping[str, FloatArray]) -> LiteModel:
    """A float model with means taken off as in the file that was made from it.

    Args:
        model: The float model.
        shifts: Of each channel, by tensor name, as the file has them.

    Returns:
        The model with these shifts; as it is where it has some, or they are of another model.
    """
    if not shifts or read_shifts(model.tree):
        return model
    graph = model.graph
    free = shiftable(graph, ())
    by_name = {graph.tensors[t].name: t for t in free}
    fits = all(
        name in by_name and graph.tensors[by_name[name]].shape[-1] == len(shift)
        for name, shift in shifts.items()
    )
    if not fits or len(by_name) < len(free):
        return model
    wanted = {t: shifts.get(graph.tensors[t].name, np.zeros(1)) for t in free}
    found = _consistent(graph, wanted)
    return shifted(model, {t: shift for t, shift in found.items() if shift.any()})
