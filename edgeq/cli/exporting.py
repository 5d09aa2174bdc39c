"""The commands that decide and make files: export, plan, dequantize."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edgeq.cli.app import app
from edgeq.cli.inputs import errors_as_sentences, load_data, load_model, port_spec
from edgeq.cli.options import (
    PORTS_DEFAULT,
    RECIPE_HELP,
    TARGET_HELP,
    CostTable,
    Data,
    DataConfig,
    DataOptions,
    GoalSqnr,
    Layout,
    Measure,
    MinRuntime,
    Model,
    Overwrite,
    PortRange,
    Strict,
    Threads,
)
from edgeq.cli.writing import check_page, check_writable, write, write_page, writing
from edgeq.data.readers import ImageFiles, ImageLayout
from edgeq.errors import DataError
from edgeq.export.deploy.metadata import read_labels
from edgeq.export.portspec import DTYPES

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
    "--layout nhwc --android android_demo --class-names classes.txt"
)
def export(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    recipe: Annotated[str, typer.Option(help=RECIPE_HELP)] = "auto",
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "xnnpack",
    strict: Strict = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Plan by this file of edgeq calibrate.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(help=f"What the app passes: {', '.join(DTYPES)}.", show_default=PORTS_DEFAULT),
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="What the app gets, likewise.", show_default=PORTS_DEFAULT)
    ] = None,
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    min_sqnr: Annotated[
        float, typer.Option(help="Lowest SQNR in dB an output may have; -inf accepts any.")
    ] = 3.0,
    min_runtime: MinRuntime = None,
    measure: Measure = False,
    goal_sqnr: GoalSqnr = 20.0,
    costs: CostTable = None,
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
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the report: as a page to look at (.html, for which the model is "
            "compared and debugged on all data) or as JSON."
        ),
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Exports a model to int8, verifies it, and prints what was measured."""
    from edgeq.compare.compare_models import compare as compare_models
    from edgeq.compare.debug import debug as debug_model
    from edgeq.export.pipeline import export as run

    with errors_as_sentences():
        described_too = metadata or (class_names is not None and android is None)
        sidecar = output.with_suffix(".json") if described_too else None
        for path in (output, sidecar):
            if path is not None:
                check_writable(path, overwrite)
        check_page(report, overwrite)
        names = () if class_names is None else read_labels(class_names)
        if android is not None:
            _check_app(android, names)
        samples = load_data(data, data_config, data_option, model)
        made = run(
            load_model(model), samples, recipe=recipe, target=target, strict=strict,
            calibration=calibration, layout=layout, inputs=port_spec(inputs, input_range),
            outputs=port_spec(outputs, output_range), min_sqnr_db=min_sqnr,
            min_runtime=min_runtime, measure=measure, goal_db=goal_sqnr, costs=costs,
            threads=threads,
        )  # fmt: skip
        described = made.describe(names, getattr(samples, "layout", None)) if sidecar else None
        with writing(output):
            made.save(output, described)
        made.report.print()
        if report is not None and report.suffix == ".html":
            found = compare_models(made, made, samples, threads=threads)
            write_page(report, made, found, debug_model(made, made, samples, recipe=recipe))
        elif report is not None:
            write(report, made.report.to_json().encode())
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
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
    Console().print(f"wrote {project / ASSETS}{note}", highlight=False, soft_wrap=True)


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
    recipe: Annotated[str, typer.Option(help=RECIPE_HELP)] = "auto",
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "xnnpack",
    strict: Strict = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Plan by this file of edgeq calibrate.")
    ] = None,
    measure: Measure = False,
    goal_sqnr: GoalSqnr = 20.0,
    costs: CostTable = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the plan as JSON.")
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Shows what an export would make of each op, and why, without exporting."""
    from edgeq.export.pipeline import plan as run

    with errors_as_sentences():
        if json_file is not None:
            check_writable(json_file, overwrite)
        made = run(
            load_model(model), load_data(data, data_config, data_option, model), recipe=recipe,
            target=target, strict=strict, calibration=calibration, measure=measure,
            goal_db=goal_sqnr, costs=costs, threads=threads,
        )  # fmt: skip
        if json_file is not None:
            write(json_file, made.to_json().encode())
        wide = None if sys.stdout.isatty() else 250
        made.print(Console(width=wide))


@app.command(epilog="Example:\n\nedgeq dequantize model_int8.tflite -o model_float.tflite")
def dequantize(
    model: Annotated[Path, typer.Argument(help="A quantized .tflite file.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    overwrite: Overwrite = False,
) -> None:
    """Turns a quantized .tflite file back into a float32 one, which computes nearly the same."""
    from edgeq.export.frontends.dequantize import dequantize as run

    with errors_as_sentences():
        check_writable(output, overwrite)
        write(output, run(model))
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
