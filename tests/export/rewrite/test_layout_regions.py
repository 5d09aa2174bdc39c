"""Ops between changes of layout: computed in front of them, with the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

from edgeq.export.rewrite import rewrite
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def ints(*values: Any) -> Array:
    return np.asarray(values, np.int32)


def outputs(model: LiteModel, values: Array) -> list[Array]:
    with Session(model.tflite) as session:
        session.invoke((values,))
        return [np.array(found) for found in session.outputs()]


def layout_ops(model: LiteModel) -> int:
    return sum(op.name in ("RESHAPE", "TRANSPOSE") for op in model.graph.operators)


class Drawn:
    """A random graph: an op, a change of layout, ops of each kind behind it, and back again."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        sizes = [int(d) for d in self._random.choice([1, 1, 3, 4, 5], 4)]
        self.drops = bool(self._random.integers(2))  # by a RESHAPE, which keeps the order
        if self.drops:  # another of size 1 beside it could as well be the one
            sizes = [max(2, size) for size in sizes]
            self.gone = int(self._random.integers(4))
            sizes[self.gone] = 1
        self.source: Shape = tuple(sizes)
        self.steps = [Step("TANH", ("x",), {"t": Value(self.source)})]
        self.name, self.now = "t", self.source
        order = tuple(int(a) for a in self._random.permutation(4))
        moved = [axis for axis in order if self.source[axis] != 1]
        self.turns = moved != sorted(moved)  # else a RESHAPE does the same, and nothing is won
        self._transpose(order)
        if self.drops:
            place = order.index(self.gone)
            self._reshape([d for axis, d in enumerate(self.now) if axis != place])
        for kind in self._random.permutation(["pad", "slice", "join", "shift", "swish"]):
            getattr(self, f"_{kind}")()
        if self.drops:
            self._reshape([*self.now[:place], 1, *self.now[place:]])
        self._transpose(tuple(int(a) for a in np.argsort(order)))
        self._add("EXP", (self.name,), self.now)

    def _transpose(self, order: Shape) -> None:
        self._add("TRANSPOSE", (self.name, ints(*order)), tuple(self.now[a] for a in order))

    def _reshape(self, shape: list[int]) -> None:
        self._add("RESHAPE", (self.name, ints(*shape)), tuple(shape))

    def _add(self, op: str, operands: tuple[Any, ...], shape: Shape, **options: Any) -> None:
        self.name, self.now = f"y{len(self.steps)}", shape
        self.steps.append(Step(op, operands, {self.name: Value(shape)}, options))

    def _axis(self) -> int:
        return int(self._random.integers(len(self.now)))

    def _grown(self, axis: int, by: int) -> Shape:
        return tuple(d + by * (a == axis) for a, d in enumerate(self.now))

    def _pad(self) -> None:
        margins, axis = np.zeros((len(self.now), 2), np.int32), self._axis()
        margins[axis] = 2, 1
        self._add("PAD", (self.name, margins), self._grown(axis, 3))

    def _slice(self) -> None:
        axis = int(np.argmax(self.now))
        begin = np.eye(len(self.now), dtype=np.int32)[axis]
        size = self._grown(axis, -1)
        self._add("SLICE", (self.name, begin, ints(*size)), size)

    def _join(self) -> None:
        axis = self._axis()
        shape = tuple(d * (1 + (a == axis)) for a, d in enumerate(self.now))
        self._add("CONCATENATION", (self.name, self.name), shape, axis=axis)

    def _swish(self) -> None:
        kept = self.name
        self._add("LOGISTIC", (self.name,), self.now)
        self._add("MUL", (kept, self.name), self.now)

    def _shift(self) -> None:
        keeps = self._random.integers(2, size=len(self.now))
        shape = tuple(d if keep else 1 for d, keep in zip(self.now, keeps, strict=True))
        value = self._random.normal(size=shape).astype(np.float32)
        self._add("ADD", (self.name, value), self.now)

    def model(self) -> LiteModel:
        case = OneOp("drawn", {"x": Value(self.source)}, tuple(self.steps))
        return LiteModel(case.build(), "tflite")


@pytest.mark.parametrize("seed", range(40))
def test_ops_are_carried_with_the_same_numbers(seed: int) -> None:
    drawn = Drawn(seed)
    before = drawn.model()
    after = rewrite(before)
    assert [note for note in after.notes if "rewrite" in note] == []
    assert layout_ops(after) == 0 or not drawn.turns
    values = np.random.default_rng(seed).normal(size=drawn.source).astype(np.float32)
    for expected, found in zip(outputs(before, values), outputs(after, values), strict=True):
        assert np.array_equal(expected, found)


def test_a_change_that_others_need_once_stays() -> None:
    """Three parts of one transposed tensor, as attention takes them: three changes are not less."""
    moved, part = Value((3, 8, 4)), Value((1, 8, 4))
    steps = [Step("TRANSPOSE", ("x", ints(1, 0, 2)), {"m": moved})]
    for i in range(3):
        steps.append(Step("SLICE", ("m", ints(i, 0, 0), ints(1, 8, 4)), {f"y{i}": part}))
    model = LiteModel(OneOp("parts", {"x": Value((8, 3, 4))}, tuple(steps)).build(), "tflite")
    assert layout_ops(rewrite(model)) == 1


def test_a_long_chain_is_carried_in_a_few_passes() -> None:
    """As many sums as a deep network has; each pass parses the file anew."""
    shape, back = Value((1, 4, 8)), ints(0, 2, 1)
    steps = [
        Step("TANH", ("x",), {"t": Value((1, 8, 4))}),
        Step("TRANSPOSE", ("t", back), {"y0": shape}),
    ]
    for i in range(150):
        kind = ("TANH", "ADD")[i % 2]
        read = (f"y{i}",) if kind == "TANH" else (f"y{i}", f"y{i - 1}")
        steps.append(Step(kind, read, {f"y{i + 1}": shape}))
    steps.append(Step("TRANSPOSE", ("y150", back), {"z": Value((1, 8, 4))}))
    model = LiteModel(OneOp("deep", {"x": Value((1, 8, 4))}, tuple(steps)).build(), "tflite")
    assert layout_ops(rewrite(model)) == 0
