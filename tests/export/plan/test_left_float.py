"""Ops that stay float where they may: too coarse a scale of their kernel, or a detour to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.export.edge_model import EdgeModel


def shares_of(count: int) -> OneOp:
    """A softmax of so many numbers, which something in integers reads."""
    row = Value((1, count), low=-1.0, high=1.0)
    shares = Step("SOFTMAX", ("x",), {"shares": row}, {"beta": 1.0})
    product = Step("MUL", ("shares", "y"), {"product": row})
    return OneOp("shares", {"x": row, "y": row}, (shares, product))


def exported(count: int, **options: Any) -> EdgeModel:
    case = shares_of(count)
    return edgeq.export(
        case.build(), case.draw(40), recipe="int8", min_sqnr_db=None, progress=False, **options
    )


def test_a_softmax_of_small_shares_is_float_and_its_reader_gets_a_scale_that_fits() -> None:
    edge = exported(1000, target="portable", strict=False)
    ((place, why),) = edge.report.float_ops.items()
    assert place.startswith("SOFTMAX")
    assert "the scale that its kernel dictates leaves" in why
    assert edge.report.sqnr_db > 35.0


def test_a_softmax_of_large_shares_is_an_integer_op() -> None:
    assert exported(10, target="portable", strict=False).report.float_ops == {}


DENSE = {"keepNumDims": True}


@pytest.mark.parametrize("name", ["GELU", "SOFTMAX"])
@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_an_op_outside_the_delegate_in_int8_is_float_inside_it(name: str, recipe: str) -> None:
    """Between dense layers of 64 channels, whose results are integers: 0.8 of the time."""
    rows = Value((1, 64, 64))
    weights = [np.random.default_rng(i).normal(0, 0.2, (64, 64)).astype("f4") for i in range(2)]
    options = {"beta": 1.0} if name == "SOFTMAX" else {"approximate": False}
    steps = (
        Step("FULLY_CONNECTED", ("x", weights[0]), {"d": rows}, DENSE),
        Step(name, ("d",), {"a": rows}, options),
        Step("FULLY_CONNECTED", ("a", weights[1]), {"y": rows}, DENSE),
    )
    case = OneOp("detour", {"x": rows}, steps)
    edge = edgeq.export(case.build(), case.draw(30), recipe=recipe, progress=False)
    assert edge.report.to_dict()["partitions"] == 1
    if recipe == "int8":
        ((place, why),) = edge.report.float_ops.items()
        assert place.startswith(name)
        assert why.startswith("the delegate has it in float alone")
    strict = edgeq.export(case.build(), case.draw(30), recipe="int8", strict=True, progress=False)
    assert strict.report.float_ops == {}


def test_a_softmax_of_short_rows_is_faster_outside() -> None:
    rows = Value((1, 256, 4))
    weights = np.eye(4, dtype="f4") * 3
    steps = (
        Step("FULLY_CONNECTED", ("x", weights), {"d": rows}, DENSE),
        Step("SOFTMAX", ("d",), {"a": rows}, {"beta": 1.0}),
        Step("FULLY_CONNECTED", ("a", weights), {"y": rows}, DENSE),
    )
    case = OneOp("detour", {"x": rows}, steps)
    edge = edgeq.export(case.build(), case.draw(30), recipe="int8", progress=False)
    assert edge.report.float_ops == {}


@pytest.mark.parametrize("options", [{"strict": True}, {"target": "portable"}])
def test_what_must_be_integers_is(options: dict[str, Any]) -> None:
    assert exported(1000, **options).report.float_ops == {}
