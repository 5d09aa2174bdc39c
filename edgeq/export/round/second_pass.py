"""Rounds the weights of a model once more, each by the inputs that the quantized model gives it.

The first pass takes a layer's inputs from the float model. Here the layers before are rounded
already, and so are activations; what that does to a layer's outputs its own weight makes up for, as
far as two halves of the samples agree on it.

Source:
    Frantar and Alistarh, "Optimal Brain Compression", 2022, and Li et al., "GPTAQ: Efficient
    Finetuning-Free Quantization for Asymmetric Calibration", 2025, for the layer that is fitted to
    the float model's outputs with the quantized model's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.exact import Matrix
from edgeq.export.round.moments import Missing, Moments
from edgeq.export.round.pieces import Pieces, live_bytes
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.weighted_ops import Site, bias_of
from edgeq.flatbuffer import Graph
from edgeq.model import LiteModel

MOST_ROWS = 2048
"""Rows that one weight is fitted to, from all samples."""


class SecondPass:
    """Rounds weights in the order of the graph.

    Args:
        model: The float model that the plan speaks of.
        plan: Whose grids the weights are put on.
        sites: The weights.
        samples: Inputs to run, all at once in memory.
        threads: Samples that run side by side; None takes what this process may use.
    """

    def __init__(
        self,
        model: LiteModel,
        plan: Plan,
        sites: Sequence[Site],
        samples: Sequence[Sample],
        threads: int | None,
    ) -> None:
        self._graph = model.graph
        self._plan = plan
        self._samples = len(samples)
        self._placed = sorted(((_place(model.graph, s), s) for s in sites), key=lambda p: p[0])
        end = _end(sites)
        self._wanted = Pieces(model, {}, samples, end, threads)
        self._given = Pieces(model, plan.tensors, samples, end, threads)

    def run(self, rounded: Rounded, advance: Callable[[], None]) -> Rounded:
        """The weights, rounded once more.

        Args:
            rounded: The weights as the first pass has them.
            advance: Called after each weight.
        """
        for place, placed in groupby(self._placed, key=lambda p: p[0]):
            self._wanted.run_to(place, Rounded())
            self._given.run_to(place, rounded)
            for _, site in placed:
                rounded = self._with(rounded, site)
                advance()
        return rounded

    def _with(self, rounded: Rounded, site: Site) -> Rounded:
        centred = all(bias_of(self._graph, op) is not None for op in site.ops)
        seen, missing = Moments(), list[Missing]()
        for half in range(2):
            given = self._rows(site, self._given, half)
            wanted = self._rows(site, self._wanted, half)
            missing.append(Missing.of(site.weight, given, wanted, centred))
            seen.add(given)
        seen.flush()
        found = site.rounded(seen, centred, missing)
        return rounded.with_site(self._graph, self._plan, site, *found)

    def _rows(self, site: Site, side: Pieces, half: int) -> Matrix:
        """Rows of every other sample, of the same places on both sides."""
        found = [
            site.rows(side.values[number].__getitem__, MOST_ROWS, self._samples, number)
            for number in range(half, self._samples, 2)
        ]
        return np.concatenate(found, axis=1)


def is_in_order(graph: Graph, site: Site) -> bool:
    """Whether none of the ops of a weight runs before all that it is multiplied with is known.

    In a recurrent network that is written out, each step reads what the one before it gave.
    """
    place = _place(graph, site)
    return all(op.index >= place for op in site.ops)


def bytes_held(graph: Graph, sites: Sequence[Site]) -> int:
    """Bytes of activations that a second pass holds for one sample, at most."""
    live = live_bytes(graph, _end(sites))
    return 2 * max((live[_place(graph, site)] for site in sites), default=0)


def _end(sites: Sequence[Site]) -> int:
    """Index of the op behind the last one that has one of these weights."""
    return max((op.index + 1 for site in sites for op in site.ops), default=0)


def _place(graph: Graph, site: Site) -> int:
    """Index of the first op that runs when all that a weight is multiplied with is known."""
    makers = [graph.producers.get(tensor) for tensor in site.inputs]
    return max(0 if op is None else op.index + 1 for op in makers)
