"""Ops that compute what a float op divides by, or takes the root of: it must not round to 0."""

from __future__ import annotations

from collections.abc import Collection

from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, Kind

_WEIGHTED = (
    Kind.CONVOLUTION, Kind.TRANSPOSED_CONVOLUTION, Kind.DEPTHWISE, Kind.DENSE, Kind.MATMUL,
)  # fmt: skip
_LAST = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
"""Behind these, one number stands for many: what rounds to 0 before them is little of it."""


def divisors(graph: Graph, float_ops: Collection[int]) -> frozenset[int]:
    """Ops up to the first with a weight or a reduction, from where it is divided on backwards."""
    found: set[int] = set()
    left = [_divisor(op) for op in graph.operators if op.index in float_ops and _may_fail(op)]
    while left:
        op = graph.producers.get(left.pop())
        if op is None or op.index in found:
            continue
        found.add(op.index)
        if op.name not in _LAST and (op.name not in OPS or OPS[op.name].kind not in _WEIGHTED):
            left += [tensor.index for _, tensor in graph.operands(op) if not tensor.is_constant]
    return frozenset(found)


def _may_fail(op: Operator) -> bool:
    """Whether finite numbers may become infinite or NaN."""
    return op.name in OPS and OPS[op.name].makes_nan


def _divisor(op: Operator) -> int:
    return op.inputs[OPS[op.name].never_zero or 0]
