"""`search`: the fastest and smallest plan that keeps a metric, by trying and measuring."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from edgeq.argument_types import DataLike, FilePath, ImageLayoutName, ModelLike, PortLike
from edgeq.compare.compare_models import compare
from edgeq.data.input_spec import input_specs
from edgeq.data.labels import Labels
from edgeq.data.rep_dataset import RepDataset
from edgeq.data.sequences import read_data, repeatable
from edgeq.errors import (
    ConversionError,
    RecipeError,
    UnsupportedOpError,
    VerificationError,
)
from edgeq.export.edge_model import EdgeModel
from edgeq.export.export_options import ExportOptions
from edgeq.export.offers import offers
from edgeq.export.pipeline import export
from edgeq.export.portspec import PortSpec
from edgeq.fidelity.metrics import LOWER_IS_BETTER, Metric, checked, is_agreement
from edgeq.goal.trial_folder import TrialFolder, digest_of
from edgeq.goal.variants import changed_recipes, first_recipes
from edgeq.model import LiteModel
from edgeq.recipe import Recipe
from edgeq.report.search_result import Goal, SearchReport, Trial
from edgeq.terminal.progress import Progress

FAILURES = (ConversionError, UnsupportedOpError, VerificationError)
"""What makes a recipe a failed trial; anything else is the caller's to know at once."""


@dataclass(frozen=True)
class SearchResult:
    """What `search` found.

    Attributes:
        edge_model: The best plan's model.
        recipe: Its recipe, which gives the same file again: `export(..., recipe=recipe)`.
        report: Every trial, and what came of the search in one sentence.
    """

    edge_model: EdgeModel
    recipe: Recipe
    report: SearchReport

    def __repr__(self) -> str:
        return f"SearchResult({self.report.sentence})"


