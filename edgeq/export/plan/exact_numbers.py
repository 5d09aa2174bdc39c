"""Numbers that a scale of int8 would spoil: whole ones that are cast or compared, and angles.

Places that are computed and looked up are moved by a scale, and the cast behind cuts off what is
left: 3 becomes 2.97 and then 2, and is less than 3. The sine of 1,000 is another number than that
of 998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.ops import MOVED, Holds, holds

ROUNDING = frozenset({"FLOOR", "CEIL", "ROUND", "FLOOR_DIV"})
"""Ops whose results are whole."""

KEEPING = frozenset(
    {"ADD", "SUB", "MUL", "NEG", "ABS", "RELU", "RELU6", "RELU_N1_TO_1", "SUM", "FLOOR_MOD"}
)
"""Ops whose results are whole where all that they read is; so are those that choose or move."""

PERIODIC = frozenset({"SIN", "COS"})
"""Ops that take the error of what they read whole, however large that is."""

ARITHMETIC = frozenset(
    {"ADD", "SUB", "MUL", "DIV", "NEG", "ABS", "LEAKY_RELU", "MINIMUM", "MAXIMUM", "CAST"}
)
"""Ops that compute what those read from inputs; so do those that move values."""

COMPARING = frozenset({"LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"})
"""Ops that tell a number from the next one."""

FEW_FREQUENCIES = 4
"""A dense layer of so few inputs turns coordinates into angles, and costs next to nothing."""

BECOMES_INTEGERS = (
    "it computes whole numbers that become integers, which a scale of int8 would change"
)
IS_COMPARED = "whole numbers are compared there, which a scale of int8 would change"
IS_AN_ANGLE = "it computes angles, whose error the sine behind takes whole"

UNASKED = frozenset({IS_COMPARED, IS_AN_ANGLE})
"""Reasons of ops that have an int8 form, and stay float for the result's sake."""


def exact_ops(graph: Graph) -> dict[int, str]:
    """Ops that no mode shall make integers of by itself, and why."""
    known: dict[int, bool] = {}
    compared = [op for op in graph.operators if _compares_whole(graph, op, known)]
    cast = [op for op in graph.operators if _is_cast_to_integer(graph, op)]
    angles = dict.fromkeys(_computing_angles(graph), IS_AN_ANGLE)
    return (
        angles
        | dict.fromkeys({op.index for op in compared}, IS_COMPARED)
        | dict.fromkeys(_computing_whole(graph, compared, known), IS_COMPARED)
        | dict.fromkeys(_computing_whole(graph, cast, known), BECOMES_INTEGERS)
    )


def is_whole(graph: Graph, tensor: int, known: dict[int, bool] | None = None) -> bool:
    """Whether a tensor's values are whole numbers, whatever the inputs are.

    Args:
        graph: The graph.
        tensor: Index of a tensor.
        known: What was found of others, which is filled.
    """
    known = {} if known is None else known
    left = [tensor]
    while left:
        found = graph.tensors[left[-1]]
        op = graph.producers.get(found.index)
        sources = [] if op is None or not _keeps(op) else _real(graph, op)
        unknown = [t for t in sources if t not in known]
        if unknown:
            left += unknown
            continue
        known[left.pop()] = (
            _is_plainly_whole(graph, found, op) if not sources else all(known[t] for t in sources)
        )
    return known[tensor]


def _computing_whole(graph: Graph, readers: Sequence[Operator], known: dict[int, bool]) -> set[int]:
    """Ops that compute the whole numbers that some ops read, in float."""
    found: set[int] = set()
    left = [tensor for op in readers for tensor in _real(graph, op)]
    while left:
        tensor = left.pop()
        op = graph.producers.get(tensor)
        if op is None or op.index in found or graph.tensors[tensor].dtype != "float32":
            continue
        if is_whole(graph, tensor, known):
            found.add(op.index)
            left += _real(graph, op) if _keeps(op) else ()
    return found


def _computing_angles(graph: Graph) -> set[int]:
    """Ops that compute what a sine reads, from inputs and constants alone."""
    known = _known_exactly(graph)
    found: set[int] = set()
    left = [op.inputs[0] for op in graph.operators if op.name in PERIODIC]
    while left:
        op = graph.producers.get(left.pop())
        if op is not None and op.index not in found and known.issuperset(op.outputs):
            found.add(op.index)
            left += _real(graph, op)
    return found


def _known_exactly(graph: Graph) -> set[int]:
    """Float tensors that come from inputs, integers and constants by arithmetic alone."""
    known = set(graph.inputs)
    for op in graph.operators:
        computed = {t.index for _, t in graph.operands(op) if not t.is_constant}
        real = computed.intersection(_real(graph, op))
        if known.issuperset(real) and _is_arithmetic(graph, op):
            known.update(op.outputs)
    return known


def _is_arithmetic(graph: Graph, op: Operator) -> bool:
    if op.name == "FULLY_CONNECTED":
        return graph.tensors[op.inputs[1]].shape[-1] <= FEW_FREQUENCIES
    return op.name in ARITHMETIC or holds(op.name) in MOVED


def _keeps(op: Operator) -> bool:
    return op.name in KEEPING or holds(op.name) in (*MOVED, Holds.LARGEST, Holds.SMALLEST)


def _real(graph: Graph, op: Operator) -> list[int]:
    return [t.index for _, t in graph.operands(op) if t.dtype == "float32"]


def _is_plainly_whole(graph: Graph, tensor: Tensor, op: Operator | None) -> bool:
    if tensor.data is not None:
        return bool((np.isfinite(tensor.data) & (tensor.data == np.rint(tensor.data))).all())
    if op is None:
        return False
    return op.name in ROUNDING or (op.name == "CAST" and not _real(graph, op))


def _compares_whole(graph: Graph, op: Operator, known: dict[int, bool]) -> bool:
    real = _real(graph, op)
    return op.name in COMPARING and bool(real) and all(is_whole(graph, t, known) for t in real)


def _is_cast_to_integer(graph: Graph, op: Operator) -> bool:
    return op.name == "CAST" and "int" in graph.tensors[op.outputs[0]].dtype
