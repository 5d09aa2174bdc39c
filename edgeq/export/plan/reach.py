"""`Reach`: limits beyond which no reader of a tensor tells its values apart.

A softmax, a maximum and a comparison have such limits by what else they read. A function of the
tensor alone has one where it is flat: a hard swish gives 0 for all that is below -3. What else
is in a sum moves it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.calibrate.calibration import Beyond
from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import MOVED, holds
from edgeq.qtypes import STAND_IN_FOR_INFINITY, FloatArray

Range = tuple[float, float]

WORTH = 2
"""Finite values are left out of a range where it becomes so many times narrower."""


@dataclass(frozen=True)
class Reach:
    """Limits of what readers can tell apart: a value beyond one is as good as the limit itself."""

    low: float = -math.inf
    high: float = math.inf

    def union(self, other: Reach) -> Reach:
        """Range that either can tell apart."""
        return Reach(min(self.low, other.low), max(self.high, other.high))

    def minus(self, other: Range) -> Reach:
        """Of `x` where this is of `x + y` and `y` lies in a range."""
        return Reach(self.low - other[1], self.high - other[0])

    def through(self, activation: Callable[..., FloatArray]) -> Reach:
        """Of `x` where this is of an activation of `x` that only cuts it off."""
        ends = activation(np.asarray([-math.inf, math.inf]))
        low, high = np.clip([self.low, self.high], *ends)
        return Reach(float(low), float(high))

    def over(self, factor: FloatArray) -> Reach:
        """Of `x` where this is of `x * factor`."""
        with np.errstate(all="ignore"):
            ends = np.stack([self.low / factor, self.high / factor])
        low, high = ends.min(axis=0), ends.max(axis=0)
        return UNLIMITED if np.isnan(ends).any() else Reach(float(low.min()), float(high.max()))


UNLIMITED = Reach()

NOTHING = Reach(math.inf, -math.inf)
"""Of what nobody reads."""


def within(whole: Range, reach: Reach) -> Range:
    """A range without what is beyond a reach, where that is infinite or most of it."""
    low, high = whole
    raised = max(low, reach.low), max(high, reach.low)
    if not math.isfinite(low) or width(whole) >= WORTH * width(raised):
        low, high = raised
    lowered = min(low, reach.high), min(high, reach.high)
    if not math.isfinite(high) or width((low, high)) >= WORTH * width(lowered):
        low, high = lowered
    return low, high


def width(found: Range) -> float:
    """How much of the number line a range covers together with 0."""
    return max(found[1], 0.0) - min(found[0], 0.0)


STEPS = 255
"""Steps of an int8 scale."""


def is_drowned(widths: Sequence[tuple[bool, float]]) -> bool:
    """Whether a constant's scale leaves computed values, of `(is constant, width)`, a step or less.

    So does a mask of -1e9 that no softmax or comparison reads.
    """
    constants, computed = ([w for c, w in widths if c is wanted] for wanted in (True, False))
    return max(constants, default=0.0) > STEPS * max(computed, default=0.0) > 0.0


def negligible(shape: Sequence[int]) -> float:
    """How far below another exponents are that change no 8-bit result, a row of them together."""
    return math.log(2 * (STEPS + 1) * max(shape[-1:], default=1))


def ends_of(data: FloatArray) -> Range:
    """Lowest and highest value of a constant; infinite where one stands for infinity."""
    if not data.size:
        return 0.0, 0.0
    low, high = (float(f.reduce(data, axis=None)) for f in (np.fmin, np.fmax))  # NaN aside
    beyond = beyond_of(data)
    return -math.inf if beyond.low else low, math.inf if beyond.high else high


def beyond_of(data: FloatArray) -> Beyond:
    """Values of a constant beside finite ones."""
    bound = STAND_IN_FOR_INFINITY
    return Beyond(
        bool((data <= -bound).any()), bool((data >= bound).any()), bool(np.isnan(data).any())
    )


def finite_ends_of(data: FloatArray) -> Range:
    """Lowest and highest finite value of a constant; 0 where there is none."""
    values = data[np.abs(data) < STAND_IN_FOR_INFINITY]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


FLAT = 0.25
"""Steps of a result's integers by which it may differ throughout an end that counts as flat."""

BEYOND = 2.0
"""Ends are looked at up to so many times what samples have shown."""

POINTS = 1025
"""Numbers that a function is looked at with."""

MOST_FUNCTIONS = 12
"""Ops of a function that is followed; others are longer than any activation."""

Function = Callable[..., FloatArray]


def _gelu(x: FloatArray) -> FloatArray:
    """Of both of its forms, which differ by less than a thousandth."""
    found: FloatArray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


ACTIVATIONS: Mapping[str, Function] = {
    "NONE": lambda x: x,
    "RELU": lambda x: np.maximum(x, 0),
    "RELU6": lambda x: np.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
}
"""What an op does to its result before it puts it out."""

FUNCTIONS: Mapping[str, Function] = {
    **{name: function for name, function in ACTIVATIONS.items() if name != "NONE"},
    "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "GELU": _gelu,
    "ELU": lambda x: np.maximum(x, 0) + np.expm1(np.minimum(x, 0)),
    "LOGISTIC": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "TANH": np.tanh,
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "MINIMUM": np.minimum,
    "MAXIMUM": np.maximum,
}
"""Ops that activations are made of, as functions of what they read."""


