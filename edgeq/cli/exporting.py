"""The commands that decide and make files: export, plan, dequantize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.app import app
from edgeq.cli.failing import errors_as_sentences
from edgeq.cli.goals import (
    EvalData,
    Goal,
    GoalMetric,
    MaxDrop,
    MaxLatencyRatio,
    MaxMinutes,
    MaxSize,
    TrialsFolder,
    check_free,
)
from edgeq.cli.inputs import load_data, load_model, port_spec
from edgeq.cli.options import (
    CalibrationFile,
    CostTable,
    Data,
    DataConfig,
    DataOptions,
    DeviceName,
    GoalDb,
    InputTypes,
    JsonFile,
    LabelsFile,
    Layout,
    Measure,
    MinRuntime,
    MinSqnrDb,
    Model,
    OutputTypes,
    Overwrite,
    Page,
    PortRange,
    RecipeName,
    Strict,
    TargetName,
    Threads,
)
from edgeq.cli.state_options import States, StateStart
from edgeq.cli.writing import JSON, MODEL, PAGE, check_outputs, say, wide_console, write, write_page
from edgeq.data.readers import ImageFiles, ImageLayout
from edgeq.errors import DataError
from edgeq.export.deploy.metadata import read_labels

if TYPE_CHECKING:
    from edgeq.export.edge_model import EdgeModel


@app.command(
    epilog="Examples:\n\n"
    "edgeq export model.tflite --data images.npy -o model_int8.tflite\n\n"
    "edgeq export my_package.net:build --data my_package.net:samples -o net.tflite --recipe r.json"
    "\n\n"
    "edgeq export model.tflite --data images.npy -o camera.tflite --inputs uint8 --input-range 0 1 "
    "--layout nhwc\n\n"
    "edgeq export model.tflite --data photos -o model_int8.tflite --inputs int8 --outputs int8 "
    "--layout nhwc --android android_demo --class-names classes.txt\n\n"
    "edgeq export model.tflite --data images.npy -o model_int8.tflite --eval-data test.npy "
    "--labels labels.npy --metric accuracy --max-drop 0.01"
)
def export(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    recipe: RecipeName = "auto",
    target: TargetName = "xnnpack",
    strict: Strict = None,
    calibration: CalibrationFile = None,
    inputs: InputTypes = None,
    outputs: OutputTypes = None,
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    min_sqnr_db: MinSqnrDb = 3.0,
    min_runtime: MinRuntime = None,
    measure: Measure = False,
    goal_db: GoalDb = 20.0,
    costs: CostTable = None,
    device: DeviceName = None,
    eval_data: EvalData = None,
    labels: LabelsFile = None,
    metric: GoalMetric = "accuracy",
    max_drop: MaxDrop = 0.01,
    max_latency_ratio: MaxLatencyRatio = None,
    max_size_kb: MaxSize = None,
    max_minutes: MaxMinutes = 10.0,
    trials: TrialsFolder = None,
    android: Annotated[
        Path | None,
        typer.Option(help="Also put the classifier into this copy of the Android demo app."),
    ] = None,
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata",
            help="Write what an app has to know (scales, image options, class names) into the file "
            "and beside it as .json.",
        ),
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(help="For --metadata and --android: a class name a line."),
    ] = None,
    json_file: JsonFile = None,
    report: Page = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Exports a model to int8, verifies it, and prints what was measured."""
    from edgeq.compare.compare_models import compare as compare_models
    from edgeq.compare.debug import debug as debug_model
    from edgeq.export.pipeline import export as run

    with errors_as_sentences():
        given = {
            "--strict": strict,
            "--calibration": calibration,
            "--costs": costs,
            "--device": device,
        }
        goal = None
        if eval_data is not None:
            check_free(recipe, measure, given)
            goal = Goal(
                labels, metric, max_drop, max_latency_ratio, max_size_kb, max_minutes, trials
            )  # fmt: skip
        chosen = None if goal is None else output.with_suffix(".recipe.json")
        described_too = metadata or (class_names is not None and android is None)
        sidecar = output.with_suffix(".json") if described_too else None
        check_outputs(
            overwrite, ("--output", output, MODEL), ("--json", json_file, JSON),
            ("what --metadata writes beside --output", sidecar, JSON), ("--report", report, PAGE),
            ("the recipe beside --output", chosen, JSON),
        )  # fmt: skip
        names = () if class_names is None else read_labels(class_names)
        if android is not None:
            _check_app(android, names)
        samples = load_data(data, data_config, data_option, model, state, state_start)
        loaded = load_model(model)
        asked: dict[str, Any] = {
            "target": target, "layout": layout, "inputs": port_spec(inputs, input_range),
            "outputs": port_spec(outputs, output_range), "min_runtime": min_runtime,
            "threads": threads,
        }  # fmt: skip
        found = None
        if goal is not None and eval_data is not None:
            evaluation = load_data(eval_data, data_config, data_option, model, state, state_start)
            found = goal.search(loaded, samples, evaluation, asked)
        made = found.edge_model if found is not None else run(
            loaded, samples, recipe=recipe, strict=strict, calibration=calibration,
            min_sqnr_db=min_sqnr_db, measure=measure, goal_db=goal_db, costs=costs,
            device=device, **asked,
        )  # fmt: skip
        described = made.describe(names, getattr(samples, "layout", None)) if sidecar else None
        made.save(output, described)
        if found is not None and chosen is not None:
            write(chosen, found.recipe.to_json().encode())
            found.report.print()
        made.report.print()
        if json_file is not None:
            write(json_file, made.report.to_json().encode())
        if report is not None:
            comparison = compare_models(made, made, samples, threads=threads)
            used = recipe if found is None else found.recipe
            diagnosis = debug_model(made, made, samples, recipe=used)
            tried = None if found is None else found.report
            write_page(report, made, comparison, diagnosis, tried)
        say(f"wrote {output}" + ("" if chosen is None else f" and its recipe, {chosen}"))
        if android is not None:
            _write_app(android, made, samples, names)


