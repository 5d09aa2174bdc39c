"""Decides `Mode.AUTO`: which ops become static int8, dynamic range, weight-only or stay float.

Which ops are static is the minimum cut of a graph of estimates; the price of noise is raised step
by step, which gives plans from the fastest to the most faithful. The few that look best are built
and tried on the real interpreter, beside the plans in one mode throughout, so that no preset beats
the result; the best of all is that, file and all. Who interrupts it gets the best until then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeq.data.held_out import spread
from edgeq.export.build import Builder, Built
from edgeq.export.export_options import ExportOptions
from edgeq.export.noise.sensitivity import BUDGET_S, MOST_SAMPLES, measure_noise
from edgeq.export.plan.choices import (
    LARGE,
    Choice,
    Choices,
    mode_beside_static,
    static_obstacle,
)
from edgeq.export.plan.min_runtime import newer_ops
from edgeq.export.search.candidates import (
    PLENTY_DB,
    ROUGH_SLACK,
    SLACK,
    Candidate,
    best_of,
    near_best,
    pareto_front,
    winnable,
)
from edgeq.export.search.plan_cut import PLAIN, PlanCut
from edgeq.export.search.trials import Trials
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY
from edgeq.recipe import Mode
from edgeq.report import NOT_SLOWER
from edgeq.runtime.session import Session
from edgeq.versions import needed_runtime, written

PRICES = tuple(np.logspace(-2, 5, 15))
"""Prices of noise, in float inferences for each unit of relative noise power."""

FINAL_SLACK = 1.08
"""Plans that cost at most so many times the cheapest are measured once more, side by side."""

TRIALS = 4
"""Most plans that are converted and tried; twice as many where their time is measured."""

SHORTFALL_DB = 2.0
"""A plan that reached the goal may miss it by so much on samples that the search has not seen;
one that misses it by more gives way to the next more faithful one, up to float."""

MOST_GAINED_DB = 12.0
"""What scaling channels and rounding weights twice may add to the static plan; it takes as long as
all the rest of a search. MobileNetV2 gains 9 dB by it."""

LEAST_GAINED_DB = 1.0
"""What finishing must be able to add: that much at least is lost to what is static."""

INTERRUPTED = "the search was interrupted: this is the best of the {} plans that were tried by then"

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
        tried: Plans that were tried and have a file that works; filled here.
    """

    trials: Trials
    choices: Choices
    options: ExportOptions
    tried: list[Candidate] = field(default_factory=list)

    def run(self) -> Iterator[Built]:
        """The best plan as it was built, then, for whom that one fails, ever more faithful ones.

        After an interruption these are of what was tried by then, and take no more time.

        Raises:
            KeyboardInterrupt: Nothing was tried by then.
        """
        stopped: tuple[str, ...] = ()
        try:
            ranked = self.ranked()
            self._finished(ranked[0])
        except KeyboardInterrupt:
            if not self.tried:
                raise
            ranked = self._ranking(self.tried)
            stopped = (INTERRUPTED.format(len(self.tried)),)
        goal_db = self.options.goal_db
        for candidate in ranked if stopped else self._in_order(ranked):
            least_db = goal_db - SHORTFALL_DB if candidate.sqnr_db >= goal_db else -math.inf
            built = self.trials.built(candidate if stopped else self._finished(candidate))
            notes = (*stopped, *built.notes)
            ratio = candidate.estimate
            yield replace(built, notes=notes, least_db=least_db, estimated_ratio=ratio)
        yield self.trials.ladder.all_float(ranked[0].choices, "every plan in integers fails").built

    def _in_order(self, ranked: Sequence[Candidate]) -> Iterator[Candidate]:
        """Ranked plans, one in float with weights of 16 bits in front of those all in float."""
        best, others = ranked[0], ranked[1:]
        yield best
        yield from (c for c in others if not c.is_float)
        if not best.is_float:
            yield from self._halved(ranked)
        yield from (c for c in others if c.is_float)

    def _halved(self, known: Sequence[Candidate]) -> Iterator[Candidate]:
        """All in float with weights of 16 bits, if that is not known and reaches the goal."""
        offer = self._without_noise().wide(Mode.FLOAT16)
        if any(offer.choices == candidate.choices for candidate in known):
            return
        halved = self._try(offer)
        is_half = any(choice.mode is Mode.FLOAT16 for choice in halved.choices.values())
        if is_half and halved.sqnr_db >= self.options.goal_db:
            yield halved

    def best(self) -> Candidate:
        """The best plan of those that were tried."""
        return self.ranked()[0]

    def ranked(self) -> list[Candidate]:
        """The best plan of those that were tried, and those that are more faithful, in order."""
        cut, plain = self._corrected()
        prices = PRICES[:: -3 if self._is_large else -1]  # the most faithful is among them
        known = [candidate.choices for candidate in plain]
        front = pareto_front(cut.candidate(price) for price in prices)
        offers = [c for c in front if c.choices not in known]
        if self._measures:
            tried = [*plain, *map(self._try, self._spread(offers))]
            tried += self._between(cut, tried)
        else:
            tried = [*plain, *self._in_turn(offers)]
        tried = [c for c in tried if not c.is_refused] or [self._float(tried[0])]
        tried += self._wide(cut, tried)
        tried = self._with_finished(tried, plain[PLAIN.index(Mode.STATIC_INT8)])
        finals = near_best(tried, self.options.goal_db, FINAL_SLACK)
        return self._ranking(self.trials.side_by_side(tried, finals))

    def _ranking(self, tried: Sequence[Candidate]) -> list[Candidate]:
        """The best of some tried plans, and those that are more faithful, in order."""
        best = self._best_of(tried)
        not_slower = max(best.time, NOT_SLOWER)
        better = [c for c in tried if c.sqnr_db > best.sqnr_db and c.time <= not_slower]
        return [best, *sorted(better, key=lambda c: c.sqnr_db)]

    def _wide(self, cut: PlanCut, tried: Sequence[Candidate]) -> list[Candidate]:
        """Plans in float with weights of 16 bits, then of 32, where fewer miss the goal."""
        best, found = self._best_of(tried), list[Candidate]()
        for mode in (Mode.FLOAT16, Mode.FLOAT):
            if best.sqnr_db >= self.options.goal_db and not best.is_float:
                break
            offer = cut.wide(mode)
            if any(choice.mode is mode for choice in offer.choices.values()):
                found.append(self._try(offer))
                best = self._best_of([*tried, *found])
        return [c for c in found if not c.is_refused]

    def _with_finished(self, tried: Sequence[Candidate], static: Candidate) -> list[Candidate]:
        """Tried plans, the static one as a preset would build it where that can make it the best.

        Where others are cheaper and good enough, more fidelity does not.
        """
        best = self._best_of(tried)
        is_good = best.sqnr_db >= self.options.goal_db
        slack = FINAL_SLACK if self._measures else SLACK
        at_best = replace(static, sqnr_db=static.sqnr_db + MOST_GAINED_DB)
        is_worse = static.cost > slack * best.cost or self._best_of([best, at_best]) is best
        if is_good and is_worse:
            return list(tried)
        return [self._finished(c) if c is static else c for c in tried]

    def _try(self, offer: Candidate) -> Candidate:
        """An offer as it was tried; what the best one is by now is told."""
        return self._noted(self.trials.tried(offer))

    def _noted(self, tried: Candidate) -> Candidate:
        if not tried.is_refused:
            self.tried.append(tried)
            best = self._best_of(self.tried)
            self.trials.tell(f"{best.time:.2f} of float's time, {best.sqnr_db:.1f} dB so far")
        return tried

    def _finished(self, candidate: Candidate) -> Candidate:
        """A plan with weights rounded twice, and channels scaled for it, if that is better.

        Nothing is tried of a mixed plan where static int8 makes little of the noise, or where more
        fidelity is worth nothing. What a preset would finish is finished.
        """
        is_narrow = any(c.mode.has_narrow_weights for c in candidate.choices.values())
        is_mixed = candidate.static_noise is not None and not is_narrow
        is_plenty = candidate.sqnr_db >= self.options.goal_db + PLENTY_DB
        if is_mixed and (is_plenty or candidate.most_gained_db < LEAST_GAINED_DB):
            return candidate
        found = self.trials.finished(candidate, self.options.recipe.equalize)
        return found if any(found is c for c in (candidate, *self.tried)) else self._noted(found)

    def offers(self) -> list[Candidate]:
        """Plans from the cheapest to the most faithful, by estimates; those of the cut alone."""
        cut, _ = self._corrected()
        return pareto_front(cut.candidate(price) for price in PRICES)

    def _corrected(self) -> tuple[PlanCut, list[Candidate]]:
        """The graph of estimates, corrected by the plans in one mode throughout, and these."""
        silent = self._without_noise()
        plain = [self._try(silent.plain(mode)) for mode in PLAIN]
        cut = self._with_noise(silent, self._winnable(silent))
        cut.correct_noise(plain)
        if self._measures:
            cut.correct_times(plain)
        return cut, plain

    def _best_of(self, offers: Sequence[Candidate]) -> Candidate:
        """The best of some offers, for how well their times are known."""
        slack = SLACK if self._measures else ROUGH_SLACK
        return best_of(offers, self.options.goal_db, slack)

    def _float(self, offer: Candidate) -> Candidate:
        """The plan that is left where no file in integers works."""
        why = "with any op in integers the outputs are not finite"
        return replace(offer, choices=self.trials.ladder.all_float(offer.choices, why).choices)

    def cut(self) -> PlanCut:
        """The graph of estimates that plans are cut from."""
        return self._with_noise(self._without_noise())

    def _without_noise(self) -> PlanCut:
        """The graph of times alone, which is soon known."""
        static, built = self._all_static()
        return PlanCut(self.model, self.choices, static, self._outside(built), self.options)

    def _winnable(self, cut: PlanCut) -> float:
        """Share of the cost of the best plan so far that another one may win."""
        if self._measures or not self.tried:
            return 1.0
        least = cut.candidate(0.0).cost
        return winnable(self._best_of(self.tried), least, self.options.goal_db)

    def _with_noise(self, cut: PlanCut, share: float = 1.0) -> PlanCut:
        """The same graph with measured noise.

        Args:
            cut: The graph.
            share: What there is to win; it takes as much of the budget.
        """
        plan = self.builder.plan(cut.static)
        rounded = self.builder.rounded(plan, self.trials.advance)
        samples = self.trials.samples
        if self.model.states:  # the first steps of a sequence are too much alike
            samples = spread(samples, MOST_SAMPLES)
        noise = measure_noise(
            self.model, plan, rounded, samples, self.trials.advance, share * BUDGET_S
        )
        return cut.with_noise(noise)

    @property
    def builder(self) -> Builder:
        """Builds the plans."""
        return self.trials.builder

    @property
    def model(self) -> LiteModel:
        """The float model that the plans are for."""
        return self.builder.model

    @property
    def _measures(self) -> bool:
        return self.options.measure

    @property
    def _is_large(self) -> bool:
        return len(self.model.graph.operators) >= LARGE

    def _all_static(self) -> tuple[Choices, Built]:
        """Everything static that can be, and the file."""
        found: dict[int, Choice] = {}
        for index, choice in self.choices.items():
            op = self.model.graph.operators[index]
            obstacle = choice.reason or static_obstacle(self.model.graph, op, Mode.STATIC_INT8)
            if choice.mode is Mode.AUTO:
                beside = mode_beside_static(self.model.graph, op)
                mode = beside if obstacle else Mode.STATIC_INT8
                choice = replace(choice, mode=mode, reason=obstacle)
            found[index] = choice
        rung = self.trials.ladder.built(found, self.trials.advance)
        newer = self._too_new(rung.built)
        if newer:
            lower = {i: Choice(Mode.FLOAT, why) for i, why in newer.items()}
            rung = self.trials.ladder.built({**rung.choices, **lower}, self.trials.advance)
        return rung.choices, rung.built

    def _is_free(self, index: int) -> bool:
        """Whether the recipe leaves it to the search what becomes of an op."""
        return self.choices[index].mode is Mode.AUTO

    def _too_new(self, built: Built) -> dict[int, str]:
        """Ops that the run time reads in float alone, with that as the reason."""
        exported, oldest = built.beside_float(), self.options.oldest
        found = {}
        for index, version in newer_ops(exported, oldest).items():
            origin = exported.counterpart(exported.graph.operators[index])
            if origin is None or oldest is None or not self._is_free(origin.index):
                continue
            if needed_runtime(self.model.graph, origin) <= oldest:
                found[origin.index] = f"in int8 it needs the run time {written(version)}"
        return found

    def _outside(self, built: Built) -> Mapping[str, frozenset[int]]:
        """Ops that the delegate does not take, in float and in the int8 file."""
        with Session(self.model.tflite, threads=1, trusted=True) as session:
            taken = session.coverage().delegated
        operators = self.model.graph.operators
        found = {"float32": frozenset(op.index for op in operators if op.index not in taken)}
        exported = built.beside_float()
        with Session(built.tflite, threads=1, trusted=True) as session:
            taken = session.coverage().delegated
        left = [op for op in exported.graph.operators if op.index not in taken]
        origins = [exported.counterpart(op) for op in left if op.name not in BOUNDARY]
        found["int8"] = frozenset(o.index for o in origins if o is not None)
        return found

    def _in_turn(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """What looks best, tried, then more faithful ones until one reaches the goal.

        Each shows by how much the estimates of noise are off, which the next one makes up for. The
        last one is the most faithful that takes hardly longer than the one that reached it.
        """
        if not offers:
            return []
        goal_db, tried = self.options.goal_db, list[Candidate]()
        left = offers[offers.index(self._best_of(offers)) :]
        for trials_left in range(self._most_trials, 0, -1):
            tried.append(self._try(left[0]))
            missing_db = left[0].sqnr_db - tried[-1].sqnr_db
            left = left[1:]
            if tried[-1].sqnr_db >= goal_db or not left:
                break
            is_enough = [c.sqnr_db >= goal_db + missing_db for c in left]
            last = trials_left == 2 or not any(is_enough)
            left = left[-1 if last else is_enough.index(True) :]
        closer = [c for c in left if c.time <= ROUGH_SLACK * tried[-1].time]
        if closer and not self._is_large and tried[-1].sqnr_db < goal_db + PLENTY_DB:
            tried.append(self._try(closer[-1]))  # noise is estimated more roughly still
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
            found.append(self._try(offer))
        return found

    def _spread(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """The plan that looks best, and a spread of all."""
        if not offers:
            return []
        start = offers.index(self._best_of(offers))
        others = np.linspace(0, len(offers) - 1, self._most_trials).round().astype(int).tolist()
        return [offers[i] for i in dict.fromkeys([start, *others])]

    @property
    def _most_trials(self) -> int:
        trials = TRIALS * 2 if self._measures else TRIALS
        return trials // 2 if self._is_large else trials
