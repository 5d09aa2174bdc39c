"""The plan: which tensor gets which quantization parameters, and why the rest stays float.

A pure decision from the graph, the op table, the calibration and the recipe; nothing is changed and
no converter is needed. Same-scale ops tie tensors into groups that share one scale.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import as_observer
from edgeq.errors import ModelError, RecipeError, UnsupportedOpError
from edgeq.export.rewrite import REWRITES
from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.model import FloatModel
from edgeq.ops import OPS, OpRow, ScaleRule
from edgeq.qtypes import FloatArray, QParams, affine, symmetric, symmetric_per_channel
from edgeq.recipe import Mode, Recipe, Rule

STAND_IN_FOR_INFINITY = 1e30
"""A constant this large stands for infinity (the padding of a max pool); it saturates instead of
widening the range."""

INT32_MAX = 2**31 - 1

Range = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What becomes an integer and how. Indices are those of the float model's graph.

    Attributes:
        tensors: Parameters of each computed tensor that becomes an integer.
        operands: Parameters of what one op reads, by `(op, operand slot)`: its constants, and
            computed tensors that it must read at another scale than their own.
        float_ops: The written reason of each op that stays float.
    """

    tensors: Mapping[int, QParams]
    operands: Mapping[tuple[int, int], QParams]
    float_ops: Mapping[int, str]

    def to_dict(self, model: FloatModel) -> dict[str, object]:
        """The plan with names instead of indices, ready for JSON."""
        graph = model.graph
        return {
            "tensors": {graph.tensors[t].name: _fields(q) for t, q in self.tensors.items()},
            "operands": {
                f"{model.layer(graph.operators[op])} operand {slot}": _fields(q)
                for (op, slot), q in self.operands.items()
            },
            "float": {model.where(graph.operators[op]): why for op, why in self.float_ops.items()},
        }


def _fields(qparams: QParams) -> dict[str, object]:
    return {
        "dtype": qparams.dtype.numpy_name,
        "scale": list(qparams.scale),
        "zero_point": list(
            qparams.zero_point[:1] if qparams.axis is not None else qparams.zero_point
        ),
        "quantization_dimension": qparams.axis,
        "narrow_range": qparams.narrow_range,
    }


def make_plan(model: FloatModel, calibration: Calibration, recipe: Recipe) -> Plan:
    """Decides the parameters of every tensor.

    Args:
        model: The float model.
        calibration: Ranges of its tensors.
        recipe: The mode of each op.

    Raises:
        ModelError: The calibration belongs to another model, or the model is not float.
        UnsupportedOpError: Ops that the recipe wants in int8 have no such form; all are listed.
        RecipeError: A rule that matches no op.
    """
    calibration.check_model(model)
    refuse_quantized(model)
    return _Planner(model, calibration, _float_ops(model, recipe)).plan()


def observers(model: FloatModel, recipe: Recipe) -> dict[int, Any]:
    """An unused observer for each computed tensor, from the first rule that matches its op.

    Raises:
        RecipeError: An observer that does not exist.
    """
    default = as_observer(recipe.observer)
    found = dict.fromkeys(model.graph.inputs, default)
    for op in model.graph.operators:
        rule = next((r for r in recipe.rules if r.matches(op.name, model.layer(op))), None)
        chosen = default if rule is None or rule.observer is None else as_observer(rule.observer)
        found.update(dict.fromkeys(op.outputs, chosen))
    return found


def refuse_quantized(model: FloatModel) -> None:
    """Raises a `ModelError` for a model that is quantized already."""
    for tensor in sorted(model.graph.tensors, key=lambda t: t.dtype == "int32"):
        if tensor.qparams is not None or tensor.dtype in ("float16", "int4"):
            raise ModelError(
                f"the model is quantized already: tensor {tensor.name!r} is {tensor.dtype}. "
                "Export from the float model it was made from"
            )


def _touches_float(graph: Graph, op: Operator) -> bool:
    tensors = [t for t in (*op.inputs, *op.outputs) if t >= 0]
    return any(graph.tensors[t].dtype == "float32" for t in tensors)


