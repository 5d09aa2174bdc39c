"""The bound that rounding sets: what independent noise in each static tensor leaves of the outputs.

Numbers that a tensor has no steps for are off by up to half a step, whatever is done to weights and
ranges. Here every tensor of a plan gets such noise at once, independent of all others, in an
otherwise exact model. What a file keeps less than that is lost to something else; what it keeps
more, its weights have made up for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeq.data.held_out import spread
from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.sensitivity import Judge
from edgeq.export.noise.tails import Tail
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.files import is_large
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray

SAMPLES = 8
"""Samples that noise is added on."""


class RoundingNoise(Changes):
    """Changes that add to tensors what rounding would, but independent of what they hold."""

    def rounded(self, tensor: int, values: FloatArray) -> FloatArray:
        """What a tensor holds with noise of up to half a step; 0 needs no rounding and stays."""
        qparams = self.plan.tensors[tensor]
        low, high = qparams.range()
        random = np.random.default_rng(tensor)
        noise = random.uniform(-0.5, 0.5, values.shape) * qparams.scale[0]
        noisy = np.clip(values + noise, low, high)
        found: FloatArray = np.where(values == 0, values, noisy).astype(np.float32)
        return found


def noise_bound_db(model: LiteModel, plan: Plan, samples: Sequence[Sample]) -> float | None:
    """SQNR in dB of the worst part of the worst output with rounding noise in all static tensors.

    Args:
        model: The float model that the plan speaks of.
        plan: Its tensors' scales.
        samples: Inputs, of which a few are run.

    Returns:
        None where nothing is static, or where noise cannot be added: to states, in models too large
        to be run with it, or where sizes or the rounds of a loop depend on values.
    """
    if not plan.tensors or not samples or is_large(len(model.tflite)) or not takes_noise(model):
        return None
    few = spread(samples, SAMPLES)
    changes = RoundingNoise(model, plan, Rounded())
    everything = Change.joined([change for change in changes if not change.weights])
    judge = Judge(model, few)
    values = [dict(zip(model.graph.inputs, sample, strict=True)) for sample in few]
    seen = Tail(changes, 0, [[everything]]).run(values)
    noise = np.mean([judge.parts(one.sample, one.outputs) for one in seen], axis=0)
    return _decibels(float(noise.max(initial=0.0)))


def takes_noise(model: LiteModel) -> bool:
    """Whether noise can be added to any tensor of a model in a session of it."""
    is_open = any(-1 in tensor.shape for _, tensor in model.output_tensors())
    return not is_open and len(model.tree.subgraphs) == 1 and not model.states


def _decibels(noise: float) -> float | None:
    return -10 * math.log10(noise) if noise > 0 else None
