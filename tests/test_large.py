"""Large models: mapped instead of read, written piece by piece, one after the other in memory."""

from __future__ import annotations

import gc
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq import demo, files
from edgeq.errors import ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.importing import small_file
from edgeq.fidelity import paired_run
from edgeq.files import MappedFile, on_disk
from edgeq.flatbuffer import pack, parse, schema, unpack
from edgeq.isolation import Worker
from edgeq.qtypes import DType, QParams, largest, quantize, row_slices
from edgeq.runtime import Session

Images = npt.NDArray[np.float32]


def treat_all_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGE_BYTES", 1)
    monkeypatch.setattr(paired_run, "TOGETHER_BYTES", 1)
    monkeypatch.setattr(small_file, "FED_BYTES", 1)


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every model treated as a large one is."""
    treat_all_as_large(monkeypatch)


@pytest.fixture
def mapped(tmp_path: Path, exported: EdgeModel) -> MappedFile:
    path = tmp_path / "model.tflite"
    path.write_bytes(exported.tflite)
    return MappedFile(path)


def test_a_large_model_becomes_the_same_file(
    demo_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, once = demo.float_model_path(), edgeq.Recipe("int8", rounding="gptq_once")
    small = edgeq.export(path, demo_images, recipe=once)
    treat_all_as_large(monkeypatch)
    made = edgeq.export(path, demo_images, recipe="int8")
    assert isinstance(made.float_model.tflite, MappedFile)
    assert made.tflite == small.tflite
    assert made.report.outputs == small.report.outputs
    assert made.report.delegated_ops == small.report.delegated_ops


def test_weights_alone_of_a_large_model_become_the_same(
    demo_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = demo.float_model_path()
    small = edgeq.export(path, demo_images, recipe="weight_int8")
    treat_all_as_large(monkeypatch)
    assert edgeq.export(path, demo_images, recipe="weight_int8").tflite == small.tflite


def test_mapped_content_is_that_of_the_file(mapped: MappedFile, exported: EdgeModel) -> None:
    assert mapped == exported.tflite
    assert hash(mapped) == hash(exported.tflite)
    assert mapped != exported.tflite[:-1]
    assert pickle.loads(pickle.dumps(mapped)) == exported.tflite
    assert parse(mapped) is not None
    files.release(mapped)
    assert mapped == exported.tflite


def test_another_process_gets_the_content_of_a_file_that_was_replaced(
    mapped: MappedFile, exported: EdgeModel
) -> None:
    other = mapped.path.with_name("other")
    other.write_bytes(b"something else")
    other.replace(mapped.path)
    assert not mapped.is_there
    with Worker() as worker:
        assert worker.call("builtins:bytes", mapped) == exported.tflite
    assert on_disk(mapped) == exported.tflite


def test_large_content_goes_to_another_process_and_back(all_is_large: None) -> None:
    content = bytes(range(256)) * 256
    with Worker() as worker:
        assert worker.call("builtins:len", content) == len(content)
        assert worker.call("builtins:bytes", content) == content


def test_a_large_result_comes_back_mapped() -> None:
    with Worker() as worker:
        found = worker.call("builtins:bytes", files.LARGE_BYTES)
    assert isinstance(found, MappedFile)
    assert len(found) == files.LARGE_BYTES
    path = found.path
    assert path.exists()
    del found
    gc.collect()
    assert not path.exists()


def test_no_room_for_a_large_model_is_told(
    all_is_large: None, exported: EdgeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = unpack(exported.tflite)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="TMPDIR"):
        pack(tree)


def test_constants_behind_the_tables_are_read_by_the_runtime(
    exported: EdgeModel, demo_images: Images
) -> None:
    float_file = bytes(exported.float_model.tflite)
    outside = bytes(pack(unpack(float_file), outside_bytes=0))
    assert sum(b.size > 0 for b in _buffers(outside)) > 0
    assert all(b.offset % 16 == 0 for b in _buffers(outside))
    with Session(float_file, threads=1) as one, Session(outside, threads=1) as other:
        sample = demo_images[:1]
        for name, values in one.run(sample).items():
            np.testing.assert_array_equal(other.run(sample)[name], values)
    assert pack(unpack(outside)) == pack(unpack(float_file))


def _buffers(content: bytes) -> list[Any]:
    """Every buffer as the file has it."""
    model = schema.Model.GetRootAs(content, 0)
    return [schema.BufferT.InitFromObj(model.Buffers(i)) for i in range(model.BuffersLength())]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_arithmetic_in_pieces_is_that_of_the_whole(
    axis: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(37, 11, 3)).astype(np.float32)
    channels = 1 if axis is None else values.shape[axis]
    scale = tuple(np.linspace(0.01, 0.03, channels).tolist())
    qparams = QParams(DType.INT8, scale, (0,) * channels, axis, narrow_range=True)
    assert len(list(row_slices(values))) == 1
    whole = quantize(values, qparams), largest(values, axis)
    monkeypatch.setattr("edgeq.qtypes.PIECE", 100)
    assert len(list(row_slices(values))) > 10
    for one, other in zip(whole, (quantize(values, qparams), largest(values, axis)), strict=True):
        np.testing.assert_array_equal(one, other)
