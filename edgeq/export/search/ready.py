"""`Ready`: what an export knows before it plans."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.export.judging import Judging
from edgeq.export.plan.choices import Choices
from edgeq.export.prepare import Prepared
from edgeq.export.ranges import Ranges
from edgeq.export.round.common_weights import CommonWeights
from edgeq.export.search.ladder import Ladder


@dataclass(frozen=True)
class Ready:
    """Everything that is known before anything is planned.

    Attributes:
        prepared: The model.
        choices: What becomes of each op, as far as the recipe says it.
        ranges: What the data have shown.
        judging: Which samples do what.
        ladder: Makes plans and files of what is chosen, or of the nearest that there is one of.
        weights: What other models of the same file have as well.
    """

    prepared: Prepared
    choices: Choices
    ranges: Ranges
    judging: Judging
    ladder: Ladder
    weights: CommonWeights

    @property
    def is_open(self) -> bool:
        """Whether a search has to decide some of it."""
        return self.judging.searched
