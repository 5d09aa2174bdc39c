"""The command line: thin wrappers over the public functions, with help that shows examples.

Exit codes: 0 done, 1 a promise of the exported model is broken or lint found errors, 2 could not
run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.data import InputSpec
from edgeq.calibrate.observers import NAMED
from edgeq.calibrate.readers import open_data, open_with_settings, parse_setting, read_settings
from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.files import write_whole
from edgeq.flatbuffer import parse
from edgeq.linter import lint as check
from edgeq.model import FloatModel
from edgeq.portspec import DTYPES, PortSpec
from edgeq.recipe import PRESETS
from edgeq.runtime.backend import load_backend
from edgeq.targets import TARGETS

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
GoalSqnr = Annotated[
    float, typer.Option(help="SQNR in dB from which on recipe auto takes the fastest plan.")
]

PortRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LOW HIGH",
        help="Range of its real numbers that is known beforehand, instead of measured.",
    ),
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


def _check_writable(path: Path, overwrite: bool) -> None:
    """Raises an `EdgeqError` before the long work for a file that could not be written after it."""
    if path.is_dir():
        raise EdgeqError(f"{path} is a folder; name the file to write")
    if path.exists() and not overwrite:
        raise EdgeqError(f"{path} exists; pass --overwrite to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise EdgeqError(f"cannot write {path}: {folder} is not a folder that may be written to")


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise EdgeqError(f"cannot write {path}: {error.strerror or error}") from None


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
    "--layout nhwc"
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
        str, typer.Option(help=f"What the app passes: {', '.join(DTYPES)}.")
    ] = "float32",
    outputs: Annotated[str, typer.Option(help="What the app gets, likewise.")] = "float32",
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    min_sqnr: Annotated[
        float, typer.Option(help="Lowest SQNR in dB an output may have; -inf accepts any.")
    ] = 3.0,
    measure: Measure = False,
    goal_sqnr: GoalSqnr = 20.0,
    report: Annotated[Path | None, typer.Option(help="Also write the report as JSON.")] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Exports a model to int8, verifies it, and prints what was measured."""
    from edgeq.export.pipeline import export as run

    with _errors_as_sentences():
        for path in (output, report):
            if path is not None:
                _check_writable(path, overwrite)
        made = run(
            _load_model(model), _load_data(data, data_config, data_option, model),
            recipe=recipe, target=target, calibration=calibration, layout=layout,
            inputs=PortSpec(inputs, input_range), outputs=PortSpec(outputs, output_range),
            min_sqnr_db=min_sqnr, measure=measure, goal_db=goal_sqnr, threads=threads,
        )  # fmt: skip
        _write(output, made.tflite)
        if report is not None:
            _write(report, made.report.to_json().encode())
        made.report.print()
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


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
            threads=threads,
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
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="FLOAT")],
    edge: Annotated[Path, typer.Argument(help="The .tflite to compare with it.", metavar="EDGE")],
    data: Data,
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    labels: Annotated[
        Path | None, typer.Option(help="Right class of each sample, .npy (N,); adds the accuracy.")
    ] = None,
    output_name: Annotated[
        str | None, typer.Option(help="Output with the class scores, if there are several.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the comparison as JSON.")
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Runs a float model and its integer form on the same data and shows how far they are apart."""
    from edgeq.export.comparison import compare as run

    with _errors_as_sentences():
        if json_file is not None:
            _check_writable(json_file, overwrite)
        made = run(
            _load_model(model), edge, _load_data(data, data_config, data_option, model),
            labels=None if labels is None else open_data(labels),
            output=output_name, threads=threads,
        )  # fmt: skip
        if json_file is not None:
            _write(json_file, made.to_json().encode())
        made.print()


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
        found = check(model, target)
        if json is not None:
            _write(json, found.to_json().encode())
        found.print(Console(width=None if sys.stdout.isatty() else 250))
        if found.errors:
            raise typer.Exit(1)


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
