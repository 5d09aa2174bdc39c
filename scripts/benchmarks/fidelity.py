"""`scripts/bench fidelity`: trained models, judged by their tasks, against edgeq's goals.

Unseen dB are of the samples that the task is judged by, which no contestant saw; reported dB are
what an export of edgeq's says of itself: of the worst part of an output, on samples that it held
out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.judging import FLOAT, NOISE, Judgement, Row, contest, print_refusals
from benchmarks.workshop import Workshop

AUTO = "edgeq auto"
PEERS = ("ai-edge-quantizer static", "ai-edge-quantizer dynamic")
MOST_POINTS = 1.0
WIDTH = 120
"""Characters of the tables."""

SAME_DB = 0.1
"""Two SQNR closer than this count as equal."""


def run(
    names: list[str], folder: Path, measure: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the cases of these names; gives each name with plain values for JSON."""
    for name in names:
        workshop = Workshop(folder / name, measure)
        yield name, _measured(workshop, name, (AUTO, *PEERS), seconds, console)


def _measured(
    workshop: Workshop, name: str, contestants: Sequence[str], seconds: float, console: Console
) -> dict[str, Any]:
    """Has all contestants make a case's file; the first one is held against the goals."""
    import cases
    import packages

    try:
        case = cases.load(name)
    except packages.Unavailable as error:
        console.print(f"{name}: skipped, {error}", markup=False)
        return {"skipped": str(error)}
    with console.status(f"{name}: tracing"):
        refused = workshop.trace("case", name)
    if refused is not None:
        console.print(f"{name}: not traced, {refused.reason}", markup=False)
        return {"refused": refused.reason}
    judged, rows = contest(
        workshop,
        contestants,
        case.evaluation,
        seconds,
        lambda what: console.status(f"{name}: {what}"),
    )
    metrics = {contestant: case.metric(found.outputs) for contestant, found in judged.items()}
    for contestant, metric in metrics.items():
        lost = case.points_lost(metrics[FLOAT], metric)
        told = workshop.told(contestant)
        rows[contestant] = {"metric": metric, "points_lost": lost, **told, **rows[contestant]}
    point = f"1 point is {case.point:g}" if case.point != 1 else ""
    title = ", ".join(filter(None, [name, case.metric_name, point]))
    Console(width=WIDTH).print(_table(title, rows))
    print_refusals(rows, console)
    goals = _goals(contestants[0], rows, judged)
    for goal, verdict in goals.items():
        style = "green" if verdict.startswith("pass") else "red"
        console.print(f"  {goal}: [{style}]{verdict}[/{style}]", highlight=False)
    return {"metric": case.metric_name, "rows": rows, "goals": goals}


def _goals(own: str, rows: Mapping[str, Row], judged: Mapping[str, Judgement]) -> dict[str, str]:
    """`pass` or `FAIL` of one contestant with the numbers, by goal."""
    if own not in judged:
        return {"an export at all": f"FAIL: {rows[own]['refused']}"}
    ours = judged[own]
    lost = rows[own]["points_lost"]
    rivals = {p: judged[p] for p in PEERS if p in judged}
    rivals = {p: r for p, r in rivals.items() if r.latency_ms <= NOISE * ours.latency_ms}
    best = max((r.sqnr_db for r in rivals.values()), default=-math.inf)
    beaten = f"{ours.sqnr_db:.1f} dB against {best:.1f} dB unseen of a peer that is not slower"
    return {
        f"at most {MOST_POINTS:g} point below float": _verdict(
            lost <= MOST_POINTS, f"{lost:+.2f} points lost"
        ),
        "never slower than float": _verdict(
            ours.latency_ratio <= NOISE, f"{ours.latency_ratio:.2f} of float's time"
        ),
        "as faithful as any peer that is not slower": _verdict(
            ours.sqnr_db >= best - SAME_DB, beaten if rivals else "no peer is as fast"
        ),
    }


def _verdict(holds: bool, numbers: str) -> str:
    return f"{'pass' if holds else 'FAIL'}: {numbers}"


def _table(title: str, rows: Mapping[str, Row]) -> Table:
    table = Table(title=title, title_style="bold", min_width=90)
    headings = (
        "", "metric", "points lost", "unseen dB", "reported dB", "ms", "over float", "size",
        "pieces",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for contestant, row in rows.items():
        if "refused" in row:
            table.add_row(contestant, "none")
            continue
        table.add_row(
            contestant,
            f"{row['metric']:.2f}",
            "" if contestant == FLOAT else f"{row['points_lost']:+.2f}",
            "" if contestant == FLOAT else f"{row['sqnr_db']:.1f}",
            f"{row['reported_db']:.1f}" if "reported_db" in row else "",
            f"{row['latency_ms']:.2f}",
            f"{row['latency_ratio']:.2f}",
            f"{row['size_ratio']:.2f}",
            str(row["partitions"]),
        )
    return table
