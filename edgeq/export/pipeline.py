"""The pipeline, on one page: no other file knows the order of the stages.

load, trace, rewrite, calibrate, advise, plan, annotate, convert, verify.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from edgeq.calibrate import distributed
from edgeq.calibrate.advice import MOST_SAMPLES, advise, spread_out
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.data import HeldOut, RepDataset, Sample
from edgeq.calibrate.run import Calibrator, Checkpoint, input_specs
from edgeq.errors import ModelError, RecipeError, VerificationError
from edgeq.export import frontends
from edgeq.export.convert import check_runs, convert, start_converter
from edgeq.export.edgemodel import EdgeModel
from edgeq.export.plan import make_plan, observers, refuse_quantized
from edgeq.export.rewrite import rewrite
from edgeq.export.verify import verify
from edgeq.isolation import Worker
from edgeq.model import FloatModel
from edgeq.progress import Progress
from edgeq.recipe import Recipe, as_recipe
from edgeq.report import Report

TARGETS = ("xnnpack",)
ENGINES = ("local", "ray")


def export(
    model: object,
    rep_dataset: object,
    *,
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    target: str = "xnnpack",
    calibration: Calibration | str | os.PathLike[str] | None = None,
    min_sqnr_db: float | None = 3.0,
    threads: int | None = None,
    progress: bool | None = None,
) -> EdgeModel:
    """Turns a float model into a verified int8 .tflite.

    Args:
        model: `torch.nn.Module`, `torch.export.ExportedProgram`, or the path or bytes of a float
            .tflite file. It is never changed.
        rep_dataset: Representative inputs, preprocessed as for the model: an array `(N, ...)`, a
            dict of such arrays by input name, an iterable or generator function of arrays, tuples
            or dicts, or a `DataLoader`. Read once, one item at a time. From ten samples on, every
            tenth (16 at most) is kept back to judge the result by.
        sample: Input to trace a PyTorch model with; by default the first representative sample.
        recipe: Preset name, `Recipe`, or path of a recipe's JSON.
        target: Where the model will run.
        calibration: A calibration of this model, or its file, to plan by; `rep_dataset` is then
            only for tracing and judging by.
        min_sqnr_db: Lowest SQNR in dB against the float model that an output may have; None
            accepts any.
        threads: Threads for calibration; None takes what this process may use.
        progress: Whether to draw progress bars on standard error; None draws on a terminal.

    Returns:
        The exported file with its report, plan and calibration.

    Raises:
        ModelError: The model cannot be read or traced.
        DataError: The data does not fit the model, or holds NaN or infinite values.
        RecipeError: The recipe does not fit the model, or the target is unknown.
        UnsupportedOpError: Ops that the recipe wants in int8 have no such form.
        ConversionError: The converter refused the model, or died on it.
        VerificationError: The exported file breaks a promise of its plan.
        DependencyError: A package that this kind of model needs is missing.
    """
    recipe, stages = as_recipe(recipe), Progress.make(progress)
    _check_target(target)
    with start_converter() as converter:
        data = RepDataset(rep_dataset)
        with stages.stage("trace"):
            float_model = frontends.trace(model, sample, data, converter)
            refuse_quantized(float_model)
            rewritten = rewrite(float_model)
        with stages.stage("calibrate", data.length) as advance:
            held = HeldOut(data.samples(input_specs(float_model), advance))
            independent = calibration is None
            if calibration is None:
                calibrator = Calibrator(rewritten, threads, observers(rewritten, recipe))
                calibration = _measure(calibrator, float_model, held, converter)
                del calibrator  # a copy of the model that nobody needs any more
            else:
                calibration = _given(calibration)
                held.exhaust()
        with stages.stage("advise"):
            advice = advise(rewritten, calibration, held.samples)
        with stages.stage("plan"):
            plan = make_plan(rewritten, calibration, recipe)
        with stages.stage("convert"):
            tflite = convert(converter, rewritten, plan)
            _check_result_runs(converter, tflite, held.samples[0])
        with stages.stage("verify"):
            measured = verify(float_model, rewritten, plan, tflite, held.samples, min_sqnr_db)
    report = Report(
        **vars(measured),
        recipe=recipe.name,
        target=target,
        calibrated_samples=calibration.samples,
        independent=independent and held.independent,
        notes=(*float_model.notes, *advice),
        seconds=dict(stages.seconds),
    )
    return EdgeModel(tflite, float_model, rewritten, plan, calibration, report)


def calibrate(
    model: object,
    rep_dataset: object,
    *,
    observer: object = "minmax",
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    start: Calibration | None = None,
    checkpoint: Checkpoint | None = None,
    on_advice: Callable[[tuple[str, ...]], None] | None = None,
    engine: str = "local",
    threads: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Measures the range of every tensor of a float model.

    Args:
        model: As for `export`.
        rep_dataset: As for `export`; every sample is used.
        observer: How ranges are found: `"minmax"`, `"percentile"`, `"mse"`, `"entropy"`,
            `"moving_average"`, or an observer (see `edgeq.calibrate.observers`).
        sample: As for `export`.
        recipe: Its rules may give layers observers of their own.
        start: What earlier samples have shown; the first `start.samples` samples are skipped, so
            that the result is that of one run over all of them.
        checkpoint: Called after each sample with a function that gives what was seen so far.
        on_advice: Called at the end with what looks suspicious of model and data, one sentence
            each, for which up to eight samples run once more.
        engine: `"local"`, or `"ray"` to share the work among the machines of a Ray cluster;
            `rep_dataset` is then an array, a dict of arrays, or has `__len__` and `__getitem__`.
        threads: As for `export`; with Ray, of each task, where None is one.
        progress: As for `export`.

    Returns:
        What was seen; it can be saved, merged with others, and given to `export`.

    Raises:
        EdgeqError: As for `export`.
    """
    recipe = replace(as_recipe(recipe), observer=observer)
    stages = Progress.make(progress)
    source = _source(rep_dataset, engine, start, checkpoint)
    with start_converter() as converter:
        data = RepDataset(source)
        with stages.stage("trace"):
            float_model = frontends.trace(model, sample, data, converter)
            refuse_quantized(float_model)
            rewritten = rewrite(float_model)
        with stages.stage("calibrate", data.length) as advance:
            samples = data.samples(input_specs(float_model), advance)
            watching = observers(rewritten, recipe)
            calibrator = Calibrator(rewritten, threads, watching)
            kept: list[Sample] = []
            if isinstance(source, distributed.Rows):
                kept = list(itertools.islice(data.samples(input_specs(float_model)), MOST_SAMPLES))
                _measure(calibrator, float_model, kept[:1], converter)
                found = distributed.calibrate(rewritten, source, watching, threads, advance)
            else:
                rest = itertools.islice(samples, start.samples if start else 0, None)
                stream = spread_out(rest, kept)
                found = _measure(calibrator, float_model, stream, converter, start, checkpoint)
        if on_advice is not None:
            with stages.stage("advise"):
                on_advice(advise(rewritten, found, kept))
    return found


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise RecipeError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}")


