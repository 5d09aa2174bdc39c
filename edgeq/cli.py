"""The command line: thin wrappers over the public functions, with help that shows examples.

Exit codes: 0 done, 1 a promise of the exported model is broken or lint found errors, 2 could not
run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.data import InputSpec
from edgeq.calibrate.observers import NAMED
from edgeq.calibrate.readers import (
    ImageFiles,
    ImageLayout,
    open_data,
    open_with_settings,
    parse_setting,
    read_settings,
)
from edgeq.compiler import TIMEOUT_S, compile_edgetpu
from edgeq.errors import (
    DataError,
    DependencyError,
    EdgeqError,
    ModelError,
    RecipeError,
    VerificationError,
)
from edgeq.export.metadata import read_labels
from edgeq.files import write_whole
from edgeq.flatbuffer import parse
from edgeq.linter import lint as find_faults
from edgeq.metrics import BUILT_IN
from edgeq.model import FloatModel
from edgeq.portspec import DTYPES, PortSpec
from edgeq.progress import Progress
from edgeq.recipe import PRESETS
from edgeq.report.bench import measure_models
from edgeq.report.check import Facts
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.report.overlay import overlays
from edgeq.report.page import check_packages
from edgeq.runtime.backend import BACKENDS, load_backend
from edgeq.runtime.benchmark import Setting
from edgeq.runtime.cpu import speed_hints
from edgeq.runtime.session import DELEGATES
from edgeq.targets import TARGETS
from edgeq.thresholds import Thresholds

if TYPE_CHECKING:
    from edgeq.export.edgemodel import EdgeModel

app = typer.Typer(
    name="edgeq",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turns a float model into a small, fast, verified int8 LiteRT model.\n\n"
    "Example: [bold]edgeq export model.tflite --data samples.npy -o model_int8.tflite[/bold]",
)

MODEL_HELP = (
    "A float .tflite file, a SavedModel folder, or module:function that returns a model of "
    "PyTorch, JAX, Flax, Keras or TensorFlow."
)
Model = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")]
FloatSide = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="FLOAT")]
Data = Annotated[
    str,
    typer.Option(
        help="Representative inputs: .npy (N, ...), .npz (one array an input), .csv (one row a "
        "sample), a folder of images, .wav or .npy files, or module:function."
    ),
]
TARGET_HELP = f"Where the model will run: {', '.join(TARGETS)}."
RECIPE_HELP = f"One of {', '.join(PRESETS)}, or a recipe as .json or .yaml."
DataConfig = Annotated[
    Path | None, typer.Option(help="Options of the data as .json or .yaml, such as size: 224x224.")
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option", metavar="KEY=VALUE",
        help="One option of the data, which wins over --data-config; may be repeated. Images: "
        "size, crop, resize, mean, std, scale, layout, color. Sound: length.",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option(help="Samples that run side by side; by default one for each CPU.", min=1),
]
Overwrite = Annotated[bool, typer.Option(help="Replace an existing output.")]


Measure = Annotated[
    bool,
    typer.Option(help="Let recipe auto decide by times measured on this machine."),
]
CostTable = Annotated[
    Path | None,
    typer.Option(help="What recipe auto estimates times by: a file of edgeq bench --fit."),
]
GoalSqnr = Annotated[
    float, typer.Option(help="SQNR in dB from which on recipe auto takes the fastest plan.")
]

LabelsFile = Annotated[
    Path | None, typer.Option(help="Right class of each sample, .npy (N,); adds the accuracy.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=f"What to compute from outputs and labels: {', '.join(BUILT_IN)}, or "
        "module:function of (outputs, targets); may be repeated.",
    ),
]
OutputName = Annotated[
    str | None, typer.Option(help="Output that metrics look at, if there are several.")
]

PortRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LOW HIGH",
        help="Range of its real numbers that is known beforehand, instead of measured.",
    ),
]
PORTS_DEFAULT = "float32, for the Edge TPU int8"
MinRuntime = Annotated[
    str | None,
    typer.Option(help="Oldest TensorFlow Lite version that will run the file, such as 2.14."),
]
Layout = Annotated[
    str | None, typer.Option(help="nhwc: take and give images as NHWC where the model has NCHW.")
]


@contextlib.contextmanager
def _errors_as_sentences() -> Iterator[None]:
    """An edgeq error becomes one message and an exit code, without a traceback."""
    try:
        yield
    except EdgeqError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        raise typer.Exit(1 if isinstance(error, VerificationError) else 2) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing was written", style="yellow")
        raise typer.Exit(130) from None


def _load_function(text: str, what: type[EdgeqError]) -> Any:
    """The object that `module:name` names, found also in the working directory."""
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise what(f"{text!r} must be module:function, for example my_package.net:build")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise what(f"cannot load {text!r}: {error}") from None
    finally:
        sys.path.pop(0)


def _is_function(text: str) -> bool:
    return ":" in text and not Path(text).exists()


def _load_model(text: str) -> Any:
    if not _is_function(text):
        return text
    made = _load_function(text, ModelError)
    if not callable(made):
        raise ModelError(f"{text!r} must be a function that returns the model")
    return made()


def _load_data(text: str, config: Path | None, options: list[str] | None, model: str) -> Any:
    if _is_function(text):
        if config is not None or options:
            raise DataError("--data-config and --data-option are for files, not for a function")
        return _load_function(text, DataError)
    settings = read_settings(config) if config is not None else {}
    settings.update(map(parse_setting, options or []))
    return open_with_settings(text, settings, _inputs(model) if Path(text).is_dir() else ())


def _inputs(model: str) -> tuple[InputSpec, ...]:
    """The inputs of a .tflite; none of other models and of files that the export will refuse."""
    with contextlib.suppress(OSError, EdgeqError):
        if Path(model).suffix == ".tflite":
            tensors = FloatModel(Path(model).read_bytes(), "tflite").input_tensors()
            return tuple(InputSpec(name, t.shape, t.dtype) for name, t in tensors)
    return ()


def _port(dtype: str | None, known: tuple[float, float] | None) -> PortSpec | None:
    """What the ports of one side shall be; None leaves it to the target."""
    if dtype is None and known is None:
        return None
    return PortSpec(dtype or "float32", known)


Page = Annotated[
    Path | None, typer.Option("--report", help="Also write a page to look at, as .html.")
]


def _check_page(path: Path | None, overwrite: bool) -> None:
    """`_check_writable` for a page, whose packages must be there too."""
    if path is not None:
        _check_writable(path, overwrite)
        if path.suffix == ".html":
            check_packages()


def _write_page(
    path: Path, edge: Any, comparison: Comparison | None, diagnosis: Diagnosis | None = None
) -> None:
    from edgeq.export.reporting import write_report

    with _writing(path):
        write_report(
            path, edge, comparison=comparison, diagnosis=diagnosis, title=f"edgeq: {path.stem}",
            command=shlex.join(["edgeq", *sys.argv[1:]]),
        )  # fmt: skip


def _load_metrics(names: list[str] | None) -> dict[str, Any] | None:
    """Metrics by the names to report them by; None leaves it to the labels."""
    if not names:
        return None
    return {n: _load_function(n, DataError) if _is_function(n) else n for n in names}


def _check_writable(path: Path, overwrite: bool) -> None:
    """Raises an `EdgeqError` before the long work for a file that could not be written after it."""
    if path.is_dir():
        raise EdgeqError(f"{path} is a folder; name the file to write")
    if path.exists() and not overwrite:
        raise EdgeqError(f"{path} exists; pass --overwrite to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise EdgeqError(f"cannot write {path}: {folder} is not a folder that may be written to")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeqError(f"cannot write {path}: {error.strerror or error}") from None


def _write(path: Path, content: bytes) -> None:
    with _writing(path):
        write_whole(path, content)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"edgeq {version('edgeq')}, {load_backend().describe()}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show versions and exit."
        ),
    ] = False,
) -> None:
    """Options that stand before any command."""


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
    from edgeq.export.comparison import compare as compare_models
    from edgeq.export.debugging import debug as debug_model
    from edgeq.export.pipeline import export as run

    with _errors_as_sentences():
        described_too = metadata or (class_names is not None and android is None)
        sidecar = output.with_suffix(".json") if described_too else None
        for path in (output, sidecar):
            if path is not None:
                _check_writable(path, overwrite)
        _check_page(report, overwrite)
        names = () if class_names is None else read_labels(class_names)
        if android is not None:
            _check_app(android, names)
        samples = _load_data(data, data_config, data_option, model)
        made = run(
            _load_model(model), samples, recipe=recipe, target=target, calibration=calibration,
            layout=layout, inputs=_port(inputs, input_range), outputs=_port(outputs, output_range),
            min_sqnr_db=min_sqnr, min_runtime=min_runtime, measure=measure, goal_db=goal_sqnr,
            costs=costs, threads=threads,
        )  # fmt: skip
        described = made.describe(names, getattr(samples, "layout", None)) if sidecar else None
        with _writing(output):
            made.save(output, described)
        made.report.print()
        if report is not None and report.suffix == ".html":
            found = compare_models(made, made, samples, threads=threads)
            _write_page(report, made, found, debug_model(made, made, samples, recipe=recipe))
        elif report is not None:
            _write(report, made.report.to_json().encode())
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
        if android is not None:
            _write_app(android, made, samples, names)


def _check_app(project: Path, names: Sequence[str]) -> None:
    """Raises before the long work if a classifier cannot be put into an Android project."""
    from edgeq.export.android import check_project

    if not names:
        raise DataError("--android needs --class-names, a text file with one name a line")
    check_project(project)


def _write_app(project: Path, made: EdgeModel, samples: Any, names: Sequence[str]) -> None:
    from edgeq.export.android import ASSETS, write_assets

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
    calibration: Annotated[
        Path | None, typer.Option(help="Plan by this file of edgeq calibrate.")
    ] = None,
    measure: Measure = False,
    goal_sqnr: GoalSqnr = 20.0,
    costs: CostTable = None,
    json: Annotated[Path | None, typer.Option(help="Also write the plan as JSON.")] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Shows what an export would make of each op, and why, without exporting."""
    from edgeq.export.pipeline import plan as run

    with _errors_as_sentences():
        if json is not None:
            _check_writable(json, overwrite)
        made = run(
            _load_model(model), _load_data(data, data_config, data_option, model), recipe=recipe,
            target=target, calibration=calibration, measure=measure, goal_db=goal_sqnr,
            costs=costs, threads=threads,
        )  # fmt: skip
        if json is not None:
            _write(json, made.to_json().encode())
        wide = None if sys.stdout.isatty() else 250
        made.print(Console(width=wide))


