"""The main job on the bundled trained model and real images, as `edgeq demo` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq import EdgeModel, demo
from edgeq.demo.run_demo import model_accuracy, run_demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def made(folder: Path) -> EdgeModel:
    return run_demo(folder)


def test_it_exports_the_module_where_torch_is_installed(made: EdgeModel) -> None:
    pytest.importorskip("litert_torch")
    assert made.float_model.origin == "pytorch"
    layers = {made.float_model.layer(op) for op in made.float_model.graph.operators}
    assert "classifier" in layers


def test_accuracy_stays_within_half_a_point(made: EdgeModel) -> None:
    data = demo.load_data()
    before = model_accuracy(made.float_model.tflite, data)
    after = model_accuracy(made.tflite, data)
    assert before > 0.90
    assert abs(after - before) <= 0.005


def test_it_is_small_whole_and_on_the_delegate(made: EdgeModel) -> None:
    report = made.report
    assert report.size_ratio <= 0.30
    assert report.float_ops == {}
    assert "float32" not in report.op_counts
    assert (report.partitions, report.delegated_ops) == (1, report.total_ops)
    assert report.independent


def test_it_leaves_the_model_and_the_report(made: EdgeModel, folder: Path) -> None:
    assert (folder / "model.tflite").read_bytes() == made.tflite
    assert json.loads((folder / "report.json").read_text())["edge_bytes"] == len(made.tflite)
    assert "XNNPACK" in (folder / "report.txt").read_text()


def test_the_bundled_float_file_gives_the_same_answers_as_the_module(made: EdgeModel) -> None:
    pytest.importorskip("litert_torch")
    data = demo.load_data()
    bundled = model_accuracy(demo.float_model_path().read_bytes(), data)
    assert bundled == model_accuracy(made.float_model.tflite, data)
