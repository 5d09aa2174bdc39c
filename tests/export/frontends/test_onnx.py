"""ONNX models become float models that compute what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_cases import draw, ints, model_of, whole
from onnx_quantized import qdq, sample, weight_scales

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, ModelError, UnsupportedOpError
from edgeq.export import frontends
from edgeq.export.frontends import onnx as front_end
from edgeq.isolation import Worker

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("litert_torch")

node = onnx.helper.make_node


def test_paths_bytes_and_models_are_known_by_what_they_are() -> None:
    model = qdq()
    assert front_end.handles("net.onnx")
    assert front_end.handles(Path("net.ONNX"))
    assert front_end.handles(model)
    assert front_end.handles(model.SerializeToString())
    assert not front_end.handles("net.tflite")
    assert not front_end.handles(b"\x1c\x00\x00\x00TFL3")


def test_a_quantized_model_keeps_its_scales_and_names(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(qdq(), path)
    data = [sample(seed) for seed in range(12)]
    made = edgeq.export(path, data, recipe="int8", progress=False)
    weight = next(
        q for name, q in made.float_model.given if name.startswith("conv/") and q.axis is not None
    )
    np.testing.assert_allclose(weight.scale, weight_scales())
    assert {"conv", "product"} <= {
        made.float_model.layer(op) for op in made.float_model.graph.operators
    }
    assert [name for name, _ in made.float_model.input_tensors()] == ["image"]


def test_what_does_not_fit_is_told_by_name() -> None:
    with Worker() as worker:
        for given, error, text in (
            ({"picture": sample()["image"]}, DataError, "its inputs are 'image'"),
            (draw(1, 3, 9, 9), DataError, r"takes the shape \(1, 3, 8, 8\). Received: \(1, 3, 9"),
        ):
            with pytest.raises(error, match=text):
                frontends.trace(qdq(), given, RepDataset([sample()]), worker)
        with pytest.raises(ModelError, match="no such file"):
            front_end.trace("missing.onnx", draw(1), worker)
        values = {"x": whole(6)}
        nodes = [node("NonZero", ["x"], ["y"], name="found")]
        with pytest.raises(UnsupportedOpError, match="NonZero at found needs its input 0"):
            front_end.trace(model_of(nodes, values, ["y"]), values, worker)
        nodes = [node("StringNormalizer", ["x"], ["y"], name="text")]
        with pytest.raises(UnsupportedOpError, match="StringNormalizer at text of opset 17"):
            front_end.trace(model_of(nodes, values, ["y"]), values, worker)
        damaged = b"\x08\x07 no protobuf"
        with pytest.raises(ModelError, match="damaged"):
            front_end.trace(damaged, ints(1), worker)
