"""Parts of a plan that are better float: together their integers spoil the outputs and win no time.

Each tensor of a stream may round well enough, and 50 of them one behind the other do not. And
a delegate may have no integer form of what is in between: then the integers cost time as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np

from edgeq.data.held_out import spread
from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.bound import takes_noise
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.gross_tensors import beside_float
from edgeq.export.noise.moved import moves
from edgeq.export.noise.regions import is_by_channel, regions, unrolled
from edgeq.export.noise.sensitivity import Judge
from edgeq.export.noise.tails import Tail
from edgeq.export.plan.choices import Choice, Choices, weight_slot
from edgeq.export.plan.placement import planned_obstacles
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.export.search.costs import WITHOUT_DOT_PRODUCT, boundaries_ns, estimate_ns
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.recipe import Mode
from edgeq.targets import Target
from edgeq.versions import Version

LEAST_DB = 30.0
"""SQNR of the outputs that rounding all such parts leaves at least: a tenth of the noise of a
result that keeps 20 dB."""

STEPS_DB = 23.0
"""The same of what a recurrent network carries from step to step: half of the noise of 20 dB."""

LEAST_GAIN_DB = 3.0
"""What is carried from step to step is float however long it takes where the outputs win so much:
half of all noise."""

MOST_TIME = 1.05
"""Estimated time of the model with parts in float, over that with them in integers: estimates of so
small a difference err by more, mostly against float, as they know nothing of how ops are fused."""

SAMPLES, HELD_BYTES = 4, 256 << 20
"""Samples that are looked at: so many, or one where differences of more would not fit in memory."""

Part: TypeAlias = frozenset[int]
"""Ops that are float together, by index."""


def with_float_regions(
    model: LiteModel,
    plan_of: Callable[[Choices], Plan],
    choices: Choices,
    free: Collection[int],
    samples: Sequence[Sample],
    target: Target,
    oldest: Version | None,
) -> dict[int, Choice]:
    """The choices with parts in float whose integers spoil the outputs and win no time.

    Such a part is a normalisation with the sums that join it to others; or all ops whose kernel in
    integers dictates a scale and does not run on the target; or what an unrolled recurrent network
    carries from step to step, which may take longer where the outputs win enough; or then an op
    with a weight whose result float ops alone read: its weight stays in integers.

    Args:
        model: The float model.
        plan_of: What choices come to.
        choices: What becomes of each op.
        free: Ops that may become float.
        samples: Inputs, of which a few are run.
        target: Where the model is to run.
        oldest: The oldest run time that is to read the file, if that matters.
    """
    if not free or not samples or not takes_noise(model):
        return dict(choices)
    trials = _Trials(model, plan_of, choices, spread(samples, SAMPLES), target)
    for find in (_regions, _dictated, _steps, _writers):
        static = {i for i, choice in trials.choices.items() if choice.mode is Mode.STATIC_INT8}
        parts = [part for part in find(model, trials, static) if part and part.issubset(free)]
        is_carried = find is _steps
        trials.offer(parts, oldest, STEPS_DB if is_carried else LEAST_DB, is_carried)
    return trials.choices


class _Trials:
    """Makes parts of a plan float, one after the other, where that takes no longer or wins enough.

    Attributes:
        choices: What becomes of each op so far.
        target: Where the model is to run.
    """

    def __init__(
        self,
        model: LiteModel,
        plan_of: Callable[[Choices], Plan],
        choices: Choices,
        samples: Sequence[Sample],
        target: Target,
    ) -> None:
        self.choices = dict(choices)
        self.target = target
        self._model = model
        self._plan_of = plan_of
        self._samples = samples
        self._integers_ns = 0.0

    @property
    def plan(self) -> Plan:
        """What the choices come to."""
        return self._plan_of(self.choices)

    def offer(
        self,
        parts: Sequence[Part],
        oldest: Version | None,
        least_db: float,
        may_be_slower: bool,
    ) -> None:
        """Has some parts float, the worst first, if together they leave the outputs too little.

        What a part clips of data not seen yet shows in no estimate: so all of them are taken.

        Args:
            parts: The parts.
            oldest: The oldest run time that is to read the file, if that matters.
            least_db: SQNR in dB that is enough.
            may_be_slower: Whether parts that take longer are taken where they win enough.
        """
        graph, plan = self._model.graph, self.plan
        inner = {part: tensors for part in parts if (tensors := _inner(graph, plan, part))}
        noise = dict(zip(inner, self._noise(plan, [*inner.values()]), strict=True))
        total = sum(noise.values())
        if total <= 10 ** (-least_db / 10):
            return
        why = f"in integers it and what is joined with it leave the outputs {-_db(total):.0f} dB"
        if self._integers_ns == 0.0:
            self._integers_ns = self._estimated_ns(self.choices)
        parts = sorted(noise, key=lambda part: (-noise[part], min(part)))
        gains = self._gains_db(plan, parts) if may_be_slower else [0.0] * len(parts)
        taken_db, waiting = 0.0, frozenset[int]()
        for part, gain_db in zip(parts, gains, strict=True):
            waiting |= part
            alone = {**self.choices, **self._float(part, f"{why} and are not faster", oldest)}
            if gain_db >= taken_db + LEAST_GAIN_DB:
                self.choices.update(self._float(waiting, why, oldest))
                taken_db, waiting = gain_db, frozenset()
            elif self._estimated_ns(alone) <= MOST_TIME * self._integers_ns:
                self.choices, waiting = alone, waiting - part

    def _gains_db(self, plan: Plan, parts: Sequence[Part]) -> list[float]:
        """What the outputs win in dB where the first part is float, the first two, and so on."""
        changes = Changes(self._model, plan, Rounded())
        every = tuple(t for change in changes for t in change.tensors)
        blocks, floats = [every], set[int]()
        for part in parts:
            floats |= part
            inner = {*_inner(self._model.graph, plan, frozenset(floats))}
            blocks.append(tuple(t for t in every if t not in inner))
        before, *after = self._noise(plan, blocks)
        return [_db(before / noise) if noise else math.inf for noise in after]

    def _noise(self, plan: Plan, blocks: Sequence[Sequence[int]]) -> list[float]:
        """Noise over signal that rounding some tensors leaves in the worst part of the outputs."""
        if not blocks:
            return []
        graph = self._model.graph
        sizes = (math.prod(graph.tensors[t].shape) for tensors in blocks for t in tensors)
        samples = self._samples[: max(1, HELD_BYTES // max(1, 4 * sum(sizes)))]
        values = [dict(zip(graph.inputs, sample, strict=True)) for sample in samples]
        judge, found = Judge(self._model, samples), np.zeros(len(blocks))
        changes = [[Change(tensors=tuple(tensors))] for tensors in blocks]
        for seen in Tail(Changes(self._model, plan, Rounded()), 0, changes).run(values):
            worst = judge.parts(seen.sample, seen.outputs).max(initial=0.0)
            found[seen.block] += worst / len(samples)
        return [float(noise) for noise in found]

    def _float(self, part: Part, why: str, oldest: Version | None) -> dict[int, Choice]:
        """What the ops of a part are with float activations."""
        graph = self._model.graph
        ops = [graph.operators[i] for i in part]
        return {
            op.index: Choice(Mode.FLOAT, why)
            if is_by_channel(graph, op)
            else beside_float(op, graph, self.choices[op.index], why, oldest)
            for op in ops
        }

    def _estimated_ns(self, choices: Choices) -> float:
        """Estimated time of a plan."""
        graph, costs = self._model.graph, WITHOUT_DOT_PRODUCT
        outside = planned_obstacles(self._model, self._plan_of(choices), self.target)
        total = 0.0
        for op in graph.operators:
            mode = choices[op.index].mode if op.index in choices else Mode.FLOAT
            form = "int8" if mode.is_static else "dynamic" if mode.is_dynamic else "float32"
            total += estimate_ns(costs, graph, op, form, not outside[op.index])
        integers = {i for i, choice in choices.items() if choice.mode.is_static}
        return total + boundaries_ns(costs, graph, integers)


def _regions(model: LiteModel, trials: _Trials, static: Collection[int]) -> list[Part]:
    """Normalisations with the sums that join them, without what is float in any case."""
    return [part.intersection(static) for part in regions(model.graph)]


def _dictated(model: LiteModel, trials: _Trials, static: Collection[int]) -> list[Part]:
    """All ops with a scale that a kernel dictates which does not run on the target."""
    operators = model.graph.operators
    found = [i for i in static if OPS[operators[i].name].fixed is not None]
    outside = planned_obstacles(model, trials.plan, trials.target) if found else {}
    return [frozenset(i for i in found if outside[i])]


def _steps(model: LiteModel, trials: _Trials, static: Collection[int]) -> list[Part]:
    """What an unrolled recurrent network carries from step to step."""
    return [part.intersection(static) for part in unrolled(model.graph)]


def _writers(model: LiteModel, trials: _Trials, static: Collection[int]) -> list[Part]:
    """Ops with a weight whose results float ops alone read, with what moves the results there."""
    graph, found = model.graph, []
    for op in graph.operators:
        slot = weight_slot(graph, op) if op.index in static else None
        if slot is not None and len(graph.uses[op.inputs[slot]]) == 1:
            part, readers = _moved_on(graph, op)
            floats = [r for r in readers if trials.choices.get(r) and r not in static]
            is_read = bool(readers) and len(floats) == len(readers)
            is_put_out = any(t in graph.outputs for i in part for t in graph.operators[i].outputs)
            found += [part] if is_read and not is_put_out else []
    return found


def _moved_on(graph: Graph, op: Operator) -> tuple[Part, list[int]]:
    """An op and those that only move what it writes; and all others that read it."""
    part, readers, left = {op.index}, list[int](), list(op.outputs)
    while left:
        for reader, _ in graph.uses.get(left.pop(), []):
            if moves(reader) and len([t for t in reader.inputs if t in graph.producers]) == 1:
                part.add(reader.index)
                left += reader.outputs
            else:
                readers.append(reader.index)
    return frozenset(part), readers


def _db(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio else -math.inf


def _inner(graph: Graph, plan: Plan, part: Part) -> tuple[int, ...]:
    """Tensors that are not rounded, or by finer steps, where a part is float."""
    written = (t for i in sorted(part) for t in graph.operators[i].outputs if t in plan.tensors)
    return tuple(
        t
        for t in written
        if _has_own_step(graph, graph.producers[t])
        or any(reader.index in part for reader, _ in graph.uses.get(t, []))
    )


def _has_own_step(graph: Graph, op: Operator) -> bool:
    """Whether the rounding of a result ends with the op's own integers, whoever reads it."""
    is_weighted = weight_slot(graph, op) is not None and not is_by_channel(graph, op)
    return is_weighted or OPS[op.name].fixed is not None
