"""The commands that run models: bench, demo."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeq.cli.app import app
from edgeq.cli.failing import errors_as_sentences
from edgeq.cli.options import JsonFile, Overwrite
from edgeq.cli.writing import JSON, MODEL, check_outputs, say, wide_console, write
from edgeq.errors import ModelError
from edgeq.report.bench_report import measure_models
from edgeq.runtime.backend import BACKENDS
from edgeq.runtime.benchmark import Setting
from edgeq.runtime.cpu import speed_hints
from edgeq.runtime.delegates import DELEGATES
from edgeq.terminal.progress import Progress


@app.command(
    epilog="Examples:\n\n"
    "edgeq bench model.tflite model_int8.tflite --threads 2\n\n"
    "edgeq bench model_int8.tflite --per-op --json bench.json\n\n"
    "edgeq bench --fit costs.json"
)
def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help=".tflite files; ratios are over the first.", metavar="[MODEL...]"),
    ] = None,
    delegate: Annotated[
        str, typer.Option(help=f"{', '.join(DELEGATES)}, or the path of a library.")
    ] = "xnnpack",
    delegate_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the delegate's library is told."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads within one run.", min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="How long, for all models together.")] = 3.0,
    warm_up: Annotated[int, typer.Option(help="Runs that do not count.", min=0)] = 3,
    per_op: Annotated[bool, typer.Option(help="Also show what each op takes.")] = False,
    backend: Annotated[str | None, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Measure a cost table of this machine into this file.")
    ] = None,
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Measures latency and memory of models, in turn, on this machine.

    Inputs are random. With --fit no model is needed: the table that is written makes edgeq export
    --costs plan for this machine.
    """
    with errors_as_sentences():
        check_outputs(overwrite, ("--fit", fit, JSON), ("--json", json_file, JSON))
        if not models and fit is None:
            raise ModelError("name a model to measure, or a file for --fit")
        wide = wide_console()
        for hint in speed_hints():
            Console(stderr=True).print(
                f"note: {hint}", highlight=False, markup=False, soft_wrap=True
            )
        if models:
            given = dict(option.partition("=")[::2] for option in delegate_option or [])
            found = measure_models(
                models, Setting(delegate, given, threads, backend), seconds, warm_up, per_op
            )
            found.print(wide)
            if json_file is not None:
                write(json_file, found.to_json().encode())
        if fit is not None:
            _fit(fit)


def _fit(path: Path) -> None:
    from edgeq.export.search.fit_costs import STEPS
    from edgeq.export.search.fit_costs import fit as run

    progress = Progress.make(None)
    with progress.stage("measure", STEPS) as advance:
        costs = run(f"measured on {platform.node()}", advance=advance)
    write(path, costs.to_json().encode())
    say(f"wrote {path}")


@app.command(epilog="Example:\n\nedgeq demo --output edgeq-demo")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "edgeq-demo"
    ),
) -> None:
    """Exports a small trained classifier and counts its accuracy before and after.

    The model and its images (Fashion-MNIST) are inside the package. With PyTorch installed the
    nn.Module itself is exported, without it the same model's float .tflite.
    """
    from edgeq.demo.run_demo import run_demo

    with errors_as_sentences():
        check_outputs(True, ("--output", output / "model.tflite", MODEL))
        run_demo(output)
