"""ONNX models are told from other files by what they are, and exported as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import Array, draw, model_of
from onnx_quantized import qdq

import edgeq
from edgeq.converter import start_converter
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.export.frontends import onnx as front_end
from edgeq.runtime import Session

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("litert_torch")


def test_paths_bytes_and_models_are_known_by_what_they_are() -> None:
    model = qdq()
    assert front_end.handles("net.onnx")
    assert front_end.handles(Path("net.ONNX"))
    assert front_end.handles(model)
    assert front_end.handles(model.SerializeToString())
    assert not front_end.handles("net.tflite")
    assert not front_end.handles(b"\x1c\x00\x00\x00TFL3")


def weights(*shape: int, seed: int) -> Array:
    """Random weights that keep the magnitude of what they multiply."""
    scale = np.sqrt(np.prod(shape[1:]))
    return (np.random.default_rng(seed).normal(size=shape) / scale).astype(np.float32)


def classifier() -> Any:
    """A strided, a depthwise and a pointwise convolution, and probabilities of five classes."""
    from onnx import helper

    node = helper.make_node
    constants = {
        "w1": weights(8, 3, 3, 3, seed=1), "b1": draw(8, seed=2), "w2": weights(8, 1, 3, 3, seed=3),
        "w3": weights(16, 8, 1, 1, seed=4), "w4": 3 * weights(5, 16, seed=5), "b4": draw(5, seed=6),
    }  # fmt: skip
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], name="stem", strides=[2, 2], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], name="stem_relu"),
        node("Conv", ["r1", "w2"], ["c2"], name="depthwise", group=8, pads=[1] * 4),
        node("HardSwish", ["c2"], ["r2"], name="activation"),
        node("Conv", ["r2", "w3"], ["c3"], name="pointwise"),
        node("GlobalAveragePool", ["c3"], ["g"], name="pool"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w4", "b4"], ["logits"], name="head", transB=1),
        node("Softmax", ["logits"], ["scores"], name="softmax"),
    ]
    image = {"image": draw(1, 3, 16, 16)}
    return model_of(
        nodes, image, ["scores", "logits"], constants, sizes={"image": ("N", 3, 16, 16)}
    )


@pytest.mark.parametrize("recipe", [pytest.param("auto", marks=pytest.mark.slow), "int8"])
def test_an_exported_model_computes_what_onnxruntime_computes(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "classifier.onnx"
    path.write_bytes(classifier().SerializeToString())
    images = np.random.default_rng(0).normal(size=(30, 3, 16, 16)).astype(np.float32)
    edge = edgeq.export(path, images[:24], recipe=recipe, progress=False)
    original = onnxruntime.InferenceSession(path)
    with edge.session() as session:
        assert [port.name for port in session.io.inputs] == ["image"]
        found = [session.run(image[None]) for image in images[24:]]
    names = [output.name for output in original.get_outputs()]
    assert set(found[0]) == set(names)
    wanted = [original.run(names, {"image": image[None]}) for image in images[24:]]
    for place, name in enumerate(names):
        expected = np.stack([row[place] for row in wanted])
        noise = np.square(expected - np.stack([row[name] for row in found])).sum()
        assert 10 * np.log10(np.square(expected).sum() / noise) > 25, name
    if recipe == "int8":
        assert not edge.report.float_ops
        layers = {edge.rewritten.layer(op) for op in edge.rewritten.graph.operators}
        assert {"stem", "depthwise", "pointwise", "head"} <= layers


@pytest.mark.slow
def test_a_gru_is_a_loop_with_integer_weights() -> None:
    """ONNX's own order of gates, and its reset ahead of the product."""
    from onnx import helper

    constants = {"w": weights(1, 192, 16, seed=1), "r": weights(1, 192, 64, seed=2)}
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["rows", "last"], name="gru", hidden_size=64),
        helper.make_node("Squeeze", ["last"], ["y"], name="squeeze"),
    ]
    model = model_of(nodes, {"x": draw(12, 1, 16)}, ["y"], constants)
    data = np.random.default_rng(0).normal(size=(24, 12, 1, 16)).astype(np.float32)
    edge = edgeq.export(model, list(data[:16]), recipe="dynamic_int8", progress=False)
    names = [op.name for op in edge.rewritten.graph.operators]
    assert names.count("WHILE") == 1
    assert len(edge.tflite) < 0.5 * len(edge.float_model.tflite)
    original = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = np.concatenate([original.run(None, {"x": x})[0] for x in data[16:]])
    with edge.session() as session:
        found = np.concatenate([next(iter(session.run(x).values())) for x in data[16:]])
    noise = np.square(wanted - found.reshape(wanted.shape)).sum()
    assert 10 * np.log10(np.square(wanted).sum() / noise) > 35


def test_a_model_that_onnxs_own_runtime_dies_of_is_exported() -> None:
    """onnxruntime 1.32 falls over outputs that are left out; powers of five axes have no kernel."""
    from onnx import helper

    stats = {name: draw(2, low=0.5, seed=i) for i, name in enumerate("sbmv")}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *stats], ["n", "", "", "", ""]),
        helper.make_node("Pow", ["n", "two"], ["y"]),
    ]
    sample = draw(1, 2, 3, 2, 2)
    model = model_of(nodes, {"x": sample}, ["y"], {**stats, "two": np.array(2)}, opset=9)
    model.ir_version = 4
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    with Session(found.tflite) as session:
        made = session.run(sample)["y"]
    scale, bias, mean, variance = (a.reshape(2, 1, 1, 1) for a in stats.values())
    wanted = np.square((sample - mean) / np.sqrt(variance + 1e-5) * scale + bias)
    np.testing.assert_allclose(made, wanted, rtol=1e-4)


