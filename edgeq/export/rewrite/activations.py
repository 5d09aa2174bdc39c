"""Activations: fused into the op before them, or made of ops that are integer on the delegate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.plan.exact_numbers import is_whole
from edgeq.export.rewrite.base import Array, Rewrite, Site
from edgeq.export.rewrite.written_out.whole_ops import leak
from edgeq.flatbuffer import Operator, schema
from edgeq.model import layer
from edgeq.targets import Purpose

_FUSES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL")
_RELUS = ("RELU", "RELU6", "RELU_N1_TO_1")
_NARROWED = {("NONE", name): name for name in _RELUS} | {
    ("RELU", "RELU"): "RELU",
    ("RELU", "RELU6"): "RELU6",
    ("RELU6", "RELU"): "RELU6",
    ("RELU6", "RELU6"): "RELU6",
}
"""The one activation that does what a fused one and another behind it do."""

_CLAMPS = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
"""The activation between two bounds."""

BOUND_MAX = 1e6
"""A range longer than this is no clamp."""


def _fused(site: Site, op: Operator) -> Sequence[Any] | None:
    return _fused_into(site, op, *_FUSES)


def _fused_pool(site: Site, op: Operator) -> Sequence[Any] | None:
    return _fused_into(site, op, "MAX_POOL_2D")


def _fused_into(site: Site, op: Operator, *names: str) -> Sequence[Any] | None:
    """One of these ops with the activation behind it."""
    before = site.producer(op.inputs[0], *names)
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


def _before_pool(site: Site, op: Operator) -> Sequence[Any] | None:
    """Moves an activation in or behind a max pool in front of it."""
    found = _pool_and_activation(site, op, "MAX_POOL_2D")
    if found is None:
        return None
    pool, activation = found
    clipped, none = site.tensor(op, site.shape(pool.inputs[0])), schema.ActivationFunctionType.NONE
    return [
        site.editor.op(activation, pool.inputs, [clipped]),
        site.editor.copied(pool.index, [clipped], op.outputs, fusedActivationFunction=none),
    ]


def _behind_pool(site: Site, op: Operator) -> Sequence[Any] | None:
    """Moves an activation in or behind an average pool into a MUL by 1."""
    found = _pool_and_activation(site, op, "AVERAGE_POOL_2D")
    if found is None:
        return None
    pool, activation = found
    pooled, none = site.tensor(op, site.shape(op.outputs[0])), schema.ActivationFunctionType.NONE
    one = site.constant(op, "one", 1)
    return [
        site.editor.copied(pool.index, pool.inputs, [pooled], fusedActivationFunction=none),
        site.binary("MUL", pooled, one, op.outputs[0], activation),
    ]


def _pool_and_activation(site: Site, op: Operator, name: str) -> tuple[Operator, str] | None:
    """A pool of that name with the activation in it or behind it, which `op` is."""
    if op.name == name:
        return None if op.fused_activation == "NONE" else (op, op.fused_activation)
    pool = site.producer(op.inputs[0], name)
    if pool is None or pool.fused_activation != "NONE" or not site.is_read_once(op.inputs[0]):
        return None
    return pool, op.name


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
    """A clamp that is an activation of its own."""
    found = _clamped(site, op)
    if found is None or found[1:] not in _CLAMPS:
        return None
    return [site.editor.op(_CLAMPS[found[1:]], found[:1], op.outputs)]


def _clamped(site: Site, op: Operator) -> tuple[int, float, float] | None:
    """`(x, lowest, highest)` of MAXIMUM and MINIMUM, alone or one behind the other."""
    bound = _bound(site, op)
    if bound is None:
        return None
    source, own = bound
    before = site.producer(source, "MINIMUM" if op.name == "MAXIMUM" else "MAXIMUM")
    inner = _bound(site, before) if before is not None else None
    if inner is not None:
        return (inner[0], *((own, inner[1]) if op.name == "MAXIMUM" else (inner[1], own)))
    if op.name == "MAXIMUM":
        return source, own, math.inf
    return (source, 0.0, own) if site.is_non_negative(source) else None


def _scaled_clamp(site: Site, op: Operator) -> Sequence[Any] | None:
    """A clamp between bounds that no activation has; whole numbers would not stay whole."""
    found = _clamped(site, op)
    if found is None or is_whole(site.graph, found[0]):
        return None
    source, low, high = found
    is_sound = 0 < high - low < BOUND_MAX and max(abs(low), abs(high)) < 16 * (high - low)
    return _clipped(site, op, source, low, high) if is_sound else None


def _bound(site: Site, op: Operator) -> tuple[int, float] | None:
    """`(x, c)` of an op on a computed tensor and a constant that holds one value."""
    found = site.constant_operand(op)
    if found is None or found[1].size == 0 or found[1].min() != found[1].max():
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


def _equal_slopes(site: Site, op: Operator) -> Sequence[Any] | None:
    slope = site.value(op.inputs[1])
    return None if slope is None else _leaking(site, op, op.inputs[0], slope)


def _leaking(site: Site, op: Operator, source: int, slopes: Array) -> Sequence[Any] | None:
    """A LEAKY_RELU, where one slope is all there is and its kernel takes it."""
    if slopes.size == 0 or slopes.min() != slopes.max():
        return None
    alpha = float(slopes.flat[0])
    if not 2**-7 <= abs(alpha) <= 1:
        return None
    return [site.editor.op("LEAKY_RELU", [source], op.outputs, alpha=alpha)]


def _leak(site: Site, op: Operator) -> Sequence[Any] | None:
    """One slope for all channels, as PyTorch's PReLU has it and its lowering writes out."""
    whole = leak(site.graph, op)
    if whole is None or whole.constant is None:
        return None
    return _leaking(site, op, whole.source, whole.constant)


