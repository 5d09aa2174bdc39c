"""Places that are computed in float and looked up: they stay exact in int8 models."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import INT32, OneOp, Step, Value

import edgeq
from edgeq.export.plan.whole_numbers import WHY, become_integers, is_whole
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
        exact = {place.split()[0] for place, why in edge.report.float_ops.items() if why == WHY}
        assert exact >= {"MINIMUM", "MUL", "ADD"}


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
    assert len(become_integers(graph)) == integers
