"""Centres and scales channels so that integers lose less; constants take that up, numbers stay.

Source:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
    with ranges that data have shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.channel_statistics import ChannelStatistics, channel_statistics
from edgeq.calibrate.observers import Fixed, Range
from edgeq.data.rep_dataset import Sample
from edgeq.export.equalize.absorb import absorb
from edgeq.export.equalize.centre import centred
from edgeq.export.equalize.channel_groups import channel_groups, cuts_off
from edgeq.export.equalize.channel_scales import LEAST_GAIN_DB, channel_scales, scaled_range
from edgeq.export.equalize.whole_weights import whole_weights
from edgeq.export.plan.choices import Choices
from edgeq.export.rewrite.checked import outputs_agree
from edgeq.flatbuffer import Graph
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray
from edgeq.recipe import Mode

NOTE = "channels of {} tensors are scaled, so that quiet ones get more of the integers"


CENTRED = "channels of {} tensors are a constant less, so that their range is narrower"

NOT_SCALED = f"no channels are scaled: by estimate none of them would win {LEAST_GAIN_DB:.0f} dB"


@dataclass(frozen=True)
class Equalized:
    """A model with scaled channels.

    Attributes:
        model: The model; ops and tensors keep their indices.
        calibration: Ranges of its tensors.
        tensors: Those of which channels were scaled or centred.
        notes: Why none were, in a sentence, where the model itself does not say it.
    """

    model: LiteModel
    calibration: Calibration
    tensors: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def equalize(
    model: LiteModel,
    calibration: Calibration,
    choices: Choices,
    samples: Sequence[Sample],
    worker: Worker,
    threads: int | None = None,
    kept: Collection[int] = (),
) -> Equalized:
    """Scales channels of a float model as integers like them best.

    Args:
        model: The float model that plans speak of. One that brought or learned its scales stays as
            it is.
        calibration: Ranges of its tensors.
        choices: Of each op; one that is not in static int8 keeps its channels, and so does one
            whose weight is to be rounded to nearest.
        samples: Inputs to look at the channels with.
        worker: The child process that the result is held against the model in.
        threads: Samples that run side by side; None takes what this process may use.
        kept: Ops whose channels stay as they are whatever is chosen, by index.
    """
    same = Equalized(model, calibration)
    is_static = any(_is_static(choices, op) for op in choices)
    if not is_static or not samples or model.given or model.learned:
        return same
    as_is = {*kept, *_kept(choices)}
    same = _centred(model, calibration, as_is, samples, worker, threads)
    model, calibration = same.model, same.calibration
    as_is |= _cut_in_one(model.graph, choices)
    groups = channel_groups(model.graph, as_is, lambda op: _is_static(choices, op.index))
    free = groups.free_tensors()
    in_one = [a for a in groups.absorbers if not choices[a.op.index].weights.per_channel]
    read = dict.fromkeys([*free, *(a.source for a in in_one)])
    everything = channel_statistics(model, list(read), samples, threads)
    seen = {t: everything[t] for t in free}
    scales = channel_scales(groups, seen, whole_weights(groups, in_one, everything))
    scaled = {t: scales[groups.of(t)] for t in seen if (scales[groups.of(t)] != 1).any()}
    if not scaled:
        return replace(same, notes=(NOT_SCALED,) if seen else ())
    note = NOTE.format(len(scaled))
    made = replace(absorb(model, groups, scales), notes=(*model.notes, note))
    if not outputs_agree(worker, model, made, samples[0]):
        note = "no channels are scaled: with it the model computes something else on a sample"
        return replace(same, model=replace(model, notes=(*model.notes, note)))
    ranges = {
        tensor: _moved(pair, seen[tensor], scaled[tensor], groups.clipped.get(tensor, inf))
        for tensor, pair in calibration.ranges.items()
        if tensor in scaled
    }
    # What is 0 in all samples, as behind a dead layer, has no range to be moved.
    observers = {tensor: Fixed(low, high) for tensor, (low, high) in ranges.items() if low < high}
    moved = replace(
        calibration, model=made.digest, observers={**calibration.observers, **observers}
    )
    return Equalized(made, moved, tuple({*same.tensors, *scaled}))


def _centred(
    model: LiteModel,
    calibration: Calibration,
    kept: Collection[int],
    samples: Sequence[Sample],
    worker: Worker,
    threads: int | None,
) -> Equalized:
    """The model with means of channels taken off, if it computes the same on a sample then."""
    made, moved, tensors = centred(model, calibration, kept, samples, threads)
    if tensors and not outputs_agree(worker, model, made, samples[0]):
        note = "no means of channels are taken off: the model computes something else with that"
        return Equalized(replace(model, notes=(*model.notes, note)), calibration)
    note = CENTRED.format(len(tensors))
    return Equalized(
        replace(made, notes=(*made.notes, *([note] if tensors else []))), moved, tensors
    )


def _kept(choices: Choices) -> Collection[int]:
    nearest = (op for op, choice in choices.items() if choice.weights.rounding == "nearest")
    return {*nearest, *(op for op in choices if not _is_static(choices, op))}


def _cut_in_one(graph: Graph, choices: Choices) -> set[int]:
    """Ops that would become depthwise convolutions whose weights have one scale."""
    cut = {op.index for op in graph.operators if cuts_off(graph, op)}
    return {op for op in cut & choices.keys() if not choices[op].weights.per_channel}


def _is_static(choices: Choices, op: int) -> bool:
    return op in choices and choices[op].mode is Mode.STATIC_INT8


def _moved(old: Range, seen: ChannelStatistics, scale: FloatArray, clip: float) -> Range:
    """The range of a tensor with scaled channels, as much wider than the samples' as it was."""
    low, high = scaled_range(seen, scale, clip)
    lowest, highest = float(seen.low[0].min()), float(seen.high[0].max())
    low *= max(0.0, old[0] / lowest) if lowest else 1.0
    high *= max(0.0, old[1] / highest) if highest else 1.0
    return low, min(high, clip)
