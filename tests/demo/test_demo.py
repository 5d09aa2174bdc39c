"""The main job on the bundled trained model and real images, as a user starts `edgeq demo`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import process

from edgeq import demo
from edgeq.data.rep_dataset import RepDataset
from edgeq.demo.run_demo import model_accuracy
from edgeq.export.frontends import trace
from edgeq.isolation import Worker
from edgeq.model import LiteModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """The finished command, on a processor for which TensorFlow has much to say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
        yield process("demo", "-o", folder)


@pytest.fixture(scope="module")
def report(done: object, folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def from_module(converter: Worker) -> LiteModel:
    """The demo's PyTorch module as a float file."""
    pytest.importorskip("litert_torch")
    from edgeq.demo.network import load_network

    images = demo.load_data().calibration[:1]
    return trace(load_network(), images, RepDataset(images), converter)


def test_nothing_but_edgeq_speaks(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Exporting a Fashion-MNIST classifier (")


def test_accuracy_stays_within_half_a_point(done: object, folder: Path) -> None:
    data = demo.load_data()
    before = model_accuracy(demo.float_model_path().read_bytes(), data)
    after = model_accuracy((folder / "model.tflite").read_bytes(), data)
    assert before > 0.90
    assert abs(after - before) <= 0.005


def test_it_is_small_whole_and_on_the_delegate(report: dict[str, Any]) -> None:
    assert report["size_ratio"] <= 0.30
    assert report["float_ops"] == {}
    assert "float32" not in report["op_counts"]
    assert (report["partitions"], report["delegated_ops"]) == (1, report["total_ops"])
    assert report["independent"]


def test_it_leaves_the_model_and_the_report(report: dict[str, Any], folder: Path) -> None:
    assert report["edge_bytes"] == (folder / "model.tflite").stat().st_size
    assert "XNNPACK" in (folder / "report.txt").read_text()


def test_the_module_keeps_its_layer_names(from_module: LiteModel) -> None:
    assert from_module.origin == "pytorch"
    layers = {from_module.layer(op) for op in from_module.graph.operators}
    assert "classifier" in layers


def test_the_bundled_float_file_gives_the_same_answers_as_the_module(
    from_module: LiteModel,
) -> None:
    data = demo.load_data()
    bundled = model_accuracy(demo.float_model_path().read_bytes(), data)
    assert bundled == model_accuracy(from_module.tflite, data)
