"""What independent rounding noise leaves: as much as its power says, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import OneOp, Step, Value

from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.bound import noise_bound_db
from edgeq.export.plan.quantization_plan import Plan
from edgeq.model import LiteModel
from edgeq.qtypes import DType, QParams

ROWS, WIDTH = 64, 32
STEP = 0.25


def network() -> OneOp:
    """Two layers that turn rows."""
    random = np.random.default_rng(4)
    rows = Value((ROWS, WIDTH))
    turns = [np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0] for _ in range(2)]
    steps = tuple(
        Step("FULLY_CONNECTED", (source, turn.astype(np.float32)), {made: rows})
        for source, turn, made in zip("xa", turns, "ay", strict=True)
    )
    return OneOp("turns", {"x": rows}, steps)


MODEL = LiteModel(network().build(), "tflite")


def plan_of(*names: str) -> Plan:
    """A plan in which tensors of these names have steps of one size."""
    qparams = QParams(DType.INT8, (STEP,), (0,))
    return Plan({t.index: qparams for t in MODEL.graph.tensors if t.name in names}, {}, {})


def samples(values: float | None = None) -> list[Sample]:
    random = np.random.default_rng(5)
    if values is not None:
        return [(np.full((ROWS, WIDTH), values, np.float32),)] * 4
    return [(random.normal(size=(ROWS, WIDTH)).astype(np.float32),) for _ in range(8)]


@pytest.mark.parametrize("names", [("a",), ("x", "a"), ("x", "a", "y")])
def test_the_noise_of_tensors_adds_up(names: tuple[str, ...]) -> None:
    wanted = -10 * np.log10(len(names) * STEP**2 / 12)
    assert noise_bound_db(MODEL, plan_of(*names), samples()) == pytest.approx(wanted, abs=0.3)


def test_numbers_that_happen_to_be_on_the_grid_are_noisy_but_for_0() -> None:
    wanted = -10 * np.log10(STEP**2 / 12)
    found = noise_bound_db(MODEL, plan_of("x"), samples(4 * STEP))
    assert found == pytest.approx(wanted, abs=0.3)
    assert noise_bound_db(MODEL, plan_of("x"), samples(0.0)) is None


def test_nothing_static_has_no_bound() -> None:
    assert noise_bound_db(MODEL, plan_of(), samples()) is None
    assert noise_bound_db(MODEL, plan_of("x"), []) is None