def _source(
    rep_dataset: object, engine: str, start: Calibration | None, checkpoint: Checkpoint | None
) -> object:
    """The data in the form that the engine reads; fails before any work is done."""
    if engine not in ENGINES:
        raise RecipeError(f"engine must be one of {', '.join(ENGINES)}. Received: {engine!r}")
    if engine == "local":
        return rep_dataset
    if start is not None or checkpoint is not None:
        raise RecipeError(
            "engine='ray' takes neither start nor checkpoint: calibrate the samples that are left "
            "and call start.merge(...) with the result"
        )
    distributed.check_installed()
    return distributed.Rows(rep_dataset)


def _measure(
    calibrator: Calibrator,
    float_model: FloatModel,
    samples: Iterable[Sample],
    converter: Worker,
    start: Calibration | None = None,
    checkpoint: Checkpoint | None = None,
) -> Calibration:
    """Calibrates, once the first sample has run in the child: a model may kill its process."""
    stream = iter(samples)
    first = list(itertools.islice(stream, 1))
    for sample in first:
        for tflite in (float_model.tflite, calibrator.instrumented.tflite):
            check_runs(converter, tflite, sample, "the float model")
    return calibrator.run(itertools.chain(first, stream), start, checkpoint)


def _given(calibration: Calibration | str | os.PathLike[str]) -> Calibration:
    return calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)


def _check_result_runs(converter: Worker, tflite: bytes, sample: Sample) -> None:
    try:
        check_runs(converter, tflite, sample, "the exported model")
    except ModelError as error:
        raise VerificationError(str(error)) from None
