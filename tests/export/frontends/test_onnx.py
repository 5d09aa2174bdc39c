"""ONNX models are told from other files by what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_quantized import qdq

from edgeq.export.frontends import onnx as front_end

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("litert_torch")


def test_paths_bytes_and_models_are_known_by_what_they_are() -> None:
    model = qdq()
    assert front_end.handles("net.onnx")
    assert front_end.handles(Path("net.ONNX"))
    assert front_end.handles(model)
    assert front_end.handles(model.SerializeToString())
    assert not front_end.handles("net.tflite")
    assert not front_end.handles(b"\x1c\x00\x00\x00TFL3")
