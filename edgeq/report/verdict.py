"""The verdict on an integer model: what was promised, what was found, and whether it holds.

Plain values, with a text form for the terminal, JSON for programs, JUnit XML and annotations for
CI. Knows nothing of how the numbers were measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.errors import DataError, DependencyError
from edgeq.fidelity.metrics import LOWER_IS_BETTER, SAME
from edgeq.files import write_whole
from edgeq.foreign.documents import parse_json, shortened
from edgeq.foreign.shown import annotation, escape, lines
from edgeq.report.comparison import Comparison
from edgeq.report.thresholds import Thresholds
from edgeq.terminal.printed import Result, strict


@dataclass(frozen=True)
class Facts:
    """Measurements of an integer model, in a form that can be stored as a baseline.

    Attributes:
        sqnr_db: SQNR in dB of the worst part of the worst output; infinite where nothing differs.
        agreement: Lowest top-1 agreement of the outputs, or agreement of indices; None where they
            are neither.
        metrics: Value of each metric.
        drops: How far each metric is worse than the float model's.
        size_bytes: Size of the file.
        latency_ratio: Latency over the float model's.
        delegated_ops: Number of ops in the delegate.
        total_ops: Number of all ops.
        float_ops: Where each op is that computes in float.
        worst_place: The output, or its part, that `sqnr_db` is of.
        lost: Outputs or parts that are one value where the float model's vary.
    """

    sqnr_db: float
    agreement: float | None
    metrics: Mapping[str, float]
    drops: Mapping[str, float]
    size_bytes: int
    latency_ratio: float
    delegated_ops: int
    total_ops: int
    float_ops: tuple[str, ...]
    worst_place: str = "the worst output"
    lost: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text that `from_json` reads back."""
        return json.dumps(strict(asdict(self)), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Reads what `to_json` wrote.

        Raises:
            DataError: Something else.
        """
        try:
            found = cls(**parse_json(text))
            _check_facts(found)
            sqnr_db = float("inf") if found.sqnr_db is None else float(found.sqnr_db)
            lists = {"float_ops": tuple(found.float_ops), "lost": tuple(found.lost)}
            return cls(**{**asdict(found), "sqnr_db": sqnr_db, **lists})
        except (TypeError, ValueError) as error:
            raise DataError(f"it is no baseline of edgeq check: {error}") from None


def _check_facts(facts: Facts) -> None:
    """Raises a `TypeError` for a value of another type than a baseline has."""
    numbers: tuple[object, ...] = (
        facts.sqnr_db, facts.agreement, facts.size_bytes, facts.latency_ratio,
        facts.delegated_ops, facts.total_ops,
    )  # fmt: skip
    for table in (facts.metrics, facts.drops):
        if not isinstance(table, Mapping):
            raise TypeError(f"a table of metrics is {shortened(table)}")
        numbers += tuple(table.values())
    for number in numbers:
        if number is not None and (isinstance(number, bool) or not isinstance(number, Real)):
            raise TypeError(f"a number is {shortened(number)}")
    for place in (*facts.float_ops, *facts.lost):
        if not isinstance(place, str):
            raise TypeError(f"a name is {shortened(place)}")


@dataclass(frozen=True)
class Promise:
    """One thing that was asked of the model.

    Attributes:
        name: Name of the threshold.
        kept: Whether it holds.
        found: What was found, in words.
        wanted: What was asked for, in words.
    """

    name: str
    kept: bool
    found: str
    wanted: str

    @property
    def message(self) -> str:
        """The promise in one sentence."""
        return f"{self.found}, {'as' if self.kept else 'but'} {self.name} asks for {self.wanted}"


@dataclass(frozen=True)
class CheckResult(Result):
    """The verdict of `edgeq.check`.

    Attributes:
        promises: What was asked, each with the verdict.
        facts: What was measured.
        comparison: How far the two models are apart.
        float_latency_ms: Fastest inference of the float model, one thread.
        edge_latency_ms: The same of the integer model, measured in turn with it.
        float_bytes: Size of the float model.
    """

    promises: tuple[Promise, ...]
    facts: Facts
    comparison: Comparison
    float_latency_ms: float
    edge_latency_ms: float
    float_bytes: int

    @property
    def broken(self) -> tuple[Promise, ...]:
        """The promises that do not hold."""
        return tuple(promise for promise in self.promises if not promise.kept)

    @property
    def passed(self) -> bool:
        """Whether all promises hold."""
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; what is not a finite number is None."""
        fields: dict[str, Any] = strict({**asdict(self), "passed": self.passed})
        return fields

    def _write(self, console: Console) -> None:
        table = Table(title="edgeq check", title_style="bold")
        for heading in ("", "promise", "found", "wanted"):
            table.add_column(heading, overflow="fold")
        for promise in self.promises:
            mark = "[green]pass[/]" if promise.kept else "[red]FAIL[/]"
            table.add_row(mark, escape(promise.name), escape(promise.found), escape(promise.wanted))
        console.print(table)
        self.comparison.print(console)
        verdict = "all promises hold" if self.passed else f"broken promises: {len(self.broken)}"
        style = "green" if self.passed else "red"
        console.print(verdict, style=style, highlight=False, markup=False)

    def annotations(self) -> Iterator[str]:
        """One line for each broken promise that GitHub shows at the run.

        Source:
            GitHub's workflow commands: `::error title=...::message`.
        """
        for promise in self.broken:
            title = annotation(f"edgeq {promise.name}", is_property=True)
            yield f"::error title={title}::{annotation(promise.message)}"

    def write_junit(self, path: Path) -> None:
        """Writes a JUnit XML file with a test case for each promise.

        Raises:
            DependencyError: junitparser is not installed.
            EdgeqError: The file cannot be written.
        """
        try:
            import junitparser
        except ImportError:
            raise DependencyError("JUnit XML needs junitparser: pip install 'edgeq[ci]'") from None
        suite = junitparser.TestSuite("edgeq check")
        for promise in self.promises:
            case = junitparser.TestCase(lines(promise.name), "edgeq.check")
            case.system_out = message = lines(promise.message)
            if not promise.kept:
                case.result = [junitparser.Failure(message, "BrokenPromise")]
            suite.add_testcase(case)
        found = junitparser.JUnitXml()
        found.add_testsuite(suite)
        found.update_statistics()
        text = io.BytesIO()
        found.write(text, pretty=True)
        write_whole(path, text.getvalue())


def drops(comparison: Comparison, kinds: Mapping[str, object]) -> dict[str, float]:
    """How far each metric is worse than the float model's; below 0 where it is better.

    Args:
        comparison: Both models.
        kinds: The metric that each name stands for.
    """
    return {
        name: change.difference if kinds.get(name) in LOWER_IS_BETTER else -change.difference
        for name, change in comparison.metrics.items()
    }


def judged(facts: Facts, wanted: Thresholds, baseline: Facts | None) -> tuple[Promise, ...]:
    """Every promise with its verdict, in the order of the thresholds."""
    found = [*_promises(facts, wanted)]
    if baseline is not None:
        found += _against(facts, baseline, wanted)
    return tuple(found)


def _promises(facts: Facts, wanted: Thresholds) -> Iterator[Promise]:
    if facts.lost:
        shown = f"one value throughout, where the float model's vary: {'; '.join(facts.lost)}"
        yield Promise("nothing lost", False, shown, "values that vary as the float model's")
    if wanted.min_sqnr_db is not None:
        yield Promise(
            "min_sqnr_db", facts.sqnr_db >= wanted.min_sqnr_db,
            f"{facts.worst_place} keeps {facts.sqnr_db:.1f} dB", f"{wanted.min_sqnr_db:g} dB",
        )  # fmt: skip
    if wanted.max_metric_drop is not None:
        for name, drop in facts.drops.items():
            yield Promise(
                f"max_metric_drop: {name}", drop <= wanted.max_metric_drop + SAME,
                f"{name} is {facts.metrics[name]:.4f}, worse by {drop:.4f}",
                f"{wanted.max_metric_drop:g} at most",
            )  # fmt: skip
    if wanted.min_agreement is not None:
        known = facts.agreement is not None
        shown = "no scores or indices"
        if known:
            shown = f"{facts.agreement:.2%} of the highest scores or indices agree"
        kept = facts.agreement is not None and facts.agreement >= wanted.min_agreement
        yield Promise("min_agreement", kept, shown, f"{wanted.min_agreement:.2%}")
    if wanted.max_size_kb is not None:
        size = facts.size_bytes / 1000
        yield Promise(
            "max_size_kb", size <= wanted.max_size_kb, f"the file has {size:,.1f} kB",
            f"{wanted.max_size_kb:,g} kB at most",
        )  # fmt: skip
    if wanted.max_latency_ratio is not None:
        yield Promise(
            "max_latency_ratio", facts.latency_ratio <= wanted.max_latency_ratio,
            f"it takes {facts.latency_ratio:.2f} times the float model's time",
            f"{wanted.max_latency_ratio:g} at most",
        )  # fmt: skip
    if wanted.full_delegation:
        yield Promise(
            "full_delegation", facts.delegated_ops == facts.total_ops,
            f"{facts.delegated_ops} of {facts.total_ops} ops run in the delegate", "all of them",
        )  # fmt: skip
    if wanted.zero_float_ops:
        listed = ", ".join(facts.float_ops[:3]) + (" ..." if len(facts.float_ops) > 3 else "")
        shown = f"{len(facts.float_ops)} ops compute in float" + (f": {listed}" if listed else "")
        yield Promise("zero_float_ops", not facts.float_ops, shown, "none")


def _against(facts: Facts, baseline: Facts, wanted: Thresholds) -> Iterator[Promise]:
    """Promises against the baseline: nothing may be worse than there."""
    allowed = wanted.baseline
    yield Promise(
        "baseline: max_sqnr_loss_db",
        facts.sqnr_db >= baseline.sqnr_db - allowed.max_sqnr_loss_db,
        f"{facts.worst_place} keeps {facts.sqnr_db:.1f} dB, in the baseline "
        f"{baseline.sqnr_db:.1f} dB",
        f"{allowed.max_sqnr_loss_db:g} dB less at most",
    )
    for name, drop in facts.drops.items():
        if name not in baseline.drops:
            continue
        yield Promise(
            f"baseline: max_metric_drop: {name}",
            drop <= baseline.drops[name] + allowed.max_metric_drop + SAME,
            f"{name} is worse than the float model's by {drop:.4f}, in the baseline by "
            f"{baseline.drops[name]:.4f}",
            f"{allowed.max_metric_drop:g} more at most",
        )
    yield Promise(
        "baseline: max_size_growth",
        facts.size_bytes <= baseline.size_bytes * (1 + allowed.max_size_growth),
        f"the file has {facts.size_bytes / 1000:,.1f} kB, in the baseline "
        f"{baseline.size_bytes / 1000:,.1f} kB",
        f"{allowed.max_size_growth:.0%} more at most",
    )
    if allowed.max_latency_growth is not None:
        yield Promise(
            "baseline: max_latency_growth",
            facts.latency_ratio <= baseline.latency_ratio * (1 + allowed.max_latency_growth),
            f"it takes {facts.latency_ratio:.2f} times the float model's time, in the baseline "
            f"{baseline.latency_ratio:.2f}",
            f"{allowed.max_latency_growth:.0%} more at most",
        )
    outside, before = (f.total_ops - f.delegated_ops for f in (facts, baseline))
    yield Promise(
        "baseline: delegation", outside <= before,
        f"{outside} ops run outside the delegate, in the baseline {before}", "no more",
    )  # fmt: skip
    yield Promise(
        "baseline: float ops", len(facts.float_ops) <= len(baseline.float_ops),
        f"{len(facts.float_ops)} ops compute in float, in the baseline {len(baseline.float_ops)}",
        "no more",
    )  # fmt: skip
