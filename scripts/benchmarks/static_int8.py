"""`scripts/bench fidelity --static`: static int8, pass by pass, on samples that no contestant saw.

Each pass alone, none, and all of them, beside peers, beside what rounding noise alone would leave
and what the export with all passes reports by samples that it held out. A case whose result is in
the folder is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.dominance import RESULT, measured
from benchmarks.judging import FLOAT, Row, print_refusals
from benchmarks.workshop import Workshop

OWN = "edgeq int8"
MODELS = (
    "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet50", "vit_tiny", "bert_mini",
    "unet", "block:detector",
)  # fmt: skip
"""Those with random weights that are measured beside trained ones."""

PASSES = ("nothing", "ranges", "rounded once", "rounded twice", "scaled")
"""Static int8 with one of the passes alone; channels are scaled for weights that are rounded once.
"""

CONTESTANTS = (
    OWN, *(f"{OWN} {name}" for name in PASSES), "ai-edge-quantizer static", "TFLiteConverter int8",
)  # fmt: skip

TABLES = (
    ("dB on unseen samples", "sqnr_db", ".1f"), ("time over float", "latency_ratio", ".2f"),
    ("size over float", "size_ratio", ".2f"), ("seconds of the export", "export_s", ".1f"),
)  # fmt: skip
"""Titles, keys of rows, and formats."""

BESIDE = {
    "ranges": "nothing", "rounded once": "nothing", "rounded twice": "rounded once",
    "scaled": "rounded once",
}  # fmt: skip
"""What was done as well without a pass."""

WIDTH = 160
"""Characters of the tables."""


def run(
    names: list[str], folder: Path, measure: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the cases of these names; those that `folder` has results of are read."""
    found: dict[str, Mapping[str, Row]] = {}
    for name in names:
        own = folder / name.replace(":", "-")
        path = own / RESULT
        if not path.exists():
            rows = _measured(Workshop(own, measure), name, seconds, console)
            own.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, indent=2))
        found[name] = json.loads(path.read_text())
        print_refusals(found[name], console)
        yield name, found[name]
    for title, key, form in TABLES:
        Console(width=WIDTH).print(_table(title, key, form, found))
    Console(width=WIDTH).print(_seconds(found))


def _measured(workshop: Workshop, name: str, seconds: float, console: Console) -> dict[str, Row]:
    """Row by contestant, and what rounding noise alone would leave of the one with all passes."""
    rows = measured(workshop, name, CONTESTANTS, seconds, console)
    if "refused" in rows[FLOAT]:
        return rows
    del rows[FLOAT]
    return {one: {**row, **workshop.told(one)} for one, row in rows.items()}


def _table(title: str, key: str, form: str, found: Mapping[str, Mapping[str, Row]]) -> Table:
    """A line for each case, a column for each contestant."""
    table = Table(title=title, title_style="bold")
    shown = [one.removeprefix(OWN).strip() or "all" for one in CONTESTANTS]
    told = {"noise alone": "bound_db", "all, reported": "reported_db"} if key == "sqnr_db" else {}
    for heading in ("", *told, *shown):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rows in found.items():
        numbers = [rows.get(OWN, {}).get(one) for one in told.values()]
        numbers += [rows.get(one, {}).get(key) for one in CONTESTANTS]
        table.add_row(name, *("" if n is None else format(n, form) for n in numbers))
    return table


def _seconds(found: Mapping[str, Mapping[str, Row]]) -> Table:
    """A line for each case, a column for each pass: what the export takes more with it."""
    table = Table(title="seconds that a pass adds", title_style="bold")
    for heading in ("", *BESIDE):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rows in found.items():
        took = {one: rows.get(f"{OWN} {one}", {}).get("export_s") for one in PASSES}
        pairs = ((took[one], took[without]) for one, without in BESIDE.items())
        table.add_row(name, *("" if None in pair else f"{pair[0] - pair[1]:.1f}" for pair in pairs))
    return table
