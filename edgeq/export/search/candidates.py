"""`Candidate`: a plan on offer, and which of several is the best. Knows no graph and no file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from edgeq.export.plan.choices import Choices
from edgeq.recipe import Mode
from edgeq.report import NOT_SLOWER, SIZE_WORTH

SLACK = 1.03
"""More fidelity is taken for at most this much of the cost of the cheapest good plan, measured."""

ROUGH_SLACK = 1.12
"""The same where times are estimates. These are that rough: of 76 pairs of plans of nine networks
the measured ratio is off from the estimated one by 6 % at the median, 20 % for one in ten; plans
that are estimated within 12 % of each other differ by 10 %, as often one way as the other. Beyond
15 % the one that is estimated to be slower is so by 40 %.
"""

NO_GAIN = 0.95
"""A plan that is estimated to take more of float's time than this counts as one that takes all of
it: as often as not it does."""

DB_WORTH = 0.015
"""A dB beyond the goal is worth so much of a plan's cost: what is left on samples that the search
has not seen is some dB less."""

EQUAL = 1.005
"""Costs that differ by no more are the same: the more faithful plan is taken, however faithful."""

PLENTY_DB = 20.0
"""Fidelity beyond the goal that is worth nothing any more."""

NOISE_DOUBT = 2.0
"""Noise is estimated to within 3 dB of what it is together."""

Kernels: TypeAlias = frozenset[tuple[int, Mode]]
"""Mode of each op that does not stay float."""


@dataclass(frozen=True)
class Candidate:
    """A plan on offer.

    Attributes:
        choices: What becomes of each op.
        time: Time over the float model's: estimated, or measured if it was tried so.
        size: Bytes of weights over the float model's.
        sqnr_db: SQNR of the outputs: estimated, or measured if it was tried.
        price: The price of noise that it is the best plan at, if it was found by one.
        estimate: Time over the float model's as estimated, however it was tried.
        static_noise: Noise over signal of what is rounded in static int8, as estimated; None where
            that was not measured.
        is_finished: Whether channels are scaled and weights rounded twice for it.
    """

    choices: Choices
    time: float
    size: float
    sqnr_db: float
    price: float = math.nan
    estimate: float | None = None
    static_noise: float | None = None
    is_finished: bool = False

    @property
    def cost(self) -> float:
        """Time and size in one number."""
        return self.time + SIZE_WORTH * self.size

    @property
    def most_gained_db(self) -> float:
        """The most that it may win if only static int8 becomes better; of a plan that was tried."""
        if self.static_noise is None:
            return math.inf
        noise = 10 ** (-self.sqnr_db / 10)
        left = noise - NOISE_DOUBT * self.static_noise
        return 10 * math.log10(noise / left) if left > 0 else math.inf

    @property
    def is_float(self) -> bool:
        """Whether it leaves every op and weight as it was."""
        return all(choice.mode is Mode.FLOAT for choice in self.choices.values())

    @property
    def is_refused(self) -> bool:
        """Whether it was tried and there is no file of it that works."""
        return math.isnan(self.sqnr_db)

    @property
    def refused(self) -> Candidate:
        """The plan as one that was tried and has no file that works."""
        return replace(self, sqnr_db=math.nan)


def kernels_of(choices: Choices) -> Kernels:
    """The part of a plan that decides its speed: stored weights become float before it runs."""
    modes = ((index, choice.mode) for index, choice in choices.items())
    return frozenset((index, mode) for index, mode in modes if mode.is_static or mode.is_dynamic)


def pareto_front(offers: Iterable[Candidate]) -> list[Candidate]:
    """Offers that no other beats in both cost and SQNR, the cheapest first."""
    found: list[Candidate] = []
    for offer in sorted(offers, key=lambda c: (c.cost, -c.sqnr_db)):
        if not found or offer.sqnr_db > found[-1].sqnr_db + 0.01:
            found.append(offer)
    return found


def near_best(offers: Sequence[Candidate], goal_db: float, slack: float) -> list[Candidate]:
    """The plans that reach the goal and cost little more than the cheapest, that one first.

    Sizes are known, so that the slack is in the time: for size alone there is `SLACK`.
    """
    good = sorted((c for c in offers if c.sqnr_db >= goal_db), key=lambda c: c.cost)
    return [
        c
        for c in good
        if c.time <= slack * good[0].time
        and SIZE_WORTH * (c.size - good[0].size) <= (SLACK - 1) * good[0].cost
    ]


def best_of(offers: Sequence[Candidate], goal_db: float, slack: float) -> Candidate:
    """Of those that reach the goal and cost little more than the cheapest, the best for its cost.

    Or else the most faithful that is not slower.

    Args:
        offers: At least one.
        goal_db: SQNR in dB that is wanted.
        slack: `SLACK` or `ROUGH_SLACK`.
    """
    not_slower = [c for c in offers if c.time <= NOT_SLOWER] or offers
    near = near_best(not_slower, goal_db, slack)
    if near:
        is_rough = slack > SLACK
        least = min(_worth_cost(c, goal_db, is_rough) for c in near)
        equal = [c for c in near if _worth_cost(c, goal_db, is_rough) <= EQUAL * least]
        return max(equal, key=lambda c: (c.sqnr_db, -c.cost))
    return max(not_slower, key=lambda c: (c.sqnr_db, -c.cost))


def winnable(best: Candidate, least_cost: float, goal_db: float) -> float:
    """The most of a tried plan's cost, less what its fidelity is worth, that another may win.

    Args:
        best: The best plan so far.
        least_cost: What no plan costs less than.
        goal_db: SQNR in dB that is wanted.

    Returns:
        A share from 0 to 1; 1 where the plan misses the goal or is slower than float.
    """
    if not (best.sqnr_db >= goal_db and best.time <= NOT_SLOWER):
        return 1.0
    least = least_cost * (1 - DB_WORTH * PLENTY_DB)
    return max(0.0, 1 - least / _worth_cost(best, goal_db, is_rough=True))


def _worth_cost(candidate: Candidate, goal_db: float, is_rough: bool) -> float:
    """Its cost less what its fidelity beyond the goal is worth."""
    cost = candidate.cost
    if is_rough and NO_GAIN < candidate.time < 1.0:
        cost += 1.0 - candidate.time
    return cost * (1 - DB_WORTH * min(candidate.sqnr_db - goal_db, PLENTY_DB))
