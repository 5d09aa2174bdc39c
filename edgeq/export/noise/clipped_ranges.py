"""Ranges that cut off what is rare, where the model's outputs are better for it.

The lowest and highest value are a safe range, and mostly a wide one. Where to cut is told by each
tensor's own error; whether that is any good, by the outputs of samples that the cut was not found
on. Decides about all tensors at once: what one of them loses shows only beside the others' noise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence, Set
from dataclasses import replace

import numpy as np

from edgeq.calibrate.advice import NARROWER
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import MSE, Fixed, MinMax
from edgeq.calibrate.run import Calibrator
from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import Choices
from edgeq.export.plan.margin import ALIKE, MANY
from edgeq.export.plan.planner import make_plan
from edgeq.fidelity.paired_run import PairedRun, Tally
from edgeq.fidelity.parts import Kind, kinds_in, merged_rows
from edgeq.files import is_large
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray

LEAST_SAMPLES, MOST_SAMPLES = 8, 32
"""Samples that ranges are cut by; with fewer none is."""

JUDGED = 4
"""One of so many samples judges the cut ranges: the last ones, which they were not found on."""

FEW_SAMPLES = 100
"""Where ranges were seen on fewer, those that are owed to a single one stay."""

LEAST_GAIN_DB = 0.5
"""What cut ranges must win on average over outputs and their parts, by each half of these."""

CHANCE_DB = 4.0
"""What one sample says that they win differs by so much from the next: of nine samples, 1.3 dB may
be chance. Weights make up for rounding later on, for what is cut off they cannot."""

MOST_LOSS_DB = 0.25
"""What an output or a part of it may lose."""

ENOUGH_DB = 40.0
"""Where every part of every output keeps so much with activations rounded, ranges stay."""

MOST_DB = 120.0
"""SQNR beyond which outputs count as the same."""

NOTE = "ranges of {} tensors leave out rare values: outputs win {:.1f} dB on samples not seen yet"
NONE = "no ranges leave out rare values: to find such"


def clipped_ranges(
    model: LiteModel,
    calibration: Calibration,
    choices: Choices,
    scaled: Collection[int],
    samples: Sequence[Sample],
    threads: int | None,
) -> tuple[Calibration, tuple[str, ...]]:
    """The calibration, with ranges that cut off rare values if that is better, and a note then.

    Args:
        model: The float model.
        calibration: Ranges of its tensors. Those found as lowest and highest value may be cut, but
            for inputs and outputs, and where few numbers were seen.
        choices: What becomes of each op.
        scaled: Tensors with ranges of scaled channels, which may be cut as well.
        samples: Inputs; the last of them judge.
        threads: Samples that run side by side; None takes what this process may use.
    """
    is_apart = model.given or model.learned or model.states or is_large(len(model.tflite))
    judged = samples[len(samples) - min(MOST_SAMPLES, len(samples) // JUDGED) :]
    fitted = samples[: min(MOST_SAMPLES, len(samples) - len(judged))]
    if is_apart or len(fitted) < LEAST_SAMPLES:
        return calibration, ()
    halves = (judged[::2], judged[1::2])
    try:
        seen = [_tally(model, calibration, choices, half, threads) for half in halves]
        kinds = [kinds_in(merged_rows(a, b)) for a, b in zip(*(t.rows for t in seen), strict=True)]
        before = _parts_db(seen, kinds)
        if np.min(before) >= ENOUGH_DB:
            return calibration, ()
        kept = _resting_on_one(calibration) if calibration.samples < FEW_SAMPLES else set()
        other = _cut(model, calibration, scaled, fitted, threads, kept)
        seen = [_tally(model, other, choices, half, threads) for half in halves]
        after = _parts_db(seen, kinds)
    except Exception as error:
        return calibration, (f"{NONE} failed with {type(error).__name__}: {error}",)
    won = np.subtract(after, before)
    gains = np.mean(won, axis=0)
    is_clear = np.mean(gains) >= CHANCE_DB / math.sqrt(len(judged))
    is_better = is_clear and all(np.mean(half) >= LEAST_GAIN_DB for half in won)
    if not is_better or min(gains) < -MOST_LOSS_DB:
        return calibration, ()
    count = sum(other.ranges[t] != found for t, found in calibration.ranges.items())
    return other, (NOTE.format(count, float(np.mean(gains))),)


def _cut(
    model: LiteModel,
    calibration: Calibration,
    scaled: Collection[int],
    samples: Sequence[Sample],
    threads: int | None,
    kept: Set[int],
) -> Calibration:
    """The calibration with each range that may be cut as samples' own errors like it best."""
    ranges = calibration.ranges.keys() - kept
    free = [t for t in sorted(ranges) if _may_be_cut(model, calibration, scaled, t)]
    found = Calibrator(model, threads, {t: MSE() for t in free}).run(samples).ranges
    cut = {}
    for tensor in found.keys() & set(free):
        low, high = calibration.ranges[tensor]
        low, high = max(low, found[tensor][0]), min(high, found[tensor][1])
        if low < high:
            cut[tensor] = Fixed(low, high)
    return replace(calibration, observers={**calibration.observers, **dict(sorted(cut.items()))})


def _resting_on_one(calibration: Calibration) -> set[int]:
    """Tensors with a range that is owed to a single sample.

    Others may reach as far, which a few samples do not show.
    """
    seen = calibration.extremes.items()
    return {tensor for tensor, ends in seen if ends.resting_on_one() > NARROWER}


def _may_be_cut(
    model: LiteModel, calibration: Calibration, scaled: Collection[int], tensor: int
) -> bool:
    """Whether a range is the widest of many numbers within the model."""
    graph = model.graph
    if tensor in graph.inputs or tensor in graph.outputs:
        return False
    values = math.prod(graph.tensors[tensor].shape)
    is_widest = isinstance(calibration.observers[tensor], MinMax) or tensor in scaled
    return is_widest and calibration.samples * values / ALIKE >= MANY


def _tally(
    model: LiteModel,
    calibration: Calibration,
    choices: Choices,
    samples: Sequence[Sample],
    threads: int | None,
) -> Tally:
    """What the samples show of the model with all activations rounded that are integers."""
    plan = make_plan(model, calibration, choices)
    editor = GraphEditor(model.tree)
    editor.round_trips(plan.tensors, plan.with_float_activations)
    made = replace(model, tflite=editor.finish())
    return PairedRun((model, made), threads=threads)(samples)


def _parts_db(halves: Sequence[Tally], kinds: Sequence[Sequence[Kind]]) -> FloatArray:
    """SQNR in dB of each output and of each kind of its values, a row for each half.

    Samples of a single half may show other kinds: those of both are compared.
    """
    db: FloatArray = np.array([half.kinds_db(kinds) for half in halves])
    return np.clip(db, -MOST_DB, MOST_DB)
