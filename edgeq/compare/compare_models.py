"""`compare` and `evaluate`: models of any kind, data of any form, in one process or on a cluster.

Knows how models are loaded and data are read; what is done with a sample is
the `PairedRun`'s, which runs here and on other machines alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.argument_types import DataLike, Engine, FilePath, ModelLike
from edgeq.compare.load_models import load, worker_for
from edgeq.converter import check_runs
from edgeq.data import cluster
from edgeq.data.labels import Labels
from edgeq.data.rep_dataset import Sample, joined
from edgeq.data.rows import Rows
from edgeq.data.sequences import read_data
from edgeq.errors import DataError
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity import metrics as measures
from edgeq.fidelity.metrics import Metric
from edgeq.fidelity.paired_run import PairedRun, Tally
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.report.comparison import Comparison, MetricChange
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.runtime.backend import load_backend
from edgeq.terminal.progress import Progress

Metrics = Mapping[str, str | Metric]


def compare(
    float_model: ModelLike | LiteModel | EdgeModel,
    edge_model: FilePath | bytes | LiteModel | EdgeModel,
    data: DataLike,
    *,
    metrics: Metrics | None = None,
    labels: object = None,
    output: str | None = None,
    engine: Engine = "local",
    threads: int | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Runs two models on the same data and measures how far they are apart.

    Every sample is run by both, one at a time, and the sums over samples are exact: the result is
    the same on any number of threads and machines.

    Args:
        float_model: What to compare with: the path or bytes of a .tflite, a `LiteModel`, an
            `EdgeModel` (its float model is taken), a `torch.nn.Module` or an `ExportedProgram`.
        edge_model: What to compare: an `EdgeModel`, or the path or bytes of a .tflite. Where it
            takes or gives integers with a scale, they are converted from and to real numbers.
        data: As `rep_dataset` of `export`; every sample is used.
        metrics: What to compute from outputs and labels, by the names to report it by. Built in are
            `"accuracy"` (the class with the highest score is the right one), `"top5"` (the right
            class is among the five highest), `"mae"` and `"mse"` (mean absolute and squared error),
            and for embeddings `"retrieval"`, which needs no labels: the share of rows whose nearest
            other row, by the cosine, is the float model's. Your own is a function
            `(outputs, targets) -> float` of all rows at once, `(rows, ...)` each; for it all rows
            of the output of both models and all labels are held in memory (as for `"retrieval"`),
            and it is called on 1,000 resampled sets of rows for the interval. The other built-in
            ones hold one number for each row. None is the accuracy if there are `labels`, and
            nothing otherwise.
        labels: An array or list with the label of each item of `data` (of a batch: the labels of
            its rows), or the name of the column that holds them in items that are dicts. With
            `metrics` and no `labels`, items are `(inputs, label)`.
        output: Name of the output that metrics look at; None is the only one.
        engine: `"local"`, or `"ray"` to share the work among the machines of a Ray cluster; `data`
            is then an array, a dict of arrays, a `ray.data.Dataset`, or has `__len__` and
            `__getitem__`.
        threads: Samples that run side by side; None takes what this process may use. With Ray, of
            each task, where None is one.
        progress: As for `export`.

    Returns:
        The distance of each output, and of each metric both values and their difference.

    Raises:
        ModelError: A model cannot be read or traced, or the two do not take and give the same.
        DataError: The data, labels or metrics do not fit the models, or an output of the float
            model is not finite.
        RecipeError: The engine is unknown.
        VerificationError: An output of the edge model is not finite.
        DependencyError: A package that this kind of model or the engine needs is missing.
    """
    return compared(
        float_model, edge_model, data, metrics, labels, output, engine, threads, progress
    )[0]


def compared(
    float_model: ModelLike | LiteModel | EdgeModel,
    edge_model: FilePath | bytes | LiteModel | EdgeModel,
    data: DataLike,
    metrics: Metrics | None,
    labels: object,
    output: str | None,
    engine: Engine,
    threads: int | None,
    progress: bool | None,
) -> tuple[Comparison, PairedRun]:
    """`compare`, with the paired run, which holds both models as they were loaded."""
    stages = Progress.make(progress)
    asked = _asked(metrics, labels)
    reference = float_model.float_model if isinstance(float_model, EdgeModel) else float_model
    models = {"the float model": reference, "the edge model": edge_model}
    pair, tally = _judged(models, data, asked, labels, output, engine, threads, stages)
    changes = {}
    with stages.stage("resample", len(asked)) as advance:
        for name, metric in asked.items():
            changes[name] = _change(name, metric, tally)
            advance()
    seen = (tally.outputs, tally.parts, tally.spreads, tally.drifts)
    outputs = map(OutputFidelity.of, pair.output_names, *seen)
    found = Comparison(
        samples=tally.samples,
        outputs=tuple(outputs),
        metrics=changes,
        runtime=load_backend().describe(),
        worst_samples=tuple(tally.worst),
    )
    return found, pair