class FlatEnds:
    """Limits beyond which all that is computed of a tensor stays within its integers' steps.

    Args:
        graph: Of the float model.
        seen: Lowest and highest value of a computed tensor that matter; None where not known.
    """

    def __init__(self, graph: Graph, seen: Callable[[int], Range | None]) -> None:
        self._graph = graph
        self._seen = seen

    def of(self, tensor: int) -> Reach:
        """Of a computed tensor; all where nothing can be left out, or nothing is read of it."""
        found = self._all.get(tensor, UNLIMITED)
        return found if found.low < found.high else UNLIMITED

    @functools.cached_property
    def _all(self) -> Mapping[int, Reach]:
        """Of every computed tensor, the last first: a sum needs to know that of its result."""
        found: dict[int, Reach] = {}
        for op in reversed(self._graph.operators):
            for tensor in op.outputs:
                if self._graph.tensors[tensor].dtype == "float32":
                    found[tensor] = self._limits(tensor, found)
        return found

    def _limits(self, tensor: int, behind: Mapping[int, Reach]) -> Reach:
        """Of one tensor, where they are known of all behind it."""
        seen = self._seen(tensor)
        if seen is None or not all(map(math.isfinite, seen)):
            return UNLIMITED
        grid = np.linspace(BEYOND * min(seen[0], 0.0), BEYOND * max(seen[1], 0.0), POINTS)
        known, told = self._made_of(tensor, grid, behind)
        limits = told.pop(tensor, NOTHING)
        for made, reach in sorted(told.items()):
            if reach.low >= reach.high:
                continue
            most = FLAT * width(self._seen(made) or (0.0, 0.0)) / STEPS
            if limits == UNLIMITED or not most > 0 or not np.isfinite(known[made]).all():
                return UNLIMITED
            values = np.minimum(np.maximum(known[made], reach.low), reach.high)
            first, last = (_flat(one, most) for one in (values, values[::-1]))
            limits = limits.union(Reach(float(grid[first]), float(grid[len(grid) - 1 - last])))
        return limits

    def _made_of(
        self, tensor: int, grid: FloatArray, behind: Mapping[int, Reach]
    ) -> tuple[Mapping[int, FloatArray], dict[int, Reach]]:
        """Functions of a tensor, as `(points, channels)`, and what other ops tell apart of them.

        The tensor itself is one of them.
        """
        graph = self._graph
        known = {tensor: grid[:, np.newaxis]}
        told = {tensor: UNLIMITED} if tensor in graph.outputs else {}
        waiting = {op.index for op, _ in graph.uses.get(tensor, ())}
        while waiting and told.get(tensor) != UNLIMITED:
            op = graph.operators[min(waiting)]
            waiting.remove(op.index)
            found = _applied(graph, op, known)
            if found is None:
                for slot, read in enumerate(op.inputs):
                    if read in known:
                        reach = self._operand(op, slot, behind)
                        told[read] = told.get(read, NOTHING).union(reach)
                continue
            (output,) = op.outputs
            known[output] = found
            if len(known) > MOST_FUNCTIONS:
                told[tensor] = UNLIMITED
            if output in graph.outputs:
                told[output] = UNLIMITED
            waiting |= {reader.index for reader, _ in graph.uses.get(output, ())}
        return known, told

    def _operand(self, op: Operator, slot: int, behind: Mapping[int, Reach]) -> Reach:
        """What an op tells apart of an operand that it moves, or adds to another in a range."""
        results = [behind.get(output, UNLIMITED) for output in op.outputs]
        if holds(op.name) in MOVED:
            return functools.reduce(Reach.union, results, NOTHING)
        if op.name not in ("ADD", "SUB") or op.fused_activation not in ACTIVATIONS:
            return UNLIMITED
        other = self._graph.tensors[op.inputs[1 - slot]]
        found = self._seen(other.index) if other.data is None else ends_of(other.data)
        if found is None or not all(map(math.isfinite, found)):
            return UNLIMITED
        reach = results[0].through(ACTIVATIONS[op.fused_activation])
        if op.name == "ADD":
            return reach.minus(found)
        if slot == 0:
            return reach.minus((-found[1], -found[0]))
        return Reach(found[0] - reach.high, found[1] - reach.low)


def _flat(values: FloatArray, most: float) -> int:
    """The last of `(points, channels)` that all before it differ from by so much at most."""
    above = np.maximum.accumulate(values) - values
    below = values - np.minimum.accumulate(values)
    differs = np.maximum(above, below).max(axis=1) > most
    return int(np.argmax(differs)) - 1 if differs.any() else len(values) - 1


def _applied(graph: Graph, op: Operator, known: Mapping[int, FloatArray]) -> FloatArray | None:
    """What an op makes of known values; None where that is not said by them and constants.

    Moved values meet others than those that they were made of, so they are not known.
    """
    read = [known.get(t) for t in op.inputs]
    if op.name not in FUNCTIONS or op.fused_activation not in ACTIVATIONS:
        return None
    channels = graph.tensors[op.outputs[0]].shape[-1:]
    for place, tensor in enumerate(op.inputs):
        if read[place] is None:
            read[place] = _constant(graph, tensor, channels)
    if any(one is None for one in read):
        return None
    with np.errstate(all="ignore"):
        return ACTIVATIONS[op.fused_activation](FUNCTIONS[op.name](*read))


def _constant(graph: Graph, tensor: int, channels: Sequence[int]) -> FloatArray | None:
    """A constant of one number, or one for each channel, as `(1, channels)`."""
    data = graph.tensors[tensor].data if tensor >= 0 else None
    if data is None or data.dtype != np.float32 or (data.size != 1 and data.shape[-1:] != channels):
        return None
    return data.reshape(1, -1) if data.size in (1, *channels) else None
