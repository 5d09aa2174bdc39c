"""The result of a search for a goal: every trial, the best of them, and what cannot be had.

Plain values, with a text form for the terminal and JSON for programs. Knows nothing of how trials
are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.errors import DataError
from edgeq.fidelity.metrics import SAME
from edgeq.foreign.documents import parse_json
from edgeq.foreign.shown import escape, lines
from edgeq.report import NOT_SLOWER, SIZE_WORTH
from edgeq.terminal.printed import Result, strict


@dataclass(frozen=True)
class Trial:
    """A recipe that was exported and measured.

    Attributes:
        name: Of the recipe.
        recipe: The recipe as JSON.
        value: The metric of the exported model; None where the export failed.
        float_value: The float model's.
        drop: How much worse the metric is; below 0 where it is better.
        drop_low: Lower end of the 95 % interval of the drop.
        drop_high: Upper end.
        latency_ratio: Measured time over the float model's.
        size_bytes: Size of the file.
        size_ratio: Size over the float model's.
        sqnr_db: SQNR in dB of the worst part of the worst output, on held-out samples; None where
            nothing differs.
        seconds: How long the trial took.
        error: Why there is no model; empty where there is one.
    """

    name: str
    recipe: str
    value: float | None = None
    float_value: float | None = None
    drop: float = 0.0
    drop_low: float = 0.0
    drop_high: float = 0.0
    latency_ratio: float = 1.0
    size_bytes: int = 0
    size_ratio: float = 1.0
    sqnr_db: float | None = None
    seconds: float = 0.0
    error: str = ""

    @property
    def cost(self) -> float:
        """Time and size in one number."""
        return self.latency_ratio + SIZE_WORTH * self.size_ratio

    def beats(self, other: Trial) -> bool:
        """Whether it is nowhere worse than another trial, and better somewhere."""
        own, others = self._ends(), other._ends()
        return own != others and all(a <= b for a, b in zip(own, others, strict=True))

    def _ends(self) -> tuple[float, ...]:
        return self.drop, self.latency_ratio, float(self.size_bytes)

    def to_json(self) -> str:
        """JSON text that `from_json` reads back."""
        return json.dumps(strict(asdict(self)), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """Reads what `to_json` wrote.

        Raises:
            DataError: Something else.
        """
        try:
            found = dict(parse_json(text))
            names = {field.name for field in fields(cls)}
            if set(found) != names:
                raise ValueError(f"its fields are {', '.join(sorted(map(str, found)))}")
            return cls(**found)
        except (TypeError, ValueError) as error:
            raise DataError(f"it is no trial of a search: {error}") from None


@dataclass(frozen=True)
class Goal:
    """What a search looks for.

    Attributes:
        metric: Name of the metric.
        max_drop: How much worse it may be than the float model's.
        max_latency_ratio: Longest time over the float model's; None takes any that is not slower.
        max_size: Largest file in bytes; None takes any.
    """

    metric: str
    max_drop: float
    max_latency_ratio: float | None = None
    max_size: int | None = None

    def is_reached(self, trial: Trial) -> bool:
        """Whether a trial has what is looked for."""
        return not trial.error and trial.drop <= self.max_drop + SAME and self.is_affordable(trial)

    def is_affordable(self, trial: Trial) -> bool:
        """Whether a trial is as fast and small as is asked for."""
        fast = trial.latency_ratio <= (self.max_latency_ratio or NOT_SLOWER)
        return fast and (self.max_size is None or trial.size_bytes <= self.max_size)

    @property
    def words(self) -> str:
        """The goal as part of a sentence."""
        found = [f"loses at most {self.max_drop:g} of {self.metric}"]
        if self.max_latency_ratio is None:
            found.append("is not slower than float")
        else:
            found.append(f"takes at most {self.max_latency_ratio:g} of float's time")
        if self.max_size is not None:
            found.append(f"has at most {self.max_size:,} bytes")
        return ", ".join(found[:-1]) + f" and {found[-1]}"


@dataclass(frozen=True)
class SearchReport(Result):
    """All trials of a search.

    Attributes:
        goal: What was looked for.
        trials: In the order in which they were made.
        stopped: Why not all that was planned was tried; empty where it was.
    """

    goal: Goal
    trials: tuple[Trial, ...]
    stopped: str = ""

    @property
    def working(self) -> list[Trial]:
        """The trials that there is a model of."""
        return [trial for trial in self.trials if not trial.error]

    @property
    def reached(self) -> bool:
        """Whether a trial has what was looked for."""
        return any(map(self.goal.is_reached, self.trials))

    @property
    def best(self) -> Trial:
        """The cheapest trial that reaches the goal, or else the one that comes nearest."""
        good = [trial for trial in self.trials if self.goal.is_reached(trial)]
        if good:
            return min(good, key=lambda trial: (trial.cost, trial.drop))
        affordable = [trial for trial in self.working if self.goal.is_affordable(trial)]
        return min(affordable or self.working, key=lambda trial: (trial.drop, trial.cost))

    @property
    def front(self) -> list[Trial]:
        """Trials that no other beats in drop, time and size, the fastest first."""
        rest = self.working
        found = [t for t in rest if not any(other.beats(t) for other in rest)]
        return sorted(found, key=lambda trial: (trial.latency_ratio, trial.drop))

    @property
    def sentence(self) -> str:
        """What came of the search."""
        best, goal = self.best, self.goal
        shown = (
            f"{best.name} has {goal.metric} {best.value:.4f} where float has "
            f"{best.float_value:.4f} ({_changed(best.drop)}), at {best.latency_ratio:.2f} of "
            f"its time here and {best.size_ratio:.2f} of its size"
        )
        count = f"{len(self.trials)} plan{'s' if len(self.trials) != 1 else ''} tried"
        if self.reached:
            return f"{shown}; {count}"
        return f"no plan {goal.words}; the nearest of {count}: {shown}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; what is not a finite number is None."""
        extra = {"best": self.best.name, "reached": self.reached, "sentence": self.sentence}
        found: dict[str, Any] = strict({**asdict(self), **extra})
        return {**found, "front": [trial.name for trial in self.front]}

    def _write(self, console: Console) -> None:
        style = "bold" if self.reached else "bold yellow"
        console.print(lines(self.sentence), style=style, highlight=False, markup=False)
        console.print(self._table())
        if self.stopped:
            console.print(lines(f"note: {self.stopped}"), highlight=False, markup=False)

    def _table(self) -> Table:
        table = Table(title="plans that no other beats", title_style="bold")
        table.add_column("plan", overflow="fold")
        for heading in (self.goal.metric, "worse by", "95 % interval", "time", "size", "SQNR"):
            table.add_column(heading, justify="right")
        for name, *cells in rows_of_trials(self.front):
            chosen = name == self.best.name
            table.add_row(escape(name), *cells, style="bold" if chosen else "")
        failed = len(self.trials) - len(self.working)
        table.caption = f"{len(self.trials)} tried" + (f", {failed} failed" if failed else "")
        return table


def _changed(drop: float) -> str:
    """By how much a metric is worse, or better, in words."""
    return f"worse by {drop:.4f}" if drop >= 0 else f"better by {-drop:.4f}"


def rows_of_trials(trials: Sequence[Trial]) -> Iterator[tuple[str, ...]]:
    """The cells of a table: name, metric, drop, its interval, time, size, SQNR."""
    for trial in trials:
        yield (
            trial.name, f"{trial.value:.4f}", f"{trial.drop:+.4f}",
            f"{trial.drop_low:+.4f} to {trial.drop_high:+.4f}", f"{trial.latency_ratio:.2f}",
            f"{trial.size_ratio:.2f}", "" if trial.sqnr_db is None else f"{trial.sqnr_db:.1f} dB",
        )  # fmt: skip