def _check_app(project: Path, names: Sequence[str]) -> None:
    """Raises before the long work if a classifier cannot be put into an Android project."""
    from edgeq.export.deploy.android import check_project

    if not names:
        raise DataError("--android needs --class-names, a text file with one name a line")
    check_project(project)


def _write_app(project: Path, made: EdgeModel, samples: Any, names: Sequence[str]) -> None:
    from edgeq.export.deploy.android import ASSETS, write_assets

    images = isinstance(samples, ImageFiles)
    write_assets(project / ASSETS, made, samples.layout if images else ImageLayout(), names)
    note = "" if images else "; the data are no images, so set mean and std in its model.json"
    say(f"wrote {project / ASSETS}{note}")


@app.command(
    epilog="Examples:\n\n"
    "edgeq plan model.tflite --data images.npy\n\n"
    "edgeq plan model.tflite --data images.npy --recipe dynamic_int8 --json plan.json"
)
def plan(
    model: Model,
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    recipe: RecipeName = "auto",
    target: TargetName = "xnnpack",
    strict: Strict = None,
    calibration: CalibrationFile = None,
    inputs: InputTypes = None,
    outputs: OutputTypes = None,
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    min_runtime: MinRuntime = None,
    measure: Measure = False,
    goal_db: GoalDb = 20.0,
    costs: CostTable = None,
    device: DeviceName = None,
    json_file: JsonFile = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Shows what an export would make of each op, and why, without exporting."""
    from edgeq.export.pipeline import plan as run

    with errors_as_sentences():
        check_outputs(overwrite, ("--json", json_file, JSON))
        made = run(
            load_model(model), load_data(data, data_config, data_option, model, state, state_start),
            recipe=recipe, target=target, strict=strict, calibration=calibration, layout=layout,
            inputs=port_spec(inputs, input_range), outputs=port_spec(outputs, output_range),
            min_runtime=min_runtime, measure=measure, goal_db=goal_db, costs=costs, device=device,
            threads=threads,
        )  # fmt: skip
        if json_file is not None:
            write(json_file, made.to_json().encode())
        made.print(wide_console())


@app.command(epilog="Example:\n\nedgeq dequantize model_int8.tflite -o model_float.tflite")
def dequantize(
    model: Annotated[Path, typer.Argument(help="A quantized .tflite file.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    overwrite: Overwrite = False,
) -> None:
    """Turns a quantized .tflite file back into a float32 one, which computes nearly the same."""
    from edgeq.export.frontends.dequantize import dequantize as run

    with errors_as_sentences():
        check_outputs(overwrite, ("--output", output, MODEL))
        write(output, run(model))
        say(f"wrote {output}")