def _float_ops(model: FloatModel, recipe: Recipe) -> dict[int, str]:
    """The reason of each op that the recipe leaves float."""
    reasons: dict[int, str] = {}
    matched: set[Rule] = set()
    unsupported = []
    for op in model.graph.operators:
        rule = next((r for r in recipe.rules if r.matches(op.name, model.layer(op))), None)
        if rule is not None:
            matched.add(rule)
        mode = rule.mode if rule else recipe.default
        if not _touches_float(model.graph, op):
            continue
        if mode is Mode.FLOAT:
            reasons[op.index] = rule.reason or rule.describe() if rule else "the recipe's default"
        elif op.name not in OPS:
            unsupported.append(op)
    _check_rules(model, recipe, matched)
    if unsupported:
        raise _unsupported(model, unsupported)
    return reasons


def _check_rules(model: FloatModel, recipe: Recipe, matched: set[Rule]) -> None:
    for rule in recipe.rules:
        if rule in matched:
            continue
        layers = sorted({model.layer(op) for op in model.graph.operators})
        names = sorted({op.name for op in model.graph.operators})
        near = difflib.get_close_matches(rule.layer, layers, 3, 0.3) if rule.layer else []
        near += difflib.get_close_matches(rule.op.upper(), names, 3, 0.3) if rule.op != "*" else []
        raise RecipeError(
            f"the rule {rule.describe()} matches no op (an earlier rule may take them all). "
            f"{_rewritten_hint(rule.op)}Near misses: {', '.join(near) or 'none'}"
        )


def _rewritten_hint(name: str) -> str:
    if all(name not in row.ops for row in REWRITES):
        return ""
    return f"{name} may be what is rewritten into other ops: then name its layer instead. "


