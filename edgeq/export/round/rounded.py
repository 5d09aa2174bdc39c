"""`Rounded`: weights that lie on the grid of a plan, and the biases that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.loop_taps import LoopSite
from edgeq.export.round.weighted_ops import (
    AnyQParams,
    Site,
    bias_of,
    bias_slot,
    on_grid,
    source_of,
    weight_of,
)
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import FloatArray, IntArray, QParams

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Rounded:
    """Constants on the grid of a plan.

    Attributes:
        weights: The weight of each op that has one.
        biases: The bias of each op whose bias changes.
        count: Number of different weights.
        passed: What loops multiply with, by loop and operand slot.
    """

    weights: Mapping[int, FloatArray] = field(default_factory=dict)
    biases: Mapping[int, FloatArray] = field(default_factory=dict)
    count: int = 0
    passed: Mapping[tuple[int, int], FloatArray] = field(default_factory=dict)

    def model(self, float_model: LiteModel) -> LiteModel:
        """The float model with these constants; tensors and ops keep their indices."""
        if not self.count:
            return float_model
        editor = GraphEditor(float_model.tree)
        self.store(editor, float_model.graph)
        return replace(float_model, tflite=editor.finish())

    def store(
        self,
        editor: GraphEditor,
        graph: Graph,
        start: int = 0,
        places: Mapping[int, int] | None = None,
    ) -> None:
        """Puts these constants into the float model that an editor has open, or into some of it.

        Args:
            editor: The file.
            graph: Of the float model.
            start: How many of its first ops the file lacks.
            places: Its tensors in the file; None is where they are in the float model.
        """
        rewired: dict[int, dict[int, int]] = {}
        stored = {weight_of(graph.operators[i]): values for i, values in self.weights.items()}
        passed = {graph.operators[i].inputs[slot]: v for (i, slot), v in self.passed.items()}
        for tensor, values in {**stored, **passed}.items():
            _store(editor, places[tensor] if places else tensor, values)
        for index, values in self.biases.items():
            op = graph.operators[index]
            slot = bias_slot(op)
            bias = op.inputs[slot]
            if len(graph.uses[bias]) == 1:
                _store(editor, places[bias] if places else bias, values)
            else:
                name = f"{graph.tensors[bias].name}/{index}"
                rewired[index - start] = {slot: editor.constant(name, values)}
        editor.rewire(rewired)

    def of(self, ops: range) -> Rounded:
        """Those of some ops."""
        weights = {i: self.weights[i] for i in ops if i in self.weights}
        biases = {i: self.biases[i] for i in ops if i in self.biases}
        passed = {place: values for place, values in self.passed.items() if place[0] in ops}
        return Rounded(weights, biases, self.count, passed)

    def with_site(
        self, graph: Graph, plan: Plan, site: Site, integers: IntArray, shift: FloatArray
    ) -> Rounded:
        """With the weight of a site, new or in place of another.

        Args:
            graph: Of the float model.
            plan: That the weight is on the grid of.
            site: Whose ops get it.
            integers: The weight.
            shift: What its outputs are less than before on average, which biases make up for.
        """
        values = on_grid(integers, site.qparams)
        weights = {**self.weights, **dict.fromkeys((op.index for op in site.ops), values)}
        biases = dict(self.biases)
        for op in site.ops:
            bias = bias_of(graph, op)
            if bias is not None:
                biases[op.index] = _moved(op, bias, shift, plan, site.qparams)
        is_new = site.ops[0].index not in self.weights
        return Rounded(weights, biases, self.count + is_new, self.passed)

    def with_passed(self, site: LoopSite, integers: IntArray) -> Rounded:
        """With the weight of loops, which have no bias that could make up for it.

        Args:
            site: Whose loops get it.
            integers: The weight.
        """
        values = on_grid(integers, site.qparams)
        passed = {(op.index, slot): values for op, slot in site.uses}
        return replace(self, passed={**self.passed, **passed}, count=self.count + 1)


def _moved(
    op: Operator, bias: FloatArray, shift: FloatArray, plan: Plan, qparams: AnyQParams
) -> FloatArray:
    """A bias that makes up for its weight's mean error, within what int32 can hold."""
    moved: FloatArray = (bias + shift.reshape(bias.shape)).astype(np.float32)
    activation, weight = plan.tensors.get(source_of(op)), OPS[op.name].weight_slot
    is_stored = (op.index, weight) in plan.stored
    if activation is None or is_stored or not isinstance(qparams, QParams):
        return moved
    most = np.asarray(qparams.scale) * activation.scale[0] * _INT32_MAX * (1 - 1e-6)
    bounded: FloatArray = np.clip(moved, -most, most).astype(np.float32)
    return bounded


def _store(editor: GraphEditor, tensor: int, values: FloatArray) -> None:
    content = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
    editor.retyped(tensor, "float32", content, None)
