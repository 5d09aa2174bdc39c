"""Activations: fused into the op before them, or made of ops that are integer on the delegate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator, schema
from edgeq.model import layer

_FUSES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "MAX_POOL_2D")
_RELUS = ("RELU", "RELU6", "RELU_N1_TO_1")
_NARROWED = {("NONE", name): name for name in _RELUS} | {
    ("RELU", "RELU"): "RELU",
    ("RELU", "RELU6"): "RELU6",
    ("RELU6", "RELU"): "RELU6",
    ("RELU6", "RELU6"): "RELU6",
}
"""The one activation that does what a fused one and another behind it do."""

BOUND_MAX = 1e6
"""A range longer than this is no clamp."""


def _fused(site: Site, op: Operator) -> Sequence[Any] | None:
    before = site.producer(op.inputs[0], *_FUSES)
    if before is None or not site.is_read_once(op.inputs[0]):
        return None
    activation = _NARROWED.get((before.fused_activation, op.name))
    if activation is None or before.options is None:
        return None
    output, ends = op.outputs[0], op.outputs[0] in site.graph.outputs
    if not ends:
        output = site.editor.tensor(layer(site.graph, before), site.shape(output))
        site.same[op.outputs[0]] = output
    fused = getattr(schema.ActivationFunctionType, activation)
    return [
        site.editor.copied(before.index, before.inputs, [output], fusedActivationFunction=fused)
    ]


def _carried(site: Site, op: Operator) -> Sequence[Any]:
    one = site.constant(op, "one", 1)
    return [site.binary("MUL", op.inputs[0], one, op.outputs[0], op.name)]


def _relu_0_to_1(site: Site, op: Operator) -> Sequence[Any]:
    return _clipped(site, op, op.inputs[0], 0.0, 1.0)


def _clipped(site: Site, op: Operator, source: int, low: float, high: float) -> list[Any]:
    """`relu6((x - low) * s) / s + low`, where `s = 6 / (high - low)`."""
    shape, scale = site.shape(op.outputs[0]), 6 / (high - low)
    scaled = site.tensor(op, shape)
    up, down = site.constant(op, "up", scale), site.constant(op, "down", 1 / scale)
    if low == 0:
        return [
            site.binary("MUL", source, up, scaled, "RELU6"),
            site.binary("MUL", scaled, down, op.outputs[0]),
        ]
    clipped, short = site.tensor(op, shape), site.tensor(op, shape)
    start, end = site.constant(op, "start", -low * scale), site.constant(op, "low", low)
    return [
        site.binary("MUL", source, up, scaled),
        site.binary("ADD", scaled, start, clipped, "RELU6"),
        site.binary("MUL", clipped, down, short),
        site.binary("ADD", short, end, op.outputs[0]),
    ]


def _clamp(site: Site, op: Operator) -> Sequence[Any] | None:
    """MAXIMUM and MINIMUM with a constant, alone or one behind the other."""
    bound = _bound(site, op)
    if bound is None:
        return None
    source, own = bound
    before = site.producer(source, "MINIMUM" if op.name == "MAXIMUM" else "MAXIMUM")
    inner = _bound(site, before) if before is not None else None
    if inner is not None:
        low, high = (own, inner[1]) if op.name == "MAXIMUM" else (inner[1], own)
        return _range(site, op, inner[0], low, high)
    if op.name == "MAXIMUM":
        return [site.editor.op("RELU", [source], op.outputs)] if own == 0 else None
    return _range(site, op, source, 0.0, own) if site.is_non_negative(source) else None


def _range(site: Site, op: Operator, source: int, low: float, high: float) -> Sequence[Any] | None:
    if (low, high) == (-1, 1):
        return [site.editor.op("RELU_N1_TO_1", [source], op.outputs)]
    if (low, high) == (0, 6):
        return [site.editor.op("RELU6", [source], op.outputs)]
    is_sound = 0 < high - low < BOUND_MAX and max(abs(low), abs(high)) < 16 * (high - low)
    return _clipped(site, op, source, low, high) if is_sound else None


def _bound(site: Site, op: Operator) -> tuple[int, float] | None:
    """`(x, c)` of an op on a computed tensor and a constant that holds one value."""
    found = site.constant_operand(op)
    if found is None or found[1].size == 0 or np.ptp(found[1]) != 0:
        return None
    return found[0], float(found[1].flat[0])


def _hard_swish(site: Site, op: Operator) -> Sequence[Any]:
    """`x * (relu6(x + 3) / 6)`."""
    source, shape = op.inputs[0], site.shape(op.outputs[0])
    clipped, gate = site.tensor(op, shape), site.tensor(op, shape)
    three, sixth = site.constant(op, "three", 3), site.constant(op, "sixth", 1 / 6)
    return [
        site.binary("ADD", source, three, clipped, "RELU6"),
        site.binary("MUL", clipped, sixth, gate),
        site.binary("MUL", source, gate, op.outputs[0]),
    ]


def _prelu(site: Site, op: Operator) -> Sequence[Any] | None:
    source, slope = op.inputs[0], site.value(op.inputs[1])
    if slope is None or slope.size == 0:
        return None
    if np.ptp(slope) == 0 and 2**-7 <= abs(float(slope.flat[0])) <= 1:
        alpha = float(slope.flat[0])
        return [site.editor.op("LEAKY_RELU", [source], op.outputs, alpha=alpha)]
    positive, negative = (site.tensor(op, site.shape(source)) for _ in range(2))
    ops = [site.editor.op("RELU", [source], [positive])]
    if (slope >= 0).all():
        falling = site.constant(op, "falling", -slope)
        ops.append(site.binary("MUL", source, falling, negative, "RELU"))
    else:
        below = site.tensor(op, site.shape(source))
        turned = site.constant(op, "minus_one", -1)
        ops.append(site.binary("MUL", source, turned, below, "RELU"))
        ops.append(site.binary("MUL", below, op.inputs[1], negative))
    return [*ops, site.binary("SUB", positive, negative, op.outputs[0])]


def _abs(site: Site, op: Operator) -> Sequence[Any]:
    return [site.editor.op("LEAKY_RELU", op.inputs, op.outputs, alpha=-1.0)]


REWRITES = (
    Rewrite(
        "fused activation", _RELUS, "the op before it with the activation fused",
        "int8 RELUs of their own are not delegated, and a fused one costs nothing", True, _fused,
    ),
    Rewrite(
        "carried activation", _RELUS, "MUL by 1 with the activation fused",
        "where the op before it can fuse none: int8 RELUs of their own are not delegated", True,
        _carried,
    ),
    Rewrite(
        "RELU_0_TO_1", ("RELU_0_TO_1",), "MUL by 6 with RELU6 fused, MUL by 1/6",
        "int8 RELU_0_TO_1 is not delegated", False, _relu_0_to_1,
    ),
    Rewrite(
        "clamp", ("MAXIMUM", "MINIMUM"),
        "RELU, RELU6 or RELU_N1_TO_1, scaled where its bounds differ",
        "int8 MAXIMUM and MINIMUM are not delegated", False, _clamp,
    ),
    Rewrite(
        "hard swish", ("HARD_SWISH",), "ADD of 3 with RELU6 fused, MUL by 1/6, MUL",
        "int8 HARD_SWISH is not delegated", False, _hard_swish,
    ),
    Rewrite(
        "PRELU", ("PRELU",),
        "LEAKY_RELU where all slopes are equal, else RELU, MUL by the slopes with RELU fused, SUB",
        "int8 PRELU is not delegated", True, _prelu,
    ),
    Rewrite(
        "absolute value", ("ABS",), "LEAKY_RELU with slope -1",
        "int8 ABS is not delegated", True, _abs,
    ),
)  # fmt: skip
