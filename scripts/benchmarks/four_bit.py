"""`scripts/bench fidelity --four-bit`: weights of 4 bits, rounded in each way, on trained models.

Each way has three draws of the representative samples. A draw whose result is in the folder is not
run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.dominance import RESULT
from benchmarks.judging import FLOAT, Row, contest, print_refusals
from benchmarks.workshop import FOUR_BIT, Workshop

CASES = ("mnv2_cifar10", "fmnist", "crepe_tiny")
SEEDS = (0, 1, 2)
DRAWN = 0.75
"""Share of the representative samples that a draw takes."""

Draws = Sequence[Mapping[str, Row]]
"""Row by contestant, of each draw."""


def run(
    names: list[str], folder: Path, measure: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the cases of these names; those that `folder` has results of are read."""
    for name in names:
        draws = []
        for seed in SEEDS:
            own = folder / name / str(seed)
            path = own / RESULT
            if not path.exists():
                rows = _measured(Workshop(own, measure), name, seed, seconds, console)
                own.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(rows, indent=2))
            draws.append(json.loads(path.read_text()))
            print_refusals(draws[-1], console)
        console.print(_table(name, draws))
        yield name, draws


def _measured(
    workshop: Workshop, name: str, seed: int, seconds: float, console: Console
) -> dict[str, Row]:
    """Row by contestant with some of the samples."""
    import cases

    case = cases.load(name)
    with console.status(f"{name}: tracing"):
        refused = workshop.trace("case", name)
    if refused is not None:
        return {FLOAT: {"refused": refused.reason}}
    samples = workshop.samples()
    drawn = np.random.default_rng(seed).permutation(len(samples))[: int(DRAWN * len(samples))]
    workshop.write(workshop.float_path.read_bytes(), [samples[i] for i in drawn], workshop.unseen())
    judged, rows = contest(
        workshop, FOUR_BIT, case.evaluation, seconds,
        lambda what: console.status(f"{name}, draw {seed}: {what}"),
    )  # fmt: skip
    told = {one: {**row, **workshop.told(one)} for one, row in rows.items()}
    for one, found in judged.items():
        told[one]["metric"] = case.metric(found.outputs)
    return {
        one: {key: None if value == math.inf else value for key, value in row.items()}
        for one, row in told.items()
    }


def _table(name: str, draws: Draws) -> Table:
    """A line for each way of rounding, with mean and spread over the draws."""
    table = Table(title=f"{name}, 4-bit weights, {len(draws)} draws of samples")
    for heading in ("", "dB on unseen samples", "metric", "seconds"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for one in (FLOAT, *FOUR_BIT):
        cells = (_spread(draws, one, key) for key in ("sqnr_db", "metric", "export_s"))
        table.add_row(one.removeprefix("edgeq "), *cells)
    return table


def _spread(draws: Draws, one: str, key: str) -> str:
    """Mean of the draws, and from the lowest to the highest."""
    found = [value for rows in draws if (value := rows.get(one, {}).get(key)) is not None]
    if not found:
        return ""
    return f"{np.mean(found):.1f} ({min(found):.1f} to {max(found):.1f})"
