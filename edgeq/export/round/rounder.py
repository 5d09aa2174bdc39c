"""Rounds weights by what they compute on real data, and biases make up for what is left on average.

What comes out is a float model whose weights are numbers of the plan's grid: whoever stores them
rounds to the nearest integer, which is the one that was chosen here.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import Choices
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.collecting import MOST_SAMPLES, collect
from edgeq.export.round.common_weights import CommonWeights, Party, Result
from edgeq.export.round.loop_taps import LoopSite
from edgeq.export.round.moments import Moments
from edgeq.export.round.refinement import ONCE, Refinement
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.second_pass import is_in_order
from edgeq.export.round.weighted_ops import AnyQParams, Site, constant
from edgeq.files import is_large
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray, IntArray, all_finite

MEMORY_BYTES = 256 << 20
"""About what activations and their squares may take at once, or a quarter of a larger file; the
model runs as often as that takes."""


class Rounder:
    """Rounds the weights of one float model for any plan; what it has once rounded it keeps.

    Args:
        model: The float model that plans speak of. One that brought or learned its scales was
            trained with weights rounded to nearest, which they stay.
        choices: Of each op; tells which weights are rounded to nearest.
        samples: Inputs to run.
        threads: Samples that run side by side; None takes what this process may use.
        weights: What other models have as well, which is rounded by their data too, and alike.

    Attributes:
        not_refined: Why the last call of `refined` did not do all that it could, in a sentence.
        passes: How often `refined` goes over the weights.
    """

    def __init__(
        self,
        model: LiteModel,
        choices: Choices,
        samples: Sequence[Sample],
        threads: int | None = None,
        weights: CommonWeights | None = None,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._own = Party(model, choices, samples, threads)
        self._weights = weights or CommonWeights()
        self._once = {i for i, c in choices.items() if c.weights.rounding == "gptq_once"}
        self._learned = {i for i, c in choices.items() if c.weights.rounding == "reconstruct"}
        self.passes = 2 if self._learned else 1
        self._known: dict[tuple[int, AnyQParams], tuple[IntArray, FloatArray]] = {}
        self._failed: dict[tuple[int, AnyQParams], str] = {}
        self.not_refined = ""

    def round(self, plan: Plan, advance: Callable[[], None] = lambda: None) -> Rounded:
        """Every weight that the plan stores as integers.

        Args:
            plan: Whose grids the weights are put on.
            advance: Called after each sample that has run.
        """
        sites = list(self._sites(plan))
        self._fit_apart(sites, advance)
        sites = [site for site in sites if site.key not in self._failed]
        rounded = Rounded()
        for site in sites:
            integers, shift = self._known[site.key]
            if isinstance(site, LoopSite):
                rounded = rounded.with_passed(site, integers)
            else:
                rounded = rounded.with_site(self._graph, plan, site, integers, shift)
        return rounded

    def refined(
        self, plan: Plan, rounded: Rounded, advance: Callable[[], None] = lambda: None
    ) -> Rounded:
        """The weights rounded once more by what reaches them, where that turns out to be better.

        Args:
            plan: Whose grids the weights are put on.
            rounded: What `round` gave for it.
            advance: Called after each weight.
        """
        refinement = Refinement(self._model, plan, self._own.samples, self._own.threads)
        try:
            sites = self._refinable(plan, rounded)
            found, why = refinement.best(rounded, sites, advance, self._learned)
        except Exception as error:
            found, why = (
                rounded,
                (
                    f"{ONCE}doing it again by what the integers before them give failed with "
                    f"{type(error).__name__}: {error}"
                ),
            )
        self.not_refined = why
        return found

    def _refinable(self, plan: Plan, rounded: Rounded) -> list[Site]:
        """Weights that a second pass may change: none where little is lost in front of them, none
        that other models have as well, and none of which one op leads to another."""
        is_exact = not plan.tensors and not self._has_narrow(plan) and not self._learned
        is_apart = is_exact or is_large(len(self._model.tflite))
        sites = () if is_apart else self._sites(plan)
        common = {op.index for t in self._common for op, _ in self._graph.uses.get(t, ())}
        free = rounded.weights.keys() - self._once - common
        found = (site for site in sites if site.ops and all(o.index in free for o in site.ops))
        return [site for site in found if is_in_order(self._graph, site)]

    def _has_narrow(self, plan: Plan) -> bool:
        """Whether weights are stored in fewer than 8 bits."""
        stored = (s.qparams for s in plan.stored.values())
        return any(qparams is not None and qparams.dtype.bits < 8 for qparams in stored)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of weights that could not be rounded by what they compute."""
        return tuple(self._failed.values())

    def _fit_apart(self, sites: Sequence[Site], advance: Callable[[], None]) -> None:
        """Rounds the weights of new sites; where that fails, each alone, to tell which it is."""
        self._known.update(self._found_before(sites))
        done = {*self._known, *self._failed}
        sites = [site for site in sites if site.key not in done]
        try:
            for some in self._batches(sites):
                self._fit(some, advance)
        except Exception as error:
            if len(sites) > 1:
                for site in sites:
                    self._fit_apart([site], advance)
                return
            (site,) = sites
            self._failed[site.key] = (
                f"the weight of {self._model.where(site.first_op)} is rounded to nearest: rounding "
                f"it by what it computes failed with {type(error).__name__}: {error}"
            )

    def runs(self, plan: Plan) -> int:
        """How often `round` will run a sample."""
        new = [site for site in self._sites(plan) if site.key not in self._known]
        samples = min(MOST_SAMPLES, len(self._own.samples))
        return samples * sum(1 for _ in self._batches(new))

    @functools.cached_property
    def _common(self) -> Mapping[int, str]:
        """Digests of weights that other models have as well, by tensor."""
        return self._weights.of(self._graph)

    def _found_before(self, sites: Sequence[Site]) -> dict[tuple[int, AnyQParams], Result]:
        """What weights of these sites were rounded to for another model."""
        found = {}
        for site in sites:
            digest = self._common.get(site.tensor)
            known = None if digest is None else self._weights.known(digest, site.qparams)
            if known is not None:
                found[site.key] = known
        return found

    def _sites(self, plan: Plan) -> Iterator[Site]:
        """The weights of a plan that all their readers want on the same grid."""
        wanted: dict[tuple[int, int], AnyQParams] = {k: s.qparams for k, s in plan.stored.items()}
        wanted.update(plan.operands)
        places = (
            (op, slot)
            for op in self._graph.operators
            for slot in self._own.fitted.get(op.index, ())
        )
        for weight in dict.fromkeys(op.inputs[slot] for op, slot in places):
            tensor, uses = self._graph.tensors[weight], self._graph.uses[weight]
            if not tensor.is_constant or tensor.dtype != "float32":
                continue
            grids = {wanted.get((op.index, slot)) for op, slot in uses}
            qparams, digest = next(iter(grids)), self._common.get(weight)
            fitted = self._own.are_fitted(uses)
            fitted = fitted and (digest is None or self._weights.are_fitted(digest))
            if fitted and len(grids) == 1 and qparams is not None and all_finite(constant(tensor)):
                yield self._own.site(uses, qparams)

    def _batches(self, sites: Sequence[Site]) -> Iterator[list[Site]]:
        """Neighbours that fit into memory together."""
        most = max(MEMORY_BYTES, len(self._model.tflite) // 4)
        batch, held = list[Site](), 0
        for site in sites:
            needed = site.bytes_needed
            if batch and held + needed > most:
                yield batch
                batch, held = [], 0
            batch.append(site)
            held += needed
        if batch:
            yield batch

    def _fit(self, sites: Sequence[Site], advance: Callable[[], None]) -> None:
        """Runs the samples and rounds the weights of these sites."""
        moments, centred = [Moments() for _ in sites], [True for _ in sites]
        places: dict[Party, list[tuple[int, Site]]] = defaultdict(list)
        for place, site in enumerate(sites):
            for party, there in self._parties(site):
                places[party].append((place, there))
        for party, found in places.items():
            collect(party, [s for _, s in found], [moments[i] for i, _ in found], advance)
            for place, site in found:
                centred[place] &= site.has_bias(party.model.graph)
        for site, seen, has_bias in zip(sites, moments, centred, strict=True):
            seen.flush()
            self._known[site.key] = result = site.rounded(seen, has_bias)
            digest = self._common.get(site.tensor)
            if digest is not None:
                self._weights.keep(digest, site.qparams, result)

    def _parties(self, site: Site) -> list[tuple[Party, Site]]:
        """The models whose data a weight is rounded by, and the weight in each."""
        digest = self._common.get(site.tensor)
        if digest is None:
            return [(self._own, site)]
        return list(self._weights.sites(digest, site.qparams))
