"""The application that commands are added to."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from edgeq.cli.failing import open_standard_streams
from edgeq.runtime.backend import load_backend

ELSEWHERE = {
    "search": "edgeq export searches by a metric, with --eval-data and --metric",
    "quantize": "edgeq export does it",
    "convert": "edgeq export does it",
}
"""What is no command, and where it is found."""


class _Commands(TyperGroup):
    """Commands, with a hint for those that have another name here."""

    def resolve_command(
        self, ctx: Any, args: list[str]
    ) -> tuple[str | None, Any | None, list[str]]:
        """The command that arguments begin with."""
        if args[0] in ELSEWHERE:
            ctx.fail(f"No such command {args[0]!r}: {ELSEWHERE[args[0]]}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="edgeq",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turns a float model into a small, fast, verified int8 LiteRT model.\n\n"
    "Example: [bold]edgeq export model.tflite --data samples.npy -o model_int8.tflite[/bold]",
)


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


def main() -> None:
    """Entry point of the `edgeq` command."""
    open_standard_streams()
    app()
