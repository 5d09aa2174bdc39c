"""Places that are looked up, and what a sine reads: they stay exact in int8 models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_op import INT32, OneOp, Step, Value

import edgeq
from edgeq.export.plan.exact_numbers import (
    BECOMES_INTEGERS,
    IS_AN_ANGLE,
    IS_COMPARED,
    exact_ops,
    is_whole,
)
from edgeq.model import LiteModel

X = Value((1, 64), low=0, high=23)


def real(name: str, *operands: object, to: str) -> Step:
    return Step(name, operands, {to: Value(X.shape)})  # type: ignore[arg-type]


def number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def cast(source: str) -> Step:
    options = {"outDataType": INT32}
    return Step("CAST", (source,), {"place": Value(X.shape, "int32")}, options)


CLAMPED = (
    real("FLOOR", "x", to="whole"),
    real("MAXIMUM", "whole", number(0), to="raised"),
    real("MINIMUM", "raised", number(19), to="row"),
    real("MUL", "row", number(20), to="rows"),
    real("ADD", "rows", "row", to="both"),
    cast("both"),
)
"""`row * 20 + row` of `floor(x)` within the picture, as a grid sample computes it."""


def left_float(edge: edgeq.EdgeModel, why: str) -> set[str]:
    return {place.split()[0] for place, said in edge.report.float_ops.items() if said == why}


@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_places_are_exact_in_an_int8_model(recipe: str) -> None:
    case = OneOp("places", {"x": X}, CLAMPED)
    edge = edgeq.export(
        case.build(), case.draw(20), recipe=recipe, min_sqnr_db=None, progress=False
    )
    assert "MINIMUM" in {op.name for op in edge.rewritten.graph.operators}
    with edge.session() as session:
        for sample in case.draw(30)[20:]:
            rows, rest = np.divmod(session.run(sample)["place"], 21)
            assert not rest.any()
            assert np.abs(rows - np.clip(np.floor(sample["x"]), 0, 19)).max() <= 1
    if recipe == "int8":
        assert left_float(edge, BECOMES_INTEGERS) >= {"MINIMUM", "MUL", "ADD"}


@pytest.mark.parametrize(
    ("steps", "whole", "integers"),
    [
        (CLAMPED, True, 5),
        ((real("MUL", "x", number(8), to="real"), cast("real")), False, 0),
        ((real("FLOOR", "x", to="a"), real("MUL", "a", number(0.5), to="b"), cast("b")), False, 0),
        ((real("ROUND", "x", to="a"), real("MUL", "a", number(0.5), to="b")), False, 0),
    ],
    ids=["clamped", "real", "halves", "not cast"],
)
def test_what_is_whole_and_becomes_an_integer(
    steps: tuple[Step, ...], whole: bool, integers: int
) -> None:
    graph = LiteModel(OneOp("case", {"x": X}, steps).build(), "tflite").graph
    last = graph.operators[-1]
    read = last.inputs[0] if last.name == "CAST" else last.outputs[0]
    assert is_whole(graph, read) == whole
    assert list(exact_ops(graph).values()) == [BECOMES_INTEGERS] * integers


def is_below(source: str, limit: float) -> Step:
    return Step("LESS", (source, number(limit)), {"below": Value(X.shape, "bool")})


def test_whole_numbers_are_compared_as_they_are() -> None:
    """In int8 the 19 of a place is 18.98, and so in the picture."""
    steps = (
        real("FLOOR", "x", to="place"),
        real("ADD", "place", number(1), to="next"),
        is_below("next", 19),
    )
    case = OneOp("inside", {"x": X}, steps)
    assert set(exact_ops(LiteModel(case.build(), "tflite").graph).values()) == {IS_COMPARED}
    edge = edgeq.export(case.build(), case.draw(20), recipe="int8", progress=False)
    assert left_float(edge, IS_COMPARED) == {"ADD", "LESS"}
    step = 0.1  # of x in int8, which may be the next whole number
    with edge.session() as session:
        for sample in case.draw(30)[20:]:
            is_sure = np.abs(sample["x"] - np.rint(sample["x"])) > step
            below = session.run(sample)["below"]
            assert np.array_equal(below[is_sure], np.floor(sample["x"][is_sure]) + 1 < 19)


class TimeStep(torch.nn.Module):
    """A network that is told a time up to a thousand as its sines, as diffusion models are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 8)
        )
        self.register_buffer("frequencies", torch.exp(-torch.arange(8.0)))

    def forward(self, time: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        angles = time[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], 1)) + x


def test_angles_are_exact_in_an_int8_model() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    data = [
        (np.float32([random.integers(1000)]), random.normal(size=(1, 8)).astype(np.float32) / 8)
        for _ in range(40)
    ]
    edge = edgeq.export(TimeStep().eval(), data, recipe="int8", progress=False)
    assert edge.report.sqnr_db > 30  # 12 dB where angles have a step of 4
    assert left_float(edge, IS_AN_ANGLE) == {"MUL", "RESHAPE"}