def _slopes_of_places(site: Site, op: Operator) -> Sequence[Any] | None:
    return _prelu(site, op) if any(d > 1 for d in site.shape(op.inputs[1])[:-1]) else None


def _prelu(site: Site, op: Operator) -> Sequence[Any] | None:
    slope = site.value(op.inputs[1])
    return None if slope is None or slope.size == 0 else _two_sides(site, op, slope)


def _leaky(site: Site, op: Operator) -> Sequence[Any]:
    return _two_sides(site, op, np.asarray(op.options.alpha))


def _two_sides(site: Site, op: Operator, slope: Array) -> Sequence[Any]:
    """`relu(x) - relu(x * -slope)`, or `relu(x) - relu(-x) * slope` where a slope is negative."""
    source = op.inputs[0]
    positive, negative = (site.tensor(op, site.shape(source)) for _ in range(2))
    ops = [site.editor.op("RELU", [source], [positive])]
    if (slope >= 0).all():
        falling = site.constant(op, "falling", -slope)
        ops.append(site.binary("MUL", source, falling, negative, "RELU"))
    else:
        below = site.tensor(op, site.shape(source))
        turned = site.constant(op, "minus_one", -1)
        ops.append(site.binary("MUL", source, turned, below, "RELU"))
        slopes = site.constant(op, "slopes", slope)
        ops.append(site.binary("MUL", below, slopes, negative))
    return [*ops, site.binary("SUB", positive, negative, op.outputs[0])]


def _leaky_slopes(site: Site, op: Operator) -> Sequence[Any]:
    shape = site.shape(op.outputs[0])
    slopes = np.full((*(1 for _ in shape[1:-1]), *shape[-1:]), op.options.alpha)
    return [site.editor.op("PRELU", [*op.inputs, site.constant(op, "slopes", slopes)], op.outputs)]


def _abs(site: Site, op: Operator) -> Sequence[Any]:
    return [site.editor.op("LEAKY_RELU", op.inputs, op.outputs, alpha=-1.0)]


def _magnitude(site: Site, op: Operator) -> Sequence[Any]:
    positive, negative = (site.tensor(op, site.shape(op.outputs[0])) for _ in range(2))
    turned = site.constant(op, "minus_one", -1)
    return [
        site.editor.op("RELU", op.inputs, [positive]),
        site.binary("MUL", op.inputs[0], turned, negative, "RELU"),
        site.binary("ADD", positive, negative, op.outputs[0]),
    ]