@app.command(
    epilog="Examples:\n\n"
    "edgeq calibrate model.tflite --data images.npy -o calibration.json --observer percentile\n\n"
    "edgeq calibrate model.tflite --data images.npy -o calibration.json --resume\n\n"
    "edgeq export model.tflite --data images.npy --calibration calibration.json -o int8.tflite"
)
def calibrate(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .json.")],
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    observer: Annotated[str, typer.Option(help=f"One of {', '.join(NAMED)}.")] = "minmax",
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run ended.")] = False,
    save_every: Annotated[float, typer.Option(help="Seconds between saves.", min=0.0)] = 5.0,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Measures the ranges of a model's tensors on data and writes them to a file.

    What has been seen is saved every few seconds beside the output, as OUTPUT.partial. After an
    interruption --resume skips the samples that it holds, and ends with the same file as a run
    without the interruption.
    """
    from edgeq.export.pipeline import calibrate as run

    with _errors_as_sentences():
        _check_writable(output, overwrite)
        partial = output.with_name(f"{output.name}.partial")
        start = Calibration.load(partial) if resume and partial.exists() else None
        if start is not None:
            Console().print(f"going on behind {start.samples} samples", highlight=False)
        checkpoint = _Checkpoint(partial, save_every)
        advice: list[str] = []
        made = run(
            _load_model(model), _load_data(data, data_config, data_option, model),
            observer=observer, start=start, checkpoint=checkpoint, on_advice=advice.extend,
            threads=threads, layout=layout,
            inputs=PortSpec(range=input_range), outputs=PortSpec(range=output_range),
        )  # fmt: skip
        made.save(output)
        partial.unlink(missing_ok=True)
        Console().print(f"wrote {output}: {made.samples} samples", highlight=False)
        for sentence in advice:
            Console().print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)


class _Checkpoint:
    """Saves a calibration from time to time."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, state: Callable[[], Calibration]) -> None:
        if time.monotonic() - self._last >= self._seconds:
            state().save(self._path)
            self._last = time.monotonic()


@app.command(epilog="Example:\n\nedgeq dequantize model_int8.tflite -o model_float.tflite")
def dequantize(
    model: Annotated[Path, typer.Argument(help="A quantized .tflite file.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    overwrite: Overwrite = False,
) -> None:
    """Turns a quantized .tflite file back into a float32 one, which computes nearly the same."""
    from edgeq.export.dequantize import dequantize as run

    with _errors_as_sentences():
        _check_writable(output, overwrite)
        _write(output, run(model))
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


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
    labels: LabelsFile = None,
    metric: Metrics = None,
    output_name: OutputName = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the comparison as JSON.")
    ] = None,
    report: Page = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Runs a float model and its integer form on the same data and shows how far they are apart."""
    from edgeq.export.comparison import compare as run

    with _errors_as_sentences():
        if json_file is not None:
            _check_writable(json_file, overwrite)
        _check_page(report, overwrite)
        made = run(
            _load_model(model), edge, _load_data(data, data_config, data_option, model),
            metrics=_load_metrics(metric), labels=None if labels is None else open_data(labels),
            output=output_name, threads=threads,
        )  # fmt: skip
        if json_file is not None:
            _write(json_file, made.to_json().encode())
        made.print()
        if report is not None:
            _write_page(report, edge, made)


@app.command(
    epilog="Examples:\n\n"
    "edgeq check model.tflite model_int8.tflite --data images.npy --min-sqnr 20\n\n"
    "edgeq check model.tflite model_int8.tflite --data images.npy --labels labels.npy "
    "--max-metric-drop 0.01 --baseline baseline.json --junit edgeq.xml"
)
def check(
    model: FloatSide,
    edge: Annotated[Path, typer.Argument(help="The .tflite to judge.", metavar="EDGE")],
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    labels: LabelsFile = None,
    metric: Metrics = None,
    output_name: OutputName = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Thresholds as .toml; by default edgeq.toml, or [tool.edgeq] of pyproject.toml."
        ),
    ] = None,
    min_sqnr: Annotated[float | None, typer.Option(help="Lowest SQNR of any output in dB.")] = None,
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
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the result as JSON.")
    ] = None,
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
    from edgeq.export.checking import check as run

    with _errors_as_sentences():
        given = {
            "min_sqnr_db": min_sqnr, "max_metric_drop": max_metric_drop,
            "min_agreement": min_agreement, "max_size_kb": max_size_kb,
            "max_latency_ratio": max_latency_ratio, "full_delegation": full_delegation,
            "zero_float_ops": zero_float_ops,
        }  # fmt: skip
        said = {name: value for name, value in given.items() if value is not None}
        wanted = replace(Thresholds.read(config), **said)  # type: ignore[arg-type]
        if wanted.asks_for_nothing and baseline is None and write_baseline is None:
            raise RecipeError(
                "there is nothing to check: pass a threshold such as --min-sqnr 20, or set it in "
                "[tool.edgeq] of pyproject.toml or in edgeq.toml"
            )
        for path in (write_baseline, json_file, junit):
            if path is not None:
                _check_writable(path, overwrite=True)
        found = run(
            _load_model(model), edge, _load_data(data, data_config, data_option, model), wanted,
            baseline=None if baseline is None else _read_baseline(baseline),
            metrics=_load_metrics(metric), labels=None if labels is None else open_data(labels),
            output=output_name, threads=threads,
        )  # fmt: skip
        found.print()
        if json_file is not None:
            _write(json_file, found.to_json().encode())
        if junit is not None:
            with _writing(junit):
                found.write_junit(junit)
        if github:
            for line in found.annotations():
                typer.echo(line)
        if not found.passed:
            raise typer.Exit(1)
        if write_baseline is not None:
            _write(write_baseline, found.facts.to_json().encode())


def _read_baseline(path: Path) -> Facts:
    try:
        return Facts.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise DataError(f"cannot read the baseline {path}: {error}") from None


@app.command(
    epilog="Examples:\n\n"
    "edgeq debug model.tflite model_int8.tflite --data images.npy -o mended.json\n\n"
    "edgeq debug model.tflite --recipe int8 --data images.npy\n\n"
    "edgeq export model.tflite --data images.npy --recipe mended.json -o model_int8.tflite"
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
    recipe: Annotated[
        str, typer.Option(help=f"What EDGE was, or is to be, exported with. {RECIPE_HELP}")
    ] = "int8",
    goal_sqnr: Annotated[
        float, typer.Option(help="SQNR in dB from which on the outputs need no mending.")
    ] = 20.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the suggested recipe, as .json."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the diagnosis as JSON.")
    ] = None,
    report: Page = None,
    overwrite: Overwrite = False,
) -> None:
    """Shows which layers of an integer model lose what, why, and what to do about it."""
    from edgeq.export.comparison import compare as compare_models
    from edgeq.export.debugging import debug as run
    from edgeq.export.pipeline import export as export_model

    with _errors_as_sentences():
        for path in (output, json_file):
            if path is not None:
                _check_writable(path, overwrite)
        _check_page(report, overwrite)
        source: Any = _load_model(model)
        samples = _load_data(data, data_config, data_option, model)
        judged: Any = edge
        if edge is None:
            judged = source = export_model(source, samples, recipe=recipe, min_sqnr_db=None)
        found = run(source, judged, samples, recipe=recipe, goal_db=goal_sqnr)
        if json_file is not None:
            _write(json_file, found.to_json().encode())
        found.print(Console(width=None if sys.stdout.isatty() else 250))
        if report is not None:
            _write_page(report, judged, compare_models(source, judged, samples), found)
        if output is not None and found.recipe is not None:
            _write(output, found.recipe.to_json().encode())
            Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write the overlays to, instead of showing them."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at.")] = "localhost",
    port: Annotated[int, typer.Option(help="Port to serve at.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Shows the graph of an integer model in Model Explorer, coloured by what each op loses.

    Serves until it is interrupted.
    """
    from edgeq.export.debugging import debug as run

    with _errors_as_sentences():
        if output is None and importlib.util.find_spec("model_explorer") is None:
            raise DependencyError(
                "edgeq explore needs Model Explorer: pip install 'edgeq[explore]'; or write the "
                "overlays with --output"
            )
        found = run(_load_model(model), edge, _load_data(data, data_config, data_option, model))
        made = overlays(found)
        if output is None:
            _serve(edge, made, host, port, browser)
            return
        for name, text in made.items():
            stem = re.sub(r"\W+", "_", name).strip("_").lower()
            _write(output / f"{stem}.json", text.encode())
        Console().print(f"wrote {len(made)} overlays to {output}", highlight=False, soft_wrap=True)


def _serve(edge: Path, made: Mapping[str, str], host: str, port: int, browser: bool) -> None:
    import model_explorer

    config = model_explorer.config().add_model_from_path(str(edge))
    for name, text in made.items():
        config.add_node_data(name, text)
    model_explorer.visualize_from_config(
        config, host=host, port=port, no_open_in_browser=not browser
    )


@app.command(epilog="Example:\n\nedgeq inspect model_int8.tflite")
def inspect(
    model: Annotated[Path, typer.Argument(help="A .tflite file.", metavar="MODEL")],
) -> None:
    """Lists the ops of a .tflite file with their dtypes and quantization parameters."""
    with _errors_as_sentences():
        try:
            content = model.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the model {model}: {error.strerror}") from None
        for graph in parse(content).graphs:
            wide = None if sys.stdout.isatty() else 250
            Console(width=wide).print(_graph_table(graph))


def _graph_table(graph: Any) -> Table:
    table = Table(title=f"{len(graph.operators)} ops", title_style="bold")
    for heading in ("#", "op", "output", "shape", "stored as"):
        table.add_column(heading, overflow="fold")
    for op in graph.operators:
        for index in op.outputs:
            tensor = graph.tensors[index]
            stored = tensor.qparams.describe() if tensor.qparams else tensor.dtype
            shape = "x".join(map(str, tensor.shape))
            table.add_row(str(op.index), escape(op.name), escape(tensor.name), shape, stored)
    return table


@app.command(
    epilog="Examples:\n\n"
    "edgeq lint model_int8.tflite\n\n"
    "edgeq lint model_int8.tflite --target edgetpu --json lint.json"
)
def lint(
    model: Annotated[Path, typer.Argument(help="A .tflite file of any tool.", metavar="MODEL")],
    target: Annotated[
        str, typer.Option(help=f"Where it will run: {', '.join(TARGETS)}.")
    ] = "xnnpack",
    json: Annotated[Path | None, typer.Option(help="Also write the findings as JSON.")] = None,
) -> None:
    """Checks the quantization of a .tflite file, and which ops a target runs.

    Ends with 1 if there are errors: wrong numbers, or a model that does not load.
    """
    with _errors_as_sentences():
        found = find_faults(model, target)
        if json is not None:
            _write(json, found.to_json().encode())
        found.print(Console(width=None if sys.stdout.isatty() else 250))
        if found.errors:
            raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n"
    "edgeq compile model_int8.tflite --output compiled\n\n"
    "edgeq compile detect.tflite classify.tflite -o compiled --json compiled.json"
)
def compile(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Files of edgeq export --target edgetpu; several share one chip's memory.",
            metavar="MODEL...",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    segments: Annotated[int, typer.Option(help="Parts, for as many chips in a row.", min=1)] = 1,
    several_pieces: Annotated[
        bool, typer.Option(help="Also map ops behind the first one that does not map.")
    ] = False,
    search: Annotated[
        bool, typer.Option(help="End the compiled part earlier if that lets it succeed.")
    ] = False,
    timeout: Annotated[
        int, typer.Option(help="Seconds after which the compiler is stopped.", min=1)
    ] = TIMEOUT_S,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write what was made as JSON.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compiles int8 files for the Edge TPU, and shows which ops map beside the prediction.

    Needs edgetpu_compiler on the PATH; without it, it says how to get it.
    """
    with _errors_as_sentences():
        if json_file is not None:
            _check_writable(json_file, overwrite)
        made = compile_edgetpu(
            models, output, segments=segments, several_pieces=several_pieces, search=search,
            timeout_s=timeout,
        )  # fmt: skip
        for compiled in made:
            compiled.print(Console(width=None if sys.stdout.isatty() else 250))
        if json_file is not None:
            _write(json_file, json.dumps([c.to_dict() for c in made], indent=2).encode())


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
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write what was measured as JSON.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measures latency and memory of models, in turn, on this machine.

    Inputs are random. With --fit no model is needed: the table that is written makes edgeq export
    --costs plan for this machine.
    """
    with _errors_as_sentences():
        for path in (fit, json_file):
            if path is not None:
                _check_writable(path, overwrite)
        if not models and fit is None:
            raise ModelError("name a model to measure, or a file for --fit")
        wide = Console(width=None if sys.stdout.isatty() else 250)
        for hint in speed_hints():
            Console(stderr=True).print(f"note: {hint}", highlight=False, soft_wrap=True)
        if models:
            given = dict(option.partition("=")[::2] for option in delegate_option or [])
            found = measure_models(
                models, Setting(delegate, given, threads, backend), seconds, warm_up, per_op
            )
            found.print(wide)
            if json_file is not None:
                _write(json_file, found.to_json().encode())
        if fit is not None:
            _fit(fit)


def _fit(path: Path) -> None:
    from edgeq.export.fitting import STEPS
    from edgeq.export.fitting import fit as run

    progress = Progress.make(None)
    with progress.stage("measure", STEPS) as advance:
        costs = run(f"measured on {platform.node()}", advance=advance)
    _write(path, costs.to_json().encode())
    Console().print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


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
    from edgeq.demo.run import run_demo

    with _errors_as_sentences():
        _check_writable(output / "model.tflite", overwrite=True)
        run_demo(output)


def main() -> None:
    """Entry point of the `edgeq` command."""
    app()
