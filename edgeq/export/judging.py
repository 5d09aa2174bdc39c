"""Which samples of the data do what: rounding weights, the search's trials, or the verdict.

Nothing is judged by what it was fitted to, where there are samples enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.data.held_out import HeldOut
from edgeq.data.rep_dataset import Sample
from edgeq.export.search.costs import float_ns
from edgeq.flatbuffer import Graph

FEW = 9
"""Samples that a search judges its plans by."""

LEAST_JUDGED = 16
"""Held-out samples that the result is judged by, however slow the model is."""

BUDGET_NS = 1e9
"""About what judging may take where there are more of them."""

RUNS = 2
"""Of the float model, that judging a sample costs: its own and the exported model's."""


@dataclass(frozen=True)
class Judging:
    """The samples of an export by what they are for.

    Attributes:
        samples: The data, read to its end.
        searched: Whether a search judges plans before.
    """

    samples: HeldOut
    searched: bool

    @property
    def trials(self) -> Sequence[Sample]:
        """Samples that a search judges plans by, from all over the data, or steps of a sequence."""
        return self.samples.trials(FEW)

    @property
    def fitting(self) -> list[Sample]:
        """Samples to round weights by; where there are enough, none that a search judges by."""
        passed = self.samples.passed
        if not self.searched or len(passed) < 3 * FEW:
            return passed
        judged = {id(sample) for sample in self.trials}
        return [sample for sample in passed if id(sample) not in judged]

    def verdict(self, graph: Graph) -> Sequence[Sample]:
        """Samples that the result is judged by: those held out that take about a second.

        The time is estimated, not taken: the same model gives the same file.

        Args:
            graph: Of the float model.
        """
        affordable = int(BUDGET_NS / max(1.0, RUNS * float_ns(graph)))
        return self.samples.judged(max(LEAST_JUDGED, affordable))
