"""`CommonWeights`: weights that a file has several times are rounded once, by the data of all.

So what its signatures, or ops of one of them, share stays shared. Knows which models have a weight,
nothing of how one is rounded.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import Choices, weight_slots
from edgeq.export.plan.min_runtime import form_runtime
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.loop_taps import LoopSite, is_tappable
from edgeq.export.round.weighted_ops import AnyQParams, Site, is_fed, is_laid_out, weight_slot
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.object_tree import SHARED_BYTES
from edgeq.model import LiteModel
from edgeq.ops import is_table, storable
from edgeq.qtypes import DType, FloatArray, IntArray
from edgeq.recipe import Mode
from edgeq.versions import Version

LAST_BITS = 2.0**-21
"""Constants that differ by no more of their largest number are the same, computed otherwise."""

Result = tuple[IntArray, FloatArray]
Shape = tuple[int, ...]
Use = tuple[Operator, int]
"""An op and the operand slot that it reads a weight at."""

BY_ROWS = (
    "other ops of the file read its table as well: it is there once, with a scale for each row, "
    "and what is looked up in that is float"
)
"""Why a look-up is not static."""


@dataclass(frozen=True, eq=False)
class Party:
    """A float model that has weights, and inputs to run it with.

    Attributes:
        model: The model. One that brought or learned its scales was trained with weights rounded
            to nearest, which they stay.
        choices: Of each op, as far as the recipe says it; tells how weights are rounded.
        samples: Inputs.
        threads: Samples that run side by side; None takes what this process may use.
    """

    model: LiteModel
    choices: Choices
    samples: Sequence[Sample]
    threads: int | None = None

    @functools.cached_property
    def nearest(self) -> frozenset[int]:
        """Ops whose weights are rounded to nearest, by index."""
        is_trained = bool(self.model.given or self.model.learned)
        chosen = self.choices.items()
        return frozenset(i for i, c in chosen if is_trained or c.weights.rounding == "nearest")

    def has_scale_of_rows(self, uses: Sequence[Use]) -> bool:
        """Whether an op that multiplies by a weight wants it in int8 with a scale for each row."""
        return any(self._multiplies_rows(op, slot) for op, slot in uses if op.index in self.choices)

    def _multiplies_rows(self, op: Operator, slot: int) -> bool:
        weight, choice = storable(op.name), self.choices[op.index]
        if weight is None or is_table(op.name) or (weight.slot, weight.axis) != (slot, 0):
            return False
        is_int8 = choice.mode is Mode.AUTO or choice.mode.weight_dtype is DType.INT8
        return is_int8 and choice.weights.per_channel

    @functools.cached_property
    def fitted(self) -> Mapping[int, tuple[int, ...]]:
        """Operand slots of weights that are rounded by what ops read at run time, by op."""
        return {op.index: slots for op in self.model.graph.operators if (slots := self._slots(op))}

    def _slots(self, op: Operator) -> tuple[int, ...]:
        if op.index in self.nearest:
            return ()
        if op.multiplied:
            return tuple(s for s in op.multiplied if is_tappable(self.model.tree, op, s))
        is_known = is_laid_out(op) and is_fed(self.model.graph, op)
        return (weight_slot(op),) if is_known else ()

    def are_fitted(self, uses: Sequence[Use]) -> bool:
        """Whether ops do the same with a weight, and it is rounded by what they read."""
        return len({op.name for op, _ in uses}) == 1 and all(
            slot in self.fitted.get(op.index, ()) for op, slot in uses
        )

    def site(self, uses: Sequence[Use], qparams: AnyQParams) -> Site:
        """The weight that some ops read."""
        if uses[0][0].multiplied:
            return LoopSite(self.model.graph, uses, qparams)
        return Site(self.model.graph, tuple(op for op, _ in uses), qparams)


class CommonWeights:
    """Weights of several models; all of them are added before the first is asked for."""

    def __init__(self) -> None:
        self._parties: list[Party] = []
        self._known: dict[tuple[str, AnyQParams], Result] = {}
        self._modes: dict[tuple[str, str], Mode] = {}

    def aligned(self, model: LiteModel) -> LiteModel:
        """A model with constants of those that were added in place of its own where it may be.

        That is where they differ in their last bits alone, as factors do that are multiplied into a
        weight in another order. All indices stay.
        """
        if not self._parties:
            return model
        editor, found = GraphEditor(model.tree), 0
        for tensor, data in _constants(model.graph):
            near = self._near(data)
            if near is not None and not np.array_equal(near, data):
                found += 1
                content = np.frombuffer(np.ascontiguousarray(near, np.float32).tobytes(), np.uint8)
                editor.retyped(tensor, "float32", content, None)
        return replace(model, tflite=editor.finish()) if found else model

    def _near(self, data: FloatArray) -> FloatArray | None:
        """A constant of another model that holds the same but for the last bits."""
        error = LAST_BITS * float(np.abs(data).max())
        for party in self._parties:
            for _, other in _constants(party.model.graph):
                is_alike = other.shape == data.shape
                is_alike = is_alike and np.abs(other.flat[:64] - data.flat[:64]).max() <= error
                if is_alike and np.abs(other - data).max() <= error:
                    return other
        return None

    def decide(self, graph: Graph, plan: Plan) -> None:
        """Remembers how a model stores its weights, for those that are planned after it."""
        for tensor, digest in self.of(graph).items():
            for op, slot in graph.uses.get(tensor, ()):
                stored = plan.stored.get((op.index, slot))
                if stored is not None and stored.qparams is not None:
                    kind = "dynamic" if stored.dynamic else "weight"
                    mode = Mode(f"{kind}_{stored.qparams.dtype.type_name}")
                    self._modes.setdefault((digest, op.name), mode)

    def decided(self, graph: Graph, choices: Choices) -> Choices:
        """Choices in which weights are stored as in the models that were planned before.

        A search would else leave one float in the one model and not in the other, for two constants
        in place of one. The choices themselves where nothing would be left to a search.
        """
        found = dict(choices)
        for tensor, digest in self.of(graph).items():
            for op, _ in graph.uses.get(tensor, ()):
                mode, choice = self._modes.get((digest, op.name)), found.get(op.index)
                if mode is not None and choice is not None and choice.mode is Mode.AUTO:
                    found[op.index] = replace(choice, mode=mode)
        return found if any(c.mode is Mode.AUTO for c in found.values()) else choices

    def with_tables_once(
        self, graph: Graph, choices: Choices, free: Collection[int], oldest: Version | None
    ) -> Choices:
        """Choices in which look-ups take rows of a table as layers multiply by them.

        In static int8 a table has the one scale of what is looked up in it, which each model has
        found for itself. Where another op of the file multiplies by it, or another model looks up
        in it, it has a scale for each row, and all of them read one constant.

        Args:
            graph: Of one of the models.
            choices: What becomes of each op.
            free: Ops that may become float.
            oldest: The oldest run time that is to read the file, if that matters.
        """
        tables = {
            op.index: op.inputs[slot]
            for op in graph.operators
            if op.index in free and choices[op.index].mode is Mode.STATIC_INT8
            if is_table(op.name)
            for slot in weight_slots(graph, op)
        }
        found, digests = dict(choices), dict(self._digests(graph)) if tables else {}
        for index, tensor in tables.items():
            op, digest = graph.operators[index], digests.get(tensor)
            lower = replace(choices[index], mode=Mode.WEIGHT_INT8, reason=BY_ROWS)
            is_new = oldest is not None and form_runtime(op.name, lower) > oldest
            if digest is not None and not is_new and self._is_read_by_rows(digest):
                found[index] = lower
        return found

    def _is_read_by_rows(self, digest: str) -> bool:
        places = self._places[digest]
        is_common = len({id(party) for party, _, _ in places}) > 1
        return is_common or any(party.has_scale_of_rows(uses) for party, _, uses in places)

    def add(self, party: Party) -> None:
        """Takes a model in."""
        self._parties.append(party)

    def of(self, graph: Graph) -> Mapping[int, str]:
        """Digests of a graph's constants that are there more than once in all, by tensor."""
        found = self._digests(graph)
        return {t: digest for t, digest in found if len(self._places[digest]) > 1}

    def readers(self, graph: Graph) -> set[int]:
        """Indices of a graph's ops that read what is there more than once in all models."""
        return {op.index for tensor in self.of(graph) for op, _ in graph.uses.get(tensor, ())}

    def are_fitted(self, digest: str) -> bool:
        """Whether all ops do the same with a weight and want it rounded by what it computes."""
        readers = self._places[digest]
        alike = {(uses[0][0].name, shape) for _, shape, uses in readers}
        return len(alike) == 1 and all(party.are_fitted(uses) for party, _, uses in readers)

    def sites(self, digest: str, qparams: AnyQParams) -> Iterator[tuple[Party, Site]]:
        """The weight wherever it is, with the model there."""
        for party, _, uses in self._places[digest]:
            yield party, party.site(uses, qparams)

    def known(self, digest: str, qparams: AnyQParams) -> Result | None:
        """What a weight was rounded to for a model before."""
        return self._known.get((digest, qparams))

    def keep(self, digest: str, qparams: AnyQParams, result: Result) -> None:
        """Remembers what a weight was rounded to, for the other models."""
        self._known[digest, qparams] = result

    @functools.cached_property
    def _places(self) -> Mapping[str, Sequence[_Place]]:
        """Of each constant that has a digest: model, shape and readers there."""
        found: dict[str, list[_Place]] = defaultdict(list)
        for party in self._parties:
            graph = party.model.graph
            for tensor, digest in self._digests(graph):
                found[digest].append((party, graph.tensors[tensor].shape, graph.uses[tensor]))
            party.model.release()
        return found

    def _digests(self, graph: Graph) -> Iterator[tuple[int, str]]:
        """Digests of constants that ops of several kinds read, or which may be there again."""
        for tensor, data in _constants(graph):
            if self._beginnings[_beginning(data)] > 1:
                yield tensor, hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()

    @functools.cached_property
    def _beginnings(self) -> Counter[bytes]:
        """How often something begins so, which is soon told: what is there once needs no digest."""
        return Counter(
            _beginning(data)
            for party in self._parties
            for tensor, data in _constants(party.model.graph)
            for _ in {op.name for op, _ in party.model.graph.uses[tensor]}
        )


_Place: TypeAlias = tuple[Party, Shape, Sequence[Use]]


def _constants(graph: Graph) -> Iterator[tuple[int, FloatArray]]:
    """Float matrices and kernels of some size that ops read."""
    for tensor in graph.tensors:
        data, is_flat = tensor.data, len(tensor.shape) < 2
        if tensor.dtype != "float32" or data is None or is_flat:
            continue
        if data.nbytes >= SHARED_BYTES and graph.uses.get(tensor.index):
            yield tensor.index, data


def _beginning(data: FloatArray) -> bytes:
    """A constant's first bytes, and how many it has."""
    return data.ravel()[:64].tobytes() + data.nbytes.to_bytes(8, "little")
