"""Quantized files of edgeq and of its peer become float32 ones that compute nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import recipes
from command_line import run
from one_op import CASES, OneOp, Step, Value
from traces import Traces

import edgeq
from edgeq.errors import ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import Graph, pack, parse, schema, unpack
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY
from edgeq.ports import read_io
from edgeq.qtypes import dequantize
from edgeq.recipe import Mode, Recipe, Rule
from edgeq.runtime.backend import load_backend
from edgeq.runtime.session import Session
from edgeq.versions import float_version

Images = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


def graph(tflite: bytes) -> Graph:
    return parse(tflite).graphs[0]


def dtypes(tflite: bytes) -> set[str]:
    return {tensor.dtype for tensor in graph(tflite).tensors}


def ops(tflite: bytes) -> list[tuple[str, str]]:
    """Names and fused activations of all but the ops between float and integer."""
    found = graph(tflite).operators
    return [(op.name, op.fused_activation) for op in found if op.name not in BOUNDARY]


def sqnr_db(quantized: bytes, made: bytes, samples: Sequence[dict[str, Array]]) -> float:
    """How near the quantized file's outputs are to those of the float file that was made of it."""
    ports, total = read_io(quantized), Fidelity()
    with Session(quantized, threads=1) as one, Session(made, threads=1) as other:
        for sample in samples:
            one.invoke(ports.quantize(sample))
            other.invoke(read_io(made).quantize(sample))
            found, real = ports.dequantize(one.outputs()), read_io(made).dequantize(other.outputs())
            for name, expected in real.items():
                total = total.observe(expected, found[name])
    return total.sqnr_db


