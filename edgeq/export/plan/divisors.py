"""Ops that compute what is divided by, or the root or logarithm of: it must not round to 0.

What is within a few integer steps of 0 keeps few of its digits, and its reciprocal keeps no more;
where it becomes 0 itself, the result is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from edgeq.errors import ModelError
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.margin import margin_share
from edgeq.export.plan.reach import STEPS as INT8_STEPS
from edgeq.export.plan.reach import Range
from edgeq.export.plan.values import Values
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind, kind_of, pole
from edgeq.recipe import Mode

STEPS = 4
"""A divisor of so many steps has 7 % of itself as rounding noise, which leaves 23 dB."""

_WHY = f"has no bound near 0, and what it reads may come within {STEPS} int8 steps of it"

_WEIGHTED = (
    Kind.CONVOLUTION, Kind.TRANSPOSED_CONVOLUTION, Kind.DEPTHWISE, Kind.DENSE, Kind.MATMUL,
)  # fmt: skip

_NOISE_OF_TERMS: dict[str, float] = {
    "MEAN": -0.5,
    "SUM": 0.5,
    "REDUCE_MAX": 0,
    "REDUCE_MIN": 0,
    "REDUCE_PROD": 0,
}
"""Of reductions: by which power of the number of terms the rounding noise of one becomes theirs."""

_Passes = Callable[[Operator], bool]


def divisors(
    graph: Graph, readers: Collection[int], passes: _Passes = lambda reduction: False
) -> frozenset[int]:
    """Ops up to the first with a weight or a reduction, from what these ops divide by on.

    Args:
        graph: The graph.
        readers: Ops; only those count that may give infinite values or NaN.
        passes: Whether what is in front of a reduction counts as well, as far as nothing else
            reads it. Mostly it need not: one number stands for many, and what rounds to 0 before it
            is little of it.
    """
    found: set[int] = set()
    left = [(_divisor(op), False) for i in readers if _may_fail(op := graph.operators[i])]
    while left:
        tensor, is_term = left.pop()
        maker = graph.producers.get(tensor)
        users = {op.index for op, _ in graph.uses.get(tensor, [])}
        if maker is None or maker.index in found or (is_term and users - found - {*readers}):
            continue
        found.add(maker.index)
        is_reduction = maker.name in _NOISE_OF_TERMS
        if kind_of(maker.name) not in _WEIGHTED and not (is_reduction and not passes(maker)):
            operands = (t.index for _, t in graph.operands(maker) if not t.is_constant)
            left += [(operand, is_term or is_reduction) for operand in operands]
    return frozenset(found)


def without_small_divisors(
    model: LiteModel, values: Values, choices: Choices, free: Collection[int]
) -> dict[int, Choice]:
    """The choices with no op static that divides by a few steps, or computes what it divides by.

    Args:
        model: The float model.
        values: What the data have shown of its tensors.
        choices: What becomes of each op; where the search decides, such an op has the reason for
            not being static.
        free: Ops that may become float.
    """
    found = dict(choices)
    for near in _NearZero(model.graph, values, choices).found():
        for index in near.ops.intersection(free):
            choice = found[index]
            is_open = choice.mode is Mode.AUTO
            found[index] = (
                replace(choice, reason=near.why) if is_open else Choice(Mode.FLOAT, near.why)
            )
    return found


def small_divisor_notes(model: LiteModel, values: Values, choices: Choices) -> tuple[str, ...]:
    """A note of the divisors within a few steps of 0 that are integers all the same."""
    near = list(_NearZero(model.graph, values, choices).found())
    if not near:
        return ()
    more = f" and {len(near) - 1} more" if near[1:] else ""
    return (
        f"{model.where(near[0].op)}{more} must be integers, but {near[0].why}: expect large errors "
        "there, or let the model add a larger constant to what it divides by",
    )


@dataclass(frozen=True)
class _Near:
    """An op that reads numbers near 0.

    Attributes:
        op: The op.
        ops: It and those that compute what it divides by, as far as they would be integers.
        why: The reason that they are float.
    """

    op: Operator
    ops: frozenset[int]
    why: str


class _NearZero:
    """Looks for ops whose result has no bound near 0, and roots in front of them, that come there.

    Args:
        graph: The float graph.
        values: What the data have shown.
        choices: What becomes of each op.
    """

    def __init__(self, graph: Graph, values: Values, choices: Choices) -> None:
        self._graph = graph
        self._values = values
        self._integers = {
            i
            for i, c in choices.items()
            if c.mode.is_static or (c.mode is Mode.AUTO and not c.reason)
        }

    def found(self) -> Iterator[_Near]:
        """Those of them that would or may be integers, or read such."""
        graph = self._graph
        poles = [op.index for op in graph.operators if _has_pole(graph, op)]
        roots = [i for i in divisors(graph, poles) if _may_fail(graph.operators[i])]
        for index in sorted({*poles, *roots}):
            makers = divisors(graph, [index], self._is_coarse)
            ops = makers.union([index]) & self._integers
            op = graph.operators[index]
            if ops and self._comes_near(op):
                yield _Near(op, ops, f"{op.name} {_WHY}")

    def _comes_near(self, op: Operator) -> bool:
        """Whether what an op divides by comes within a few steps of 0.

        What is an integer op itself can bear what lies beyond what was seen: its results saturate.
        """
        tensor = _divisor(op)
        return self._least(tensor, op.index not in self._integers) < STEPS * self._step(tensor)

    def _is_coarse(self, op: Operator) -> bool:
        """Whether the terms of a reduction have steps that are coarse beside its least results."""
        terms, result = (self._graph.tensors[t] for t in (op.inputs[0], op.outputs[0]))
        count = math.prod(terms.shape) / max(1, math.prod(result.shape))
        noise: float = self._step(terms.index) * abs(count) ** _NOISE_OF_TERMS[op.name]
        return self._least(result.index, True) < STEPS * noise

    def _least(self, tensor: int, is_unseen: bool) -> float:
        """The least size of a tensor's numbers; of few numbers, others come nearer to 0."""
        low, high = self._range(tensor)
        values = math.prod(self._graph.tensors[tensor].shape)
        share = margin_share(self._values.samples, values) if is_unseen else 0.0
        return max(low - share * (high - low), -high - share * (high - low), 0.0)

    def _step(self, tensor: int) -> float:
        """The int8 step of a tensor."""
        low, high = self._range(tensor)
        return (max(high, 0.0) - min(low, 0.0)) / INT8_STEPS

    def _range(self, tensor: int) -> Range:
        """What was measured; nothing was of what stays float whatever is chosen: (0, 0)."""
        try:
            return self._values.range(tensor)
        except ModelError:
            return 0.0, 0.0


def _has_pole(graph: Graph, op: Operator) -> bool:
    """Whether a result has no bound where what the op reads of computed numbers is near 0."""
    slot = pole(op.name)
    if slot is None:
        return False
    read, others = graph.tensors[op.inputs[slot]], [i for i in op.inputs if i != op.inputs[slot]]
    if read.is_constant or read.dtype != "float32":
        return False
    exponent = graph.tensors[others[0]].data if op.name == "POW" and others else None
    return exponent is None or bool((exponent < 0).any())


def _may_fail(op: Operator) -> bool:
    """Whether finite numbers may become infinite or NaN."""
    return pole(op.name) is not None or (op.name in OPS and OPS[op.name].makes_nan)


def _divisor(op: Operator) -> int:
    return op.inputs[pole(op.name) or 0]
