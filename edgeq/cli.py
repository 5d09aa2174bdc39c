"""The command line: thin wrappers over the public functions, with help that shows examples.

Exit codes: 0 done, 1 a promise of the exported model is broken, 2 could not run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.export.edgemodel import write_whole
from edgeq.flatbuffer import parse
from edgeq.runtime.backend import load_backend

app = typer.Typer(
    name="edgeq",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turns a float model into a small, fast, verified int8 LiteRT model.\n\n"
    "Example: [bold]edgeq export model.tflite --data samples.npy -o model_int8.tflite[/bold]",
)

MODEL_HELP = "A float .tflite file, or module:function that returns a PyTorch module."
DATA_HELP = "Representative inputs: .npy (N, ...), .npz (one array an input), or module:function."


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


def _load_data(text: str) -> Any:
    if _is_function(text):
        return _load_function(text, DataError)
    path = Path(text)
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"--data takes .npy, .npz or module:function. Received: {text!r}")
    try:
        return _mapped(path) if path.suffix == ".npy" else _unzipped(path)
    except OSError as error:
        raise DataError(f"cannot read the data {text}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read the data {text}: {error}") from None


def _mapped(path: Path) -> Any:
    """The array of a .npy file, read from disk as it is used."""
    return np.lib.format.open_memmap(path, mode="r")


def _unzipped(path: Path) -> dict[str, Any]:
    """The arrays of a .npz file; `np.load` alone would take a file that is no zip for a pickle."""
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    wrong = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} in it is not an array")
    return arrays


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
)
def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .tflite.")],
    recipe: Annotated[str, typer.Option(help="Preset name or recipe .json.")] = "auto",
    target: Annotated[str, typer.Option(help="Where the model will run.")] = "xnnpack",
    min_sqnr: Annotated[
        float, typer.Option(help="Lowest SQNR in dB an output may have; -inf accepts any.")
    ] = 3.0,
    report: Annotated[Path | None, typer.Option(help="Also write the report as JSON.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for calibration.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
) -> None:
    """Exports a model to int8, verifies it, and prints what was measured."""
    from edgeq.export.pipeline import export as run

    with _errors_as_sentences():
        for path in (output, report):
            if path is not None:
                _check_writable(path, overwrite)
        made = run(
            _load_model(model), _load_data(data), recipe=recipe, target=target,
            min_sqnr_db=min_sqnr, threads=threads,
        )  # fmt: skip
        _write(output, made.tflite)
        if report is not None:
            _write(report, made.report.to_json().encode())
        made.report.print()
        Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


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