def test_the_relu_that_a_quantizer_leaves_to_a_zero_point_is_in_the_float_model() -> None:
    """Twice: at the lowest integer, and with the highest at 6. The first is read twice."""
    from onnx import helper

    node = helper.make_node
    constants = {
        "s": np.float32(0.02), "middle": np.uint8(128), "low": np.uint8(0),
        "six": np.float32(6 / 255), "w": weights(4, 4, 3, 3, seed=1),
        "v": 9 * weights(4, 4, 1, 1, seed=2),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4, name="first"),
        node("QuantizeLinear", ["c", "s", "low"], ["q"]),
        node("DequantizeLinear", ["q", "s", "low"], ["a"]),
        node("MaxPool", ["q"], ["p"], kernel_shape=[8, 8]),
        node("DequantizeLinear", ["p", "s", "low"], ["top"]),
        node("Conv", ["a", "v"], ["d"], name="second"),
        node("QuantizeLinear", ["d", "six", "low"], ["r"]),
        node("DequantizeLinear", ["r", "six", "low"], ["y"]),
    ]
    sample = draw(1, 4, 8, 8)
    model = model_of(nodes, {"x": sample}, ["top", "y"], constants)
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    other = draw(1, 4, 8, 8, seed=5)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": other})
    assert wanted[1].max() == 6
    with Session(found.tflite) as session:
        made = session.run(other)
    for name, expected in zip(("top", "y"), wanted, strict=True):
        noise = np.square(expected - made[name]).sum()
        assert 10 * np.log10(np.square(expected).sum() / noise) > 30, name


def test_parts_of_one_node_keep_their_constants_and_its_name() -> None:
    """A join of integers regrids what it reads in parts of one name, each with constants."""
    from onnx import helper

    node, ours = helper.make_node, {"domain": "com.microsoft"}
    constants = {
        "s": np.float32(0.02), "t": np.float32(0.05), "z": np.uint8(128),
        "twice": np.asarray([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="in"),
        node("Resize", ["q", "", "twice"], ["r"], mode="nearest", name="wide"),
        node("QLinearConcat", ["t", "z", "r", "t", "z", "r", "t", "z"], ["j"], axis=1, name="join",
             **ours),
        node("DequantizeLinear", ["j", "t", "z"], ["y"], name="out"),
    ]  # fmt: skip
    sample = draw(1, 2, 4, 4)
    model = model_of(nodes, {"x": sample}, ["y"], constants)
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    assert "join" in {found.layer(op) for op in found.graph.operators}
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": sample})
    with Session(found.tflite) as session:
        np.testing.assert_allclose(session.run(sample)["y"], wanted, atol=0.06)


def test_each_reader_of_a_quantized_value_has_its_own_layout() -> None:
    from onnx import helper

    node, ours = helper.make_node, {"domain": "com.microsoft"}
    constants = {"s": np.float32(0.02), "z": np.uint8(128)}
    windows = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearAveragePool", ["q", "s", "z", "s", "z"], ["a"], **windows, **ours),
        node("QLinearAveragePool", ["q", "s", "z", "s", "z"], ["b"], kernel_shape=[4, 2],
             strides=[4, 2], **ours),
        node("MaxPool", ["q"], ["m"], kernel_shape=[8, 8]),
        node("MaxPool", ["q"], ["n"], kernel_shape=[3, 3], dilations=[2, 2]),
        *(node("DequantizeLinear", [n, "s", "z"], [f"of_{n}"]) for n in "abmn"),
    ]  # fmt: skip
    sample = draw(1, 4, 8, 8)
    model = model_of(nodes, {"x": sample}, [f"of_{n}" for n in "abmn"], constants)
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": sample})
    with Session(found.tflite) as session:
        for name, expected in zip("abmn", wanted, strict=True):
            np.testing.assert_allclose(session.run(sample)[f"of_{name}"], expected, atol=0.03)


def test_whole_numbers_of_8_bits_are_computed_where_the_runtime_has_no_kernel() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node("Min", ["sum", "top"], ["least"]),
        helper.make_node("Clip", ["least", "", "top"], ["y"]),
    ]
    sample = np.arange(0, 250, 10, dtype=np.uint8)
    model = model_of(nodes, {"x": sample}, ["sum", "y"], {"top": np.asarray(90, np.uint8)})
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    with Session(found.tflite) as session:
        made = session.run(sample)
    np.testing.assert_array_equal(made["sum"], sample + sample)
    np.testing.assert_array_equal(made["y"], np.minimum(sample + sample, 90))


def test_data_in_which_a_fixed_input_varies_are_refused() -> None:
    from onnx import helper

    zero = {"zero": np.array([0], np.int32)}
    nodes = [
        helper.make_node("Slice", ["x", "zero", "length"], ["cut"]),
        helper.make_node("ReduceMean", ["cut"], ["y"], axes=[0]),
    ]
    sample = {"x": draw(6, 1, 5), "length": np.array([4], np.int32)}
    model = model_of(nodes, sample, ["y"], zero)
    with start_converter() as worker:
        found = front_end.trace(model, sample, worker)
    assert found.fixed == (("length", 4.0),)
    assert any("'length' decides over shapes" in note for note in found.notes)
    other = {**sample, "length": np.array([6], np.int32)}
    assert len(list(RepDataset([sample, sample]).samples(input_specs(found)))) == 2
    with pytest.raises(edgeq.DataError, match=r"sample 1, input 'length': .* 4, .*Received: 6"):
        list(RepDataset([sample, other]).samples(input_specs(found)))
