"""The commands that look into files: inspect, lint, compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeq.cli.app import app
from edgeq.cli.failing import errors_as_sentences
from edgeq.cli.options import JsonFile, Overwrite, TargetName
from edgeq.cli.writing import JSON, check_outputs, wide_console, write
from edgeq.flatbuffer import parse
from edgeq.foreign.shown import escape
from edgeq.linter import lint as find_faults
from edgeq.runtime.interpreter import read_model
from edgeq.targets.edgetpu_compiler import TIMEOUT_S, compile_edgetpu


@app.command(epilog="Example:\n\nedgeq inspect model_int8.tflite")
def inspect(
    model: Annotated[Path, typer.Argument(help="A .tflite file.", metavar="MODEL")],
) -> None:
    """Lists the ops of a .tflite file with their dtypes and quantization parameters."""
    with errors_as_sentences():
        for graph in parse(read_model(model)).graphs:
            wide_console().print(_graph_table(graph))


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
    target: TargetName = "xnnpack",
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Checks the quantization of a .tflite file, and which ops a target runs.

    Ends with 1 if there are errors: wrong numbers, or a model that does not load.
    """
    with errors_as_sentences():
        check_outputs(overwrite, ("--json", json_file, JSON))
        found = find_faults(model, target)
        if json_file is not None:
            write(json_file, found.to_json().encode())
        found.print(wide_console())
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
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Compiles int8 files for the Edge TPU, and shows which ops map beside the prediction.

    Needs edgetpu_compiler on the PATH; without it, it says how to get it.
    """
    with errors_as_sentences():
        check_outputs(overwrite, ("--json", json_file, JSON))
        made = compile_edgetpu(
            models, output, segments=segments, several_pieces=several_pieces, search=search,
            timeout_s=timeout,
        )  # fmt: skip
        for compiled in made:
            compiled.print(wide_console())
        if json_file is not None:
            write(json_file, json.dumps([c.to_dict() for c in made], indent=2).encode())
