"""Softmax along any axis, and softplus, which converters write out with exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Shape, Site
from edgeq.flatbuffer import Operator


def _softmax(site: Site, op: Operator) -> Sequence[Any] | None:
    """One SOFTMAX, between two TRANSPOSE where the axis is not the last."""
    exp = site.producer(op.inputs[0], "EXP")
    if exp is None or op.fused_activation != "NONE":
        return None
    axis = _reduced(site, op.inputs[1], "SUM", exp.outputs[0])
    if axis is None:
        return None
    source = _before_shift(site, exp.inputs[0], axis)
    rank = len(site.shape(source))
    if axis == rank - 1:
        return [site.editor.op("SOFTMAX", [source], op.outputs, beta=1.0)]
    order = [*range(rank)]
    order[axis], order[-1] = order[-1], order[axis]
    swapped = [site.shape(source)[a] for a in order]
    turned, made = site.tensor(op, swapped), site.tensor(op, swapped)
    return [
        site.transpose(op, source, turned, order),
        site.editor.op("SOFTMAX", [turned], [made], beta=1.0),
        site.transpose(op, made, op.outputs[0], order),
    ]


def _before_shift(site: Site, tensor: int, axis: int) -> int:
    """What a tensor was before its highest value along an axis was taken from it."""
    shift = site.producer(tensor, "SUB")
    if shift is None or shift.fused_activation != "NONE":
        return tensor
    source, highest = shift.inputs
    is_shift = _reduced(site, highest, "REDUCE_MAX", source) == axis
    return source if is_shift else tensor


def _origin(site: Site, tensor: int) -> int:
    """What a tensor was before it was reshaped, or held above -infinity."""
    while before := site.producer(tensor, "RESHAPE", "MAXIMUM"):
        floors = [t for t in before.inputs if (data := site.value(t)) is not None and _is_low(data)]
        if before.name == "MAXIMUM" and not floors:
            return tensor
        tensor = next(t for t in before.inputs if t not in floors)
    return tensor


def _is_low(values: Array) -> bool:
    """Whether no number is below these; so converters begin the maximum along an axis."""
    return values.dtype.kind == "f" and bool((values == -np.inf).all())


def _reduced(site: Site, tensor: int, name: str, source: int) -> int | None:
    """The one axis along which a tensor reduces another, if it spreads along that again."""
    op = site.producer(_origin(site, tensor), name)
    axes = None if op is None or op.inputs[0] != source else site.value(op.inputs[1])
    if axes is None or axes.size != 1:
        return None
    whole = site.shape(source)
    axis = int(axes.ravel()[0]) % len(whole)
    return axis if _aligned(site.shape(tensor), len(whole)) == _without(whole, axis) else None


def _aligned(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _without(shape: Shape, axis: int) -> Shape:
    return tuple(1 if a == axis else size for a, size in enumerate(shape))


def _softplus(site: Site, op: Operator) -> Sequence[Any] | None:
    """What is above 0, and the logarithm of an exponential that is 1 at most."""
    source = _softplus_of(site, op)
    if source is None:
        return None
    shape = site.shape(source)
    size, below, small, more, rest, above = (site.tensor(op, shape) for _ in range(6))
    one = site.constant(op, "one", np.ones(()))
    return [
        site.editor.op("ABS", [source], [size]),
        site.binary("MUL", size, site.constant(op, "minus", -np.ones(())), below),
        site.editor.op("EXP", [below], [small]),
        site.binary("ADD", small, one, more),
        site.editor.op("LOG", [more], [rest]),
        site.editor.op("RELU", [source], [above]),
        site.binary("ADD", above, rest, op.outputs[0]),
    ]


def _softplus_of(site: Site, op: Operator) -> int | None:
    """The operand of `log(1 + exp(x))`; None where it is something else, or never above 0."""
    more = site.producer(op.inputs[0], "ADD")
    found = None if more is None else site.constant_operand(more)
    if more is None or found is None or more.fused_activation != "NONE" or (found[1] != 1).any():
        return None
    exp = site.producer(found[0], "EXP")
    if exp is None or site.is_non_positive(exp.inputs[0]):
        return None
    return exp.inputs[0]


REWRITES = (
    Rewrite(
        "softmax written out", ("DIV",), "SOFTMAX, between TRANSPOSE along another axis",
        "one op that keeps its precision in int8, where the division stays float", False, _softmax,
    ),
    Rewrite(
        "softplus written out", ("LOG",), "RELU(x) + LOG(1 + EXP(-ABS(x)))",
        "the exponential of what is above 0 leaves no int8 steps for the rest", False, _softplus,
    ),
)  # fmt: skip
