"""The report of one export: what was made, how good it is, and how it was found out.

Plain values, with a text form for the terminal and JSON for programs. Knows nothing of how the
numbers were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.foreign.shown import escape, lines
from edgeq.ports import IO
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.terminal.printed import Result, strict

LOW_SQNR_DB = 15.0
"""Below this an output's SQNR is shown as a warning: accuracy usually suffers."""

NOT_SLOWER = 1.03
"""Up to this ratio a model is not called slower: two measurements of a file differ by as much."""

SIZE_WORTH = 0.15
"""Worth of the whole size of the float model, in times of a float inference."""

MANY_SAMPLES, MOST_DOUBT_DB = 64, 3.0
"""Fewer samples that judge are a reason for doubt, if others may leave so much less SQNR: of 20
crops of faces, which differ less than new faces do, 200 others had 3.8 dB less."""

NAMED_OPS = 3
"""So many of the ops that share a reason are named in the text."""


@dataclass(frozen=True)
class Measured:
    """Measurements of an exported file that keeps its promises.

    Attributes:
        float_bytes: Size of the float .tflite.
        edge_bytes: Size of the exported file.
        op_counts: Number of ops by dtype, for example `{"int8": 71, "float32": 0}`.
        transposes: Number of TRANSPOSE ops in the exported file.
        io: Its inputs and outputs.
        outputs: Fidelity of each output.
        judged_samples: Number of samples that `outputs` rests on.
        delegated_ops: Number of ops that the delegate took.
        total_ops: Number of ops in the file.
        partitions: Number of pieces that the delegate runs.
        undelegated: Ops outside the delegate, by where they are.
        obstacles: Why the target does not run an op, by where it is.
        float_latency_ms: Fastest inference of the float model, one thread. The fastest of many
            runs in turn is what other work on the machine disturbs least.
        edge_latency_ms: The same of the exported model, measured in turn with it.
        float_ops: Why each op that stays float does, by where it is.
        remarks: What is to be said of ops with float activations and stored weights, likewise.
        folded: Planned tensors that the converter folded away, by name.
        runtime: The interpreter that measured, with version.
        int8_dot_product: Whether the processor that measured has int8 dot products, which decide
            how fast int8 is; None where that cannot be told.
        bound_db: SQNR in dB that independent rounding noise in all of its static tensors leaves of
            the worst part of the worst output; None where there are none, or it cannot be told.
    """

    float_bytes: int
    edge_bytes: int
    op_counts: Mapping[str, int]
    transposes: int
    io: IO
    outputs: tuple[OutputFidelity, ...]
    judged_samples: int
    delegated_ops: int
    total_ops: int
    partitions: int
    undelegated: tuple[str, ...]
    obstacles: Mapping[str, str]
    float_latency_ms: float
    edge_latency_ms: float
    float_ops: Mapping[str, str]
    remarks: Mapping[str, str]
    folded: tuple[str, ...]
    runtime: str
    int8_dot_product: bool | None
    bound_db: float | None


