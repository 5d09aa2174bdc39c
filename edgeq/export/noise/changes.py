"""`Changes`: what a plan rounds in the float model, one thing after the other, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeq.export.noise.moved import sources
from edgeq.export.plan.choices import decided_together, weight_slots
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.weighted_ops import bias_slot
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import storable
from edgeq.qtypes import FloatArray, QParams, dequantize, quantize


@dataclass(frozen=True)
class Change:
    """One change of the float model: weights of these ops and these tensors are rounded."""

    weights: tuple[int, ...] = ()
    tensors: tuple[int, ...] = ()

    @classmethod
    def joined(cls, changes: Sequence[Change]) -> Change:
        """All of some changes as one."""
        return cls(
            tuple(w for change in changes for w in change.weights),
            tuple(t for change in changes for t in change.tensors),
        )


class Changes:
    """Everything that a plan rounds.

    Args:
        model: The float model.
        plan: All that could be rounded, with its parameters.
        rounded: Its weights as integers have them.

    Attributes:
        model: The float model.
        graph: Of the float model.
        plan: All that could be rounded.
    """

    def __init__(self, model: LiteModel, plan: Plan, rounded: Rounded) -> None:
        self.model = model
        self.graph = model.graph
        self.plan = plan
        self._rounded = rounded

    def __iter__(self) -> Iterator[Change]:
        """Everything that is worth a measurement, in the graph's order."""
        for tensor in self.graph.inputs:
            if tensor in self.plan.tensors and tensor in self.graph.uses:
                yield Change(tensors=(tensor,))
        together = decided_together(self.graph)
        sources_of = sources(self.graph, self.plan.tensors)
        for op in self.graph.operators:
            unit = together[op.index]
            if unit[0] != op.index:
                continue
            if self._weight(op) is not None or self._stored(op):
                yield Change(weights=unit)
            made = [t for i in unit for t in self.graph.operators[i].outputs]
            tensors = tuple(t for t in made if t in self.plan.tensors and t in sources_of[t])
            if tensors:
                yield Change(tensors=tensors)

    def makers(self, change: Change) -> list[int]:
        """Indices of the ops whose results it changes; -1 for an input of the graph."""
        producers = (self.graph.producers.get(t) for t in change.tensors)
        return sorted({*change.weights, *(-1 if op is None else op.index for op in producers)})

    def written(self, change: Change) -> list[int]:
        """The tensors that are other ones with it, as far as they are real numbers."""
        made = [t for i in change.weights for t in self.graph.operators[i].outputs]
        tensors = (*change.tensors, *made)
        return [t for t in dict.fromkeys(tensors) if self.graph.tensors[t].dtype == "float32"]

    def rounded(self, tensor: int, values: FloatArray) -> FloatArray:
        """What a tensor holds as its integers have it."""
        qparams = self.plan.tensors[tensor]
        return dequantize(quantize(values, qparams), qparams)

    def operands(self, index: int, editor: GraphEditor) -> dict[int, int]:
        """An op's weights as integers have them, and the bias that belongs to them, in a file.

        Args:
            index: Of the op.
            editor: The file, in which they become constants.

        Returns:
            Tensor by operand slot.
        """
        values = self._values(self.graph.operators[index])
        names = {slot: f"edgeq/rounded/{index}/{slot}" for slot in values}
        return {slot: editor.constant(names[slot], array) for slot, array in values.items()}

    def make(self, change: Change, editor: GraphEditor, start: int) -> None:
        """Makes a change in the float model that an editor has open, without its first ops.

        Args:
            change: The change.
            editor: The file.
            start: How many ops it lacks.
        """
        editor.rewire({index - start: self.operands(index, editor) for index in change.weights})
        editor.round_trips({t: self.plan.tensors[t] for t in change.tensors})

    def _values(self, op: Operator) -> dict[int, FloatArray]:
        found = self._weight(op)
        if found is None:
            return self._stored(op)
        slot, qparams = found
        if op.index not in self._rounded.weights:
            data = self.graph.tensors[op.inputs[slot]].data
            assert data is not None
            return {slot: dequantize(quantize(data, qparams), qparams)}
        bias = self._rounded.biases.get(op.index)
        extra = {} if bias is None else {bias_slot(op): bias}
        return {slot: self._rounded.weights[op.index], **extra}

    def _stored(self, op: Operator) -> dict[int, FloatArray]:
        """The weights of an op that has no static form as they are stored, by operand slot."""
        found = {}
        for slot in weight_slots(self.graph, op):
            stored = self.plan.stored.get((op.index, slot))
            data = self.graph.tensors[op.inputs[slot]].data
            if (op.index, slot) in self._rounded.passed:
                found[slot] = self._rounded.passed[op.index, slot]
            elif stored is not None and isinstance(stored.qparams, QParams) and data is not None:
                found[slot] = dequantize(quantize(data, stored.qparams), stored.qparams)
        return found

    def _weight(self, op: Operator) -> tuple[int, QParams] | None:
        row = storable(op.name)
        qparams = self.plan.operands.get((op.index, row.slot)) if row else None
        if row is None or qparams is None:
            return None
        return (row.slot, qparams) if self.graph.tensors[op.inputs[row.slot]].is_constant else None
