"""The pipeline, on one page: no other file knows the order of the stages.

1. trace: the user's model becomes a float model in LiteRT's own ops.
2. rewrite: it gets other ops with the same numbers, which suit the target.
3. calibrate: the data run, and every tensor's range is measured.
4. search, with `recipe="auto"`: plans are made, built and tried, and the best is taken; or else
5. plan: channels are made more even, and every tensor gets its parameters, or its op a reason, and
6. build: weights are rounded, the plan is converted, and the ports get their types.
7. verify: every promise is checked on the file and the real interpreter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from edgeq.argument_types import DataLike, Engine, FilePath, ImageLayoutName, ModelLike, PortLike
from edgeq.calibrate.advice import advise
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Checkpoint
from edgeq.converter import start_converter
from edgeq.data.sequences import read_data
from edgeq.errors import VerificationError
from edgeq.export.build import Builder, Built, Workshop
from edgeq.export.deploy.linked_ports import Shared
from edgeq.export.deploy.signatures import by_signature
from edgeq.export.edge_model import EdgeModel, made_of
from edgeq.export.export_options import ExportOptions
from edgeq.export.judging import Judging
from edgeq.export.plan.choices import Choices, choose
from edgeq.export.plan.divisors import small_divisor_notes, without_small_divisors
from edgeq.export.plan.left_float import without_coarse, without_detours, without_unbounded
from edgeq.export.plan.min_runtime import check_runtime, for_runtime
from edgeq.export.plan.planned_model import PlannedModel
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.plan.strictness import check_strict, free_ops, reasons_of
from edgeq.export.plan.values import Values
from edgeq.export.portspec import PortSpec
from edgeq.export.prepare import prepare
from edgeq.export.ranges import data_source, measured_ranges, ranges_for
from edgeq.export.round.common_weights import Party
from edgeq.export.search.auto import Search
from edgeq.export.search.costs import Costs
from edgeq.export.search.ladder import Ladder
from edgeq.export.search.ready import Ready
from edgeq.export.search.trials import Trials
from edgeq.export.verify import picking_notes, verify
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe
from edgeq.report import Measured
from edgeq.runtime.file_check import remember
from edgeq.terminal.progress import Progress

STAGES = ("trace", "rewrite", "calibrate", "search", "plan", "build", "verify")
"""The stages in order. An export has either `search`, or `plan` and `build`."""


def export(
    model: ModelLike,
    rep_dataset: DataLike,
    *,
    params: object = None,
    sample: object = None,
    recipe: FilePath | Recipe = "auto",
    target: str = "xnnpack",
    strict: bool | None = None,
    calibration: Calibration | FilePath | None = None,
    inputs: PortLike | PortSpec | None = None,
    outputs: PortLike | PortSpec | None = None,
    layout: ImageLayoutName | None = None,
    min_sqnr_db: float | None = 3.0,
    min_runtime: str | None = None,
    measure: bool = False,
    goal_db: float = 20.0,
    costs: Costs | FilePath | None = None,
    device: FilePath | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> EdgeModel | Any:
    """Turns a float model into a verified int8 .tflite.

    Args:
        model: `torch.nn.Module`, `torch.export.ExportedProgram`, a JAX function, a Flax module
            (linen or nnx), a Keras 3 model, a `tf.function`, `tf.Module` or SavedModel folder, or
            the path of a .keras, .pt2, .onnx or float .tflite file. None is changed. Or a mapping
            of models by signature key, for one file of all: `rep_dataset` then has the same
            keys, and every option may be a mapping by some of them. A .tflite file with several
            signatures is taken apart where `rep_dataset` has exactly their keys.
        rep_dataset: Representative inputs, preprocessed as for the model: an array `(N, ...)`, a
            dict of such arrays by input name, an iterable or generator function of arrays, tuples
            or dicts, a `DataLoader`, `Sequences`, or `Buckets` for a file of several lengths. Read
            once, in order. From ten samples on, every tenth is kept back to judge by, of few a
            larger share, of thousands about a hundred.
        params: The first argument of a JAX function of parameters and inputs, or the variables of
            a linen module.
        sample: Input to trace the model with; by default the first representative sample.
        recipe: Preset name, `Recipe`, or path of a recipe's JSON.
        target: Where the model will run, by its name in docs/targets.md. One that computes in
            integers alone takes `recipe="auto"` as `"int8"`. Types of inputs and outputs, layout
            and `min_runtime` are those of the target where nothing else is said.
        strict: Whether it is an error that an op cannot be in integers as the recipe wants. False
            leaves it float, with the reason in the report; so does None on targets that run float
            and integers side by side. A rule's own `strict` comes first.
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
            estimates them for `device`, and decides the same on every machine.
        goal_db: SQNR in dB from which on `recipe="auto"` takes the fastest plan, or one near it.
        costs: A table to estimate times by, or its file, in place of a device's.
        device: The processor that `recipe="auto"` plans for: `"x86-vnni"`, `"x86-avx2"`,
            `"cortex-a53"`, `"phone"`, or a table's file of `edgeq bench --fit`. None is a processor
            with int8 dot products.
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
        UnsupportedOpError: Ops that the recipe wants in integers have no such form and `strict`
            holds, or ops are newer than `min_runtime`.
        ConversionError: The converter refused the model, or died on it.
        VerificationError: The exported file breaks a promise of its plan.
        DependencyError: A package that this kind of model needs is missing.
    """
    settings = {
        "params": params, "sample": sample, "recipe": recipe, "target": target, "strict": strict,
        "calibration": calibration, "inputs": inputs, "outputs": outputs, "layout": layout,
        "min_sqnr_db": min_sqnr_db, "min_runtime": min_runtime, "measure": measure,
        "goal_db": goal_db, "costs": costs, "device": device, "threads": threads,
        "progress": progress,
    }  # fmt: skip
    with start_converter() as converter:
        return by_signature(functools.partial(_begun, converter), model, rep_dataset, settings)


def _begun(
    converter: Worker,
    model: object,
    rep_dataset: object,
    shared: Shared,
    *,
    progress: bool | None,
    **settings: Any,
) -> Callable[[], EdgeModel]:
    """Traces, rewrites and calibrates a model of a file; what comes back does the rest.

    All models that have weights in common are begun first.
    """
    options, stages = ExportOptions.read(**settings), Progress.make(progress)
    ready = make_ready(model, rep_dataset, options, stages, converter, shared)
    return lambda: _finished(ready, options, stages)


def _finished(ready: Ready, options: ExportOptions, stages: Progress) -> EdgeModel:
    choices = ready.weights.decided(ready.prepared.rewritten.graph, ready.choices)
    built, measured = _verified(replace(ready, choices=choices), options, stages)
    ready.weights.decide(built.model.graph, built.plan)
    remember(built.tflite)
    planned_for = options.costs.name if ready.is_open else ""
    return made_of(ready, built, measured, options, planned_for, dict(stages.seconds))


def plan(
    model: ModelLike,
    rep_dataset: DataLike,
    *,
    params: object = None,
    sample: object = None,
    recipe: FilePath | Recipe = "auto",
    target: str = "xnnpack",
    strict: bool | None = None,
    calibration: Calibration | FilePath | None = None,
    inputs: PortLike | PortSpec | None = None,
    outputs: PortLike | PortSpec | None = None,
    layout: ImageLayoutName | None = None,
    min_runtime: str | None = None,
    measure: bool = False,
    goal_db: float = 20.0,
    costs: Costs | FilePath | None = None,
    device: FilePath | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> PlannedModel:
    """Decides as `export` does and stops there.

    Args and errors are those of `export`.

    Returns:
        The plan and the model that it speaks of; it can be printed and written as JSON.
    """
    options = ExportOptions.read(
        params=params, sample=sample, recipe=recipe, target=target, strict=strict,
        calibration=calibration, inputs=inputs, outputs=outputs, layout=layout,
        min_runtime=min_runtime, measure=measure, goal_db=goal_db, costs=costs,
        device=device, threads=threads,
    )  # fmt: skip
    stages = Progress.make(progress)
    with start_converter() as converter:
        ready = make_ready(model, rep_dataset, options, stages, converter)
        made = _planned(ready, options, stages)
    return PlannedModel(*made, options.target)


def calibrate(
    model: ModelLike,
    rep_dataset: DataLike,
    *,
    observer: object = "minmax",
    params: object = None,
    sample: object = None,
    recipe: FilePath | Recipe = "auto",
    target: str = "xnnpack",
    inputs: PortLike | PortSpec | None = None,
    outputs: PortLike | PortSpec | None = None,
    layout: ImageLayoutName | None = None,
    start: Calibration | None = None,
    checkpoint: Checkpoint | None = None,
    on_advice: Callable[[tuple[str, ...]], None] | None = None,
    engine: Engine = "local",
    threads: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Measures the range of every tensor of a float model.

    Args:
        model: As for `export`.
        rep_dataset: As for `export`; every sample is used.
        observer: How ranges are found: `"minmax"`, `"percentile"`, `"mse"`, `"entropy"`,
            `"moving_average"`, or an observer (see `edgeq.calibrate.observers`).
        params, sample: As for `export`.
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
    options = ExportOptions.read(
        params=params, sample=sample, recipe=recipe, target=target, inputs=inputs, outputs=outputs,
        layout=layout, threads=threads,
    )  # fmt: skip
    options = replace(options, recipe=replace(options.recipe, observer=observer))
    stages = Progress.make(progress)
    source = data_source(rep_dataset, engine, start, checkpoint)
    with start_converter() as converter:
        data = read_data(source)
        prepared = prepare(model, data, options, stages, converter)
        with stages.stage("calibrate", data.length) as advance:
            found, kept = measured_ranges(
                prepared, data, source, options, converter, advance, start, checkpoint
            )
            if on_advice is not None:
                on_advice(advise(prepared.rewritten, found, kept))
    return found


def make_ready(
    model: object,
    rep_dataset: object,
    options: ExportOptions,
    stages: Progress,
    converter: Worker,
    shared: Shared | None = None,
) -> Ready:
    """Traces, rewrites and calibrates.

    Args:
        model, rep_dataset: As for `export`.
        options: What was asked for.
        stages: Where the stages show.
        converter: The converter's child process.
        shared: What models of the same file have in common, to which this one is added.
    """
    data = read_data(rep_dataset)
    prepared = prepare(model, data, options, stages, converter)
    rewritten = prepared.rewritten
    chosen = for_runtime(rewritten.graph, choose(rewritten, options.recipe), options.oldest)
    choices = prepared.interface.pinned(rewritten, chosen)
    check_strict(rewritten, options.recipe, reasons_of(choices), options.strict)
    with stages.stage("calibrate", data.length) as advance:
        ranges = ranges_for(choices, prepared, data, options, converter, advance)
    shared = shared or Shared()
    rewritten = shared.weights.aligned(prepared.rewritten)
    ranges = ranges.moved(prepared.rewritten, rewritten)
    prepared = replace(prepared, rewritten=rewritten)
    values = Values(rewritten, ranges.calibration)
    choices = without_unbounded(rewritten, values, choices)
    check_strict(rewritten, options.recipe, reasons_of(choices), options.strict)
    free = free_ops(rewritten, options.recipe, choices, options.strict)
    inside = prepared.interface.without_integers(rewritten, free)
    choices = without_detours(rewritten, choices, inside, options.target)
    choices = without_small_divisors(rewritten, values, choices, free)
    ranges = ranges.with_advice(small_divisor_notes(rewritten, values, choices))
    judging = Judging(ranges.samples, any(c.mode is Mode.AUTO for c in choices.values()))
    choices = without_coarse(rewritten, choices, free, judging.fitting, options.threads)
    shared.weights.add(Party(rewritten, choices, judging.fitting, options.threads))
    own = Workshop(
        model=rewritten, interface=prepared.interface, calibration=ranges.calibration,
        choices=choices, samples=judging.fitting, converter=converter, target=options.target,
        sample=ranges.samples.samples[0], threads=options.threads, weights=shared.weights,
        ports=shared.ports.add(rewritten, ranges.calibration, choices), steps=judging.trials,
    )  # fmt: skip
    return Ready(prepared, choices, ranges, judging, Ladder(Builder(own), free), shared.weights)


def _planned(ready: Ready, options: ExportOptions, stages: Progress) -> tuple[LiteModel, Plan]:
    if ready.is_open:
        built = next(_searched(ready, options, stages))
        return built.model, built.plan
    with stages.stage("plan"):
        choices, ladder = _decided(ready, options)
        return ladder.builder.model, ladder.builder.plan(ladder.loadable(choices))


def _decided(ready: Ready, options: ExportOptions) -> tuple[Choices, Ladder]:
    """The choices of a recipe that leaves nothing open, and the ladder that finishes them."""
    return ready.ladder.readied(ready.choices, options.recipe.equalize, options.oldest)


def _searched(ready: Ready, options: ExportOptions, stages: Progress) -> Iterator[Built]:
    original, samples = ready.prepared.float_model, ready.judging.trials
    with stages.stage("search") as advance:
        trials = Trials(original, ready.ladder, samples, options.measure, advance, stages.tell)
        found = Search(trials, ready.choices, options).run()
        best = next(found)
    yield best
    yield from found


def _built(ready: Ready, options: ExportOptions, stages: Progress) -> Iterator[Built]:
    with stages.stage("plan"):
        choices, ladder = _decided(ready, options)
        choices = ladder.loadable(choices)
        ladder.builder.plan(choices)
    with stages.stage("build", ladder.builder.rounding_runs(choices)) as advance:
        made = ladder.built(choices, advance)
    yield made.built
    yield from (rung.built for rung in ladder.further(made.choices))


def _verified(ready: Ready, options: ExportOptions, stages: Progress) -> tuple[Built, Measured]:
    """The first file that keeps its promises, with a note of each that did not; what was measured.

    Raises:
        VerificationError: None does.
    """
    float_model = ready.prepared.float_model
    files = _searched(ready, options, stages) if ready.is_open else _built(ready, options, stages)
    samples = ready.judging.verdict(float_model.graph)
    dropped: list[str] = []
    for built in files:
        float_model.release()
        check_runtime(built.beside_float(), options.oldest)
        try:
            with stages.stage("verify"):
                measured = verify(float_model, built, samples, options.min_sqnr_db, options.target)
        except VerificationError as error:
            failure = error
            dropped.append(f"a plan was dropped: {error}")
        else:
            notes = (*built.notes, *dropped, *picking_notes(float_model, measured.outputs))
            return replace(built, notes=notes), measured
    raise failure
