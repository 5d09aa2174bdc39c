"""`Refinement`: weights rounded a second time, unless samples that it did not see forbid it.

Decides which samples do what, and which of two roundings is the better one; knows nothing of how
weights are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.reconstruction import Reconstruction
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.second_pass import SecondPass, bytes_held
from edgeq.export.round.weighted_ops import Site
from edgeq.fidelity.paired_run import PairedRun
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray

LEAST_SAMPLES, MOST_SAMPLES = 8, 32
"""Samples that the second pass is made by; with fewer there is none."""

JUDGED = 4
"""One of so many samples judges the second pass: the last ones, which it is not made by."""

MOST_LEARNED = 192
"""Samples that layers in a row are fitted to."""

MEMORY_BYTES, LEARNED_BYTES = 256 << 20, 1 << 30
"""What activations of all samples may take, and where layers in a row are fitted to more of them.
"""

CHANCE_DB = 4.0
"""What one sample says that a pass gains differs by so much from the next: measured 3 to 4.5 dB on
trained classifiers and detectors."""

ENOUGH_DB, CHEAP_ENOUGH_DB = 35.0, 40.0
"""Where every part of every output keeps so much, a second pass is not worth its time: at the
second number not even if it is soon done."""

CHEAP_PRODUCTS = 2e10
"""Products in the factors of all weights up to which a pass takes seconds."""

ONCE, APART = "weights are rounded once alone: ", "no layers are reconstructed together: "

CLEARLY = 0.5
"""Standard errors by which layers that are reconstructed together have to win."""

MOST_DB = 120.0
"""SQNR beyond which outputs count as the same."""


@dataclass(frozen=True)
class Refinement:
    """What a second pass is made and judged with.

    Attributes:
        model: The float model that the plan speaks of.
        plan: Whose grids the weights are put on.
        samples: Inputs; the last of them judge.
        threads: Samples that run side by side; None takes what this process may use.
    """

    model: LiteModel
    plan: Plan
    samples: Sequence[Sample]
    threads: int | None

    def best(
        self,
        rounded: Rounded,
        sites: Sequence[Site],
        advance: Callable[[], None],
        learned: Collection[int] = (),
    ) -> tuple[Rounded, str]:
        """The weights as they are or rounded once more, whichever leaves the outputs nearer.

        Args:
            rounded: The weights as the first pass has them.
            sites: Those that are rounded again.
            advance: Called after each of them.
            learned: Indices of ops whose weights are fitted together with their neighbours' too.

        Returns:
            The weights, and a sentence that says why they are not as asked for; empty if they are,
            or none could change.
        """
        count = len(self.samples)
        judged = self.samples[count - count // JUDGED :]
        if not sites:
            return rounded, ""
        fitted = self._fitted(sites, MOST_SAMPLES, MEMORY_BYTES)
        if len(fitted) < LEAST_SAMPLES:
            if len(fitted) < count - len(judged):
                return rounded, f"{ONCE}activations take too much memory for a second time"
            return (
                rounded,
                f"{ONCE}a second time takes {LEAST_SAMPLES} samples and some to judge by",
            )
        kept_db = self._parts_db(rounded, judged)
        is_cheap = sum(site.factor_products for site in sites) <= CHEAP_PRODUCTS
        if not learned and min(kept_db) >= (CHEAP_ENOUGH_DB if is_cheap else ENOUGH_DB):
            return rounded, f"{ONCE}every output keeps {min(kept_db):.0f} dB with that"
        again = SecondPass(self.model, self.plan, sites, fitted, self.threads)
        best, against = self._better(rounded, again.run(rounded, advance), judged)
        if not learned:
            return best, against and f"{ONCE}a second time {against}"
        try:
            return self._together(best, sites, learned, judged, advance)
        except Exception as error:
            return best, f"{APART}that failed with {type(error).__name__}: {error}"

    def _together(
        self, before: Rounded, sites: Sequence[Site], learned: Collection[int],
        judged: Sequence[Sample], advance: Callable[[], None],
    ) -> tuple[Rounded, str]:  # fmt: skip
        """The weights with those of layers in a row fitted together, if that is better."""
        fitted = self._fitted(sites, MOST_LEARNED, LEARNED_BYTES)
        again = Reconstruction(self.model, self.plan, sites, learned, fitted, judged, self.threads)
        best, against = self._better(before, again.run(before, advance), judged, CLEARLY)
        return best, against and f"{APART}that {against}"

    def _fitted(self, sites: Sequence[Site], most: int, room: int) -> Sequence[Sample]:
        """Samples that weights are fitted to, as many as activations of them fit in memory."""
        count = len(self.samples)
        held = room // max(1, bytes_held(self.model.graph, sites))
        return self.samples[: min(most, held, count - count // JUDGED)]

    def _better(
        self, before: Rounded, after: Rounded, judged: Sequence[Sample], chances: float = -0.5
    ) -> tuple[Rounded, str]:
        """What a pass made, unless samples that it has not seen speak against it; what they say.

        Args:
            before: The weights without it.
            after: Those with it.
            judged: The samples.
            chances: Standard errors by which it has to win on average over all outputs and parts.
        """
        gains = self._parts_db(after, judged) - self._parts_db(before, judged)
        chance = CHANCE_DB / math.sqrt(len(judged))
        if np.mean(gains) >= chances * chance and min(gains) >= -2 * chance:
            return after, ""
        return before, (
            f"changed outputs by {np.mean(gains):+.1f} dB on average, at worst "
            f"by {min(gains):+.1f} dB, on {len(judged)} samples that it had not seen"
        )

    def _parts_db(self, rounded: Rounded, samples: Sequence[Sample]) -> FloatArray:
        """SQNR in dB of each output and its parts, with all that the plan has in integers."""
        model = rounded.model(self.model)
        editor = GraphEditor(model.tree)
        editor.round_trips(self.plan.tensors, self.plan.with_float_activations)
        made = replace(model, tflite=editor.finish())
        seen = PairedRun((self.model, made), threads=self.threads)(samples)
        return np.clip(seen.kinds_db(seen.kinds), -MOST_DB, MOST_DB)
