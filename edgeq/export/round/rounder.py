"""Rounds weights by what they compute on real data, and biases make up for what is left on average.

What comes out is a float model whose weights are numbers of the plan's grid: whoever stores them
rounds to the nearest integer, which is the one that was chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import Choices
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.exact import Matrix
from edgeq.export.round.moments import Moments
from edgeq.export.round.refinement import Refinement
from edgeq.export.round.rounded import Rounded, bias_of
from edgeq.export.round.weighted_ops import (
    AnyQParams,
    Site,
    constant,
    is_laid_out,
    source_of,
    weight_of,
)
from edgeq.files import is_large
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray, IntArray, all_finite
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

MOST_SAMPLES = 32
"""Samples that weights are rounded by."""

MOST_ROWS = 4096
"""Rows that one op contributes, from all samples."""

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

    Attributes:
        not_refined: Why the last call of `refined` left the weights as they were, in a sentence.
    """

    def __init__(
        self,
        model: LiteModel,
        choices: Choices,
        samples: Sequence[Sample],
        threads: int | None = None,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._samples = samples[:MOST_SAMPLES]
        self._all_samples = samples
        self._threads = threads
        trained = bool(model.given or model.learned)
        self._once = {i for i, c in choices.items() if c.weights.rounding == "gptq_once"}
        to_nearest = (i for i, c in choices.items() if c.weights.rounding == "nearest")
        self._nearest = set(choices) if trained else set(to_nearest)
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
            rounded = rounded.with_site(self._graph, plan, site, *self._known[site.key])
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
        refinement = Refinement(self._model, plan, self._all_samples, self._threads)
        try:
            found, why = refinement.best(rounded, self._refinable(plan, rounded), advance)
        except Exception as error:
            found, why = (
                rounded,
                (
                    "doing it again by what the integers before them give failed with "
                    f"{type(error).__name__}: {error}"
                ),
            )
        self.not_refined = why and f"weights are rounded once alone: {why}"
        return found

    def _refinable(self, plan: Plan, rounded: Rounded) -> list[Site]:
        """Weights that a second pass may change: none where little is lost in front of them."""
        is_exact = not plan.tensors and not self._has_narrow(plan)
        is_apart = is_exact or is_large(len(self._model.tflite))
        sites = () if is_apart else self._sites(plan)
        free = rounded.weights.keys() - self._once
        return [site for site in sites if all(op.index in free for op in site.ops)]

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
                f"the weight of {self._model.where(site.ops[0])} is rounded to nearest: rounding "
                f"it by what it computes failed with {type(error).__name__}: {error}"
            )

    def runs(self, plan: Plan) -> int:
        """How often `round` will run a sample."""
        new = [site for site in self._sites(plan) if site.key not in self._known]
        return len(self._samples) * sum(1 for _ in self._batches(new))

    def _sites(self, plan: Plan) -> Iterator[Site]:
        """The weights of a plan that all their readers want on the same grid."""
        wanted: dict[tuple[int, int], AnyQParams] = {k: s.qparams for k, s in plan.stored.items()}
        wanted.update(plan.operands)
        seen = set()
        for op in self._graph.operators:
            if not is_laid_out(op):
                continue
            weight = weight_of(op)
            tensor = self._graph.tensors[weight]
            if weight in seen or not tensor.is_constant or tensor.dtype != "float32":
                continue
            seen.add(weight)
            uses = self._graph.uses[weight]
            grids = {wanted.get((o.index, slot)) for o, slot in uses}
            qparams = next(iter(grids))
            plain = all(o.name == op.name and self._is_fitted(o) for o, _ in uses)
            if plain and len(grids) == 1 and qparams is not None and all_finite(constant(tensor)):
                yield Site(self._graph, tuple(o for o, _ in uses), qparams)

    def _batches(self, sites: Sequence[Site]) -> Iterator[list[Site]]:
        """Neighbours that fit into memory together."""
        most = max(MEMORY_BYTES, len(self._model.tflite) // 4)
        batch: list[Site] = []
        for site in sites:
            if batch and sum(s.bytes_needed for s in batch) + site.bytes_needed > most:
                yield batch
                batch = []
            batch.append(site)
        if batch:
            yield batch

    def _is_fitted(self, op: Operator) -> bool:
        """Whether an op's weight is to be rounded by what the op reads at run time."""
        read = self._graph.tensors[source_of(op)]
        computed = read.dtype == "float32" and not read.is_constant
        return computed and op.index not in self._nearest

    def _fit(self, sites: Sequence[Site], advance: Callable[[], None]) -> None:
        """Runs the samples and rounds the weights of these sites."""
        read = [t for site in sites for t in site.inputs]
        editor = GraphEditor(self._model.tree)
        editor.add_outputs([t for t in dict.fromkeys(read) if t not in self._graph.inputs])
        tflite = editor.finish()

        def rows(session: Session, sample: Any) -> list[Matrix]:
            session.invoke(sample)
            return [site.rows(session.view, MOST_ROWS, len(self._samples)) for site in sites]

        moments = [Moments() for _ in sites]
        # Each session has weights of its own, of which a large model has room for one.
        alone = is_large(len(tflite))
        each, members = (self._threads, 1) if alone else (1, self._threads)
        with Crew(lambda: Session(tflite, threads=each, trusted=True), members) as crew:
            for found in crew.map(self._samples, rows):
                for one, seen in zip(found, moments, strict=True):
                    seen.add(one)
                advance()
        for site, seen in zip(sites, moments, strict=True):
            seen.flush()
            centred = all(bias_of(self._graph, op) is not None for op in site.ops)
            self._known[site.key] = site.rounded(seen, centred)
