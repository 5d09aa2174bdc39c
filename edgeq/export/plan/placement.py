"""Where the ops of a plan will run, by the target's written constraints."""

from __future__ import annotations

from edgeq.errors import UnsupportedOpError
from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Operator
from edgeq.model import LiteModel
from edgeq.qtypes import QParams
from edgeq.targets import OpView, Target, op_view


def planned_obstacles(model: LiteModel, plan: Plan, target: Target) -> dict[int, tuple[str, ...]]:
    """Why the target will not run each op as planned, by its index; none where it does."""
    return {op.index: target.obstacles(_view(model, plan, op)) for op in model.graph.operators}


def refused_ops(model: LiteModel, plan: Plan, target: Target) -> dict[int, str]:
    """Ops with which the model would not load on the target, and why, by index."""
    views = {op.index: _view(model, plan, op) for op in model.graph.operators}
    return {
        index: "; ".join(target.obstacles(view))
        for index, view in views.items()
        if target.refuses(view)
    }


def check_loads(model: LiteModel, plan: Plan, target: Target) -> None:
    """Raises an `UnsupportedOpError` for a plan with which the model would not load."""
    refused = refused_ops(model, plan, target)
    if not refused:
        return
    index, why = next(iter(refused.items()))
    raise UnsupportedOpError(
        f"{model.where(model.graph.operators[index])} would keep the model from loading: {why} "
        f"({len(refused)} such op(s)). Leave it float with Rule(layer=..., mode=Mode.FLOAT, "
        "reason='...'), give its layer another observer, or take recipe='auto'"
    )


def _view(model: LiteModel, plan: Plan, op: Operator) -> OpView:
    """An op in the form that the plan gives it."""
    if op.index not in plan.with_float_activations:
        return op_view(model.graph, op, plan.tensors, plan.operands)
    dynamic = {
        place: stored.qparams
        for place, stored in plan.stored.items()
        if place[0] == op.index and stored.dynamic and isinstance(stored.qparams, QParams)
    }
    return op_view(model.graph, op, None, dynamic)
