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
    for title, key in (("dB on unseen samples", "sqnr_db"), ("seconds", "export_s")):
        Console(width=WIDTH).print(_table(title, key, found))


def _measured(workshop: Workshop, name: str, seconds: float, console: Console) -> dict[str, Row]:
    """Row by contestant, and what rounding noise alone would leave of the one with all passes."""
    rows = measured(workshop, name, CONTESTANTS, seconds, console)
    if "refused" in rows[FLOAT]:
        return rows
    del rows[FLOAT]
    return {one: {**row, **workshop.told(one)} for one, row in rows.items()}


def _table(title: str, key: str, found: Mapping[str, Mapping[str, Row]]) -> Table:
    """A line for each case, a column for each contestant."""
    table = Table(title=title, title_style="bold")
    table.add_column("")
    shown = {one: one.removeprefix(OWN).strip() or "all" for one in CONTESTANTS}
    told = {"noise alone": "bound_db", "all, reported": "reported_db"} if key == "sqnr_db" else {}
    for heading in (*told, *shown.values()):
        table.add_column(heading, justify="right")
    for name, rows in found.items():
        cells = [_shown(rows.get(OWN, {}).get(one)) for one in told.values()]
        table.add_row(name, *cells, *(_shown(rows.get(one, {}).get(key)) for one in CONTESTANTS))
    return table


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"
