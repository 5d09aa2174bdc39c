"""Functions of lines that meet, as a leaky RELU or soft shrinkage: choices that need no choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.flatbuffer import Operator

_SELECTS = ("SELECT", "SELECT_V2")
_STEPS = ("SIGN", "CAST")

_OPS_MAX = 32
"""Functions of more ops are not looked into."""

_KINKS_MAX = 2
"""Functions of more kinks stay as they are written: each kink takes two ops."""

_NEARLY = 1e-6
"""How far apart, as a share, ends of lines may be that meet up to float rounding."""

Line = tuple[float, float]
"""Slope, and the value at 0."""


@dataclass(frozen=True)
class Lines:
    """A function of one number: a line between each two of its bounds.

    Attributes:
        bounds: Where one line ends and the next begins, rising.
        lines: One more than bounds.
        points: The values at the bounds themselves.
    """

    bounds: tuple[float, ...]
    lines: tuple[Line, ...]
    points: tuple[float, ...]

    def at(self, place: float) -> float:
        """The value at a place."""
        if place in self.bounds:
            return self.points[self.bounds.index(place)]
        slope, start = self.line(place)
        return slope * place + start

    def line(self, place: float) -> Line:
        """The line at a place that is no bound."""
        return self.lines[sum(bound < place for bound in self.bounds)]


_ITSELF = Lines((), ((1.0, 0.0),), ())


def _constant(value: float) -> Lines:
    return Lines((), ((0.0, value),), ())


def _inside(bounds: Sequence[float]) -> list[float]:
    """A place in front of, between and behind all bounds."""
    if not bounds:
        return [0.0]
    between = [(one + other) / 2 for one, other in itertools.pairwise(bounds)]
    return [bounds[0] - 1, *between, bounds[-1] + 1]


def _joined(
    functions: Sequence[Lines],
    line: Callable[..., Line | None],
    value: Callable[..., float],
    more: Sequence[float] = (),
) -> Lines | None:
    """What is made of several functions, line by line and point by point."""
    bounds = sorted({*more, *(bound for function in functions for bound in function.bounds)})
    lines = [line(*(f.line(place) for f in functions)) for place in _inside(bounds)]
    found = tuple(one for one in lines if one is not None)
    points = tuple(value(*(f.at(bound) for f in functions)) for bound in bounds)
    return Lines(tuple(bounds), found, points) if len(found) == len(lines) else None


def _plus(one: Lines, other: Lines) -> Lines | None:
    return _joined((one, other), lambda a, b: (a[0] + b[0], a[1] + b[1]), lambda a, b: a + b)


def _times(one: Lines, other: Lines) -> Lines | None:
    return _joined((one, other), _product, lambda a, b: a * b)


def _product(one: Line, other: Line) -> Line | None:
    """None where that is no line."""
    if one[0] and other[0]:
        return None
    return one[0] * other[1] + other[0] * one[1], one[1] * other[1]


def _minus(one: Lines, other: Lines) -> Lines | None:
    negative = _times(other, _constant(-1))
    return None if negative is None else _plus(one, negative)


def _sign(function: Lines) -> Lines | None:
    ends = [-np.inf, *function.bounds, np.inf]
    crossed = []
    for (slope, start), low, high in zip(function.lines, ends, ends[1:], strict=False):
        if slope and low < -start / slope < high:
            crossed.append(-start / slope)
    split = _joined((function,), lambda a: a, lambda a: a, crossed)
    if split is None:
        return None
    middles = [float(np.sign(split.at(place))) for place in _inside(split.bounds)]
    points = tuple(float(np.sign(split.at(bound))) for bound in split.bounds)
    return Lines(split.bounds, tuple((0.0, sign) for sign in middles), points)


def _where(is_chosen: Callable[[float], bool]) -> Callable[..., Lines | None]:
    """1 where the sign of a difference is so, else 0."""

    def found(one: Lines, other: Lines) -> Lines | None:
        difference = _minus(one, other)
        sign = None if difference is None else _sign(difference)
        if sign is None:
            return None
        return _joined(
            (sign,), lambda a: (0.0, float(is_chosen(a[1]))), lambda a: float(is_chosen(a))
        )

    return found


_above, _below = _where(lambda sign: sign > 0), _where(lambda sign: sign < 0)


def _chosen(condition: Lines, one: Lines, other: Lines) -> Lines | None:
    return _joined(
        (condition, one, other), lambda c, a, b: a if c[1] else b, lambda c, a, b: a if c else b
    )


def _largest(one: Lines, other: Lines) -> Lines | None:
    above = _above(one, other)
    return None if above is None else _chosen(above, one, other)


def _smallest(one: Lines, other: Lines) -> Lines | None:
    above = _above(one, other)
    return None if above is None else _chosen(above, other, one)


def _size(function: Lines) -> Lines | None:
    sign = _sign(function)
    return None if sign is None else _times(function, sign)


def _relu(function: Lines) -> Lines | None:
    return _largest(function, _constant(0))


_FUSED = ("NONE", "RELU")

_FUNCTIONS: dict[str, Callable[..., Lines | None]] = {
    "ADD": _plus,
    "SUB": _minus,
    "MUL": _times,
    "NEG": lambda one: _times(one, _constant(-1)),
    "ABS": _size,
    "SIGN": _sign,
    "RELU": _relu,
    "MAXIMUM": _largest,
    "MINIMUM": _smallest,
    "CAST": lambda one: one,
    "GREATER": _above,
    "LESS": _below,
    "GREATER_EQUAL": _where(lambda sign: sign >= 0),
    "LESS_EQUAL": _where(lambda sign: sign <= 0),
    "LOGICAL_AND": _times,
    "LOGICAL_OR": _largest,
    "LOGICAL_NOT": lambda one: _minus(_constant(1), one),
    **dict.fromkeys(_SELECTS, _chosen),
}
"""What each op makes of its operands; what is true is 1, what is false is 0."""


class _Reader:
    """Reads tensors as functions of one of them."""

    def __init__(self, site: Site, source: int) -> None:
        self._site, self._source = site, source
        self._read: dict[int, Lines | None] = {source: _ITSELF}

    def lines(self, tensor: int) -> Lines | None:
        """The function that a tensor is; None where it is none of lines, or of another tensor."""
        if tensor not in self._read:
            self._read[tensor] = None
            self._read[tensor] = self._computed(tensor)
        return self._read[tensor]

    def _computed(self, tensor: int) -> Lines | None:
        if (data := self._site.value(tensor)) is not None:
            same = data.size > 0 and data.min() == data.max() and np.isfinite(data.flat[0])
            return _constant(float(data.flat[0])) if same else None
        op = self._site.producer(tensor, *_FUNCTIONS)
        if op is None or op.fused_activation not in _FUSED or len(self._read) > _OPS_MAX:
            return None
        if self._site.shape(tensor) != self._site.shape(self._source) or not _keeps(self._site, op):
            return None
        operands = [self.lines(t) for t in op.inputs]
        found = [one for one in operands if one is not None]
        lines = _FUNCTIONS[op.name](*found) if len(found) == len(operands) else None
        return _relu(lines) if lines is not None and op.fused_activation == "RELU" else lines


def _keeps(site: Site, op: Operator) -> bool:
    """Whether an op is no CAST to whole numbers, which would cut what is behind the point."""
    return op.name != "CAST" or site.graph.tensors[op.inputs[0]].dtype == "bool"


def _sources(site: Site, tensor: int) -> Iterator[int]:
    """What a choice may be a function of, from near to far."""
    for _ in range(_OPS_MAX):
        if site.graph.tensors[tensor].dtype == "float32":
            yield tensor
        op = site.producer(tensor, *_FUNCTIONS)
        computed = [] if op is None else [t for t in op.inputs if site.value(t) is None]
        if not computed:
            return
        tensor = computed[0]


def _choice(site: Site, op: Operator) -> Sequence[Any] | None:
    return _made_of(site, op, op.inputs[0])


def _gate(site: Site, op: Operator) -> Sequence[Any] | None:
    """A product with a sign, or with 1 where something holds and 0 elsewhere."""
    gates = [t for t in op.inputs if site.producer(t, *_STEPS) is not None]
    return _made_of(site, op, gates[0]) if gates else None


def _made_of(site: Site, op: Operator, chooses: int) -> Sequence[Any] | None:
    shape = site.shape(op.outputs[0])
    for source in _sources(site, chooses):
        lines = _Reader(site, source).lines(op.outputs[0]) if site.shape(source) == shape else None
        if lines is not None:
            lines = _simple(lines)
            is_sound = 1 <= len(lines.bounds) <= _KINKS_MAX and _meets(lines)
            return _made(site, op, source, _formula(lines), op.outputs[0]) if is_sound else None
    return None


def _simple(lines: Lines) -> Lines:
    """The same without bounds at which nothing changes."""
    kept = [
        n for n, bound in enumerate(lines.bounds)
        if lines.lines[n] != lines.lines[n + 1]
        or lines.points[n] != lines.lines[n][0] * bound + lines.lines[n][1]
    ]  # fmt: skip
    return Lines(
        tuple(lines.bounds[n] for n in kept),
        (lines.lines[0], *(lines.lines[n + 1] for n in kept)),
        tuple(lines.points[n] for n in kept),
    )


def _meets(lines: Lines) -> bool:
    """Whether a function has no jumps."""
    for n, (bound, value) in enumerate(zip(lines.bounds, lines.points, strict=True)):
        sides = lines.lines[n : n + 2]
        size = max(abs(slope * bound) + abs(start) for slope, start in sides)
        if any(abs(slope * bound + start - value) > _NEARLY * size for slope, start in sides):
            return False
    return True


@dataclass(frozen=True)
class _Term:
    """An op of a formula; None among its operands is what the formula is of."""

    name: str
    operands: tuple[_Term | float | None, ...]
    activation: str = "NONE"
    alpha: float | None = None


def _formula(lines: Lines) -> _Term:
    """The line in the middle held within the bounds, and what rises above and falls below."""
    (low, _), (high, _) = lines.lines[0], lines.lines[-1]
    first, last, value = lines.bounds[0], lines.bounds[-1], lines.points[0]
    slope, start = lines.lines[1] if len(lines.bounds) > 1 else (0.0, value)
    if first == last == 0 == value and abs(low) <= high:
        return _two_slopes(low, high)
    if first == last == value and (low, high) in ((0, 1), (1, 0)):
        return _Term("MAXIMUM" if high else "MINIMUM", (None, value))
    sides = [(high, _beyond(abs(high), -last)), (-low, _beyond(-abs(low), first))]
    risen = [term for factor, term in sides if factor > 0]
    fallen = [term for factor, term in sides if factor < 0]
    if slope:
        clamped = _Term("MINIMUM", (_Term("MAXIMUM", (None, first)), last))
        return _total([_shifted(_scaled(clamped, slope), start), *risen], fallen)
    return _shifted(_total(risen, fallen) if risen else _scaled(_total(fallen, []), -1), start)


def _total(added: Sequence[_Term], taken: Sequence[_Term]) -> _Term:
    """The sum of terms without the sum of others."""
    total, *rest = added
    for name, terms in (("ADD", rest), ("SUB", taken)):
        for term in terms:
            total = _Term(name, (total, term))
    return total


def _two_slopes(low: float, high: float) -> _Term:
    """`high * x` above 0, `low * x` below."""
    if low == 0:
        return _Term("RELU", (None,)) if high == 1 else _Term("MUL", (None, high), "RELU")
    if low == -high:
        return _scaled(_Term("ABS", (None,)), high)
    return _scaled(_Term("LEAKY_RELU", (None,), alpha=low / high), high)


def _beyond(factor: float, shift: float) -> _Term:
    """`relu(factor * x + abs(factor) * shift)`."""
    shift *= abs(factor)
    if shift == 0:
        return _Term("RELU", (None,)) if factor == 1 else _Term("MUL", (None, factor), "RELU")
    return _Term("ADD", (None if factor == 1 else _Term("MUL", (None, factor)), shift), "RELU")


def _scaled(term: _Term, factor: float) -> _Term:
    return term if factor == 1 else _Term("MUL", (term, factor))


def _shifted(term: _Term, summand: float) -> _Term:
    return term if summand == 0 else _Term("ADD", (term, summand))


def _made(site: Site, op: Operator, source: int, term: _Term, output: int) -> list[Any]:
    """The ops of a formula."""
    made, operands = [], []
    for operand in term.operands:
        if isinstance(operand, _Term):
            operands.append(site.tensor(op, site.shape(source)))
            made += _made(site, op, source, operand, operands[-1])
        elif operand is None:
            operands.append(source)
        else:
            operands.append(site.constant(op, "number", operand))
    if term.name in ("ADD", "SUB", "MUL"):
        last = site.binary(term.name, operands[0], operands[1], output, term.activation)
    else:
        options: dict[str, Any] = {} if term.alpha is None else {"alpha": term.alpha}
        last = site.editor.op(term.name, operands, [output], **options)
    return [*made, last]


REWRITES = (
    Rewrite(
        "choice between lines that meet", _SELECTS,
        "RELUs of the source, shifted and added; LEAKY_RELU, ABS, MAXIMUM, MINIMUM where it is one",
        "the delegate takes neither comparison nor SELECT", False, _choice,
    ),
    Rewrite(
        "product with a sign or a comparison", ("MUL",), "the same, where lines meet",
        "the delegate takes neither comparison nor SIGN", False, _gate,
    ),
)  # fmt: skip
