"""Advice: what looks suspicious of a float model and its representative data, in sentences.

Each kind of finding is one sentence, however many tensors it holds for. Whatever needs values looks
at a few samples only; what the calibration has seen of all samples is read from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Range
from edgeq.calibrate.run import probes, thinned
from edgeq.data.rep_dataset import Sample
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, ScaleRule
from edgeq.qtypes import STAND_IN_FOR_INFINITY
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]

MOST_SAMPLES = 8
"""Samples whose values are looked at."""

MOST_VALUES = 1 << 14
"""Values of one tensor that are looked at in one sample for how they are spread."""

RARE = 10_000
"""One value in so many is left aside at each end as rare, ..."""

FILLED = 1 / 4
"""... and a range of which the others fill less than this share wastes two bits or more."""

ENOUGH_VALUES = 1000
"""Values of a channel from which on being all the same is no coincidence."""

NARROWER = 0.1
RESTING_SHARE = 1 / 8
"""More samples are needed if so large a share of the ranges would be so much narrower without one
sample. Half the samples then miss about as much of the ranges that all of them find."""


def advise(
    model: LiteModel, calibration: Calibration, samples: Sequence[Sample]
) -> tuple[str, ...]:
    """Looks for what often spoils an int8 model.

    Args:
        model: The float model that was calibrated.
        calibration: What the representative data showed of it.
        samples: Some of the data; at most eight of them are run, so that it costs little.

    Returns:
        A sentence for each kind of finding: inputs that do not look normalised, ranges that only
        rare values need, ranges that rest on a single sample, dead channels; or, alone, that all
        samples are the same, of which nothing else can be told. Empty if all is well.
    """
    few = list(samples[:MOST_SAMPLES])
    if _are_one(few):
        return (
            f"all {len(few)} samples looked at are the same, so that ranges and SQNR are those of "
            "this one alone, and say nothing of others: give data as the model gets it in use",
        )
    seen = _look(model, calibration.ranges, few)
    found = (
        *_odd_inputs(model, few),
        _rare_values(model, seen, len(few)),
        _few_samples(calibration),
        _dead_channels(model, seen, len(few)),
    )
    return tuple(sentence for sentence in found if sentence)


def spread_out(samples: Iterator[Sample], kept: list[Sample]) -> Iterator[Sample]:
    """Passes samples on and keeps the 1st, 2nd, 4th, 8th ... of them, as many as are looked at."""
    for index, sample in enumerate(samples, start=1):
        if index & (index - 1) == 0 and len(kept) < MOST_SAMPLES:
            kept.append(tuple(array.copy() for array in sample))
        yield sample


@dataclass(frozen=True)
class _Seen:
    """Values of the few samples that the advice rests on.

    Attributes:
        filled: Share of its range that the usual values of each sample fill, `(samples,)`, by
            tensor.
        dead: Number of channels that hold one number only, and of all channels, by tensor.
    """

    filled: Mapping[int, Array]
    dead: Mapping[int, tuple[int, int]]


def _look(model: LiteModel, ranges: Mapping[int, Range], samples: Sequence[Sample]) -> _Seen:
    """Runs the samples with every tensor of interest as an output."""
    shapes = {p.tensor: model.graph.tensors[p.tensor].shape for p in probes(model.graph)}
    watched = [tensor for tensor in shapes if tensor in ranges]
    channelled = {o for op in _weighted(model) for o in op.outputs if len(shapes.get(o, ())) > 1}
    filled: dict[int, list[float]] = {tensor: [] for tensor in watched}
    limits: dict[int, tuple[Array, Array]] = {}
    editor = GraphEditor(model.tree)
    editor.add_outputs(watched)
    with Session(editor.finish(), trusted=True) as session:
        for sample in samples:
            session.invoke(sample)
            for tensor in watched:
                # No name may hold a view when the session runs again.
                filled[tensor].append(_filled(session.view(tensor), ranges[tensor]))
                if tensor in channelled:
                    limits[tensor] = _wider(limits.get(tensor), session.view(tensor))
    enough = {t: math.prod(shapes[t][:-1]) * len(samples) >= ENOUGH_VALUES for t in limits}
    return _Seen(
        {tensor: np.asarray(shares) for tensor, shares in filled.items()},
        {t: (int((low == high).sum()), low.size) for t, (low, high) in limits.items() if enough[t]},
    )


def _weighted(model: LiteModel) -> list[Operator]:
    """Ops whose weights make the channels of their output's last axis."""
    rows = ((op, OPS.get(op.name)) for op in model.graph.operators)
    return [op for op, row in rows if row is not None and row.weight_axis is not None]