def evaluate(
    model: ModelLike | LiteModel | EdgeModel,
    data: DataLike,
    labels: object = None,
    *,
    metrics: Metrics | None = None,
    output: str | None = None,
    engine: Engine = "local",
    threads: int | None = None,
    progress: bool | None = None,
) -> dict[str, float]:
    """Runs a model on labelled data and computes metrics.

    Args:
        model: As `float_model` or `edge_model` of `compare`; of an `EdgeModel`, the exported file.
        data: As for `compare`.
        labels: As for `compare`; None takes items as `(inputs, label)`.
        metrics: As for `compare`, but your own is called once; None is the accuracy.
        output: As for `compare`.
        engine: As for `compare`.
        threads: As for `compare`.
        progress: As for `export`.

    Returns:
        The value of each metric, by name.

    Raises:
        EdgeqError: As for `compare`.
    """
    asked = _asked({"accuracy": "accuracy"} if metrics is None else metrics, labels)
    lacking = [name for name, metric in asked.items() if measures.is_agreement(metric)]
    if lacking:
        raise DataError(f"metric {lacking[0]!r} compares two models: pass both to compare")
    models, stages = {"the model": model}, Progress.make(progress)
    _, tally = _judged(models, data, asked, labels, output, engine, threads, stages)
    return {name: _Collected(name, metric, tally).value(0) for name, metric in asked.items()}


def _asked(metrics: Metrics | None, labels: object) -> dict[str, str | Metric]:
    if metrics is None:
        return {} if labels is None else {"accuracy": "accuracy"}
    return measures.checked(metrics)


def _judged(
    models: Mapping[str, object],
    data: DataLike,
    asked: Mapping[str, str | Metric],
    labels: object,
    output: str | None,
    engine: Engine,
    threads: int | None,
    stages: Progress,
) -> tuple[PairedRun, Tally]:
    """Runs the models on all samples; returns the paired run and its results."""
    labelled = not all(map(measures.is_agreement, asked.values()))
    where = Labels(labels) if labelled else None
    source = cluster.source(data, engine, where)
    rows = source if isinstance(source, Rows) else None
    dataset = read_data(source, None if rows else where)
    with worker_for(models.values()) as worker:
        with stages.stage("load"):
            loaded = tuple(load(what, m, dataset, worker) for what, m in models.items())
            kept = {name: measures.by_row(metric) for name, metric in asked.items()}
            pair = PairedRun(loaded, kept, _output_place(loaded[0], output, asked), threads)
            specs, dataset = pair.inputs, dataset.of(loaded[0])
        with stages.stage("compare" if len(models) > 1 else "evaluate", dataset.length) as advance:
            if rows is not None:
                _try(pair, next(dataset.samples(specs)), models, worker)
                parts = cluster.map_shards(
                    replace(pair, threads=threads or 1), rows, specs, threads, advance
                )
                return pair, pair.total(parts)
            samples = dataset.samples(specs, advance)
            first = next(samples)
            _try(pair, first, models, worker)
            return pair, pair(itertools.chain((first,), samples))


def _output_place(model: LiteModel, output: str | None, asked: Mapping[str, object]) -> int:
    """The place of the output that metrics look at; 0 where there are none."""
    names = [name for name, _ in model.output_tensors()]
    if output is None and (len(names) == 1 or not asked):
        return 0
    if output not in names:
        found = "is not one of them" if output is not None else "is not said"
        raise DataError(
            f"the model has the outputs {', '.join(names)}, and which of them metrics look at "
            f"{found}: pass output=. Received: {output!r}"
        )
    return names.index(output)


def _try(pair: PairedRun, sample: Sample, models: Iterable[str], worker: Worker) -> None:
    """Runs the first sample in the child: a model may kill its process."""
    for what, model, link in zip(models, pair.models, pair.links, strict=True):
        check_runs(worker, model.tflite, tuple(link.stored(sample)), what)


class _Collected:
    """Rows of all samples that a metric needs, for each model.

    Args:
        name: The metric's name.
        metric: The metric.
        tally: What the samples have shown.

    Attributes:
        count: Number of rows.
    """

    def __init__(self, name: str, metric: str | Metric, tally: Tally) -> None:
        self._name = name
        self._metric = metric
        what = f"the outputs that metric {name!r} is computed from"
        rows = [joined(kept[name], what) for kept in tally.kept]
        if isinstance(metric, str) and measures.is_agreement(metric):
            rows = [np.ones(len(rows[0])), measures.AGREEMENTS[metric](*rows)]
        self._rows = rows
        own = not isinstance(metric, str)
        self._targets = joined(tally.targets, "the labels") if own else None
        self.count = len(self._rows[0])

    def value(self, model: int, rows: npt.NDArray[np.intp] | None = None) -> float:
        """The metric of a model on the rows of the given indices; None is all."""
        chosen: Any = slice(None) if rows is None else rows
        targets = None if self._targets is None else self._targets[chosen]
        return measures.value(self._name, self._metric, self._rows[model][chosen], targets)


def _change(name: str, metric: str | Metric, tally: Tally) -> MetricChange:
    collected = _Collected(name, metric, tally)
    before, after = collected.value(0), collected.value(1)
    low, high = measures.interval(
        lambda rows: collected.value(1, rows) - collected.value(0, rows), collected.count
    )
    return MetricChange(before, after, after - before, low, high)