def search(
    model: ModelLike,
    rep_data: DataLike,
    *,
    eval_data: DataLike,
    metric: str | Metric = "accuracy",
    labels: object = None,
    output: str | None = None,
    max_drop: float = 0.01,
    max_latency_ratio: float | None = None,
    max_size: int | None = None,
    max_minutes: float = 10.0,
    folder: FilePath | None = None,
    params: object = None,
    sample: object = None,
    target: str = "xnnpack",
    inputs: PortLike | PortSpec | None = None,
    outputs: PortLike | PortSpec | None = None,
    layout: ImageLayoutName | None = None,
    min_runtime: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> SearchResult:
    """Searches for the fastest and smallest plan that keeps a metric.

    Modes throughout, cuts between them, and the best of these with other observers, unscaled
    channels and other rounding are exported, and judged by the metric on `eval_data` and by their
    time on this machine. Ctrl-C ends the search with the best so far.

    Args:
        model: As for `export`.
        rep_data: As `rep_dataset` of `export`; held in memory.
        eval_data: As `data` of `compare`, which is run for every trial: data that `rep_data` does
            not hold.
        metric: As a metric of `compare`; higher is better, but for `"mae"` and `"mse"`.
        labels: As for `compare`; None takes items of `eval_data` as `(inputs, label)`.
        output: As for `compare`.
        max_drop: How much worse than the float model's the metric may be, in its own unit.
        max_latency_ratio: Longest time over the float model's, measured here; None takes any plan
            that is not slower.
        max_size: Largest file in bytes; None takes any.
        max_minutes: By when the last trial and the export of the best end, those in `folder`
            counted in, once one has worked; what comes before the trials is not counted.
        folder: Where finished trials are kept: a search of the same model and data goes on from
            there. None keeps nothing.
        params: As for `export`.
        sample: As for `export`.
        target: As for `export`.
        inputs: As for `export`.
        outputs: As for `export`.
        layout: As for `export`.
        min_runtime: As for `export`.
        threads: As for `export`.
        progress: Whether to show the trials and the best so far on standard error; None shows them
            on a terminal.

    Returns:
        The best plan's model and recipe, and the report of all trials. Where none reaches the goal,
        it is the one that comes nearest, and `report.reached` is False.

    Raises:
        RecipeError: `max_drop` or another limit is no number that it can be.
        DataError: `eval_data`, `labels` or `metric` do not fit, or `folder` holds other trials.
        EdgeqError: As for `export`, where no recipe can be exported.
    """
    _check_limits(max_drop, max_latency_ratio, max_size, max_minutes)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    metrics = checked({name: metric})
    goal = Goal(name, max_drop, max_latency_ratio, max_size)
    settings: dict[str, Any] = {
        "target": target, "inputs": inputs, "outputs": outputs, "min_runtime": min_runtime,
        "threads": threads,
    }  # fmt: skip
    source: dict[str, Any] = {"params": params, "sample": sample, "layout": layout}
    kept, judged = repeatable(rep_data), repeatable(eval_data)
    where = None if is_agreement(metric) else Labels(labels)
    stages = Progress.make(progress)
    options = ExportOptions.read(**source, **settings)
    found = offers(model, kept, options, stages)
    named = {**settings, "metric": name, "output": output}
    header = _header(found.float_model, kept, read_data(judged, where), named)
    plain = layout is None and found.float_model.nhwc == ()
    tried: object = found.float_model if plain else model
    trials = _Trials(
        model=tried,
        rep_data=kept,
        eval_data=judged,
        comparing={
            "metrics": metrics, "labels": labels, "output": output, "threads": threads,
        },
        exporting=settings if plain else {**settings, **source},
        goal=goal,
        max_seconds=60 * max_minutes,
        folder=TrialFolder(folder, header),
        stages=stages,
    )  # fmt: skip
    report = trials.run(first_recipes(found.recipes, options.target.mixes_float))
    recipe = Recipe.from_json(report.best.recipe)
    best = export(model, kept, recipe=recipe, progress=progress, **source, **settings)
    return SearchResult(cast(EdgeModel, best), recipe, report)


@dataclass
class _Trials:
    """Exports recipes and measures them, one after the other.

    Attributes:
        model: What is exported: the traced model, where that is the same.
        rep_data: Representative data, to be read many times.
        eval_data: Data to compute the metric on, likewise.
        comparing: Options of `compare`.
        exporting: Options of `export`.
        goal: What is looked for.
        max_seconds: What all trials and the export of the best may take.
        folder: Where finished ones are kept.
        stages: Where they show.
        done: Finished trials, in order.
    """

    model: object
    rep_data: object
    eval_data: object
    comparing: Mapping[str, Any]
    exporting: Mapping[str, Any]
    goal: Goal
    max_seconds: float
    folder: TrialFolder
    stages: Progress
    done: list[Trial] = field(default_factory=list)

    def run(self, recipes: Sequence[Recipe]) -> SearchReport:
        """Tries these recipes, and changes of the best of them.

        Raises:
            EdgeqError: None of them works.
        """
        stopped = ""
        try:
            with self.stages.stage("trials") as advance:
                for recipe in self._all(recipes):
                    if self._works and self._ends_late:
                        stopped = f"the time was up before {recipe.name} and what comes after it"
                        break
                    self._try(recipe)
                    advance()
        except KeyboardInterrupt:
            if not self._works:
                raise
            stopped = "the search was interrupted"
        if not self._works:
            raise VerificationError(
                f"no recipe gives a model that can be measured: {self.done[0].error}"
            )
        return SearchReport(self.goal, tuple(self.done), stopped)

    @property
    def _works(self) -> bool:
        """Whether there is a model yet."""
        return any(not trial.error for trial in self.done)

    @property
    def _ends_late(self) -> bool:
        """Whether another trial and the export of the best may take longer than there is time.

        Either is taken to last as long as the longest trial: by what is kept of trials alone, so
        that a search that goes on ends where it would have ended.
        """
        taken = [trial.seconds for trial in self.done]
        return sum(taken) + 2 * max(taken) > self.max_seconds

    def _all(self, recipes: Sequence[Recipe]) -> Iterator[Recipe]:
        yield from recipes
        yield from changed_recipes(self.done, self.goal)

    def _try(self, recipe: Recipe) -> None:
        known = self.folder.find(recipe)
        trial = known or self._measured(recipe)
        if known is None:
            self.folder.keep(recipe, trial)
        self.done.append(trial)
        if self.stages.visible:
            self._tell(trial)

    def _measured(self, recipe: Recipe) -> Trial:
        start = time.perf_counter()
        try:
            made = cast(
                EdgeModel,
                export(
                    cast(ModelLike, self.model), cast(DataLike, self.rep_data), recipe=recipe,
                    progress=False, **self.exporting,
                ),
            )  # fmt: skip
            found = compare(
                made, made, cast(DataLike, self.eval_data), progress=False, **self.comparing
            )
            change = found.metrics[self.goal.metric]
            if math.isnan(change.difference):
                raise VerificationError(f"{self.goal.metric} is no number")
        except FAILURES as error:
            seconds = time.perf_counter() - start
            return Trial(recipe.name, recipe.to_json(), error=str(error), seconds=seconds)
        report = made.report
        metric = self.comparing["metrics"][self.goal.metric]
        lost = change.difference, change.low, change.high
        if metric not in LOWER_IS_BETTER:  # 0.0 has a sign
            lost = 0.0 - change.difference, 0.0 - change.high, 0.0 - change.low
        return Trial(
            recipe.name, recipe.to_json(),
            value=change.edge_value,
            float_value=change.float_value,
            drop=lost[0],
            drop_low=lost[1],
            drop_high=lost[2],
            latency_ratio=report.latency_ratio,
            size_bytes=report.edge_bytes,
            size_ratio=report.size_ratio,
            sqnr_db=report.sqnr_db if report.sqnr_db < float("inf") else None,
            seconds=time.perf_counter() - start,
        )  # fmt: skip

    def _tell(self, trial: Trial) -> None:
        """Writes a line about a trial and the best so far, above the bar."""
        shown = "failed" if trial.error else f"{trial.drop:+.4f} at {trial.latency_ratio:.2f}"
        line = f"trial {len(self.done)}: {trial.name}: {shown}"
        if self._works:
            line += f"; best so far: {SearchReport(self.goal, tuple(self.done)).best.name}"
        print(line, file=sys.stderr)


def _header(
    model: LiteModel, rep_data: object, evaluation: RepDataset, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What trials are of: those of another model, data or metric are of no use.

    Raises:
        DataError: The data do not fit the model.
    """
    inputs = input_specs(model)
    wanted = {name: repr(value) for name, value in settings.items() if name != "threads"}
    return {
        "model": model.digest,
        "rep_data": digest_of(read_data(rep_data).of(model).samples(inputs)),
        "eval_data": digest_of(evaluation.of(model).samples(inputs)),
        **wanted,
    }


def _check_limits(
    max_drop: object, max_latency_ratio: object, max_size: object, max_minutes: object
) -> None:
    """Raises a `RecipeError` for a limit that is none."""
    limits = {"max_drop": max_drop, "max_minutes": max_minutes}
    optional = {"max_latency_ratio": max_latency_ratio, "max_size": max_size}
    limits.update({name: value for name, value in optional.items() if value is not None})
    for name, value in limits.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= cast(float, value) < float("inf"):
            raise RecipeError(f"{name} must be a number from 0 on. Received: {value!r:.80}")