def _filled(values: Array, limits: Range) -> float:
    """Share of a range that values fill, the rarest aside; 0 belongs to either."""
    width = max(limits[1], 0.0) - min(limits[0], 0.0)
    some = thinned(values, MOST_VALUES)
    some = some[np.abs(some) < STAND_IN_FOR_INFINITY]
    if not some.size:
        return 1.0
    ends = (some.size // RARE, some.size - 1 - some.size // RARE)
    low, high = np.partition(some, ends)[list(ends)]
    return float((max(high, 0.0) - min(low, 0.0)) / width) if width else 1.0


def _wider(limits: tuple[Array, Array] | None, values: Array) -> tuple[Array, Array]:
    """Lowest and highest value of each channel, `(channels,)`, now and before."""
    rows = values.reshape(-1, values.shape[-1])
    low, high = rows.min(axis=0), rows.max(axis=0)
    if limits is None:
        return low, high
    return np.minimum(limits[0], low), np.maximum(limits[1], high)


def _rare_values(model: LiteModel, seen: _Seen, samples: int) -> str:
    allowed = samples // MOST_SAMPLES  # one loud sample among those looked at is still rare
    shares = {
        tensor: float(np.sort(filled)[-1 - allowed]) for tensor, filled in seen.filled.items()
    }
    found = [tensor for tensor, share in shares.items() if share < FILLED]
    if not found:
        return ""
    worst = min(found, key=lambda tensor: shares[tensor])
    return (
        f"only rare values need the range of {len(found)} of {len(shares)} tensors: in "
        f"{samples - allowed} of {samples} samples, {100 - 100 / RARE:g} % of the values fill less "
        f"than a quarter of it (least: {100 * shares[worst]:.2g} %, {_place(model, worst)}). Look "
        "for outliers in the data, or use the observer percentile or mse"
    )


def _few_samples(calibration: Calibration) -> str:
    shares = [seen.resting_on_one() for seen in calibration.extremes.values()]
    found = sum(share > NARROWER for share in shares)
    if found <= RESTING_SHARE * len(shares):
        return ""
    return (
        f"without a single sample, {found} of {len(shares)} ranges would be more than "
        f"{100 * NARROWER:.0f} % narrower, so that others may well need them wider still: give "
        f"more than {calibration.samples} samples, and look for one that is unlike the rest"
    )


def _dead_channels(model: LiteModel, seen: _Seen, samples: int) -> str:
    found = [tensor for tensor, (dead, _) in seen.dead.items() if dead]
    if not found:
        return ""
    dead, channels = (sum(column) for column in zip(*seen.dead.values(), strict=True))
    worst = max(found, key=lambda tensor: seen.dead[tensor][0])
    most, of = seen.dead[worst]
    return (
        f"{dead} of {channels} channels are dead, with one and the same number throughout "
        f"{samples} samples (most: {most} of {of}, {_place(model, worst)}). They cost time and say "
        "nothing: prune them, or add data that wakes them"
    )


def _are_one(samples: Sequence[Sample]) -> bool:
    """Whether several samples hold the same numbers."""
    return len(samples) > 1 and all(
        np.array_equal(one, other)
        for sample in samples[1:]
        for one, other in zip(samples[0], sample, strict=True)
    )


def _odd_inputs(model: LiteModel, samples: Sequence[Sample]) -> Iterator[str]:
    for position, (name, tensor) in enumerate(model.input_tensors()):
        if tensor.dtype != "float32" or not samples or _rescaled(model, tensor.index):
            continue
        what = _oddness(np.stack([thinned(sample[position], MOST_VALUES) for sample in samples]))
        if what:
            yield (
                f"input {name!r} does not look normalised: {what}. Calibrate with exactly what "
                "the model gets in use, or all ranges are wrong"
            )


def _oddness(values: Array) -> str:
    low, high, mean, std = (float(f(values)) for f in (np.min, np.max, np.mean, np.std))
    if low >= 0 and 64 < high <= 255:
        return f"it holds {low:g} to {high:g}, as raw pixels do"
    if high == low or (1e-3 <= std <= 30 and abs(mean) <= 10 * max(std, 1.0)):
        return ""
    return f"its mean is {mean:.3g} and its standard deviation {std:.3g}"


_RESCALING = ("ADD", "SUB", "MUL", "DIV")


def _rescaled(model: LiteModel, tensor: int) -> bool:
    """Whether the first thing the model does to a tensor is to scale or shift it by constants."""
    graph = model.graph
    readers = [op for op in graph.operators if tensor in op.inputs]
    if len(readers) != 1:
        return False
    row = OPS.get(readers[0].name)
    if row is not None and row.rule is ScaleRule.SAME:
        return _rescaled(model, readers[0].outputs[0])
    others = [i for i in readers[0].inputs if i not in (tensor, -1)]
    return readers[0].name in _RESCALING and all(graph.tensors[i].is_constant for i in others)


def _place(model: LiteModel, tensor: int) -> str:
    producer = model.graph.producers.get(tensor)
    if producer is not None:
        return model.where(producer)
    names = {index: name for name, index in model.signature.inputs}
    return f"input {names.get(tensor, '')!r}"
