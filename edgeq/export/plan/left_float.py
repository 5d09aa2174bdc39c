"""Ops that stay float for what the data have shown of their values, or for where they would run.

No integer holds infinity. A kernel may dictate a scale that is too coarse: a softmax over 3,000
classes gives 0.002 at most, and its int8 steps are 1/256; what reads it gets a scale that fits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from edgeq.calibrate.channel_statistics import channel_statistics
from edgeq.data.held_out import spread
from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.values import Values
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.recipe import Mode
from edgeq.targets import Target, op_view

LEAST_DB = 20.0
"""SQNR that rounding to the steps of a kernel leaves at least."""

SAMPLES = 4
"""Samples that are looked at."""


def without_unbounded(model: LiteModel, values: Values, choices: Choices) -> dict[int, Choice]:
    """The choices with no op static that would need integers for what none holds.

    Such an op is float; where the search decides, it has the reason for not being static.
    """
    found = dict(choices)
    for index, choice in choices.items():
        if choice.mode.is_static or choice.mode is Mode.AUTO:
            why = values.obstacle(model.graph.operators[index])
            lower = replace(choice, reason=why) if choice.mode is Mode.AUTO else None
            found[index] = (lower or Choice(Mode.FLOAT, why)) if why else choice
    return found


def without_detours(
    model: LiteModel, choices: Choices, free: Collection[int], target: Target
) -> dict[int, Choice]:
    """The choices with no op static that the target is faster to run in float between integers.

    Such an op is float if it may be; where the search decides, it has the reason for not being
    static.

    Args:
        model: The float model.
        choices: What becomes of each op.
        free: Ops that may become float.
        target: Where the model will run.
    """
    found = dict(choices)
    for index in free:
        view, choice = op_view(model.graph, model.graph.operators[index]), choices[index]
        is_static = choice.mode is Mode.STATIC_INT8
        is_open = choice.mode is Mode.AUTO and not choice.reason
        why = target.faster_in_float(view) if is_static or is_open else ""
        if why and not target.obstacles(view):
            found[index] = Choice(Mode.FLOAT, why) if is_static else replace(choice, reason=why)
    return found


def without_coarse(
    model: LiteModel,
    choices: Choices,
    free: Collection[int],
    samples: Sequence[Sample],
    threads: int | None,
) -> dict[int, Choice]:
    """The choices with no op static that has too coarse a scale, where it may be float.

    Args:
        model: The float model.
        choices: What becomes of each op.
        free: Ops that may become float.
        samples: Inputs, of which a few are run.
        threads: Samples that run side by side; None takes what this process may use.
    """
    found = dict(choices)
    static = (i for i, c in choices.items() if i in free and c.mode.is_static)
    steps = {i: step for i in static if (step := _step(model, i, choices[i]))}
    written = {i: model.graph.operators[i].outputs[0] for i in steps}
    if not written:
        return found
    seen = channel_statistics(model, list(written.values()), spread(samples, SAMPLES), threads)
    for index, tensor in written.items():
        kept = _rounding_db(float(seen[tensor].power.mean()), steps[index])
        if kept < LEAST_DB:
            why = f"the scale that its kernel dictates leaves what it computes {kept:.0f} dB"
            found[index] = Choice(Mode.FLOAT, why)
    return found


def _step(model: LiteModel, index: int, choice: Choice) -> float:
    """The step that a kernel dictates for its results; 0 without one, or where the model's own
    parameters stay."""
    op = model.graph.operators[index]
    fixed = OPS[op.name].fixed_for(choice.mode.activation_dtype)
    tensor = model.graph.tensors[op.outputs[0]]
    is_open = tensor.index not in model.given_qparams and 0 not in tensor.shape
    return fixed.scale[0] if fixed and is_open else 0.0


def _rounding_db(power: float, step: float) -> float:
    """SQNR of numbers of a mean square that are rounded to steps; infinite where all are 0."""
    return 10 * math.log10(12 * power / step**2) if power else math.inf
