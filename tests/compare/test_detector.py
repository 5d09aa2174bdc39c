"""A detector of the YOLO kind: boxes in pixels and scores in one output, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_op import OneOp, Step, Value
from typer.testing import CliRunner

import edgeq
from edgeq.cli import app

CLASSES, FEATURES = 5, 12


def detector() -> bytes:
    """Features `(1, 12)` become `(1, 9)`: four box sides up to 320 over five class scores."""
    generator = np.random.default_rng(0)

    def dense(source: str, name: str, rows: int, low: float, spread: float) -> Step:
        weight = generator.normal(0, spread, (rows, FEATURES)).astype(np.float32)
        bias = np.full(rows, low, np.float32)
        return Step("FULLY_CONNECTED", (source, weight, bias), {name: Value((1, rows))}, {})

    sides, scores = Value((1, 4)), Value((1, CLASSES))
    steps = (
        dense("x", "raw_sides", 4, 0.0, 0.5),
        dense("x", "raw_scores", CLASSES, -3.0, 0.3),
        Step("LOGISTIC", ("raw_sides",), {"shares": sides}, {}),
        Step("MUL", ("shares", np.float32([320.0])), {"sides": sides}, {}),
        Step("LOGISTIC", ("raw_scores",), {"scores": scores}, {}),
        Step("CONCATENATION", ("sides", "scores"), {"y": Value((1, 4 + CLASSES))}, {"axis": 1}),
    )
    return OneOp("detector", {"x": Value((1, FEATURES))}, steps).build()


FEATURE_ROWS = np.random.default_rng(1).normal(0, 1, (80, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def blind() -> edgeq.EdgeModel:
    """The detector in int8 throughout, whose scores the scale of the boxes takes away."""
    return edgeq.export(detector(), FEATURE_ROWS, recipe="int8", min_sqnr_db=None, progress=False)


def test_auto_keeps_the_scores() -> None:
    edge_model = edgeq.export(detector(), FEATURE_ROWS, progress=False)
    assert edge_model.report.sqnr_db > 20
    (output,) = edge_model.report.outputs
    assert [part.where for part in output.parts] == [
        "rows 4 to 8 of axis 1",
        "rows 0 to 3 of axis 1",
    ]
    with edge_model.session() as session, edgeq.runtime.Session(detector()) as floats:
        for row in np.random.default_rng(2).normal(0, 1, (20, 1, FEATURES)).astype(np.float32):
            (expected,), (found,) = floats.run(row).values(), session.run(row).values()
            assert np.abs(expected[:, 4:] - found[:, 4:]).max() < 0.05


def test_int8_throughout_is_refused_with_the_part_and_the_way_out() -> None:
    with pytest.raises(edgeq.VerificationError) as refused:
        edgeq.export(detector(), FEATURE_ROWS, recipe="int8", strict=True, progress=False)
    said = str(refused.value)
    assert "output 'y', rows 4 to 8 of axis 1" in said
    assert "as separate outputs" in said
    assert "min_sqnr_db=None" in said


def test_int8_leaves_the_join_float_where_it_may() -> None:
    edge_model = edgeq.export(detector(), FEATURE_ROWS, recipe="int8", progress=False)
    assert list(edge_model.report.float_ops) == ["CONCATENATION at y (op 5)"]
    assert edge_model.report.outputs[0].least_db > 20
    assert any("a plan was dropped: output 'y', rows 4" in n for n in edge_model.report.notes)


def test_the_report_and_the_comparison_name_the_part_though_the_whole_looks_well(
    blind: edgeq.EdgeModel,
) -> None:
    (output,) = blind.report.outputs
    assert output.sqnr_db > 30
    assert blind.report.sqnr_db < 15
    assert any("rows 4 to 8 of axis 1" in warning for warning in blind.report.warnings())
    found = edgeq.compare(detector(), blind, FEATURE_ROWS, progress=False)
    assert found.sqnr_db < 15
    assert "worst part: output 'y', rows 4 to 8 of axis 1" in " ".join(found.text().split())


def test_check_fails_for_it(blind: edgeq.EdgeModel, tmp_path: Path) -> None:
    for name, content in (("float", detector()), ("edge", blind.tflite)):
        (tmp_path / f"{name}.tflite").write_bytes(content)
    np.save(tmp_path / "data.npy", FEATURE_ROWS)
    arguments = ["check", str(tmp_path / "float.tflite"), str(tmp_path / "edge.tflite"),
                 "--data", str(tmp_path / "data.npy"), "--min-sqnr-db", "20"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "rows 4 to 8 of axis 1" in " ".join(result.output.split())
