"""The plan: which tensor gets which quantization parameters, and why the rest stays float.

A pure decision from the graph, the op table, the calibration and the recipe; nothing is changed and
no converter is needed. Same-scale ops tie tensors into groups that share one scale, and so do the
two ends of a state, which is fed back as the integers that it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.errors import ModelError
from edgeq.export.plan.choices import Choices, weight_slots
from edgeq.export.plan.quantization_plan import Plan, Stored
from edgeq.export.plan.values import Values
from edgeq.export.plan.weight_scales import stored_weight_qparams
from edgeq.flatbuffer import Operator, Tensor
from edgeq.model import LiteModel
from edgeq.ops import OPS, OpRow, ScaleRule, is_table
from edgeq.qtypes import (
    DType,
    FloatArray,
    QParams,
    all_finite,
    covering,
    largest,
    symmetric,
    symmetric_per_channel,
)
from edgeq.recipe import Mode

INT32_MAX = 2**31 - 1

CENTRED_SHARE = 0.7
"""Of the integers that zero point 0 must leave to a range, so that a tensor gets it for speed."""

Range = tuple[float, float]
Linked = Mapping[int, QParams]
"""Parameters that a tensor has where it is an integer of their type, as other models do too."""


class Span(NamedTuple):
    """What the integers of a tensor, and of all that share its scale, must hold.

    Attributes:
        dtype: Their type.
        range: Lowest and highest real value.
        dictated: Parameters that it has whatever the data are; None where the range decides.
    """

    dtype: DType
    range: Range
    dictated: QParams | None


def make_plan(
    model: LiteModel, calibration: Calibration, choices: Choices, linked: Linked | None = None
) -> Plan:
    """Decides the parameters of every tensor.

    Args:
        model: The float model.
        calibration: Ranges of its tensors.
        choices: What becomes of each op; none of them is `Mode.AUTO` any more.
        linked: Parameters of ports that hold the same as ports of other models.

    Raises:
        ModelError: The calibration belongs to another model, or the model is not float.
    """
    return _Planner(model, calibration, choices, linked).plan()


def spans(model: LiteModel, calibration: Calibration, choices: Choices) -> dict[int, Span]:
    """What each tensor that becomes an integer must hold; args and errors of `make_plan`."""
    return _Planner(model, calibration, choices).spans()


def refuse_quantized(model: LiteModel) -> None:
    """Raises a `ModelError` for a model that computes with integers already."""
    for tensor in sorted(model.graph.tensors, key=lambda t: t.dtype == "int32"):
        if tensor.qparams is not None or tensor.dtype in ("float16", "int4"):
            raise ModelError(
                f"the model is quantized already: tensor {tensor.name!r} is {tensor.dtype}. "
                "Export from the float model it was made from, or from what `edgeq dequantize` "
                "makes of this one, whose rounding then stays"
            )


class _Groups:
    """Tensors that share one scale, as a union-find forest."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self.fixed: dict[int, QParams] = {}

    def root(self, tensor: int) -> int:
        self._parent.setdefault(tensor, tensor)
        while self._parent[tensor] != tensor:
            self._parent[tensor] = self._parent[self._parent[tensor]]
            tensor = self._parent[tensor]
        return tensor

    def join(self, tensors: list[int]) -> None:
        roots = sorted({self.root(t) for t in tensors})
        fixed = [self.fixed.pop(r) for r in roots if r in self.fixed]
        for other in roots[1:]:
            self._parent[other] = roots[0]
        if fixed:
            self.fixed[roots[0]] = fixed[0]


