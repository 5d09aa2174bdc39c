"""`scripts/bench auto`: is what auto chooses ever beaten by a word that the user could have said?

Every case by auto, every preset and the peer, in turn in one run. A preset or peer beats auto where
it is 5 % faster and more faithful by half a dB; or where it is not slower than float and auto is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.judging import FLOAT, NOISE, Row, contest, print_refusals
from benchmarks.latency import NAMES
from benchmarks.workshop import Workshop

AUTO = "edgeq auto"
RIVALS = (
    "edgeq int8", "edgeq dynamic", "edgeq weight_int8", "edgeq float16",
    "ai-edge-quantizer static", "ai-edge-quantizer dynamic",
)  # fmt: skip

FASTER = 0.95
CLOSER_DB = 0.5
MOST_JUDGED = 200
RESULT = "result.json"


def kind_of(name: str) -> str:
    """Where a case of that name comes from, as the bench's tracing has it."""
    from cases import CASES

    if name in CASES:
        return "case"
    return "model" if name in NAMES else "breadth"


def run(
    names: list[str], folder: Path, measure: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the cases of these names; those that `folder` has results of are read."""
    for name in names:
        own = folder / name.replace(":", "-")
        path = own / RESULT
        if not path.exists():
            rows = _measured(Workshop(own, measure), name, seconds, console)
            own.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, indent=2))
        rows = json.loads(path.read_text())
        print_refusals(rows, console)
        yield name, rows


def measured(
    workshop: Workshop, name: str, contestants: Sequence[str], seconds: float, console: Console
) -> dict[str, Row]:
    """A row for float and each contestant, in one run; float's reason alone if it is refused."""
    with console.status(f"{name}: tracing"):
        refused = workshop.trace(kind_of(name), name)
    if refused is not None:
        return {FLOAT: {"refused": refused.reason}}
    samples = workshop.unseen()[:MOST_JUDGED]
    _, rows = contest(
        workshop, contestants, samples, seconds, lambda w: console.status(f"{name}: {w}")
    )
    return rows


def _measured(workshop: Workshop, name: str, seconds: float, console: Console) -> dict[str, Row]:
    """Row by contestant, as JSON can hold it."""
    rows = measured(workshop, name, (AUTO, *RIVALS), seconds, console)
    return {
        contestant: {key: None if value == math.inf else value for key, value in row.items()}
        for contestant, row in rows.items()
    }


def beaten_by(rows: Mapping[str, Row]) -> list[str]:
    """Rivals that auto should have chosen, with how they beat it."""
    auto = rows.get(AUTO, {"refused": ""})
    rivals = {name: rows[name] for name in RIVALS if name in rows and "refused" not in rows[name]}
    if "refused" in auto:
        return [f"{name}: there is no auto" for name in rivals]
    found = []
    for name, rival in rivals.items():
        time, closer = rival["latency_ratio"], _db(rival) - _db(auto)
        faster = time < FASTER * auto["latency_ratio"] and closer > CLOSER_DB
        slower = time <= 1.0 and auto["latency_ratio"] > NOISE and _db(rival) >= 20.0
        if faster or slower:
            found.append(f"{name}: {time:.2f}, {_db(rival):.1f} dB")
    return found


def _db(row: Row) -> float:
    """A row's SQNR; one that differs nowhere is stored as None."""
    return math.inf if row["sqnr_db"] is None else float(row["sqnr_db"])


def show(found: Mapping[str, Mapping[str, Row]], console: Console) -> None:
    """One table: a row a case, time over float, SQNR and size of each contestant."""
    table = Table(title="time over float, dB on unseen samples, size over float", min_width=90)
    for heading in (
        "case",
        "auto",
        *(name.replace("ai-edge-quantizer", "peer") for name in RIVALS),
    ):
        table.add_column(heading.replace("edgeq ", ""), overflow="fold")
    table.add_column("beaten by", overflow="fold")
    beaten = {name: beaten_by(rows) for name, rows in found.items()}
    for name, rows in found.items():
        cells = (_cell(rows.get(contestant)) for contestant in (AUTO, *RIVALS))
        table.add_row(name, *cells, "; ".join(beaten[name]), style="red" if beaten[name] else "")
    console.print(table)
    console.print(f"auto is beaten in {sum(map(bool, beaten.values()))} of {len(found)} cases")


def _cell(row: Row | None) -> str:
    if row is None or "refused" in row:
        return "none"
    return f"{row['latency_ratio']:.2f}, {_db(row):.1f}, {row['size_ratio']:.2f}"