REWRITES = (
    Rewrite(
        "fused activation", _RELUS, "the op before it with the activation fused",
        "int8 RELUs of their own are not delegated, and a fused one costs nothing", True, _fused,
    ),
    Rewrite(
        "fused activation of a pool", _RELUS, "the MAX_POOL_2D before it with the activation fused",
        "int8 RELUs of their own are not delegated", True, _fused_pool, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "activation of a max pool", ("MAX_POOL_2D", *_RELUS), "the activation, MAX_POOL_2D",
        "the converter fuses it into a pool before it, and the Edge TPU has no such pool", True,
        _before_pool, Purpose.MAPPING,
    ),
    Rewrite(
        "activation of an average pool", ("AVERAGE_POOL_2D", *_RELUS),
        "AVERAGE_POOL_2D, MUL by 1 with the activation fused",
        "the converter fuses it into a pool before it, and the Edge TPU has no such pool", True,
        _behind_pool, Purpose.MAPPING,
    ),
    Rewrite(
        "carried activation", _RELUS, "MUL by 1 with the activation fused",
        "where the op before it can fuse none: int8 RELUs of their own are not delegated", True,
        _carried, Purpose.DELEGATION,
    ),
    Rewrite(
        "RELU_0_TO_1", ("RELU_0_TO_1",), "MUL by 6 with RELU6 fused, MUL by 1/6",
        "int8 RELU_0_TO_1 is not delegated", False, _relu_0_to_1,
    ),
    Rewrite(
        "clamp", ("MAXIMUM", "MINIMUM"), "RELU, RELU6 or RELU_N1_TO_1",
        "int8 MAXIMUM and MINIMUM are not delegated, and the op before can fuse it", True, _clamp,
    ),
    Rewrite(
        "clamp between other bounds", ("MAXIMUM", "MINIMUM"),
        "MUL with RELU6 fused, MUL, between two ADD where the lower bound is not 0",
        "int8 MAXIMUM and MINIMUM are not delegated", False, _scaled_clamp, Purpose.DELEGATION,
    ),
    Rewrite(
        "hard swish", ("HARD_SWISH",), "ADD of 3 with RELU6 fused, MUL by 1/6, MUL",
        "int8 HARD_SWISH is not delegated", False, _hard_swish,
    ),
    Rewrite(
        "PRELU with equal slopes", ("PRELU",), "LEAKY_RELU",
        "int8 PRELU is not delegated", True, _equal_slopes, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "PRELU with equal slopes, written out", ("SUB",), "LEAKY_RELU",
        "one op in the place of four", False, _leak, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "PRELU", ("PRELU",), "RELU, MUL by the slopes with RELU fused, SUB",
        "int8 PRELU is not delegated", True, _prelu, Purpose.DELEGATION,
    ),
    Rewrite(
        "PRELU with a slope for each place", ("PRELU",),
        "RELU, MUL by the slopes with RELU fused, SUB",
        "the Edge TPU has one slope for each channel", True, _slopes_of_places, Purpose.MAPPING,
    ),
    Rewrite(
        "LEAKY_RELU", ("LEAKY_RELU",), "PRELU with equal slopes",
        "the Edge TPU has no LEAKY_RELU", True, _leaky_slopes, Purpose.MAPPING_ALONE,
    ),
    Rewrite(
        "LEAKY_RELU for both", ("LEAKY_RELU",), "RELU, MUL by the slope with RELU fused, SUB",
        "the Edge TPU has no LEAKY_RELU, XNNPACK no int8 PRELU", True, _leaky, Purpose.COMMON_OPS,
    ),
    Rewrite(
        "absolute value", ("ABS",), "LEAKY_RELU with slope -1",
        "int8 ABS is not delegated", True, _abs, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "absolute value of two sides", ("ABS",), "RELU, MUL by -1 with RELU fused, ADD",
        "the Edge TPU has neither ABS nor LEAKY_RELU", True, _magnitude, Purpose.MAPPING,
    ),
)  # fmt: skip
