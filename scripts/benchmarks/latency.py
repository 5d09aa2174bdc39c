"""`scripts/bench latency`: every architecture by every contestant, in turn in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.judging import FLOAT, NOISE, Row, contest, print_refusals
from benchmarks.workshop import CONTESTANTS, Workshop

NAMES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "resnet50",
    "convnext_tiny",
    "ghostnet",
    "vit_tiny",
    "bert_mini",
    "lstm",
    "unet",
)
"""Those of `benchmarks.models`, which imports torch."""

JUDGED_SAMPLES = 8

SHOWN = [name for name in CONTESTANTS if name not in ("edgeq weight_int8", "edgeq float16")]
"""Those whose kernels differ from the float model's."""


def run(
    names: list[str], folder: Path, measure: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the models of these names; gives each name with plain values for JSON."""
    for name in names:
        rows = _measured(Workshop(folder / name, measure), name, seconds, console)
        console.print(_table(name, rows))
        print_refusals(rows, console)
        yield name, rows


def _measured(workshop: Workshop, name: str, seconds: float, console: Console) -> dict[str, Row]:
    """Row by contestant."""
    with console.status(f"{name}: tracing"):
        refused = workshop.trace("model", name)
    if refused is not None:
        return {FLOAT: {"refused": refused.reason}}
    samples = workshop.samples()[-JUDGED_SAMPLES:]
    _, rows = contest(workshop, SHOWN, samples, seconds, lambda w: console.status(f"{name}: {w}"))
    return rows


def _table(name: str, rows: Mapping[str, Row]) -> Table:
    table = Table(title=name, title_style="bold", min_width=90)
    headings = ("", "ms", "over float", "SQNR dB", "size", "partitions", "outside")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for contestant, row in rows.items():
        if "refused" in row:
            table.add_row(contestant, "none")
            continue
        slower = row["latency_ratio"] > NOISE
        table.add_row(
            contestant,
            f"{row['latency_ms']:.2f}",
            f"[red]{row['latency_ratio']:.2f}[/red]" if slower else f"{row['latency_ratio']:.2f}",
            "" if contestant == FLOAT else f"{row['sqnr_db']:.1f}",
            f"{row['size_ratio']:.2f}",
            str(row["partitions"]),
            str(row["outside"]),
        )
    return table