def check_float(quantized: bytes, made: bytes) -> None:
    """What holds of every result."""
    assert ops(made) == ops(quantized)
    assert not {"QUANTIZE", "DEQUANTIZE"} & {op.name for op in graph(made).operators}
    assert not any(tensor.qparams for tensor in graph(made).tensors)
    assert not {"int8", "uint8", "int16", "int4", "float16"} & dtypes(made)
    before, after = read_io(quantized), read_io(made)
    for old, new in zip(
        (*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True
    ):
        assert (new.name, new.shape) == (old.name, old.shape)
        assert new.dtype == ("float32" if old.qparams else old.dtype)
    named = [graph(f).tensors[i].name for f in (quantized, made)
             for i in (*graph(f).inputs, *graph(f).outputs)]  # fmt: skip
    assert named[: len(named) // 2] == named[len(named) // 2 :]


@pytest.mark.parametrize("ports", ["float32", "int8", "uint8", "int16"])
def test_the_demo_model_comes_back(demo_model: LiteModel, demo_images: Images, ports: str) -> None:
    edge = edgeq.export(
        demo_model.tflite,
        demo_images,
        recipe=recipes.NEAREST,
        inputs=ports,
        outputs=ports,
        progress=False,
    ).tflite
    made = edgeq.dequantize(edge)
    check_float(edge, made)
    assert sqnr_db(edge, made, [{"images": image[None]} for image in demo_images]) > 25
    runner = load_backend().module.Interpreter(model_content=made).get_signature_runner()
    assert runner(images=demo_images[:1])["output_0"].dtype == np.float32
    again = LiteModel(made, "tflite")
    assert [op.version for op in again.graph.operators] == [
        op.version for op in demo_model.graph.operators
    ]


def test_the_weights_are_those_that_the_integers_stand_for(exported: EdgeModel) -> None:
    made, source = graph(edgeq.dequantize(exported.tflite)), graph(exported.tflite)
    weighted = [
        [op for op in g.operators if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
        for g in (made, source)
    ]
    for op, integer in zip(*weighted, strict=True):
        for slot in (1, 2):
            stored, real = source.tensors[integer.inputs[slot]], made.tensors[op.inputs[slot]].data
            assert stored.data is not None
            assert stored.qparams is not None
            assert real == pytest.approx(dequantize(stored.data, stored.qparams), rel=1e-6)


@pytest.mark.parametrize("name", ["squeezenet1_1", "audio_net"])
def test_architectures_come_back(name: str, traces: Traces) -> None:
    float_file, data = traces.get(name, 12)
    edge = edgeq.export(
        float_file, data, recipe=recipes.NEAREST, min_sqnr_db=None, threads=1, progress=False
    )
    made = edgeq.dequantize(edge.tflite)
    check_float(edge.tflite, made)
    (port,) = edge.io.inputs
    samples = [{port.name: image[None]} for image in data[:5]]
    assert sqnr_db(edge.tflite, made, samples) > edge.report.sqnr_db - 3


def peer(path: Path, recipe: Any, images: Images) -> bytes:
    """The demo model quantized by ai-edge-quantizer."""
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
    made = quantizer.Quantizer(str(path), recipe)
    ranges = None
    if made.need_calibration:
        ranges = made.calibrate({"serving_default": [{"images": i[None]} for i in images]})
    return bytes(made.quantize(ranges).quantized_model)


def half_precision() -> list[dict[str, Any]]:
    operation = {
        "weight_tensor_config": {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE",
                                 "dtype": "FLOAT"},
        "compute_precision": "FLOAT",
        "explicit_dequantize": True,
    }  # fmt: skip
    return [{"regex": ".*", "operation": "*", "algorithm_key": "float_casting",
             "op_config": operation}]  # fmt: skip


PEER = {
    "static_wi8_ai8": ({"int8", "int32"}, 15),
    "static_wi8_ai16": ({"int8", "int16", "int64", "int32"}, 20),
    "dynamic_wi8_afp32": ({"int8", "float32", "int32"}, 25),
    "dynamic_wi4_afp32": ({"int4", "float32", "int32"}, 30),
    "weight_only_wi8_afp32": ({"int8", "float32", "int32"}, 60),
    "weight_only_wi4_afp32": ({"int4", "float32", "int32"}, 60),
    "float16": ({"float16", "float32", "int32"}, 60),
}
"""Types in the peer's files, and dB that what came back has at least."""


@pytest.mark.parametrize("name", PEER)
def test_files_of_the_peer_come_back(
    tmp_path: Path, demo_model: LiteModel, demo_images: Images, name: str
) -> None:
    recipes = pytest.importorskip("ai_edge_quantizer.recipe")
    path = tmp_path / "model.tflite"
    path.write_bytes(demo_model.tflite)
    recipe = half_precision() if name == "float16" else getattr(recipes, name)()
    quantized = peer(path, recipe, demo_images)
    kinds, least = PEER[name]
    assert dtypes(quantized) == kinds
    made = edgeq.dequantize(quantized)
    check_float(quantized, made)
    assert sqnr_db(quantized, made, [{"images": image[None]} for image in demo_images]) > least


INT8_ROWS = [
    case for case in CASES
    if case.label in ("RESIZE_BILINEAR", "PADV2", "GATHER", "SPLIT", "ARG_MAX", "LESS", "PACK",
                      "TRANSPOSE_CONV", "BATCH_MATMUL", "STRIDED_SLICE", "SELECT_V2", "SOFTMAX")
]  # fmt: skip


@pytest.mark.parametrize("case", INT8_ROWS, ids=lambda case: case.label)
def test_single_ops_come_back(case: OneOp) -> None:
    samples = case.draw(20)
    edge = edgeq.export(
        case.build(),
        samples,
        recipe="int8",
        strict=True,
        min_sqnr_db=None,
        threads=1,
        progress=False,
    )
    made = edgeq.dequantize(edge.tflite)
    check_float(edge.tflite, made)
    assert sqnr_db(edge.tflite, made, samples[:5]) > 20
    versions = {op.name: op.version for op in graph(edge.float_model.tflite).operators}
    for op in graph(made).operators:
        assert op.version <= max(versions.get(op.name, 9), 4)


def test_what_a_rule_left_float_is_joined_again() -> None:
    rows = Value((1, 8))
    weight = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    steps = (
        Step("FULLY_CONNECTED", ("x", weight, None), {"a": rows}, {}),
        Step("FLOOR", ("a",), {"b": rows}, {}),
        Step("ADD", ("a", "b"), {"y": rows}, {}),
    )
    case = OneOp("mixed", {"x": rows}, steps)
    recipe = Recipe(rules=(Rule(op="FLOOR", mode=Mode.FLOAT, reason="no int8 kernel"),))
    edge = edgeq.export(case.build(), case.draw(20), recipe=recipe, progress=False).tflite
    made = edgeq.dequantize(edge)
    check_float(edge, made)
    assert [name for name, _ in ops(made)] == ["FULLY_CONNECTED", "FLOOR", "ADD"]


def test_what_was_only_there_for_the_integers_is_gone(exported: EdgeModel) -> None:
    tree = unpack(edgeq.dequantize(exported.tflite))
    entry = tree.subgraphs[0]
    used = {int(t) for op in entry.operators for t in (*op.inputs, *op.outputs)}
    assert used | {*entry.inputs} == set(range(len(entry.tensors)))
    held = {t.buffer for t in entry.tensors} | {m.buffer for m in tree.metadata or ()}
    assert [i for i, b in enumerate(tree.buffers) if b.data is not None and i not in held] == []
    assert {op.opcodeIndex for op in entry.operators} == set(range(len(tree.operatorCodes)))


def test_versions_are_those_that_the_features_need() -> None:
    wide = Value((1, 2, 2, 2, 3))
    steps = (
        Step("RESIZE_BILINEAR", ("x", np.asarray([8, 8], np.int32)),
             {"a": Value((1, 8, 8, 3))}, {"halfPixelCenters": True}),
        Step("RESHAPE", ("a", np.asarray([1, 2, 2, 2, 24], np.int32)), {"b": wide}, {}),
        Step("TRANSPOSE", ("b", np.asarray([0, 1, 2, 4, 3], np.int32)), {"y": wide}, {}),
    )  # fmt: skip
    found = graph(OneOp("versions", {"x": Value((1, 4, 4, 3))}, steps).build())
    assert [float_version(found, op) for op in found.operators] == [3, 1, 4]


def change(tflite: bytes, name: str, edit: Any) -> bytes:
    """The file with its first constant of that type that has a scale edited."""
    tree, tensors = unpack(tflite), graph(tflite).tensors
    found = next(t for t in tensors if (t.dtype, t.is_constant) == (name, True) and t.qparams)
    edit(tree.subgraphs[0].tensors[found.index])
    return pack(tree)


def with_block_scales(tensor: Any) -> None:
    tensor.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    tensor.quantization.details = schema.BlockwiseQuantizationT()


def without_scale(tensor: Any) -> None:
    tensor.quantization = None


def test_what_cannot_be_done_is_told(exported: EdgeModel, demo_model: LiteModel) -> None:
    with pytest.raises(ModelError, match="nothing in the model is quantized"):
        edgeq.dequantize(demo_model.tflite)
    with pytest.raises(ModelError, match=r"not a \.tflite file"):
        edgeq.dequantize(b"hello, hello, hello")
    with pytest.raises(ModelError, match=r"the \.tflite file is damaged"):
        edgeq.dequantize(exported.tflite[:-100_000])
    with pytest.raises(ModelError, match="without a scale for each, which edgeq does not read"):
        edgeq.dequantize(change(exported.tflite, "int8", with_block_scales))
    with pytest.raises(ModelError, match="the model has no float form: the runtime refuses it"):
        edgeq.dequantize(change(exported.tflite, "int32", without_scale))


def test_the_command_line_does_it(demo_files: Path, exported: EdgeModel) -> None:
    exported.save(demo_files / "int8.tflite")
    output = demo_files / "float.tflite"
    found = run("dequantize", demo_files / "int8.tflite", "-o", output)
    assert found.exit_code == 0, found.stderr
    assert output.read_bytes() == edgeq.dequantize(demo_files / "int8.tflite")
    refused = run("dequantize", demo_files / "int8.tflite", "-o", output)
    assert refused.exit_code == 2
    assert "exists; pass --overwrite" in refused.stderr
    missing = run("dequantize", demo_files / "no.tflite", "-o", demo_files / "x.tflite")
    assert "cannot read the model" in missing.stderr
