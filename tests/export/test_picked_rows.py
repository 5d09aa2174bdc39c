"""Outputs whose rows are picked by scores: where others are picked, the report says so in words."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq

ROWS, SCORES = Value((40, 8)), Value((40,))


def detector(*, picks: bool) -> OneOp:
    """Rows in the order of nearly equal scores, or their squares in coarse int8."""
    scores = Step("MEAN", ("x", np.array([1], np.int32)), {"scores": SCORES})
    best = {"values": Value((10,)), "places": Value((10,), "int32")}
    pick = Step("TOPK_V2", ("scores", np.asarray(10, np.int32)), best)
    picked = Step("GATHER", ("x", "places"), {"y": Value((10, 8))})
    noise = Step("MUL", ("x", "x"), {"y": ROWS})
    return OneOp("detector", {"x": ROWS}, (scores, pick, picked) if picks else (noise,))


@pytest.mark.parametrize("picks", [True, False])
def test_other_rows_are_told_from_wrong_ones(picks: bool) -> None:
    case = detector(picks=picks)
    data = case.draw(20)
    for sample in data:
        sample["x"] *= np.float32(0.05 if not picks else 1.0)
        sample["x"][0] = 300.0 if not picks else sample["x"][0]
    made = edgeq.export(case.build(), data, recipe="int8", min_sqnr_db=None, progress=False)
    notes = [note for note in made.report.notes if "picked by the highest scores" in note]
    assert len(notes) == picks
    if picks:
        assert made.report.sqnr_db < 20
        assert "at GATHER" in notes[0]
