"""`SignatureReports`: what an export of several signatures made, and each signature's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from edgeq.foreign.shown import visible
from edgeq.ports import Link
from edgeq.report import Report
from edgeq.terminal.printed import Result


@dataclass(frozen=True)
class SignatureReports(Result):
    """The reports of all signatures of a file.

    Attributes:
        edge_bytes: Size of the file that holds them all.
        signatures: The report of each signature, by key; its sizes are those of a file of its own.
        links: Which signatures take what others give.
    """

    edge_bytes: int
    signatures: Mapping[str, Report]
    links: tuple[Link, ...] = ()

    @property
    def single_bytes(self) -> int:
        """Size of all signatures as files of their own, which share nothing."""
        return sum(report.edge_bytes for report in self.signatures.values())

    def to_dict(self) -> dict[str, Any]:
        """The reports as plain values; what is not a finite number is None."""
        reports = {key: report.to_dict() for key, report in self.signatures.items()}
        sizes = {"edge_bytes": self.edge_bytes, "single_bytes": self.single_bytes}
        links = [link.to_dict() for link in self.links]
        return {**sizes, "signatures": reports, "links": links}

    def _write(self, console: Console) -> None:
        for key, report in self.signatures.items():
            console.print(visible(f"signature {key}"), style="bold", highlight=False, markup=False)
            report.print(console)
        for link in self.links:
            console.print(visible(link.text()), highlight=False, markup=False)
        console.print(
            f"all {len(self.signatures)} signatures: {self.edge_bytes / 1000:,.1f} kB in one file, "
            f"{self.single_bytes / 1000:,.1f} kB as files of their own",
            highlight=False, markup=False,
        )  # fmt: skip