def _unsupported(model: FloatModel, ops: list[Operator]) -> UnsupportedOpError:
    listed = "; ".join(model.where(op) for op in ops[:8])
    more = f" and {len(ops) - 8} more" if len(ops) > 8 else ""
    return UnsupportedOpError(
        f"{len(ops)} op(s) have no int8 form in the converter: {listed}{more}. To keep such ops "
        f"float, say so in the recipe: Rule(op={ops[0].name!r}, mode=Mode.FLOAT, reason='...')"
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
        self, model: FloatModel, calibration: Calibration, float_ops: Mapping[int, str]
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._calibration = calibration
        self._float_ops = float_ops
        self._groups = _Groups()
        self._ranges: dict[int, Range] = {}

    def plan(self) -> Plan:
        for op, row in self._integer_ops():
            if row.rule is ScaleRule.FIXED and row.fixed is not None:
                self._groups.fixed[self._groups.root(op.outputs[0])] = row.fixed
            elif row.rule is ScaleRule.SAME:
                self._tie(op)
        for tensor, found in self._calibration.ranges.items():
            self._widen(tensor, found)
        for index in self._float_ops:
            self._bound(self._graph.operators[index])
        tensors = {t: self._qparams(t) for t in self._integer_tensors()}
        operands: dict[tuple[int, int], QParams] = {}
        for op, row in self._integer_ops():
            for slot, qparams in self._operands(op, row, tensors):
                operands[op.index, slot] = qparams
        return Plan(tensors, operands, dict(self._float_ops))

    def _integer_ops(self) -> Iterator[tuple[Operator, OpRow]]:
        for op in self._graph.operators:
            if op.index not in self._float_ops and _touches_float(self._graph, op):
                yield op, OPS[op.name]

    def _integer_tensors(self) -> list[int]:
        """Computed float tensors that an integer op writes or reads."""
        found = set()
        for op, _ in self._integer_ops():
            found |= {t for t in op.outputs if self._is_real(t)}
            found |= {t.index for _, t in self._activations(op)}
        return sorted(found)

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
        fixed = {t: self._groups.fixed.get(self._groups.root(t)) for t in operands}
        kinds = set(fixed.values())
        if len(kinds) == 1 and not (constants and kinds != {None}):
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

    def _constants(self, op: Operator) -> list[Range | None]:
        values = [t.data for _, t in self._graph.operands(op) if t.dtype == "float32"]
        return [_finite_range(v) for v in values if v is not None]

    def _bound(self, op: Operator) -> None:
        """Takes the outputs of a float op into account that calibration left to the op table."""
        for output in op.outputs:
            if self._is_real(output):
                self._widen(output, self._range(output))

    def _range(self, tensor: int) -> Range:
        """What a tensor can hold: measured, or what its producer's row says."""
        if tensor in self._calibration.ranges:
            return self._calibration.ranges[tensor]
        op = self._graph.producers.get(tensor)
        row = OPS.get(op.name) if op else None
        if op is None or row is None:
            raise self._not_calibrated(tensor)
        if row.fixed is not None:
            return row.fixed.range()
        found = [self._range(t.index) for _, t in self._activations(op)]
        found += [r for r in self._constants(op) if r is not None]
        return min((r[0] for r in found), default=0.0), max((r[1] for r in found), default=0.0)

    def _not_calibrated(self, tensor: int) -> ModelError:
        return ModelError(
            f"tensor {self._graph.tensors[tensor].name!r} was not calibrated; "
            "calibrate again with this version"
        )

    def _widen(self, tensor: int, found: Range) -> None:
        """Takes a range into account for the group that `tensor` ends up in."""
        low, high = self._ranges.get(tensor, found)
        self._ranges[tensor] = (min(low, found[0]), max(high, found[1]))

    def _qparams(self, tensor: int) -> QParams:
        root = self._groups.root(tensor)
        if root in self._groups.fixed:
            return self._groups.fixed[root]
        if root not in self._group_ranges:
            raise self._not_calibrated(tensor)
        return self._group_ranges[root]

    @property
    def _group_ranges(self) -> dict[int, QParams]:
        if not hasattr(self, "_group_qparams"):
            merged: dict[int, Range] = {}
            for tensor, (low, high) in self._ranges.items():
                root = self._groups.root(tensor)
                old = merged.get(root, (low, high))
                merged[root] = (min(old[0], low), max(old[1], high))
            self._group_qparams = {root: affine(*found) for root, found in merged.items()}
        return self._group_qparams

    def _operands(
        self, op: Operator, row: OpRow, tensors: Mapping[int, QParams]
    ) -> Iterator[tuple[int, QParams]]:
        """What `op` must read at parameters other than the tensor's own."""
        for slot, tensor in self._graph.operands(op):
            if tensor.dtype != "float32" or slot == row.bias:
                continue
            if row.rule is ScaleRule.SAME:
                wanted = tensors[op.outputs[0]]
                if tensor.is_constant or tensors[tensor.index] != wanted:
                    yield slot, wanted
            elif tensor.data is not None and slot == row.weight:
                yield slot, self._weight(op, row, tensor.data, tensors)
            elif tensor.data is not None:
                yield slot, affine(*(_finite_range(tensor.data) or (0.0, 0.0)))

    def _weight(
        self, op: Operator, row: OpRow, data: FloatArray, tensors: Mapping[int, QParams]
    ) -> QParams:
        self._check_finite(op, data)
        if row.weight_axis is None:
            return symmetric(float(np.abs(data).max(initial=0.0)))
        others = tuple(a for a in range(data.ndim) if a != row.weight_axis)
        absmax = np.abs(data).max(axis=others)
        return symmetric_per_channel(absmax, row.weight_axis, self._floor(op, row, absmax, tensors))

    def _floor(
        self, op: Operator, row: OpRow, absmax: FloatArray, tensors: Mapping[int, QParams]
    ) -> FloatArray:
        """Smallest weight scale at which `bias / (input scale * weight scale)` fits int32."""
        floor = np.zeros(len(absmax))
        bias = _constant_operand(self._graph, op, row.bias)
        if bias is None:
            return floor
        self._check_finite(op, bias)
        activation = next((t.index for _, t in self._activations(op)), None)
        if activation is None:
            return floor
        step = tensors[activation].scale[0] * INT32_MAX * (1 - 1e-6)
        return np.broadcast_to(np.abs(bias.astype(np.float64)).ravel() / step, floor.shape)

    def _check_finite(self, op: Operator, data: FloatArray) -> None:
        if not np.isfinite(data).all():
            raise ModelError(
                f"{self._model.where(op)}: its weight or bias holds NaN or infinite values; "
                "the float model itself is broken (diverged in training, or a damaged file)"
            )


def _constant_operand(graph: Graph, op: Operator, slot: int | None) -> FloatArray | None:
    if slot is None or slot >= len(op.inputs) or op.inputs[slot] < 0:
        return None
    return graph.tensors[op.inputs[slot]].data


def _finite_range(data: FloatArray) -> Range | None:
    """Lowest and highest value that is not a stand-in for infinity."""
    values = data[np.abs(data) < STAND_IN_FOR_INFINITY]
    return (float(values.min()), float(values.max())) if values.size else None