@dataclass(frozen=True)
class Report(Measured, Result):
    """The result of an export and its measurements.

    Attributes:
        recipe: Name of the recipe.
        target: Name of the target.
        calibrated_samples: Number of samples that calibration saw.
        independent: Whether the samples judged by were kept out of calibration.
        fitted_weights: Number of weights that were rounded by what they compute on the data; the
            others are rounded to nearest.
        doubts: Where the float model computes otherwise than the user's own, one sentence each.
        planned_for: The processor that a search planned for; empty where the recipe decided.
        estimated_ratio: Latency over float's that it estimated for that processor, if it did.
        goal_db: SQNR in dB that it looked for; None where the recipe decided.
        notes: Other things the user should know, such as what looks suspicious of the data.
        seconds: Wall time of each stage.
    """

    recipe: str
    target: str
    calibrated_samples: int
    independent: bool
    fitted_weights: int = 0
    doubts: tuple[str, ...] = ()
    planned_for: str = ""
    estimated_ratio: float | None = None
    goal_db: float | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def size_ratio(self) -> float:
        """Exported size over float size."""
        return self.edge_bytes / self.float_bytes

    @property
    def latency_ratio(self) -> float:
        """Exported latency over float latency; above 1 the export is slower."""
        return self.edge_latency_ms / self.float_latency_ms

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB of the worst part of the worst output."""
        return min(o.least_db for o in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, with the ratios; what is not a finite number is None."""
        ratios = {"size_ratio": self.size_ratio, "latency_ratio": self.latency_ratio}
        return {**strict({**asdict(self), "io": self.io.to_dict()}), **ratios}

    @property
    def headline(self) -> str:
        """The result in one line: size, time, fidelity, what falls short and what would help."""
        return (
            f"{self.size_ratio:.2f} of the float model's size, {self.latency_ratio:.2f} of its "
            f"time here, {self.sqnr_db:.1f} dB{self._said_of_few_samples}"
            + "".join(f"; {shortfall}" for shortfall in self.shortfalls())
        )

    def shortfalls(self) -> list[str]:
        """Where the model is not small, fast or faithful, and the option that would help."""
        is_auto = self.recipe == "auto"
        found = ["THE TRACE DIFFERS from the model (a warning says where)"] if self.doubts else []
        if not self._has_narrower:
            found.append("everything stayed float: the reasons are below")
        elif is_auto and not self._has_integers:
            found.append("everything stayed float, with weights of 16 bits: integers miss the goal")
        if self.latency_ratio > NOT_SLOWER:
            way_out = "measure=True decides by this machine's times" if is_auto else "recipe='auto'"
            found.append(f"SLOWER than float here ({way_out})")
        worst = min(self.outputs, key=lambda output: output.least_db)
        if not worst.least_db >= LOW_SQNR_DB:
            way_out = "min_sqnr_db= refuses such files" if is_auto else "recipe='auto'"
            found.append(f"LOW FIDELITY: {worst.worst_place} ({way_out})")
        elif self.goal_db is not None and not worst.least_db >= self.goal_db:
            found.append(f"BELOW THE GOAL of {self.goal_db:g} dB: {worst.worst_place}")
        return found

    @property
    def _said_of_few_samples(self) -> str:
        """What others than those few that judge the outputs may leave the worst of them."""
        lows = [o.samples.low_db for o in self.outputs if o.samples is not None]
        least_db = min(output.least_db for output in self.outputs)
        if not self._doubts_of_few_samples() or least_db - min(lows) <= MOST_DOUBT_DB:
            return ""  # or a part of an output says less than samples do
        return f" (down to {min(lows):.1f} on others: {self.judged_samples} judge it)"

    @property
    def _has_integers(self) -> bool:
        return any("int" in kind or kind.endswith("of weights") for kind in self.op_counts)

    @property
    def _has_narrower(self) -> bool:
        return self._has_integers or any("float16" in kind for kind in self.op_counts)

    def warnings(self) -> list[str]:
        """Warnings about the result, one sentence each."""
        found = list(self.doubts)
        if self.latency_ratio > NOT_SLOWER:
            found.append(
                f"the exported model takes {self.latency_ratio:.2f}x the float model's time here"
                + "".join(f"; {cause}" for cause in self._causes_of_slowness())
            )
        found += [
            f"{o.worst_place} {_kept(o)}; check the task's accuracy"
            for o in self.outputs
            if not o.least_db >= LOW_SQNR_DB
        ]
        found += [
            f"output {o.name!r} drifts: its SQNR in the first and last tenth of the steps is "
            f"{o.drift.shown}, and still falls"
            for o in self.outputs
            if o.drift is not None and o.drift.is_growing
        ]
        if not self.independent:
            found.append(
                "the SQNR is judged on samples that calibration may have seen; give at least 10"
                + (" sequences" if any(o.drift is not None for o in self.outputs) else "")
            )
        found += self._doubts_of_few_samples()
        return found

    def _doubts_of_few_samples(self) -> list[str]:
        """Outputs whose SQNR other samples may put elsewhere, as few judge it."""
        if not self.independent or self.judged_samples >= MANY_SAMPLES:
            return []
        return [
            f"only {self.judged_samples} samples judge output {o.name!r}: others like them may "
            f"leave it {o.samples.low_db:.1f} dB; give {10 * MANY_SAMPLES} or more"
            for o in self.outputs
            if o.samples is not None and o.sqnr_db - o.samples.low_db > MOST_DOUBT_DB
        ]

    def _causes_of_slowness(self) -> list[str]:
        causes = []
        if self.undelegated:
            causes.append(f"{_counted(self.undelegated)} run outside the delegate")
        if self.int8_dot_product is False:
            causes.append(
                "this processor has no int8 dot product, which phones and newer PCs have: "
                "measure on the device, or decide by this machine's times with measure=True"
            )
        return causes

    def _write(self, console: Console) -> None:
        style = "bold yellow" if self.shortfalls() else "bold"
        console.print(lines(self.headline), style=style, highlight=False, markup=False)
        console.print(self._summary())
        if self.float_ops:
            console.print(_reasons("what stayed float, and why", self.float_ops))
        if self.remarks:
            console.print(_reasons("what is float with smaller weights, and why", self.remarks))
        if self.obstacles:
            console.print(_reasons(f"what {self.target} does not run, and why", self.obstacles))
        for note in self.notes:
            console.print(lines(f"note: {note}"), highlight=False, markup=False)
        for warning in self.warnings():
            console.print(
                lines(f"warning: {warning}"), style="yellow", highlight=False, markup=False
            )

    def _summary(self) -> Table:
        table = Table(
            title=escape(f"edgeq: recipe {self.recipe}, target {self.target}"), title_style="bold"
        )
        for heading in ("", "float", "exported", "ratio"):
            table.add_column(heading, justify="left" if not heading else "right")
        table.add_row(
            "size", _kilobytes(self.float_bytes), _kilobytes(self.edge_bytes),
            f"{self.size_ratio:.2f}",
        )  # fmt: skip
        table.add_row(
            "latency, 1 thread, best", f"{self.float_latency_ms:.2f} ms",
            f"{self.edge_latency_ms:.2f} ms", f"{self.latency_ratio:.2f}",
        )  # fmt: skip
        if self.estimated_ratio is not None:
            table.add_row(
                escape(f"estimated for {self.planned_for}"), "", "", f"{self.estimated_ratio:.2f}"
            )
        table.add_section()
        counts = ", ".join(f"{count} {dtype}" for dtype, count in self.op_counts.items())
        table.add_row("ops", "", counts, "")
        table.add_row("ops left float", "", str(len(self.float_ops)), "")
        table.add_row("transposes", "", str(self.transposes), "")
        pieces = f"{self.partitions} partition{'s' if self.partitions != 1 else ''}"
        table.add_row(
            "in the XNNPACK delegate", "", f"{self.delegated_ops} of {self.total_ops}, {pieces}", ""
        )
        if self.undelegated:
            table.add_row("outside the delegate", "", _counted(self.undelegated), "")
        table.add_section()
        for output in self.outputs:
            if output.are_indices and output.top1_agreement is not None:
                name = escape(f"same indices in {output.name}")
                table.add_row(name, "", f"{output.top1_agreement:.2%}", "")
                continue
            table.add_row(escape(f"SQNR of {output.name}"), "", f"{output.sqnr_db:.1f} dB", "")
            if output.samples is not None:
                found = output.samples
                typical = f"{found.median_db:.1f} and {found.worst_tenth_db:.1f} dB"
                table.add_row("  median and worst tenth of samples", "", typical, "")
                around = f"{found.low_db:.1f} to {found.high_db:.1f} dB"
                table.add_row("  95 % interval on such samples", "", around, "")
            if output.drift is not None:
                table.add_row("  first and last tenth of steps", "", output.drift.shown, "")
            for part in output.parts:
                if part.where:
                    table.add_row(f"  {part.where}", "", f"{part.sqnr_db:.1f} dB", "")
        if self.bound_db is not None:
            table.add_row(
                "what rounding noise alone would leave", "", f"{self.bound_db:.1f} dB", ""
            )
        for side, ports in (("input", self.io.inputs), ("output", self.io.outputs)):
            for port in ports:
                if port.qparams is not None:
                    name = escape(f"{side} {port.name}")
                    table.add_row(name, "float32", port.qparams.describe(), "")
        kind = "held-out" if self.independent else "calibration"
        fitted = f", {self.fitted_weights} weights rounded by them" if self.fitted_weights else ""
        table.caption = (
            f"calibrated on {self.calibrated_samples} samples{fitted}, judged on "
            f"{self.judged_samples} {kind} samples, run by {self.runtime}, "
            f"{sum(self.seconds.values()):.1f} s in all"
        )
        return table


def _kept(output: OutputFidelity) -> str:
    """How little is left of an output or its worst part."""
    part = output.worst_part
    if part is not None and part.is_constant:
        return "is one value throughout, where the float model's varies"
    return f"keeps only {output.kept}"


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f} kB"


def _counted(places: tuple[str, ...]) -> str:
    """Ops by name with their number, for example `20 HARD_SWISH, 1 SOFTMAX`."""
    names = [place.split(" ", 1)[0] for place in places]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _reasons(title: str, ops: Mapping[str, str]) -> Table:
    """Ops by the reason that they share; a few of each are named, the JSON has them all."""
    table = Table(title=title, title_style="bold")
    for heading in ("ops", "reason"):
        table.add_column(heading, overflow="fold")
    for reason in dict.fromkeys(ops.values()):
        places = tuple(place for place, why in ops.items() if why == reason)
        named = ", ".join(places[:NAMED_OPS]) + (" ..." if len(places) > NAMED_OPS else "")
        shown = named if len(places) == 1 else f"{_counted(places)}: {named}"
        table.add_row(escape(shown), escape(reason))
    return table
