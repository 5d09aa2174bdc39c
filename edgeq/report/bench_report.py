"""`BenchReport`: what `edgeq bench` measured, as values, as text and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.foreign.shown import escape, visible
from edgeq.runtime.backend import load_backend
from edgeq.runtime.benchmark import Benchmark, Setting, benchmark
from edgeq.runtime.interpreter import read_model
from edgeq.runtime.profile import OpTime, op_times
from edgeq.terminal.printed import Result


@dataclass(frozen=True)
class BenchReport(Result):
    """Measurements of several models.

    Attributes:
        backend: The interpreter and its version.
        machine: Kind of processor.
        setting: How the models were run.
        models: Each model, in the caller's order.
        ops: What each op takes, by model; empty where that was not asked for.
    """

    backend: str
    machine: str
    setting: Setting
    models: tuple[Benchmark, ...]
    ops: dict[str, tuple[OpTime, ...]]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; options that JSON has no form of are text."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return fields

    def _write(self, console: Console) -> None:
        threads = self.setting.threads or "all"
        table = Table(title=f"{self.backend}, {threads} thread(s), ms", title_style="bold")
        for heading in ("model", "min", "median", "p90", "p99", "runs", "ratio", "load", "MB"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for row in self.models:
            time = row.latency
            numbers = (time.min_ms, time.median_ms, time.p90_ms, time.p99_ms)
            memory = "?" if row.memory_mb is None else f"{row.memory_mb:.1f}"
            table.add_row(
                escape(row.name), *(f"{n:.3f}" for n in numbers), str(time.runs),
                f"{row.ratio:.2f}", f"{row.load_ms:.1f}", memory,
            )  # fmt: skip
        console.print(table)
        for row in self.models:
            console.print(visible(f"{row.name}: {row.placement}"), highlight=False, markup=False)
        for name, times in self.ops.items():
            console.print(_op_table(name, times))


def _op_table(name: str, times: Sequence[OpTime]) -> Table:
    """The ops of one model, the slowest first."""
    total = sum(time.ms for time in times) or 1.0
    table = Table(title=escape(f"ops of {name}"), title_style="bold")
    for heading in ("#", "op", "layer", "ms", "share"):
        table.add_column(heading, justify="right" if heading in ("#", "ms", "share") else "left")
    for time in sorted(times, key=lambda t: -t.ms):
        share = f"{time.ms / total:.0%}"
        table.add_row(str(time.op), escape(time.name), escape(time.layer), f"{time.ms:.3f}", share)
    return table


def measure_models(
    models: Sequence[str | os.PathLike[str]],
    setting: Setting,
    seconds: float = 3.0,
    warm_up: int = 3,
    per_op: bool = False,
) -> BenchReport:
    """Measures files in turn on random inputs.

    Args:
        models: Paths of .tflite files; ratios are over the first.
        setting: How they are run.
        seconds: How long, for all together.
        warm_up: Runs of each that do not count.
        per_op: Whether to time every op too.

    Raises:
        EdgeqError: A file cannot be read or run.
    """
    contents = {os.fspath(path): read_model(path) for path in models}
    found = benchmark(contents, setting, seconds, warm_up=warm_up)
    ops = {name: op_times(tflite, setting) for name, tflite in contents.items()} if per_op else {}
    backend = load_backend(setting.backend).describe()
    return BenchReport(backend, platform.machine(), setting, found, ops)
