"""The pipeline, on one page: no other file knows the order of the stages.

load, trace, rewrite, calibrate, plan, annotate, convert, verify.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

from edgeq.calibrate.data import HeldOut, RepDataset, Sample
from edgeq.calibrate.run import Calibration, Calibrator, input_specs
from edgeq.errors import ModelError, RecipeError, VerificationError
from edgeq.export import frontends
from edgeq.export.convert import check_runs, convert, start_converter
from edgeq.export.edgemodel import EdgeModel
from edgeq.export.plan import make_plan, refuse_quantized
from edgeq.export.rewrite import rewrite
from edgeq.export.verify import verify
from edgeq.isolation import Worker
from edgeq.model import FloatModel
from edgeq.progress import Progress
from edgeq.recipe import Recipe, as_recipe
from edgeq.report import Report

TARGETS = ("xnnpack",)


def export(
    model: object,
    rep_dataset: object,
    *,
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    target: str = "xnnpack",
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
            calibration = _measure(float_model, rewritten, held, converter, threads)
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
        independent=held.independent,
        notes=float_model.notes,
        seconds=dict(stages.seconds),
    )
    return EdgeModel(tflite, float_model, rewritten, plan, calibration, report)


def calibrate(
    model: object,
    rep_dataset: object,
    *,
    sample: object = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Measures the range of every tensor of a float model; see `export` for the arguments."""
    stages = Progress.make(progress)
    with start_converter() as converter:
        data = RepDataset(rep_dataset)
        with stages.stage("trace"):
            float_model = frontends.trace(model, sample, data, converter)
            rewritten = rewrite(float_model)
        with stages.stage("calibrate", data.length) as advance:
            samples = data.samples(input_specs(float_model), advance)
            return _measure(float_model, rewritten, samples, converter, threads)


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise RecipeError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}")


def _measure(
    float_model: FloatModel,
    rewritten: FloatModel,
    samples: Iterable[Sample],
    converter: Worker,
    threads: int | None,
) -> Calibration:
    """Calibrates, once the first sample has run in the child: a model may kill its process."""
    calibrator = Calibrator(rewritten, threads)
    stream = iter(samples)
    first = next(stream)
    for tflite in (float_model.tflite, calibrator.instrumented.tflite):
        check_runs(converter, tflite, first, "the float model")
    return calibrator.run(itertools.chain((first,), stream))


def _check_result_runs(converter: Worker, tflite: bytes, sample: Sample) -> None:
    try:
        check_runs(converter, tflite, sample, "the exported model")
    except ModelError as error:
        raise VerificationError(str(error)) from None
