"""`StateGrowth`: whether states still grow where sequences end: longer ones leave their ranges.

Knows how large states are at each step, nothing of what the model computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.data.steps import Step

LEAST_STEPS = 8
"""Shorter sequences tell nothing."""

GROWTH = 0.1
"""A state grows that is so much larger in the last quarter of the steps than in all before."""


class StateGrowth:
    """Watches samples that pass by; those of no sequence are passed on alone."""

    def __init__(self) -> None:
        self._largest: dict[int, dict[int, float]] = {}

    def watched(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples, steps of sequences with the states of the float model."""
        for sample in samples:
            if isinstance(sample, Step):
                for taken, _ in sample.states:
                    if sample[taken].dtype.kind != "f":
                        continue
                    seen = self._largest.setdefault(taken, {})
                    found = float(np.abs(sample[taken]).max(initial=0.0))
                    seen[sample.place] = max(seen.get(sample.place, 0.0), found)
            yield sample

    def advice(self, names: Sequence[str]) -> str:
        """A sentence on the state that grows most; empty where none does.

        Args:
            names: Of the model's inputs.
        """
        growth = {taken: _growth(seen) for taken, seen in self._largest.items()}
        worst = max(growth, key=lambda taken: growth[taken], default=-1)
        if worst < 0 or growth[worst] <= GROWTH:
            return ""
        return (
            f"the state {names[worst]!r} still grows where the sequences end: in the last quarter "
            f"of their steps it is {100 * growth[worst]:.0f} % larger than in all before. Longer "
            "ones leave its range: give sequences as long as those in use"
        )


def _growth(largest: dict[int, float]) -> float:
    """How much larger a state is in the last quarter of the steps than before."""
    steps = 1 + max(largest)
    before = max((size for place, size in largest.items() if place < steps - steps // 4), default=0)
    behind = max(
        (size for place, size in largest.items() if place >= steps - steps // 4), default=0
    )
    return behind / before - 1 if steps >= LEAST_STEPS and before else 0.0
