"""Tensors whose integers ruin the outputs: what is around them is float, where it may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.export.edge_model import EdgeModel

ROWS, WIDTH = 24, 32
AXES = np.array([2], np.int32)


def normalised(loud: float) -> OneOp:
    """Rows, of which one is so many times as loud, normalised and multiplied with a weight."""
    rows, row = Value((1, ROWS, WIDTH)), Value((1, ROWS, 1))
    factors = np.ones((1, ROWS, 1), np.float32)
    factors[0, 0] = loud
    weight = np.random.default_rng(3).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    keep = {"keepDims": True}
    steps = (
        Step("MUL", ("x", factors), {"uneven": rows}),
        Step("FULLY_CONNECTED", ("uneven", weight), {"made": rows}, {"keepNumDims": True}),
        Step("MEAN", ("made", AXES), {"middle": row}, keep),
        Step("SUB", ("made", "middle"), {"centred": rows}),
        Step("MUL", ("centred", "centred"), {"squares": rows}),
        Step("MEAN", ("squares", AXES), {"variance": row}, keep),
        Step("RSQRT", ("variance",), {"factor": row}),
        Step("MUL", ("centred", "factor"), {"even": rows}),
        Step("FULLY_CONNECTED", ("even", weight), {"y": rows}, {"keepNumDims": True}),
    )  # fmt: skip
    return OneOp("normalised", {"x": rows}, steps)


def exported(loud: float, **options: Any) -> EdgeModel:
    case = normalised(loud)
    return edgeq.export(
        case.build(), case.draw(40), recipe="int8", min_sqnr_db=None, progress=False, **options
    )


def test_what_a_few_loud_rows_leave_no_integers_to_is_float() -> None:
    report = exported(200.0).report
    assert {place.split()[0] for place in report.float_ops} == {"MUL", "MEAN", "SUB", "RSQRT"}
    assert any("'uneven' rounded to integers for" in why for why in report.float_ops.values())
    assert report.sqnr_db > 30.0


def test_weights_beside_such_tensors_stay_integers() -> None:
    report = exported(200.0).report
    (place,) = report.remarks
    assert place.startswith("FULLY_CONNECTED")
    assert report.op_counts["float32 with int8 weights"] == 1
    assert report.op_counts["int8"] >= 1


def test_even_rows_are_integers() -> None:
    assert exported(1.0).report.float_ops == {}


@pytest.mark.parametrize("options", [{"strict": True}, {"target": "portable"}])
def test_what_must_be_integers_is(options: dict[str, Any]) -> None:
    assert exported(200.0, **options).report.float_ops == {}


def read_unevenly(weight_of_loud: float) -> OneOp:
    """Two layers, the first of which multiplies the first number of each row with this."""
    rows = Value((1, ROWS, WIDTH))
    first, second = np.random.default_rng(4).normal(size=(2, WIDTH, WIDTH)).astype(np.float32)
    first[:, 0] = weight_of_loud * np.sign(first[:, 0])
    steps = (
        Step("FULLY_CONNECTED", ("x", first), {"made": rows}, {"keepNumDims": True}),
        Step("TANH", ("made",), {"between": rows}),
        Step("FULLY_CONNECTED", ("between", second), {"y": rows}, {"keepNumDims": True}),
    )  # fmt: skip
    return OneOp("uneven", {"x": rows}, steps)


@pytest.mark.parametrize(
    ("weight_of_loud", "count", "why"),
    [
        (0.0, "dequantize of weights", "a scale for each row"),
        (0.001, "float32", "integers of its weight"),
    ],
)
def test_numbers_in_a_row_that_its_scale_does_not_hold(
    weight_of_loud: float, count: str, why: str
) -> None:
    case = read_unevenly(weight_of_loud)
    loud = np.where(np.arange(WIDTH) == 0, np.float32(1000), np.float32(1))
    data = [{"x": sample["x"] * loud} for sample in case.draw(40)]
    edge = edgeq.export(case.build(), data, recipe="int8", progress=False)
    told = {**edge.report.float_ops, **edge.report.remarks}
    (reason,) = (r for place, r in told.items() if place.startswith("FULLY_CONNECTED"))
    assert why in reason
    assert edge.report.op_counts[count] >= 1
    assert edge.report.sqnr_db > 30.0
