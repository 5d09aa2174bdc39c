"""Functions of pieces, as ELU and clamps: the delegate takes neither comparisons nor SELECT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.export.rewrite.arithmetic import AFFINE, affine
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator

_SELECTS = ("SELECT", "SELECT_V2")
_ABOVE, _BELOW = ("GREATER", "GREATER_EQUAL"), ("LESS", "LESS_EQUAL")
_KEEP_NAN = ("ADD", "SUB", "MUL", "NEG", "ABS", "LEAKY_RELU", "EXP", "LOG")

_LARGE = 14.0
"""From here on `log(1 + exp(x))` is `x` in float32: what it is more is a 10,000,000th of that."""

_NEARLY = 1e-6
"""Share by which two float32 numbers that should be the same may differ."""


@dataclass(frozen=True)
class _Pieces:
    """What a SELECT chooses by whether `source` is above `bound`."""

    source: int
    bound: float
    above: int
    below: int


@dataclass(frozen=True)
class _Elu:
    """`above * x` for positive `x`, else `below * (exp(rate * x) - 1)`."""

    source: int
    above: float
    below: float
    rate: float


def _elu(site: Site, op: Operator) -> Sequence[Any] | None:
    """An ELU, with what positive numbers are multiplied by besides added to it."""
    found = _elu_of_pieces(site, op)
    return None if found is None else _made(site, op, found)


def _elu_sum(site: Site, op: Operator) -> Sequence[Any] | None:
    """The same where what is positive and what is negative are added."""
    found = _elu_of_sum(site, op) if op.fused_activation == "NONE" else None
    return None if found is None else _made(site, op, found)


def _made(site: Site, op: Operator, found: _Elu) -> list[Any]:
    shape, source, made = site.shape(op.outputs[0]), found.source, []
    more = found.above - found.below * found.rate
    is_scaled = abs(found.below - 1) > _NEARLY
    is_more = abs(more) > _NEARLY * found.above
    if abs(found.rate - 1) > _NEARLY:
        source = site.tensor(op, shape)
        made.append(_scaled(site, op, found.source, found.rate, source))
    curve = site.tensor(op, shape) if is_scaled or is_more else op.outputs[0]
    made.append(site.editor.op("ELU", [source], [curve]))
    if is_scaled:
        flat, curve = curve, site.tensor(op, shape) if is_more else op.outputs[0]
        made.append(_scaled(site, op, flat, found.below, curve))
    if is_more:
        rest = site.tensor(op, shape)
        made += [
            _scaled(site, op, found.source, abs(more), rest, "RELU"),
            site.binary("ADD" if more > 0 else "SUB", curve, rest, op.outputs[0]),
        ]
    return made


def _scaled(
    site: Site, op: Operator, source: int, factor: float, output: int, activation: str = "NONE"
) -> Any:
    return site.binary("MUL", source, site.constant(op, "factor", factor), output, activation)


def _elu_of_pieces(site: Site, op: Operator) -> _Elu | None:
    pieces = _pieces(site, op)
    if pieces is None or pieces.bound != 0:
        return None
    above = _slope(site, pieces.above, pieces.source)
    curve = _curve(site, pieces.below, pieces.source)
    if above is None or curve is None:
        return None
    is_source = _is_negative_part(site, curve[0], pieces.source, op.inputs[0])
    return _Elu(pieces.source, above, *curve[1:]) if is_source else None


def _elu_of_sum(site: Site, op: Operator) -> _Elu | None:
    for positive, negative in (op.inputs, op.inputs[::-1]):
        relu, curve = site.producer(positive, "RELU", "MAXIMUM"), _curve(site, negative)
        source = None if relu is None else _within_zero(site, relu)
        part = None if curve is None else site.producer(curve[0], "MINIMUM")
        if curve is None or part is None or source is None:
            continue
        if _within_zero(site, part) == source and site.shape(source) == site.shape(op.outputs[0]):
            return _Elu(source, 1.0, *curve[1:])
    return None


def _within_zero(site: Site, op: Operator) -> int | None:
    """What a RELU, MAXIMUM or MINIMUM bounds by 0; None where that is not the bound."""
    if op.name == "RELU":
        return op.inputs[0]
    found = site.constant_operand(op)
    return found[0] if found is not None and not found[1].any() else None


def _curve(site: Site, tensor: int, end: int = -1) -> tuple[int, float, float] | None:
    """`(x, factor, rate)` of a tensor that is `factor * (exp(rate * x) - 1)`, both above 0."""
    source, factor, summand = _line(site, tensor)
    exp = site.producer(source, "EXP")
    if exp is None or not math.isclose(-summand, factor):
        return None
    exponent, rate, shift = _line(site, exp.inputs[0], end)
    return (exponent, factor, rate) if min(factor, rate) > 0 and not shift else None


def _is_negative_part(site: Site, tensor: int, source: int, condition: int) -> bool:
    """Whether a tensor is `source` wherever that is not positive."""
    op = site.producer(tensor, "MINIMUM", *_SELECTS)
    if tensor == source or op is None:
        return tensor == source
    if op.name == "MINIMUM":
        return _within_zero(site, op) == source
    pieces = _pieces(site, op)
    return op.inputs[0] == condition and pieces is not None and pieces.below == source


def _line(site: Site, tensor: int, end: int = -1) -> tuple[int, float, float]:
    """`(x, factor, summand)` of a tensor that is `x * factor + summand`, the same for all of it.

    As far as ops go back, and no further than to `end`.
    """
    factor, summand = 1.0, 0.0
    while tensor != end and (step := _step(site, tensor)) is not None:
        tensor, inner_factor, inner_summand = step
        summand += inner_summand * factor
        factor *= inner_factor
    return tensor, factor, summand


def _step(site: Site, tensor: int) -> tuple[int, float, float] | None:
    op = site.producer(tensor, *AFFINE)
    found = affine(site, op) if op is not None and op.fused_activation == "NONE" else None
    if found is None or any(value.size != 1 for value in found[1]):
        return None
    factor, summand = (float(value.flat[0]) for value in found[1])
    return found[0], factor, summand


def _slope(site: Site, tensor: int, source: int) -> float | None:
    """The factor that makes a tensor of another one; None where something else does."""
    for end, start, power in ((source, tensor, 1), (tensor, source, -1)):
        found, factor, summand = _line(site, start, end)
        if found == end and not summand and factor > 0:
            return factor**power
    return None


def _pieces(site: Site, op: Operator) -> _Pieces | None:
    """What a SELECT chooses; None where it does not go by one bound of one tensor."""
    condition = site.producer(op.inputs[0], *_ABOVE, *_BELOW)
    if condition is None:
        return None
    is_above, (source, bound), (above, below) = (
        condition.name in _ABOVE, condition.inputs, op.inputs[1:],
    )  # fmt: skip
    if site.value(source) is not None:
        is_above, (bound, source) = not is_above, condition.inputs
    value = site.value(bound)
    if value is None or value.size != 1 or site.shape(source) != site.shape(op.outputs[0]):
        return None
    if not is_above:
        above, below = below, above
    return _Pieces(source, float(value.flat[0]), above, below)


def _clamp(site: Site, op: Operator) -> Sequence[Any] | None:
    """The bound where a tensor is beyond it: a MAXIMUM or MINIMUM."""
    pieces = _pieces(site, op)
    if pieces is None:
        return None
    for name, kept, bound in (
        ("MINIMUM", pieces.below, pieces.above),
        ("MAXIMUM", pieces.above, pieces.below),
    ):
        value = site.value(bound)
        is_bound = value is not None and value.size == 1 and float(value.flat[0]) == pieces.bound
        if is_bound and _is_clamped(site, kept, pieces):
            return [site.editor.op(name, [kept, bound], op.outputs)]
    return None


def _is_clamped(site: Site, tensor: int, pieces: _Pieces) -> bool:
    """Whether a tensor is the source, or that within another bound which leaves the first one."""
    op = site.producer(tensor, "MAXIMUM", "MINIMUM")
    found = None if op is None else site.constant_operand(op)
    if op is None or found is None or found[1].size != 1:
        return tensor == pieces.source
    bound, is_upper = float(found[1].flat[0]), tensor == pieces.below
    leaves_it = bound <= pieces.bound if is_upper else bound >= pieces.bound
    return found[0] == pieces.source and leaves_it and (op.name == "MAXIMUM") == is_upper


def _softplus_of_large(site: Site, op: Operator) -> Sequence[Any] | None:
    """Softplus for what is so large that it is softplus of it anyway."""
    pieces = _pieces(site, op)
    if pieces is None:
        return None
    log, factor, summand = _line(site, pieces.below)
    above, rate = _slope(site, pieces.above, pieces.source), _softplus_rate(site, log, pieces)
    if rate is None or above is None or summand or not math.isclose(rate * factor, above):
        return None
    return site.alias(op, pieces.below)


def _softplus_rate(site: Site, tensor: int, pieces: _Pieces) -> float | None:
    """`b` where a tensor is `log(1 + exp(b * x))`, and `b * x` large above the bound."""
    log = site.producer(tensor, "LOG")
    more, *line = (tensor, 0.0) if log is None else _line(site, log.inputs[0])
    exp = site.producer(more, "EXP")
    if exp is None or line != [1, 1]:
        return None
    exponent, rate, shift = _line(site, exp.inputs[0], pieces.source)
    is_large = exponent == pieces.source and not shift and rate * pieces.bound >= _LARGE
    return rate if is_large else None


def _without_nan(site: Site, op: Operator) -> Sequence[Any] | None:
    """What is computed where there are numbers, if it is no number either where there are none."""
    condition = site.producer(op.inputs[0], "NOT_EQUAL")
    if condition is None or len(set(condition.inputs)) != 1:
        return None
    (source, _), (other, kept) = condition.inputs, op.inputs[1:]
    is_same = _keeps_nan(site, kept, source) and _keeps_nan(site, other, source)
    return site.alias(op, kept) if is_same else None


def _keeps_nan(site: Site, tensor: int, source: int) -> bool:
    """Whether a tensor is not a number wherever the source is not."""
    op = site.producer(tensor, *_KEEP_NAN)
    if tensor == source or op is None or op.fused_activation != "NONE":
        return tensor == source
    same = [t for t in op.inputs if site.shape(t) == site.shape(source)]
    return any(_keeps_nan(site, t, source) for t in same)


REWRITES = (
    Rewrite(
        "ELU written out", _SELECTS,
        "ELU, between MULs and with a MUL with RELU fused where slopes are not 1",
        "the delegate takes neither comparison nor SELECT, and exponentials of large numbers leave "
        "no int8 steps for the rest", False, _elu,
    ),
    Rewrite(
        "ELU as a sum", ("ADD",), "the same", "the delegate has ELU in int8", False, _elu_sum,
    ),
    Rewrite(
        "clamp by SELECT", _SELECTS, "MAXIMUM or MINIMUM",
        "the delegate takes neither comparison nor SELECT", True, _clamp,
    ),
    Rewrite(
        "softplus with a threshold", _SELECTS, "softplus alone",
        "the delegate takes neither comparison nor SELECT, and softplus of large numbers is "
        "computed without overflow", False, _softplus_of_large,
    ),
    Rewrite(
        "choice where there is no number", _SELECTS, "what is no number there by itself",
        "the delegate takes neither comparison nor SELECT", True, _without_nan,
    ),
)  # fmt: skip
