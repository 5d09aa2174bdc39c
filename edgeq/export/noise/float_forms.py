"""Forms of ops with a weight beside float activations: dynamic range where that holds them.

What a tensor's one scale does not hold, the scale of each row at run time may hold no better: a row
of a spectrogram has loud and quiet numbers too. And a weight with few columns, of which the loud
ones meet quiet numbers, is not held by integers either.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.sensitivity import Judge, Meter
from edgeq.export.plan.choices import Choice, Choices, weight_slot
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.weighted_ops import is_fed, source_of
from edgeq.model import LiteModel
from edgeq.ops import Kind, kind_of
from edgeq.qtypes import DType, FloatArray
from edgeq.recipe import Mode
from edgeq.terminal.progress import nothing

INTEGERS = (1 << DType.INT8.bits) - 1
"""Steps from a row's lowest to its highest number in dynamic range."""


class RowScales(Changes):
    """Changes that round a tensor as an op in dynamic range does, with a scale for each row."""

    def rounded(self, tensor: int, values: FloatArray) -> FloatArray:
        """What a tensor holds with scales of its own: of rows in front of a dense layer."""
        is_dense = all(kind_of(op.name) is Kind.DENSE for op, _ in self.graph.uses[tensor])
        axes = (-1,) if is_dense else tuple(range(1, values.ndim))
        low = np.minimum(values.min(axes, keepdims=True), 0)
        step = (np.maximum(values.max(axes, keepdims=True), 0) - low) / INTEGERS
        steps = np.where(step > 0, step, 1).astype(np.float32)
        found: FloatArray = np.round(values / steps) * steps
        return found


def in_sound_forms(
    model: LiteModel,
    plan: Plan,
    choices: Choices,
    changed: Collection[int],
    samples: Sequence[Sample],
    least_db: float,
) -> dict[int, Choice]:
    """The choices with float in place of integers that alone leave the outputs too little.

    An op in dynamic range gets a weight that is made float again where what it reads is not held by
    integers, and a float one where its weight is not.

    Args:
        model: The float model.
        plan: How the choices store weights, and parameters of what is read.
        choices: What becomes of each op.
        changed: Ops that may become float.
        samples: Inputs to run.
        least_db: SQNR in dB of the outputs that is enough.
    """
    graph, found = model.graph, dict(choices)
    ops = [graph.operators[i] for i in sorted(changed) if choices[i].mode is Mode.DYNAMIC_INT8]
    ops = [op for op in ops if weight_slot(graph, op) is not None and not op.multiplied]
    ops = [op for op in ops if is_fed(graph, op)]
    if not ops:
        return found
    read = list(dict.fromkeys(source_of(op) for op in ops))
    judge = Judge(model, samples)
    reads, weights = [Change(tensors=(t,)) for t in read], [Change((op.index,)) for op in ops]
    of_read = _kept_db(RowScales(model, plan, Rounded()), judge, reads)
    of_weights = _kept_db(Changes(model, plan, Rounded()), judge, weights)
    kept = dict(zip(read, of_read, strict=True))
    for op, weight_db in zip(ops, of_weights, strict=True):
        why = choices[op.index].reason
        if weight_db < least_db:
            why += f", and integers of its weight alone {weight_db:.0f} dB"
            found[op.index] = Choice(Mode.FLOAT, why)
        elif kept[source_of(op)] < least_db:
            why += f", and a scale for each row {kept[source_of(op)]:.0f} dB"
            found[op.index] = replace(choices[op.index], mode=Mode.WEIGHT_INT8, reason=why)
    return found


def _kept_db(changes: Changes, judge: Judge, wanted: Sequence[Change]) -> list[float]:
    """SQNR in dB that each change by itself leaves of the outputs."""
    meter = Meter(changes, judge, nothing)
    noise = meter.measured([[change] for change in wanted], range(len(judge.samples)))
    return [-10 * math.log10(noise[c]) if noise[c] > 0 else math.inf for c in wanted]
