"""The pipeline, on one page: no other file knows the order of the stages.

load, trace, set the layout, rewrite, calibrate, advise, search, plan, round, annotate, convert, set
the interface, verify.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeq.calibrate import distributed
from edgeq.calibrate.advice import MOST_SAMPLES, advise, spread_out
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Fixed
from edgeq.calibrate.run import Calibrator, Checkpoint
from edgeq.data import cluster
from edgeq.data.held_out import HeldOut
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.data.rows import Rows
from edgeq.errors import ModelError, RecipeError, VerificationError
from edgeq.export import frontends
from edgeq.export.convert.convert_plan import check_runs, convert, start_converter
from edgeq.export.convert.integer_ports import Interface, known_ranges, set_interface
from edgeq.export.deploy.signatures import by_signature
from edgeq.export.edge_model import EdgeModel
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import Choices, choose, observers
from edgeq.export.plan.min_runtime import check_runtime, for_runtime
from edgeq.export.plan.placement import check_loads
from edgeq.export.plan.planned_model import PlannedModel
from edgeq.export.plan.planner import Plan, make_plan, refuse_quantized
from edgeq.export.rewrite import rewrite
from edgeq.export.rewrite.nhwc_ports import check_layout, to_nhwc
from edgeq.export.round.rounder import Rounder
from edgeq.export.search.auto import Search
from edgeq.export.search.costs import WITH_DOT_PRODUCT, WITHOUT_DOT_PRODUCT, Costs
from edgeq.export.verify import verify
from edgeq.files import Content
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import FloatModel
from edgeq.ports import read_io
from edgeq.portspec import PortSpecs, as_port_specs
from edgeq.progress import Progress
from edgeq.recipe import AUTO, INT8, Mode, Recipe, as_recipe
from edgeq.report import Report
from edgeq.runtime.cpu import has_int8_dot_product
from edgeq.targets import TARGETS, as_target
from edgeq.versions import Version, as_version


@by_signature
def export(
    model: object,
    rep_dataset: object,
    *,
    params: object = None,
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    target: str = "xnnpack",
    calibration: Calibration | str | os.PathLike[str] | None = None,
    inputs: object = None,
    outputs: object = None,
    layout: str | None = None,
    min_sqnr_db: float | None = 3.0,
    min_runtime: str | None = None,
    measure: bool = False,
    goal_db: float = 20.0,
    costs: Costs | str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> EdgeModel:
    """Turns a float model into a verified int8 .tflite.

    Args:
        model: `torch.nn.Module`, `torch.export.ExportedProgram`, a JAX function, a Flax module
            (linen or nnx), a Keras 3 model, a `tf.function`, `tf.Module` or SavedModel folder, or
            the path or bytes of a float .tflite file. It is never changed. Or a mapping of such
            models by signature key, for one file with all of them: `rep_dataset` then has the same
            keys, and every option may be a mapping by some of them. A .tflite file with several
            signatures is taken apart where `rep_dataset` has exactly their keys.
        rep_dataset: Representative inputs, preprocessed as for the model: an array `(N, ...)`, a
            dict of such arrays by input name, an iterable or generator function of arrays, tuples
            or dicts, or a `DataLoader`. Read once, one item at a time. From ten samples on, every
            tenth (16 at most) is kept back to judge the result by.
        params: The first argument of a JAX function of parameters and inputs, or the variables of
            a linen module.
        sample: Input to trace the model with; by default the first representative sample.
        recipe: Preset name, `Recipe`, or path of a recipe's JSON.
        target: Where the model will run, by its name in docs/targets.md. One that computes in
            integers alone takes `recipe="auto"` as `"int8"`. Types of inputs and outputs, layout
            and `min_runtime` are those of the target where nothing else is said.
        calibration: A calibration of this model, or its file, to plan by; `rep_dataset` is then
            only for tracing and judging by.
        inputs: What the app passes: `"float32"`, `"int8"`, `"uint8"` or `"int16"`; a range that
            is known beforehand instead of measured, such as `(0, 1)`; both as
            `("uint8", (0, 1))`; or a dict of these by input name. `edge_model.io` has the scales.
            `rep_dataset` stays in real numbers. int8 costs nothing; uint8 and int16 put a QUANTIZE
            op outside the XNNPACK delegate. None is the target's own, mostly `"float32"`.
        outputs: What the app gets, likewise.
        layout: `"nhwc"` lets the file take and give images as NHWC where the model has NCHW;
            `rep_dataset` stays as the model takes it. None is the target's own, mostly the model's.
        min_sqnr_db: Lowest SQNR in dB against the float model that an output may have; None
            accepts any.
        min_runtime: The oldest TensorFlow Lite version that will run the file, such as `"2.14"`:
            op versions stay within it. None is the target's own, mostly the newest.
        measure: Whether `recipe="auto"` decides by times measured on this machine. Otherwise it
            estimates them for a processor with int8 dot products, which phones have.
        goal_db: SQNR in dB from which on `recipe="auto"` takes the fastest plan.
        costs: What `recipe="auto"` estimates times by: the file of a table that
            `edgeq bench --fit` measured on the device. None is the built-in one.
        threads: Threads for calibration; None takes what this process may use.
        progress: Whether to draw progress bars on standard error; None draws on a terminal.

    Returns:
        The exported file with its report, plan and calibration; of several signatures, a
        `MultiSignatureModel`.

    Raises:
        ModelError: The model cannot be read or traced.
        DataError: The data does not fit the model, or holds NaN or infinite values.
        RecipeError: The recipe, `inputs`, `outputs` or `layout` does not fit the model, or the
            target is unknown.
        UnsupportedOpError: Ops that the recipe wants in int8 have no such form, or are newer than
            `min_runtime`.
        ConversionError: The converter refused the model, or died on it.
        VerificationError: The exported file breaks a promise of its plan.
        DependencyError: A package that this kind of model needs is missing.
    """
    stages = Progress.make(progress)
    recipe = _recipe_for(target, recipe)
    asked = _ports_for(target, inputs, "inputs"), _ports_for(target, outputs, "outputs")
    check_layout(layout)
    oldest = _runtime_for(target, min_runtime)
    request = _Request(
        model, params, rep_dataset, sample, recipe, target, calibration, *asked, layout, oldest,
        measure, goal_db, _costs(measure, costs), threads,
    )  # fmt: skip
    with start_converter() as converter:
        decided = _decide(request, stages, converter)
        float_model, rewritten, plan = decided.float_model, decided.rewritten, decided.plan
        with stages.stage("round", decided.rounder.runs(plan)) as advance:
            rounded = decided.rounder.round(plan, advance)
            fitted, on_grid = rounded.count, rounded.model(rewritten)
            del rounded
        with stages.stage("convert"):
            converted = convert(converter, on_grid, plan)
            del on_grid
            tflite = set_interface(rewritten, plan, converted, decided.interface)
            del converted
            for model in (float_model, rewritten):
                model.release()
            check_runtime(ExportedGraph(rewritten, parse(tflite).graphs[0]), oldest)
            _check_result_runs(converter, tflite, float_model, decided.judges[0])
        with stages.stage("verify"):
            measured = verify(
                float_model, rewritten, plan, tflite, decided.judges, min_sqnr_db, TARGETS[target]
            )
    report = Report(
        **vars(measured),
        recipe=recipe.name,
        target=target,
        calibrated_samples=decided.calibration.samples,
        independent=decided.independent,
        fitted_weights=fitted,
        notes=(*float_model.notes, *decided.advice, *TARGETS[target].next_steps()),
        seconds=dict(stages.seconds),
    )
    return EdgeModel(bytes(tflite), float_model, rewritten, plan, decided.calibration, report)


def plan(
    model: object,
    rep_dataset: object,
    *,
    params: object = None,
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    target: str = "xnnpack",
    calibration: Calibration | str | os.PathLike[str] | None = None,
    inputs: object = None,
    outputs: object = None,
    layout: str | None = None,
    min_runtime: str | None = None,
    measure: bool = False,
    goal_db: float = 20.0,
    costs: Costs | str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> PlannedModel:
    """Decides as `export` does and stops there.

    Args and errors are those of `export`.

    Returns:
        The plan and the model that it speaks of; it can be printed and written as JSON.
    """
    recipe = _recipe_for(target, recipe)
    asked = _ports_for(target, inputs, "inputs"), _ports_for(target, outputs, "outputs")
    check_layout(layout)
    request = _Request(
        model, params, rep_dataset, sample, recipe, target, calibration, *asked, layout,
        _runtime_for(target, min_runtime), measure, goal_db, _costs(measure, costs), threads,
    )  # fmt: skip
    with start_converter() as converter:
        decided = _decide(request, Progress.make(progress), converter)
    return PlannedModel(decided.rewritten, decided.plan, TARGETS[target])


@dataclass(frozen=True)
class _Request:
    """What the caller of `export` or `plan` asks for; see there."""

    model: object
    params: object
    rep_dataset: object
    sample: object
    recipe: Recipe
    target: str
    calibration: Calibration | str | os.PathLike[str] | None
    inputs: PortSpecs
    outputs: PortSpecs
    layout: str | None
    oldest: Version | None
    measure: bool
    goal_db: float
    costs: Costs
    threads: int | None


@dataclass(frozen=True)
class _Decided:
    """Everything that is known before anything is converted.

    Attributes:
        float_model: The float model as traced.
        rewritten: The float model that the plan speaks of.
        interface: Types of the inputs and outputs.
        calibration: The ranges that the plan rests on.
        advice: What looks suspicious of model and data.
        plan: What becomes an integer and how.
        rounder: Rounds its weights.
        judges: Samples to judge the result by.
        independent: Whether those were kept out of calibration.
    """

    float_model: FloatModel
    rewritten: FloatModel
    interface: Interface
    calibration: Calibration
    advice: Sequence[str]
    plan: Plan
    rounder: Rounder
    judges: Sequence[Sample]
    independent: bool


def _decide(asked: _Request, stages: Progress, converter: Worker) -> _Decided:
    """Trace, rewrite, calibrate, search where the recipe leaves it to edgeq, and plan."""
    data, recipe = RepDataset(asked.rep_dataset), asked.recipe
    with stages.stage("trace"):
        traced = _traced(asked.model, asked.params, asked.sample, data, converter)
        float_model = _laid_out(traced, asked.layout, asked.target)
        rewritten = _rewritten(float_model, asked.target)
        interface = Interface.of(rewritten, asked.inputs, asked.outputs)
        known = known_ranges(rewritten, interface)
        chosen = for_runtime(rewritten.graph, choose(rewritten, recipe), asked.oldest)
        choices: Choices = interface.pinned(rewritten, chosen)
    with stages.stage("calibrate", data.length) as advance:
        held = HeldOut(data.samples(input_specs(float_model), advance))
        given = None if asked.calibration is None else _given(asked.calibration, known)
        if given is not None:
            _check_made_for(given, traced, rewritten, asked)
        if not any(c.mode.is_static or c.mode is Mode.AUTO for c in choices.values()):
            given = Calibration(rewritten.digest, 0, {})
        if given is None:
            watching = {**observers(rewritten, recipe), **known}
            calibrator = Calibrator(rewritten, asked.threads, watching)
            found = _measure(calibrator, float_model, held, converter)
            del calibrator  # a copy of the model that nobody needs any more
        else:
            found = given
            held.exhaust()
    with stages.stage("advise"):
        advice = advise(rewritten, found, held.samples) if found.samples else ()
    searched = any(choice.mode is Mode.AUTO for choice in choices.values())
    rounder = Rounder(rewritten, choices, _fitting(held, searched), asked.threads)
    if searched:
        with stages.stage("search") as advance:
            choices = Search(
                float_model, rewritten, found, recipe, choices, held.first, rounder, converter,
                asked.costs, asked.goal_db, asked.measure, advance,
            ).run()  # fmt: skip
    with stages.stage("plan"):
        made = make_plan(rewritten, found, recipe, choices)
        check_loads(rewritten, made, TARGETS[asked.target])
    independent = held.independent and asked.calibration is None
    return _Decided(
        float_model, rewritten, interface, found, advice, made, rounder, held.samples, independent
    )


def _fitting(held: HeldOut, searched: bool) -> Sequence[Sample]:
    """Samples to round weights by; where there are enough, not those that a search judges by."""
    few = len(held.first)
    return held.passed[few:] if searched and len(held.passed) >= 3 * few else held.passed


def calibrate(
    model: object,
    rep_dataset: object,
    *,
    observer: object = "minmax",
    params: object = None,
    sample: object = None,
    recipe: str | os.PathLike[str] | Recipe = "auto",
    target: str = "xnnpack",
    inputs: object = "float32",
    outputs: object = "float32",
    layout: str | None = None,
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
        params: As for `export`.
        sample: As for `export`.
        recipe: Its rules may give layers observers of their own.
        target: As for `export`, which must be given the same where models are rewritten otherwise
            for it.
        inputs: As for `export`, for the ranges that are known beforehand.
        outputs: As for `export`, likewise.
        layout: As for `export`, which must be given the same.
        start: What earlier samples have shown; the first `start.samples` samples are skipped, so
            that the result is that of one run over all of them.
        checkpoint: Called after each sample with a function that gives what was seen so far.
        on_advice: Called at the end with what looks suspicious of model and data, one sentence
            each, for which up to eight samples run once more.
        engine: `"local"`, or `"ray"` to share the work among the machines of a Ray cluster;
            `rep_dataset` is then an array, a dict of arrays, a `ray.data.Dataset`, or has `__len__`
            and `__getitem__`.
        threads: As for `export`; with Ray, of each task, where None is one.
        progress: As for `export`.

    Returns:
        What was seen; it can be saved, merged with others, and given to `export`.

    Raises:
        EdgeqError: As for `export`.
    """
    as_target(target)
    recipe = replace(as_recipe(recipe), observer=observer)
    asked = as_port_specs(inputs, "inputs"), as_port_specs(outputs, "outputs")
    check_layout(layout)
    stages = Progress.make(progress)
    source = _source(rep_dataset, engine, start, checkpoint)
    with start_converter() as converter:
        data = RepDataset(source)
        with stages.stage("trace"):
            traced = _traced(model, params, sample, data, converter)
            float_model = _laid_out(traced, layout, target)
            rewritten = _rewritten(float_model, target)
        with stages.stage("calibrate", data.length) as advance:
            samples = data.samples(input_specs(float_model), advance)
            known = known_ranges(rewritten, Interface.of(rewritten, *asked))
            watching = {**observers(rewritten, recipe), **known}
            calibrator = Calibrator(rewritten, threads, watching)
            kept: list[Sample] = []
            if isinstance(source, Rows):
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


