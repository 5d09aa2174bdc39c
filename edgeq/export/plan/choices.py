"""Which mode each op gets by the recipe, and what to say of ops that a mode has no form for.

A pure decision from the graph, the op tables and the recipe. Knows no ranges and no parameters.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgeq.calibrate.observers import as_observer
from edgeq.errors import RecipeError
from edgeq.export.plan.exact_numbers import exact_ops
from edgeq.export.rewrite import REWRITES
from edgeq.export.rewrite.written_out.whole_ops import in_float
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import LiteModel, layer
from edgeq.ops import OPS, PASSED, Int16, Kind, is_table, kind_of, storable
from edgeq.qtypes import DType
from edgeq.recipe import DEFAULT_SCHEME, Mode, Recipe, Rule, WeightScheme

LARGE = 1500
"""So many ops make a large graph, as that of an unrolled recurrent network."""

_NO_WEIGHT = "it has no weight to store"


@dataclass(frozen=True)
class Choice:
    """Mode of one op, and why.

    Attributes:
        mode: How it is computed.
        reason: Why it is float, or not what was asked for, or why the search may not make it
            static; empty where there is nothing to say.
        weights: How its weight becomes integers, as far as the mode has a choice in it.
    """

    mode: Mode
    reason: str = ""
    weights: WeightScheme = DEFAULT_SCHEME


Choices = Mapping[int, Choice]
"""Choice for each op that reads or writes real numbers, by its index."""


def choose(model: LiteModel, recipe: Recipe) -> dict[int, Choice]:
    """The mode of each op as the recipe has it; `Mode.AUTO` is left for the search to decide.

    Raises:
        RecipeError: A rule that matches no op.
    """
    graph = model.graph
    matched, found = set(), {}
    exact, one = exact_ops(graph), in_float(graph, range(len(graph.operators)))
    for op in graph.operators:
        rule = recipe.rule_for(op.name, model.layer(op))
        matched.add(rule)
        if not touches_float(graph, op):
            continue
        why = exact.get(op.index, "")
        obstacle = static_obstacle(graph, op, rule.mode) or why if rule.mode.is_static else ""
        if rule.mode is Mode.AUTO and _is_given(model, op):
            rule = replace(rule, mode=Mode.STATIC_INT8)
        found[op.index] = _choice(graph, op, rule, obstacle)
        if op.index in one and not (rule.mode is Mode.AUTO or rule.mode.is_static):
            found[op.index] = Choice(Mode.FLOAT, found[op.index].reason or _NO_WEIGHT)
        if rule.mode is Mode.AUTO and why:
            found[op.index] = replace(found[op.index], reason=why)
    _check_rules(model, recipe, matched)
    return found


def _is_given(model: LiteModel, op: Operator) -> bool:
    """Whether the model brought the parameters of what an op writes, and it can keep them.

    Those of `quant.fake_quant` composites are asked for; those of an ONNX file are what another
    tool has found, and hold where the search makes a tensor static.
    """
    known = model.origin != "onnx" and all(t in model.given_qparams for t in op.outputs)
    return known and not static_obstacle(model.graph, op, Mode.STATIC_INT8)


def observers(model: LiteModel, recipe: Recipe) -> dict[int, Any]:
    """An unused observer for each computed tensor, from the first rule that matches its op.

    Raises:
        RecipeError: An observer that does not exist.
    """
    default = as_observer(recipe.observer)
    found = dict.fromkeys(model.graph.inputs, default)
    for op in model.graph.operators:
        chosen = recipe.rule_for(op.name, model.layer(op)).observer
        observer = default if chosen is None else as_observer(chosen)
        found.update(dict.fromkeys(op.outputs, observer))
    return found


def touches_float(graph: Graph, op: Operator) -> bool:
    """Whether an op reads or writes real numbers."""
    tensors = [t for t in (*op.inputs, *op.outputs) if t >= 0]
    return any(graph.tensors[t].dtype == "float32" for t in tensors)


def static_obstacle(graph: Graph, op: Operator, mode: Mode) -> str:
    """Why an op has no form in a static mode; empty if it has one."""
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    if any(tensor.is_variable for tensor in tensors):
        return "a recurrent layer keeps its state in float"
    if any(-1 in tensor.shape for tensor in tensors):
        return "its sizes are known only when the model runs"
    if op.name == "SELECT_V2" and op.inputs[1] == op.inputs[2]:
        return "it only says what comes first"
    if op.multiplied:
        return "what a loop carries is float"
    row = OPS.get(op.name)
    if row is None:
        return "no int8 form in the converter"
    if mode is Mode.INT16X8 and not _has_int16(graph, op, row.int16):
        return "no int16 form in the converter or the kernels"
    return ""


def mode_beside_static(graph: Graph, op: Operator) -> Mode:
    """Mode of an op without a static form where all others are static: float, but for an LSTM."""
    is_sequence = kind_of(op.name) is Kind.SEQUENCE and weight_slot(graph, op) is not None
    return Mode.DYNAMIC_INT8 if is_sequence else Mode.FLOAT


def _has_int16(graph: Graph, op: Operator, form: Int16) -> bool:
    if form is not Int16.SAME_SHAPES:
        return form is Int16.FULL
    return len({graph.tensors[t].shape for t in (*op.inputs, *op.outputs) if t >= 0}) == 1


def weight_slot(graph: Graph, op: Operator) -> int | None:
    """Operand slot of a constant weight that can be stored as integers; None without one."""
    weight = storable(op.name)
    if weight is None:
        return None
    slots = op.multiplied if weight.slot == PASSED else (weight.slot,)
    return next((slot for slot in slots if _is_storable(graph, op, slot)), None)


def _is_storable(graph: Graph, op: Operator, slot: int) -> bool:
    if slot >= len(op.inputs) or op.inputs[slot] < 0:
        return False
    tensor = graph.tensors[op.inputs[slot]]
    stored = tensor.is_constant and tensor.dtype == "float32" and len(tensor.shape) >= 2
    if is_table(op.name):
        stored = stored and len(tensor.shape) == 2 and getattr(op.options, "axis", 0) == 0
    return stored


def weight_slots(graph: Graph, op: Operator) -> tuple[int, ...]:
    """Operand slots of all constant weights that can be stored as integers."""
    slot, weight = weight_slot(graph, op), storable(op.name)
    if slot is None or weight is None:
        return ()
    if weight.slot == PASSED:
        return tuple(slot for slot in op.multiplied if _is_storable(graph, op, slot))
    present = {s for s, tensor in graph.operands(op) if tensor.is_constant}
    return (slot, *(s for s in weight.beside if s in present))


def decided_together(graph: Graph) -> dict[int, tuple[int, ...]]:
    """For each op, all ops that are best decided as one, itself included.

    Those are ops that read the same weight, which a file had to hold twice otherwise. In a graph as
    large as an unrolled recurrent network, they are also the repeats of an op at each step: what
    rounding one of them costs says little of what rounding all does.
    """
    units: dict[object, list[int]] = {}
    is_large = len(graph.operators) >= LARGE
    for op in graph.operators:
        slot = weight_slot(graph, op)
        key: object = op.index
        if slot is not None:
            key = op.name, op.inputs[slot]
        elif is_large:
            key = _repeat(graph, op)
        units.setdefault(key, []).append(op.index)
    return {op: tuple(unit) for unit in units.values() for op in unit}


def _repeat(graph: Graph, op: Operator) -> object:
    """Equal for the repeats of an op in a layer."""
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    shapes = tuple((t.shape, t.dtype) for t in tensors)
    places = tuple(t.data.tobytes() for t in tensors if t.data is not None and t.dtype == "int32")
    return op.name, layer(graph, op), shapes, places, op.fused_activation


def _choice(graph: Graph, op: Operator, rule: Rule, obstacle: str) -> Choice:
    mode = rule.mode
    if obstacle and mode_beside_static(graph, op) is Mode.DYNAMIC_INT8:
        why = f"{obstacle}: only its weights and what it multiplies are integers"
        return Choice(Mode.DYNAMIC_INT8, why)
    if mode is Mode.FLOAT or obstacle:
        return Choice(Mode.FLOAT, obstacle or rule.reason or rule.describe())
    scheme = rule.weights
    wanted = Choice(mode, weights=replace(scheme, block_size=0))
    if mode is Mode.AUTO or mode.is_static:
        return wanted
    slot = weight_slot(graph, op)
    if slot is None:
        return Choice(Mode.FLOAT, _NO_WEIGHT)
    choice = nearest_form(op.name, wanted)
    if not scheme.block_size:
        return choice
    weight = storable(op.name)
    takes_blocks = weight is not None and weight.dynamic is not None and weight.dynamic.blocks
    if takes_blocks and choice.mode is Mode.DYNAMIC_INT4:
        if graph.tensors[op.inputs[slot]].shape[-1] % scheme.block_size == 0:
            return replace(choice, weights=scheme)
        why = f"its columns do not divide into blocks of {scheme.block_size}"
        return replace(choice, reason=why)
    return replace(
        choice, reason=choice.reason or "only a dynamic int4 FULLY_CONNECTED can have blocks"
    )


def nearest_form(name: str, choice: Choice) -> Choice:
    """The choice itself, or what takes its place where there is no kernel for it."""
    weight = storable(name)
    if not choice.weights.symmetric and (is_table(name) or kind_of(name) is Kind.SEQUENCE):
        reason = "kernels look rows up in a table whose zero points are 0 alone"
        if not is_table(name):
            reason = "its kernel takes weights whose zero points are 0 alone"
        return replace(choice, weights=replace(choice.weights, symmetric=True), reason=reason)
    if not choice.mode.is_dynamic:
        return choice
    kernels = () if weight is None else weight.dynamic_types
    if choice.mode.weight_dtype in kernels:
        return choice
    reason = f"the delegate has no {choice.mode.value} {name}"
    mode = Mode.DYNAMIC_INT8 if DType.INT8 in kernels else Mode.WEIGHT_INT8
    return replace(choice, mode=mode, reason=reason)


def _check_rules(model: LiteModel, recipe: Recipe, matched: set[Rule]) -> None:
    for rule in recipe.rules:
        if rule in matched or rule.strict is False:
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
