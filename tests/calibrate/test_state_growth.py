"""States that grow along sequences are told of, others are not."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq

ROWS = Value((1, 4))


def leaky(kept: float) -> bytes:
    """A state that keeps a share of itself at each step."""
    steps = (
        Step("MUL", ("state", np.asarray(kept, np.float32)), {"old": ROWS}),
        Step("ADD", ("old", "x"), {"new": ROWS}),
    )
    return OneOp("ADD", {"x": ROWS, "state": ROWS}, steps).build()


@pytest.mark.parametrize(("kept", "told"), [(1.0, 1), (0.5, 0)])
def test_a_sum_over_all_steps_is_told_of(kept: float, told: int) -> None:
    xs = np.abs(np.random.default_rng(0).normal(size=(12, 40, 4))).astype(np.float32)
    data = edgeq.Sequences(list(xs), {"state": "new"})
    report = edgeq.export(leaky(kept), data, recipe="int8", min_sqnr_db=None).report
    found = [note for note in report.notes if "still grows where the sequences end" in note]
    assert len(found) == told
    if told:
        assert "the state 'state'" in found[0]
        assert "give sequences as long as those in use" in found[0]
