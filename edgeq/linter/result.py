"""`LintResult`: what a check of a file found, as values, as text and as JSON."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.foreign.shown import escape, escape_lines, lines, visible
from edgeq.terminal.printed import Result

OPS_SHOWN = 6
"""Ops with the same finding that a row names."""

WHOLE_FILE = -1
"""`Finding.op` of what is wrong with no op alone."""


class Severity(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one op.

    Attributes:
        severity: `ERROR` where the numbers are wrong or the model does not load.
        graph: Index of the subgraph.
        op: Index of the op in it; `WHOLE_FILE` for what is wrong with the file as such.
        name: Builtin operator name.
        where: Name of the tensor that is at fault, by default the op's first result.
        rule: Name of the rule; that of a target has the target's name before a slash.
        message: The rule and what was found.
        advice: What to do about it.
    """

    severity: Severity
    graph: int
    op: int
    name: str
    where: str
    rule: str
    message: str
    advice: str


@dataclass(frozen=True)
class Placed:
    """Where one op runs.

    Attributes:
        graph: Index of the subgraph.
        op: Index of the op in it.
        name: Builtin operator name.
        where: Name of its first result.
        obstacles: Why the target does not run it; none where it does.
    """

    graph: int
    op: int
    name: str
    where: str
    obstacles: tuple[str, ...]


@dataclass(frozen=True)
class LintResult(Result):
    """Findings of `edgeq.lint`.

    Attributes:
        target: Name of the target.
        findings: Errors first.
        ops: Every op of the file.
        notes: Other things that the user should know, one sentence each.
    """

    target: str
    findings: tuple[Finding, ...]
    ops: tuple[Placed, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the file wrong."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that make it slow or less exact."""
        return tuple(f for f in self.findings if f.severity is Severity.WARNING)

    @property
    def mapped_ops(self) -> int:
        """Number of ops that the target runs."""
        return sum(not op.obstacles for op in self.ops)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        findings = [{**asdict(f), "severity": f.severity.value} for f in self.findings]
        counts = {"errors": len(self.errors), "warnings": len(self.warnings)}
        fields = {**asdict(self), "findings": findings}
        return {**fields, **counts, "mapped_ops": self.mapped_ops, "total_ops": len(self.ops)}

    def _write(self, console: Console) -> None:
        if self.findings:
            console.print(self._table())
        for note in self.notes:
            console.print(lines(f"note: {note}"), highlight=False, markup=False)
        console.print(
            f"{len(self.errors)} errors, {len(self.warnings)} warnings; {self.target} runs "
            f"{self.mapped_ops} of {len(self.ops)} ops",
            style="red" if self.errors else "green", highlight=False, markup=False,
        )  # fmt: skip

    def _table(self) -> Table:
        table = Table(title="what was found", title_style="bold")
        for heading in ("", "ops", "what", "what to do"):
            table.add_column(heading, overflow="fold")
        for group in self._groups():
            first = group[0]
            style = "red" if first.severity is Severity.ERROR else "yellow"
            table.add_row(
                f"[{style}]{first.severity.value}[/]", escape_lines(_places(group)),
                escape(f"{first.message} ({first.rule})"), escape(first.advice),
            )  # fmt: skip
        return table

    def _groups(self) -> list[list[Finding]]:
        """Findings that differ only in where they are."""
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            key = (finding.rule, finding.name, finding.message)
            groups.setdefault(key, []).append(finding)
        return list(groups.values())


def _places(group: Sequence[Finding]) -> str:
    if group[0].op == WHOLE_FILE:
        return group[0].name
    shown = "\n".join(
        f"{visible(f.name)} at {visible(f.where)} (op {_number(f)})" for f in group[:OPS_SHOWN]
    )
    more = len(group) - OPS_SHOWN
    return f"{shown}\nand {more} more" if more > 0 else shown


def _number(finding: Finding) -> str:
    return f"{finding.graph}:{finding.op}" if finding.graph else str(finding.op)
