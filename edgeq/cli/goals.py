"""Options of `edgeq export` that look for a plan by a metric, and the search that they start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.inputs import load_metrics
from edgeq.data.readers import open_data
from edgeq.errors import RecipeError
from edgeq.fidelity.metrics import BUILT_IN

if TYPE_CHECKING:
    from edgeq.goal.metric_search import SearchResult

EvalData = Annotated[
    str | None,
    typer.Option(
        help="Search for the fastest plan that keeps --metric on these data, in the forms of "
        "--data. Its recipe is written beside --output."
    ),
]

GoalMetric = Annotated[
    str,
    typer.Option(
        help=f"With --eval-data: one of {', '.join(BUILT_IN)}, or module:function of (outputs, "
        "targets)."
    ),
]

MaxDrop = Annotated[
    float, typer.Option(help="With --eval-data: how far the metric may drop at most.")
]

MaxLatencyRatio = Annotated[
    float | None,
    typer.Option(help="With --eval-data: longest time over the float model's, on this machine."),
]

MaxSize = Annotated[
    float | None, typer.Option(help="With --eval-data: largest size in kB of 1,000 bytes.")
]

MaxMinutes = Annotated[
    float, typer.Option(help="With --eval-data: minutes that the trials take at most.")
]

TrialsFolder = Annotated[
    Path | None,
    typer.Option(help="With --eval-data: keep finished trials here, and go on from there."),
]


@dataclass(frozen=True)
class Goal:
    """What a search is told on the command line."""

    labels: Path | None
    metric: str
    max_drop: float
    max_latency_ratio: float | None
    max_size_kb: float | None
    max_minutes: float
    trials: Path | None

    def search(
        self, model: Any, samples: Any, evaluation: Any, settings: Mapping[str, Any]
    ) -> SearchResult:
        """Runs it, judged by evaluation data."""
        from edgeq.goal.metric_search import search

        (metric,) = (load_metrics([self.metric]) or {}).values()
        return search(
            model, samples,
            eval_data=evaluation,
            metric=metric,
            labels=None if self.labels is None else open_data(self.labels),
            max_drop=self.max_drop,
            max_latency_ratio=self.max_latency_ratio,
            max_size=None if self.max_size_kb is None else round(1000 * self.max_size_kb),
            max_minutes=self.max_minutes,
            folder=self.trials,
            **settings,
        )  # fmt: skip


def check_free(recipe: str, measure: bool, others: Mapping[str, object]) -> None:
    """Raises a `RecipeError` for options that say what a search is to find out."""
    given = [name for name, value in others.items() if value is not None]
    given += ["--recipe"] * (recipe != "auto") + ["--measure"] * measure
    if given:
        raise RecipeError(
            f"--eval-data searches for the recipe by itself: leave out {', '.join(given)}"
        )
