"""The comparison of two models: how far their outputs are apart, and what that costs the task.

Plain values, with a text form for the terminal and JSON for programs. Knows nothing of how the
numbers were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.fidelity.parts import Part
from edgeq.fidelity.sqnr import WorstSample
from edgeq.foreign.shown import escape
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.terminal.printed import Result, strict


@dataclass(frozen=True)
class MetricChange:
    """One metric of both models on the same samples.

    Attributes:
        float_value: Value of the float model.
        edge_value: Value of the other model.
        difference: The other model's value less the float model's.
        low: Lower end of the 95 % interval of the difference: what other samples of the same kind
            would show, by a bootstrap that resamples rows for both models alike.
        high: Upper end.
    """

    float_value: float
    edge_value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison(Result):
    """A float model and another model of it on the same samples.

    Attributes:
        samples: Number of samples that both models ran.
        outputs: How far each output is apart.
        metrics: What was asked for, by name.
        runtime: The interpreter that ran the models, with version.
        worst_samples: Those that are farthest apart, the worst first; ten at most.
    """

    samples: int
    outputs: tuple[OutputFidelity, ...]
    metrics: Mapping[str, MetricChange]
    runtime: str
    worst_samples: tuple[WorstSample, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB of the worst part of the worst output."""
        return self.worst.least_db

    @property
    def worst(self) -> OutputFidelity:
        """The output, or the one with the part, that has lost most."""
        return min(self.outputs, key=lambda output: output.least_db)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values; what is not a finite number is None."""
        fields: dict[str, Any] = strict(asdict(self))
        return fields

    def _write(self, console: Console) -> None:
        console.print(self._fidelity())
        if self.metrics:
            console.print(self._metrics())

    def _fidelity(self) -> Table:
        table = Table(title="edge model against float model", title_style="bold")
        table.add_column("output", overflow="fold")
        for heading in (
            "SQNR", "cosine", "mean error", "largest error", "same top-1", "same top-5",
        ):  # fmt: skip
            table.add_column(heading, justify="right")
        for o in self.outputs:
            agreement = [
                "" if share is None else f"{share:.2%}"
                for share in (o.top1_agreement, o.top5_agreement)
            ]
            table.add_row(
                escape(o.name), f"{o.sqnr_db:.1f} dB", f"{o.cosine:.6f}", f"{o.mean_error:.4g}",
                f"{o.largest_error:.4g}", *agreement,
            )  # fmt: skip
            if o.samples is not None:
                table.add_row(f"  of samples: {o.samples.shown}")
            if o.drift is not None:
                table.add_row(f"  first and last tenth of steps: {o.drift.shown}")
            for rows in o.parts:
                table.add_row(f"  {rows.where or 'all of it'}", _shown(rows))
        table.caption = f"{self.samples} samples, run by {self.runtime}"
        part = self.worst.worst_part
        if part is not None:
            table.caption += f"; worst part: {self.worst.worst_place}, {_shown(part)}"
        if self.worst_samples:
            worst = self.worst_samples[0]
            table.caption += f"; worst: sample {worst.index} with {worst.sqnr_db:.1f} dB"
        return table

    def _metrics(self) -> Table:
        table = Table(title="metrics", title_style="bold")
        table.add_column("", overflow="fold")
        for heading in ("float", "edge", "difference", "95 % interval"):
            table.add_column(heading, justify="right")
        for name, m in self.metrics.items():
            table.add_row(
                escape(name), f"{m.float_value:.4f}", f"{m.edge_value:.4f}",
                f"{m.difference:+.4f}", f"{m.low:+.4f} to {m.high:+.4f}",
            )  # fmt: skip
        return table


def _shown(part: Part) -> str:
    lost = ", constant" if part.is_constant else ""
    return f"{part.sqnr_db:.1f} dB{lost}"
