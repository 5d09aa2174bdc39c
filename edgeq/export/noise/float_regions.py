"""Parts of a plan that are better float: together their integers spoil the outputs and win no time.

Each tensor of a stream may round well enough, and 50 of them one behind the other do not. And
a delegate may have no integer form of what is in between: then the integers cost time as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from edgeq.data.held_out import spread
from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.bound import takes_noise
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.regions import regions
from edgeq.export.noise.sensitivity import Judge
from edgeq.export.noise.tails import Tail
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.placement import planned_obstacles
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.export.search.costs import WITHOUT_DOT_PRODUCT, boundaries_ns, estimate_ns
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.recipe import Mode
from edgeq.targets import Target

LEAST_DB = 30.0
"""SQNR of the outputs that rounding all of a part leaves at least: a tenth of the noise of a result
that keeps 20 dB."""

MOST_TIME = 1.05
"""Estimated time of the model with a part in float, over that with it in integers: estimates of so
small a difference err by more, mostly against float, as they know nothing of how ops are fused."""

SAMPLES, HELD_BYTES = 4, 256 << 20
"""Samples that are looked at: so many, or one where differences of more would not fit in memory."""

Part = frozenset[int]


def with_float_regions(
    model: LiteModel,
    plan_of: Callable[[Choices], Plan],
    choices: Choices,
    free: Collection[int],
    samples: Sequence[Sample],
    target: Target,
) -> dict[int, Choice]:
    """The choices with parts in float whose integers spoil the outputs and win no time.

    Such a part is a normalisation with the sums that join it to others; or all ops whose kernel in
    integers dictates a scale and does not run on the target.

    Args:
        model: The float model.
        plan_of: What choices come to.
        choices: What becomes of each op.
        free: Ops that may become float.
        samples: Inputs, of which a few are run.
        target: Where the model is to run.
    """
    found = dict(choices)
    if not free or not samples or not takes_noise(model):
        return found
    plan = plan_of(found)
    parts = [part for part in _parts(model, plan, found, target) if part.issubset(free)]
    before = _estimated_ns(model, plan, found, target) if parts else 0.0
    for part, kept_db in _spoiling(model, plan, parts, spread(samples, SAMPLES)):
        changed = {**found, **{i: Choice(Mode.FLOAT, _why(kept_db)) for i in part}}
        after = _estimated_ns(model, plan_of(changed), changed, target)
        if after <= MOST_TIME * before:
            found, before = changed, after
    return found


def _why(kept_db: float) -> str:
    return (
        "in integers it and what is joined with it leave the outputs "
        f"{kept_db:.0f} dB and are not faster"
    )


def _parts(model: LiteModel, plan: Plan, choices: Choices, target: Target) -> Iterator[Part]:
    """The static ops of each region, and those with a scale that a slow kernel dictates."""
    operators = model.graph.operators
    static = {i for i, choice in choices.items() if choice.mode is Mode.STATIC_INT8}
    dictated = [i for i in static if OPS[operators[i].name].fixed is not None]
    outside = planned_obstacles(model, plan, target) if dictated else {}
    parts = [*regions(model.graph), frozenset(i for i in dictated if outside[i])]
    return (part & static for part in parts if part & static)


def _spoiling(
    model: LiteModel, plan: Plan, parts: Sequence[Part], samples: Sequence[Sample]
) -> list[tuple[Part, float]]:
    """The parts whose rounding leaves the outputs too little, and how much, the worst first."""
    changes = Changes(model, plan, Rounded())
    inner = {part: tensors for part in parts if (tensors := _inner(model, plan, part))}
    if not inner:
        return []
    blocks = {part: [Change(tensors=tensors)] for part, tensors in inner.items()}
    shapes = [model.graph.tensors[t].shape for tensors in inner.values() for t in tensors]
    held = 4 * sum(map(math.prod, shapes))
    samples = samples[: max(1, HELD_BYTES // max(1, held))]
    judge, noise = Judge(model, samples), np.zeros(len(blocks))
    values = [dict(zip(model.graph.inputs, sample, strict=True)) for sample in samples]
    for seen in Tail(changes, 0, list(blocks.values())).run(values):
        worst = judge.parts(seen.sample, seen.outputs).max(initial=0.0)
        noise[seen.block] += worst / len(samples)
    kept = [-10 * math.log10(n) if n > 0 else math.inf for n in noise.tolist()]
    told = sorted(zip(blocks, kept, strict=True), key=lambda one: one[1])
    return [(part, db) for part, db in told if db < LEAST_DB]


def _inner(model: LiteModel, plan: Plan, part: Part) -> tuple[int, ...]:
    """Tensors that are not rounded, or by finer steps, where a part is float."""
    graph = model.graph
    written = (t for i in sorted(part) for t in graph.operators[i].outputs if t in plan.tensors)
    return tuple(
        t
        for t in written
        if OPS[graph.producers[t].name].fixed is not None
        or any(reader.index in part for reader, _ in graph.uses.get(t, []))
    )


def _estimated_ns(model: LiteModel, plan: Plan, choices: Choices, target: Target) -> float:
    """Estimated time of a plan."""
    graph, outside = model.graph, planned_obstacles(model, plan, target)
    total = 0.0
    for op in graph.operators:
        mode = choices[op.index].mode if op.index in choices else Mode.FLOAT
        form = "int8" if mode.is_static else "dynamic" if mode.is_dynamic else "float32"
        total += estimate_ns(WITHOUT_DOT_PRODUCT, graph, op, form, not outside[op.index])
    integers = {i for i, choice in choices.items() if choice.mode.is_static}
    return total + boundaries_ns(WITHOUT_DOT_PRODUCT, graph, integers)
