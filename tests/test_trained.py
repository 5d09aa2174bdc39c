"""Really trained models keep their tasks through an export, and the numbers are shown."""

from __future__ import annotations

import cases
import packages
import pytest
import tables
from cases import Case

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.runtime.session import Session

# Those that are exported within seconds; `scripts/bench fidelity` has them all.
CHEAP = ["fmnist"]
# A sound, a regression and a super-resolution network, which the same search decides on.
DEARER = ["crepe_tiny", "onet", "onet_landmarks", "esrgan_slim"]


def _load(name: str) -> Case:
    try:
        return cases.load(name)
    except packages.Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "name", [*CHEAP, *(pytest.param(name, marks=pytest.mark.slow) for name in DEARER)]
)
def test_auto_stays_within_one_point_of_float(name: str) -> None:
    case = _load(name)
    made = edgeq.export(case.model, case.representative, recipe="auto")
    before, after = _compared(made, case)
    assert case.points_lost(before, after) <= 1.0
    assert made.report.size_ratio < 0.6


@pytest.mark.parametrize(
    ("name", "float_floor", "floor", "sqnr_floor_db"),
    [
        ("fmnist", 93, 92, 30.0),
        pytest.param("mnv2_cifar10", 78, 60, 5.0, marks=pytest.mark.slow),
    ],
)
def test_int8_export_keeps_the_task(
    name: str, float_floor: float, floor: float, sqnr_floor_db: float
) -> None:
    case = _load(name)
    made = edgeq.export(case.model, case.representative, recipe="int8")
    before, after = _compared(made, case)
    assert not made.report.float_ops
    assert before >= float_floor
    assert after > floor
    assert made.report.sqnr_db > sqnr_floor_db
    assert made.report.size_ratio <= 0.30


def _compared(made: EdgeModel, case: Case) -> tuple[float, float]:
    """The metric before and after, which the table shows as well."""
    before, after = _metric(made.float_model.tflite, case), _metric(made.tflite, case)
    tables.add_row(
        "trained models",
        {
            "model": f"{case.name}, {made.report.recipe}",
            "metric": case.metric_name,
            "float": before,
            "exported": after,
            "points lost": case.points_lost(before, after),
            "SQNR dB": made.report.sqnr_db,
            "size ratio": made.report.size_ratio,
            "latency ratio": made.report.latency_ratio,
        },
    )
    return before, after


def _metric(tflite: bytes, case: Case) -> float:
    with Session(tflite) as session:
        outputs = [tuple(session.run(sample).values()) for sample in case.evaluation]
    return case.metric(outputs)