class _Planner:
    """Works out one plan; `plan()` names the steps."""

    def __init__(
        self,
        model: LiteModel,
        calibration: Calibration,
        choices: Choices,
        linked: Linked | None = None,
    ) -> None:
        calibration.check_model(model)
        refuse_quantized(model)
        self._model = model
        self._graph = model.graph
        self._calibration = calibration
        self._choices = choices
        self._groups = _Groups()
        self._ranges: dict[int, Range] = {}
        types = self._dtypes
        shared = {t: q for t, q in (linked or {}).items() if types.get(t) is q.dtype}
        self._given = {**shared, **model.given_qparams}
        self._values = Values(model, calibration)

    def spans(self) -> dict[int, Span]:
        self._share_scales()
        return {t: self._span(t) for t in sorted(self._dtypes)}

    def _span(self, tensor: int) -> Span:
        root = self._groups.root(tensor)
        fixed = self._groups.fixed.get(root)
        found = fixed.range() if fixed else self._group_ranges.get(root) or self._range(tensor)
        return Span(self._dtypes[tensor], found, fixed)

    def _share_scales(self) -> None:
        """Finds the tensors that have one scale, and what it must cover."""
        for tensor, qparams in self._given.items():
            self._groups.fixed[tensor] = qparams
        self._fix_states()
        for op, row in self._integer_ops():
            fixed = row.fixed_for(self._dtype(op))
            if fixed is not None:
                self._groups.fixed[self._groups.root(op.outputs[0])] = fixed
            elif row.rule is ScaleRule.SAME:
                self._tie(op)
        self._join_states()
        for tensor in self._dtypes:
            if self._is_from_float(tensor) or tensor in self._calibration.ranges:
                self._widen(tensor, self._range(tensor))

    def plan(self) -> Plan:
        self._share_scales()
        tensors = {t: self._qparams(t) for t in sorted(self._dtypes)}
        operands: dict[tuple[int, int], QParams] = {}
        for op, row in self._integer_ops():
            for slot, qparams in self._operands(op, row, tensors):
                operands[op.index, slot] = qparams
        stored = dict(self._stored())
        reasons = {i: c.reason for i, c in self._choices.items() if c.mode is Mode.FLOAT}
        remarks = {i: c.reason for i, c in self._choices.items() if c.reason and i not in reasons}
        return Plan(tensors, operands, reasons, stored, remarks)

    def _integer_ops(self) -> Iterator[tuple[Operator, OpRow]]:
        for index, choice in self._choices.items():
            if choice.mode.is_static:
                op = self._graph.operators[index]
                yield op, OPS[op.name]

    def _dtype(self, op: Operator) -> DType:
        """Type of an integer op's activations."""
        return self._choices[op.index].mode.activation_dtype

    def _stored(self) -> Iterator[tuple[tuple[int, int], Stored]]:
        """Weights of the ops that read and write float."""
        for index, choice in self._choices.items():
            op = self._graph.operators[index]
            if choice.mode.is_static or choice.mode is Mode.FLOAT:
                continue
            dynamic = choice.mode.is_dynamic or is_table(op.name)
            for slot in weight_slots(self._graph, op):
                data = self._graph.tensors[op.inputs[slot]].data
                assert data is not None
                self._check_finite(op, data)
                qparams = stored_weight_qparams(op.name, data, choice)
                yield (index, slot), Stored(qparams, dynamic and qparams is not None)

    @functools.cached_property
    def _dtypes(self) -> dict[int, DType]:
        """Type of each computed tensor that an integer op writes, or else reads."""
        written: dict[int, DType] = {}
        read: dict[int, DType] = {}
        for op, _ in self._integer_ops():
            dtype = self._dtype(op)
            written.update({t: dtype for t in op.outputs if self._is_real(t)})
            for _, tensor in self._activations(op):
                read.setdefault(tensor.index, dtype)
        return {**read, **written}

    def _is_real(self, tensor: int) -> bool:
        return self._graph.tensors[tensor].dtype == "float32"

    def _activations(self, op: Operator) -> Iterator[tuple[int, Tensor]]:
        """`(slot, tensor)` of computed float operands."""
        for slot, tensor in self._graph.operands(op):
            if tensor.dtype == "float32" and not tensor.is_constant:
                yield slot, tensor

    def _tie(self, op: Operator) -> None:
        """Ties a same-scale op's tensors; what has a fixed scale of its own is left out."""
        outputs = [t for t in op.outputs if self._is_real(t)]
        operands = [t.index for _, t in self._activations(op)]
        constants = [t for t in self._constants(op) if t is not None]
        for tensor in [t for t in operands if self._dtypes[t] is not self._dtype(op)]:
            operands.remove(tensor)
            constants.append(self._range(tensor))
        fixed = {t: self._groups.fixed.get(self._groups.root(t)) for t in operands}
        kinds = set(fixed.values())
        own = {self._groups.fixed.get(self._groups.root(t)) for t in outputs}
        agree = len(kinds) == 1 and (kinds == {None} or own in ({None}, kinds))
        if agree and not (constants and kinds != {None}):
            self._groups.join(outputs + operands)
            free = operands
        else:
            free = [t for t in operands if fixed[t] is None]
            self._groups.join(outputs + free)
        for tensor in operands:
            kept = fixed[tensor]
            if tensor not in free and kept is not None:
                self._widen(outputs[0], kept.range())
        for found in constants:
            self._widen(outputs[0], found)

    @functools.cached_property
    def _states(self) -> list[tuple[int, int]]:
        """Tensors of the input and the output of each state that are integers of one type."""
        types = self._dtypes
        return [
            (taken, given)
            for taken, given in self._model.state_tensors
            if taken in types and types[taken] is types.get(given)
        ]

    def _fix_states(self) -> None:
        """Gives inputs the parameters that kernels dictate for what is fed back to them."""
        for taken, given in self._states:
            fixed = self._dictated(given)
            if fixed is not None:
                self._groups.fixed.setdefault(taken, fixed)

    def _dictated(self, tensor: int) -> QParams | None:
        """Parameters that a tensor has whatever the data are, its own or those of its sources."""
        op = self._graph.producers.get(tensor)
        if tensor in self._given or op is None or not self._choices[op.index].mode.is_static:
            return self._given.get(tensor)
        row = OPS[op.name]
        if row.rule is not ScaleRule.SAME:
            return row.fixed_for(self._dtype(op))
        found = {self._dictated(t.index) for _, t in self._activations(op)}
        return found.pop() if len(found) == 1 else None

    def _join_states(self) -> None:
        """Joins the two tensors of each state, unless other parameters are dictated for each."""
        for taken, given in self._states:
            fixed = {self._groups.fixed.get(self._groups.root(t)) for t in (taken, given)}
            if len(fixed) == 1:
                self._groups.join([taken, given])

    def _constants(self, op: Operator) -> list[Range | None]:
        return [
            self._values.constant_range(op, slot)
            for slot, tensor in self._graph.operands(op)
            if tensor.dtype == "float32" and tensor.is_constant
        ]

    def _range(self, tensor: int) -> Range:
        """Range that a tensor's integers must cover: measured, or as its producer's row says."""
        dtype = self._dtypes.get(tensor, DType.INT8)
        return self._values.range(tensor, dtype, self._is_from_float(tensor))

    def _is_from_float(self, tensor: int) -> bool:
        """Whether a tensor is the result of a float op."""
        producer = self._graph.producers.get(tensor)
        return producer is not None and not self._choices[producer.index].mode.is_static

    def _widen(self, tensor: int, found: Range) -> None:
        """Takes a range into account for the group that `tensor` ends up in."""
        low, high = self._ranges.get(tensor, found)
        self._ranges[tensor] = (min(low, found[0]), max(high, found[1]))

    def _qparams(self, tensor: int) -> QParams:
        root = self._groups.root(tensor)
        if root in self._groups.fixed:
            return self._groups.fixed[root]
        found = self._group_ranges.get(root) or self._range(tensor)
        if root in self._multiplied and is_near_centre(found):
            return symmetric(max(map(abs, found)), self._dtypes[tensor])
        return covering(found, self._dtypes[tensor])

    @functools.cached_property
    def _multiplied(self) -> frozenset[int]:
        """Groups with a computed right matrix of a product, as keys and values of attention are.

        Kernels of optimised libraries multiply by integers whose zero point is 0, as weights' is.
        """
        products = (op for op, _ in self._integer_ops() if op.name == "BATCH_MATMUL")
        slot = OPS["BATCH_MATMUL"].weight_slot
        return frozenset(
            self._groups.root(tensor.index)
            for op in products
            for place, tensor in self._activations(op)
            if place == slot
        )

    @functools.cached_property
    def _group_ranges(self) -> dict[int, Range]:
        """The range of each group, by its root."""
        merged: dict[int, Range] = {}
        for tensor, (low, high) in self._ranges.items():
            root = self._groups.root(tensor)
            old = merged.get(root, (low, high))
            merged[root] = (min(old[0], low), max(old[1], high))
        return merged

    def _operands(
        self, op: Operator, row: OpRow, tensors: Mapping[int, QParams]
    ) -> Iterator[tuple[int, QParams]]:
        """Tensors that `op` must read at parameters other than their own."""
        dtype = self._dtype(op)
        for slot, tensor in self._graph.operands(op):
            if tensor.dtype != "float32" or slot == row.bias_slot:
                continue
            if row.rule is ScaleRule.SAME:
                wanted = tensors[op.outputs[0]]
                if tensor.is_constant or tensors[tensor.index] != wanted:
                    yield slot, wanted
            elif tensor.data is not None and slot == row.weight_slot:
                given = self._given.get(tensor.index)
                yield slot, given or self._weight(op, row, tensor.data, tensors)
            elif tensor.data is not None:
                given = self._given.get(tensor.index)
                found = self._values.constant_range(op, slot)
                yield slot, given or covering(found or (0.0, 0.0), dtype)
            elif tensors[tensor.index].dtype is not dtype:
                yield slot, covering(self._range(tensor.index), dtype)

    def _weight(
        self, op: Operator, row: OpRow, data: FloatArray, tensors: Mapping[int, QParams]
    ) -> QParams:
        self._check_finite(op, data)
        if row.weight_axis is None or not self._choices[op.index].weights.per_channel:
            return symmetric(float(largest(data, None)[0]))
        absmax = largest(data, row.weight_axis)
        return symmetric_per_channel(absmax, row.weight_axis, self._floor(op, row, absmax, tensors))

    def _floor(
        self, op: Operator, row: OpRow, absmax: FloatArray, tensors: Mapping[int, QParams]
    ) -> FloatArray:
        """Smallest weight scale at which `bias / (input scale * weight scale)` fits int32."""
        floor = np.zeros(len(absmax))
        slot = row.bias_slot
        if slot is None or slot >= len(op.inputs) or op.inputs[slot] < 0:
            return floor
        bias = self._graph.tensors[op.inputs[slot]].data
        if bias is None:
            return floor
        self._check_finite(op, bias)
        activation = next((t.index for _, t in self._activations(op)), None)
        if activation is None:
            return floor
        step = tensors[activation].scale[0] * INT32_MAX * (1 - 1e-6)
        return np.broadcast_to(np.abs(bias.astype(np.float64)).ravel() / step, floor.shape)

    def _check_finite(self, op: Operator, data: FloatArray) -> None:
        if not all_finite(data):
            raise ModelError(
                f"{self._model.where(op)}: its weight or bias holds NaN or infinite values; "
                "the float model itself is broken (diverged in training, or a damaged file)"
            )


def is_near_centre(found: Range) -> bool:
    """Whether a range keeps most of the integers when it is made symmetric."""
    low, high = found
    return high - low >= CENTRED_SHARE * 2 * max(-low, high)
