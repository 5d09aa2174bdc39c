"""Decides `Mode.AUTO`: which ops become static int8, dynamic range, weight-only or stay float.

Which ops are static is the minimum cut of a graph of estimates; the price of noise is raised step
by step, which gives plans from the fastest to the most faithful. The few that look best are built
and tried on the real interpreter, beside the plans in one mode throughout, so that no preset beats
the result; the best of all is that, file and all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.export.build import Builder, Built
from edgeq.export.export_options import ExportOptions
from edgeq.export.plan.choices import LARGE, Choice, Choices, static_obstacle
from edgeq.export.plan.min_runtime import newer_ops
from edgeq.export.search.candidates import Candidate, best_of, near_best, pareto_front
from edgeq.export.search.plan_cut import PLAIN, PlanCut
from edgeq.export.search.sensitivity import measure_noise
from edgeq.export.search.trials import Trials
from edgeq.export.verify import breaking_ops
from edgeq.model import FloatModel
from edgeq.ops import BOUNDARY
from edgeq.recipe import Mode
from edgeq.runtime.session import Session
from edgeq.versions import needed_runtime, written

PRICES = tuple(np.logspace(-2, 5, 15))
"""Prices of noise, in float inferences for each unit of relative noise power."""

FINAL_SLACK = 1.08
"""Plans that cost at most so many times the cheapest are measured once more, side by side."""

TRIALS = 4
"""Most plans that are converted and tried; twice as many where their time is measured."""

HALVINGS = 3
"""Plans that are tried besides, where time is measured, at prices in between: as fast as can be
while the goal is reached."""


@dataclass(frozen=True)
class Search:
    """Means of the search.

    Attributes:
        trials: Where plans are built and judged.
        choices: The recipe's, with `Mode.AUTO` where the search decides.
        options: What was asked for.
    """

    trials: Trials
    choices: Choices
    options: ExportOptions

    def run(self) -> Built:
        """The best plan, as it was built."""
        return self.builder.build(self.best().choices)

    def best(self) -> Candidate:
        """The best plan of those that were tried."""
        cut = self.cut()
        plain = [self.trials.tried(cut.plain(mode)) for mode in PLAIN]
        cut.correct_noise(plain)
        if self._measures:
            cut.correct_times(plain)
        prices = PRICES[:: 3 if self._is_large else 1]
        offers = self._worth_trying([cut.candidate(price) for price in prices])
        known = [candidate.choices for candidate in plain]
        tried = [*plain, *self._in_turn([c for c in offers if c.choices not in known])]
        if self._measures:
            tried += self._between(cut, tried)
        tried = [c for c in tried if not c.is_refused] or tried
        finals = near_best(tried, self.options.goal_db, FINAL_SLACK)
        return best_of(self.trials.side_by_side(tried, finals), self.options.goal_db)

    def cut(self) -> PlanCut:
        """The graph of estimates that plans are cut from."""
        static, built = self._all_static()
        outside = self._outside(built)
        plan = self.builder.plan(static)
        rounded = self.builder.rounded(plan, self.trials.advance)
        noise = measure_noise(self.model, plan, rounded, self.trials.samples, self.trials.advance)
        return PlanCut(self.model, self.choices, static, outside, noise, self.options)

    @property
    def builder(self) -> Builder:
        """Builds the plans."""
        return self.trials.builder

    @property
    def model(self) -> FloatModel:
        """The float model that the plans are for."""
        return self.builder.model

    @property
    def _measures(self) -> bool:
        return self.options.measure

    @property
    def _is_large(self) -> bool:
        return len(self.model.graph.operators) >= LARGE

    def _all_static(self) -> tuple[dict[int, Choice], Built | None]:
        """Everything static that the converter makes static, and the file, if there is one."""
        found = {}
        for index, choice in self.choices.items():
            op = self.model.graph.operators[index]
            obstacle = static_obstacle(self.model.graph, op, Mode.STATIC_INT8)
            if choice.mode is Mode.AUTO:
                mode = Mode.FLOAT if obstacle else Mode.STATIC_INT8
                choice = replace(choice, mode=mode, reason=obstacle)
            found[index] = choice
        refused = self.builder.refused(found)
        found.update({i: Choice(Mode.FLOAT, why) for i, why in refused.items() if self._is_free(i)})
        for _ in range(3):
            built = self.trials.built(found)
            if built is None:
                return self._without_static(found), None
            broken = {**self._too_new(built), **self._broken(built)}
            if not broken:
                break
            found.update({i: Choice(Mode.FLOAT, why) for i, why in broken.items()})
        return found, built

    def _is_free(self, index: int) -> bool:
        """Whether the recipe leaves it to the search what becomes of an op."""
        return self.choices[index].mode is Mode.AUTO

    def _broken(self, built: Built) -> dict[int, str]:
        """Ops that the converter left float against the plan, with that as the reason."""
        exported = built.beside(self.model)
        origins = [exported.counterpart(op) for op in breaking_ops(exported, built.plan, True)]
        return {o.index: "the converter leaves it float" for o in origins if o is not None}

    def _too_new(self, built: Built) -> dict[int, str]:
        """Ops that the run time reads in float alone, with that as the reason."""
        exported, oldest = built.beside(self.model), self.options.oldest
        found = {}
        for index, version in newer_ops(exported, oldest).items():
            origin = exported.counterpart(exported.graph.operators[index])
            if origin is None or oldest is None or not self._is_free(origin.index):
                continue
            if needed_runtime(self.model.graph, origin) <= oldest:
                found[origin.index] = f"in int8 it needs the run time {written(version)}"
        return found

    def _without_static(self, choices: Choices) -> dict[int, Choice]:
        """For models that the converter refuses in int8."""
        why = "the converter or the runtime refuses the model in static int8"
        return {i: Choice(Mode.FLOAT, why) if self._is_free(i) else c for i, c in choices.items()}

    def _outside(self, built: Built | None) -> Mapping[str, frozenset[int]]:
        """Ops that the delegate does not take, in float and in the int8 file."""
        with Session(self.model.tflite, threads=1, trusted=True) as session:
            taken = session.coverage().delegated
        operators = self.model.graph.operators
        found = {"float32": frozenset(op.index for op in operators if op.index not in taken)}
        found["int8"] = frozenset()
        if built is not None:
            exported = built.beside(self.model)
            with Session(built.tflite, threads=1, trusted=True) as session:
                taken = session.coverage().delegated
            left = [op for op in exported.graph.operators if op.index not in taken]
            origins = [exported.counterpart(op) for op in left if op.name not in BOUNDARY]
            found["int8"] = frozenset(o.index for o in origins if o is not None)
        return found

    def _in_turn(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """These plans, tried one after the other; without measuring, the first good one ends it."""
        tried: list[Candidate] = []
        for offer in offers:
            tried.append(self.trials.tried(offer))
            if not self._measures and tried[-1].sqnr_db >= self.options.goal_db:
                break
        return tried

    def _between(self, cut: PlanCut, tried: Sequence[Candidate]) -> list[Candidate]:
        """Tried plans between the least price that reached the goal and the next that did not."""
        goal_db = self.options.goal_db
        found: list[Candidate] = []
        for _ in range(HALVINGS):
            seen = [*tried, *found]
            priced = [c for c in seen if not math.isnan(c.price)]
            least = min((c.price for c in priced if c.sqnr_db >= goal_db), default=0.0)
            bad = [c.price for c in priced if c.sqnr_db < goal_db and c.price < least]
            if not bad:
                break
            offer = cut.candidate(math.sqrt(max(bad) * least))
            if any(offer.choices == other.choices for other in seen):
                break
            found.append(self.trials.tried(offer))
        return found

    def _worth_trying(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """The plan that looks best, then more faithful ones; a spread of all if time counts."""
        front, goal_db = pareto_front(offers), self.options.goal_db
        trials = TRIALS * 2 if self._measures else TRIALS
        trials = trials // 2 if self._is_large else trials
        if len(front) <= trials:
            first = best_of(front, goal_db)
            return [first, *(c for c in reversed(front) if c is not first)] if front else []
        start = front.index(best_of(front, goal_db))
        if self._measures:
            others = np.linspace(0, len(front) - 1, trials).round().astype(int).tolist()
            return [front[i] for i in dict.fromkeys([start, *others])]
        rest = np.linspace(start, len(front) - 1, trials).round().astype(int).tolist()
        return [front[i] for i in dict.fromkeys(rest)]