def _costs(measure: bool, given: Costs | str | os.PathLike[str] | None) -> Costs:
    """Rates of the processor to plan for: this one's if it is measured on, else a phone's."""
    if given is not None:
        return given if isinstance(given, Costs) else Costs.load(given)
    here = measure and has_int8_dot_product() is False
    return WITHOUT_DOT_PRODUCT if here else WITH_DOT_PRODUCT


def _traced(
    model: object, params: object, sample: object, data: RepDataset, converter: Worker
) -> FloatModel:
    found = frontends.trace(model, sample, data, converter, params)
    refuse_quantized(found)
    return found


def _laid_out(model: FloatModel, layout: str | None, target: str) -> FloatModel:
    """The model with images as asked for, or else as the target likes them best."""
    if layout is not None:
        return to_nhwc(model)
    if TARGETS[target].layout is not None:
        with contextlib.suppress(RecipeError):  # it has no images, or has them as NHWC
            return to_nhwc(model)
    return model


def _rewritten(model: FloatModel, target: str) -> FloatModel:
    """The model in better ops; one that brought scales is left in the ops that those are for."""
    return model if model.given else rewrite(model, TARGETS[target])


def _recipe_for(target: str, recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe; where float and integers do not mix, "auto" is "int8"."""
    mixes_float, found = as_target(target).mixes_float, as_recipe(recipe)
    is_auto = found.with_rounding(AUTO.rounding) == AUTO
    return INT8.with_rounding(found.rounding) if is_auto and not mixes_float else found


def _ports_for(target: str, asked: object, side: str) -> PortSpecs:
    """What ports shall be, where nothing is said as the target has them."""
    return as_port_specs(TARGETS[target].port_type if asked is None else asked, side)


def _runtime_for(target: str, min_runtime: str | None) -> Version | None:
    return TARGETS[target].oldest_runtime if min_runtime is None else as_version(min_runtime)


def _source(
    rep_dataset: object, engine: str, start: Calibration | None, checkpoint: Checkpoint | None
) -> object:
    """The data in the form that the engine reads; fails before any work is done."""
    if engine == "ray" and not (start is None and checkpoint is None):
        raise RecipeError(
            "engine='ray' takes neither start nor checkpoint: calibrate the samples that are left "
            "and call start.merge(...) with the result"
        )
    return cluster.source(rep_dataset, engine)


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


def _given(
    calibration: Calibration | str | os.PathLike[str], known: Mapping[int, Fixed]
) -> Calibration:
    if not isinstance(calibration, Calibration):
        calibration = Calibration.load(calibration)
    return replace(calibration, observers={**calibration.observers, **known})


def _check_made_for(
    calibration: Calibration, traced: FloatModel, rewritten: FloatModel, asked: _Request
) -> None:
    """Raises a `ModelError` for a calibration of the form that the model has for another target."""
    for other in TARGETS:
        if calibration.model == rewritten.digest:
            return
        form = _rewritten(_laid_out(traced, asked.layout, other), other)
        if calibration.model == form.digest:
            raise ModelError(
                f"the calibration was made for target {other!r}, for which the model is rewritten "
                f"otherwise than for {asked.target!r}: calibrate with target={asked.target!r} too, "
                f"or export with target={other!r}"
            )


def _check_result_runs(
    converter: Worker, tflite: Content, float_model: FloatModel, sample: Sample
) -> None:
    held = read_io(tflite).quantize(float_model.by_name(sample))
    try:
        check_runs(converter, tflite, held, "the exported model")
    except ModelError as error:
        raise VerificationError(str(error)) from None
