"""`PlannedModel`: a plan beside its model, to be looked at before anything is converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.export.plan.choices import touches_float
from edgeq.export.plan.placement import planned_obstacles
from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Operator
from edgeq.foreign.shown import escape
from edgeq.model import LiteModel
from edgeq.targets import Target
from edgeq.terminal.printed import Result


@dataclass(frozen=True)
class PlannedOp:
    """Plan of one op.

    Attributes:
        index: Position in execution order.
        layer: Layer path.
        op: Builtin operator name.
        mode: What it computes in, and what its weight is stored as.
        qparams: Parameters of its first output, or of its stored weight; empty without any.
        obstacle: Why the target will not run it; empty where it does.
        reason: Why it is float, or not what was asked for.
    """

    index: int
    layer: str
    op: str
    mode: str
    qparams: str
    obstacle: str
    reason: str


@dataclass(frozen=True)
class PlannedModel(Result):
    """A plan and the float model that it speaks of.

    Attributes:
        model: The float model, rewritten for the target.
        plan: What becomes an integer and how.
        target: Where it is to run.
    """

    model: LiteModel
    plan: Plan
    target: Target

    @property
    def ops(self) -> tuple[PlannedOp, ...]:
        """One line for each op that reads or writes real numbers, in order."""
        return tuple(self._lines())

    def to_dict(self) -> dict[str, Any]:
        """The plan by names."""
        return self.plan.to_dict(self.model)

    def _write(self, console: Console) -> None:
        table = Table(title=f"plan: {len(self.ops)} ops", title_style="bold")
        for heading in ("#", "layer", "op", "mode", "parameters", self.target.title, "reason"):
            table.add_column(heading, overflow="fold")
        for line in self.ops:
            table.add_row(
                str(line.index), escape(line.layer), escape(line.op), line.mode, line.qparams,
                escape(line.obstacle or "yes"), escape(line.reason),
            )  # fmt: skip
        console.print(table)

    def _lines(self) -> Iterator[PlannedOp]:
        graph, plan = self.model.graph, self.plan
        obstacles = planned_obstacles(self.model, plan, self.target)
        for op in graph.operators:
            if touches_float(graph, op):
                mode, qparams = self._form(op)
                reason = plan.float_ops.get(op.index) or plan.remarks.get(op.index, "")
                obstacle = "; ".join(obstacles[op.index])
                layer = self.model.layer(op)
                yield PlannedOp(op.index, layer, op.name, mode, qparams, obstacle, reason)

    def _form(self, op: Operator) -> tuple[str, str]:
        plan = self.plan
        if op.index in plan.float_ops:
            return "float", ""
        stored = [w for (index, _), w in plan.stored.items() if index == op.index]
        if stored:
            qparams = stored[0].qparams
            if qparams is None:
                return "float16 weight", ""
            kind = "dynamic" if stored[0].dynamic else "weight-only"
            return f"{kind} {qparams.dtype.type_name}", qparams.describe()
        written = [plan.tensors[t] for t in op.outputs if t in plan.tensors]
        read = [plan.tensors[t] for t in op.inputs if t in plan.tensors]
        shown = (written or read)[0] if written or read else None
        if shown is None:
            return "static", ""
        return f"static {shown.dtype.type_name}", shown.describe()
