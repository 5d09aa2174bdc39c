"""The command line: thin wrappers over the public functions, with help that shows examples.

Exit codes: 0 done, 1 a promise of the exported model is broken, 2 could not run.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.flatbuffer import parse

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
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False)
        raise typer.Exit(1 if isinstance(error, VerificationError) else 2) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing was written", style="yellow")
        raise typer.Exit(130) from None


def _load_function(text: str, what: type[EdgeqError]) -> Any:
    """The object that `module:name` names, found also in the working directory."""
    module, _, name = text.partition(":")
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
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        return loaded if path.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the data {text}: {error}") from None


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
    min_sqnr: Annotated[float, typer.Option(help="Lowest SQNR in dB an output may have.")] = 3.0,
    report: Annotated[Path | None, typer.Option(help="Also write the report as JSON.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for calibration.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
) -> None:
    """Exports a model to int8, verifies it, and prints what was measured."""
    from edgeq.export.edgemodel import write_whole
    from edgeq.export.pipeline import export as run

    with _errors_as_sentences():
        for path in (output, report):
            if path is not None and path.exists() and not overwrite:
                raise ModelError(f"{path} exists; pass --overwrite to replace it")
        made = run(
            _load_model(model), _load_data(data), recipe=recipe, target=target,
            min_sqnr_db=min_sqnr, threads=threads,
        )  # fmt: skip
        made.save(output)
        if report is not None:
            write_whole(report, made.report.to_json().encode())
        made.report.print()
        Console().print(f"wrote {output}", highlight=False)


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
            Console().print(_graph_table(graph))


def _graph_table(graph: Any) -> Table:
    table = Table(title=f"{len(graph.operators)} ops", title_style="bold")
    for heading in ("#", "op", "output", "shape", "stored as"):
        table.add_column(heading)
    for op in graph.operators:
        for index in op.outputs:
            tensor = graph.tensors[index]
            stored = tensor.qparams.describe() if tensor.qparams else tensor.dtype
            shape = "x".join(map(str, tensor.shape))
            table.add_row(str(op.index), op.name, tensor.name, shape, stored)
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
        run_demo(output)


def main() -> None:
    """Entry point of the `edgeq` command."""
    app()
