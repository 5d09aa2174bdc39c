"""Kernels whose own scale is too coarse for what they compute: the op is float where it may be."""

from __future__ import annotations

from typing import Any

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
    edge = exported(1000)
    ((place, why),) = edge.report.float_ops.items()
    assert place.startswith("SOFTMAX")
    assert "the scale that its kernel dictates leaves" in why
    assert edge.report.sqnr_db > 35.0


def test_a_softmax_of_large_shares_is_an_integer_op() -> None:
    assert exported(10).report.float_ops == {}


@pytest.mark.parametrize("options", [{"strict": True}, {"target": "portable"}])
def test_what_must_be_integers_is(options: dict[str, Any]) -> None:
    assert exported(1000, **options).report.float_ops == {}
