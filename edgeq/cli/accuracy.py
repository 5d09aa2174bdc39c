"""The commands that hold an integer model against its float one: compare, check, debug, explore."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeq.cli.app import app
from edgeq.cli.failing import errors_as_sentences
from edgeq.cli.inputs import load_data, load_metrics, load_model, port_spec
from edgeq.cli.options import (
    RECIPE_HELP,
    CalibrationFile,
    CostTable,
    Data,
    DataConfig,
    DataOptions,
    DeviceName,
    FloatSide,
    InputTypes,
    JsonFile,
    LabelsFile,
    Layout,
    Measure,
    Metrics,
    MinRuntime,
    MinSqnrDb,
    OutputName,
    OutputTypes,
    Overwrite,
    Page,
    PortRange,
    Strict,
    TargetName,
    Threads,
)
from edgeq.cli.state_options import States, StateStart
from edgeq.cli.writing import JSON, PAGE, XML, check_outputs, say, wide_console, write, write_page
from edgeq.data.readers import open_data
from edgeq.errors import DataError, DependencyError, EdgeqError, RecipeError
from edgeq.foreign.documents import DocumentError, read_text
from edgeq.report.overlay import overlays
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import Facts

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that only this machine reaches."""


@app.command(
    epilog="Examples:\n\n"
    "edgeq compare model.tflite model_int8.tflite --data images.npy\n\n"
    "edgeq compare model.tflite int8.tflite --data images.npy --labels labels.npy --json found.json"
)
def compare(
    model: FloatSide,
    edge: Annotated[Path, typer.Argument(help="The .tflite to compare with it.", metavar="EDGE")],
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    labels: LabelsFile = None,
    metric: Metrics = None,
    output_name: OutputName = None,
    json_file: JsonFile = None,
    report: Page = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Runs a float model and its integer form on the same data and shows how far they are apart."""
    from edgeq.compare.compare_models import compare as run

    with errors_as_sentences():
        check_outputs(overwrite, ("--json", json_file, JSON), ("--report", report, PAGE))
        made = run(
            load_model(model), edge,
            load_data(data, data_config, data_option, model, state, state_start),
            metrics=load_metrics(metric), labels=None if labels is None else open_data(labels),
            output=output_name, threads=threads,
        )  # fmt: skip
        if json_file is not None:
            write(json_file, made.to_json().encode())
        made.print()
        if report is not None:
            write_page(report, edge, made)


@app.command(
    epilog="Examples:\n\n"
    "edgeq check model.tflite model_int8.tflite --data images.npy --min-sqnr-db 20\n\n"
    "edgeq check model.tflite model_int8.tflite --data images.npy --labels labels.npy "
    "--max-metric-drop 0.01 --baseline baseline.json --junit edgeq.xml"
)
def check(
    model: FloatSide,
    edge: Annotated[Path, typer.Argument(help="The .tflite to judge.", metavar="EDGE")],
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    labels: LabelsFile = None,
    metric: Metrics = None,
    output_name: OutputName = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Thresholds as .toml; by default edgeq.toml, or [tool.edgeq] of pyproject.toml."
        ),
    ] = None,
    min_sqnr_db: MinSqnrDb = None,
    max_metric_drop: Annotated[
        float | None, typer.Option(help="How far each metric may drop, for example 0.01.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Lowest share of answers with the same best class.")
    ] = None,
    max_size_kb: Annotated[
        float | None, typer.Option(help="Largest size in kB of 1,000 bytes.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="Largest latency over the float model's, on this machine.")
    ] = None,
    full_delegation: Annotated[
        bool | None, typer.Option(help="Every op must run in the XNNPACK delegate.")
    ] = None,
    zero_float_ops: Annotated[bool | None, typer.Option(help="No op may compute in float.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="What --write-baseline wrote of the last release.")
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option(help="Write what was measured, if all promises hold.")
    ] = None,
    json_file: JsonFile = None,
    junit: Annotated[Path | None, typer.Option(help="Also write it as JUnit XML.")] = None,
    github: Annotated[
        bool,
        typer.Option(envvar="GITHUB_ACTIONS", help="Print annotations that GitHub shows."),
    ] = False,
    threads: Threads = None,
) -> None:
    """Judges an integer model by thresholds, as a gate for CI.

    Ends with 0 if it keeps all, 1 if it breaks one, and 2 if it could not be judged. Files that it
    writes replace older ones.
    """
    from edgeq.compare.check import check as run

    with errors_as_sentences():
        given = {
            "min_sqnr_db": min_sqnr_db, "max_metric_drop": max_metric_drop,
            "min_agreement": min_agreement, "max_size_kb": max_size_kb,
            "max_latency_ratio": max_latency_ratio, "full_delegation": full_delegation,
            "zero_float_ops": zero_float_ops,
        }  # fmt: skip
        said = {name: value for name, value in given.items() if value is not None}
        wanted = replace(Thresholds.read(config), **said)  # type: ignore[arg-type]
        if wanted.asks_for_nothing and baseline is None and write_baseline is None:
            raise RecipeError(
                "there is nothing to check: pass a threshold such as --min-sqnr-db 20, or set "
                "it in [tool.edgeq] of pyproject.toml or in edgeq.toml"
            )
        check_outputs(
            True, ("--write-baseline", write_baseline, JSON), ("--json", json_file, JSON),
            ("--junit", junit, XML),
        )  # fmt: skip
        found = run(
            load_model(model), edge,
            load_data(data, data_config, data_option, model, state, state_start), wanted,
            baseline=None if baseline is None else _read_baseline(baseline),
            metrics=load_metrics(metric), labels=None if labels is None else open_data(labels),
            output=output_name, threads=threads,
        )  # fmt: skip
        found.print()
        if json_file is not None:
            write(json_file, found.to_json().encode())
        if junit is not None:
            found.write_junit(junit)
        if github:
            for line in found.annotations():
                typer.echo(line)
        if not found.passed:
            raise typer.Exit(1)
        if write_baseline is not None:
            write(write_baseline, found.facts.to_json().encode())


def _read_baseline(path: Path) -> Facts:
    try:
        return Facts.from_json(read_text(path))
    except (OSError, DocumentError, DataError) as error:
        raise DataError(f"cannot read the baseline {path}: {error}") from None


@app.command(
    epilog="Examples:\n\n"
    "edgeq debug model.tflite model_int8.tflite --data images.npy -o refined.json\n\n"
    "edgeq debug model.tflite --recipe int8 --data images.npy\n\n"
    "edgeq export model.tflite --data images.npy --recipe refined.json -o model_int8.tflite"
)
def debug(
    model: FloatSide,
    data: Data,
    edge: Annotated[
        Path | None,
        typer.Argument(
            help="The .tflite to look into; by default the model is exported first.",
            metavar="[EDGE]",
        ),
    ] = None,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    recipe: Annotated[
        str, typer.Option(help=f"What EDGE was, or is to be, exported with. {RECIPE_HELP}")
    ] = "int8",
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
    goal_db: Annotated[
        float,
        typer.Option("--goal-db", "--goal-sqnr", help="SQNR in dB that the outputs shall reach."),
    ] = 20.0,
    costs: CostTable = None,
    device: DeviceName = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the suggested recipe, as .json."),
    ] = None,
    json_file: JsonFile = None,
    report: Page = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Shows which layers of an integer model lose what, why, and what to do about it.

    Without EDGE the model is exported first, by the options that edgeq export has as well.
    """
    from edgeq.compare.compare_models import compare as compare_models
    from edgeq.compare.debug import debug as run
    from edgeq.export.pipeline import export as export_model

    with errors_as_sentences():
        check_outputs(
            overwrite, ("--output", output, JSON), ("--json", json_file, JSON),
            ("--report", report, PAGE),
        )  # fmt: skip
        source: Any = load_model(model)
        samples = load_data(data, data_config, data_option, model, state, state_start)
        edge_model: Any = edge
        if edge is None:
            edge_model = source = export_model(
                source, samples, recipe=recipe, target=target, strict=strict,
                calibration=calibration, layout=layout, inputs=port_spec(inputs, input_range),
                outputs=port_spec(outputs, output_range), min_sqnr_db=None,
                min_runtime=min_runtime, measure=measure, goal_db=goal_db, costs=costs,
                device=device, threads=threads,
            )  # fmt: skip
        found = run(source, edge_model, samples, recipe=recipe, goal_db=goal_db)
        if json_file is not None:
            write(json_file, found.to_json().encode())
        found.print(wide_console())
        if report is not None:
            write_page(report, edge_model, compare_models(source, edge_model, samples), found)
        if output is not None and found.recipe is not None:
            write(output, found.recipe.to_json().encode())
            say(f"wrote {output}")


@app.command(
    epilog="Examples:\n\n"
    "edgeq explore model.tflite model_int8.tflite --data images.npy\n\n"
    "edgeq explore model.tflite model_int8.tflite --data images.npy -o overlays"
)
def explore(
    model: FloatSide,
    edge: Annotated[Path, typer.Argument(help="The .tflite to look at.", metavar="EDGE")],
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write the overlays to, instead of showing them."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at.")] = "localhost",
    expose: Annotated[
        bool,
        typer.Option(help="Serve at a --host that others can reach, who then can read files here."),
    ] = False,
    port: Annotated[int, typer.Option(help="Port to serve at.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Shows the graph of an integer model in Model Explorer, coloured by what each op loses.

    Serves until it is interrupted. Whoever reaches the address can read files of this machine
    through Model Explorer, which does not check the Host header either.
    """
    from edgeq.compare.debug import debug as run

    with errors_as_sentences():
        if output is None and importlib.util.find_spec("model_explorer") is None:
            raise DependencyError(
                "edgeq explore needs Model Explorer: pip install 'edgeq[explore]'; or write the "
                "overlays with --output"
            )
        if output is None and host not in LOOPBACK and not expose:
            raise EdgeqError(
                f"whoever reaches {host} could read files of this machine through Model Explorer: "
                "pass --expose if that is meant, or leave --host out"
            )
        found = run(
            load_model(model),
            edge,
            load_data(data, data_config, data_option, model, state, state_start),
        )
        made = overlays(found)
        if output is None:
            _serve(edge, made, host, port, browser)
            return
        for name, text in made.items():
            stem = re.sub(r"\W+", "_", name).strip("_").lower()
            write(output / f"{stem}.json", text.encode())
        say(f"wrote {len(made)} overlays to {output}")


def _serve(edge: Path, made: Mapping[str, str], host: str, port: int, browser: bool) -> None:
    import model_explorer

    config = model_explorer.config().add_model_from_path(str(edge))
    for name, text in made.items():
        config.add_node_data(name, text)
    model_explorer.visualize_from_config(
        config, host=host, port=port, no_open_in_browser=not browser
    )
