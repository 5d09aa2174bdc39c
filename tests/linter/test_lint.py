"""`edgeq.lint`: planted faults are found by name; good files of several tools have no errors."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delegation import taken
from one_op import CASES, OneOp, Step, Value
from one_op import _one as one
from planted import MOVERS, Stored, binary, convolution, plant, unary, vector
from stages import to_int8

import edgeq
import edgeq.linter
from edgeq import Mode, Recipe, Rule
from edgeq.converter import start_converter
from edgeq.errors import ModelError, RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, parse, schema, unpack
from edgeq.linter import Severity
from edgeq.linter.rules import RULES
from edgeq.model import LiteModel
from edgeq.ops import OPS, Int16
from edgeq.runtime.session import Session
from edgeq.targets import TARGETS

SAMPLES = 12
CASE = {case.label: case for case in CASES}


@functools.cache
def exported_case(label: str) -> bytes:
    """The int8 file of a one-op model, without the rewrites."""
    case = CASE[label]
    with start_converter() as worker:
        return to_int8(worker, LiteModel(case.build(), "tflite"), case.draw(SAMPLES))


@dataclass(frozen=True)
class Inside:
    """A file's object tree, open for damage around the op that a one-op model is about."""

    tree: Any
    op: Any

    @property
    def tensors(self) -> Any:
        return self.tree.subgraphs[0].tensors

    def operand(self, slot: int) -> Any:
        return self.tensors[self.op.inputs[slot]]

    @property
    def result(self) -> Any:
        return self.tensors[self.op.outputs[0]]

    def data(self, slot: int) -> Any:
        """The bytes of a constant operand, writable."""
        buffer = self.tree.buffers[self.operand(slot).buffer]
        buffer.data = np.array(buffer.data, np.uint8)
        return buffer.data


Damage = Callable[[Inside], None]


def damaged(label: str, damage: Damage) -> bytes:
    tflite = exported_case(label)
    names = [op.name for op in parse(tflite).graphs[0].operators]
    tree = unpack(tflite)
    inside = Inside(tree, tree.subgraphs[0].operators[names.index(label.partition("/")[0])])
    damage(inside)
    return pack(tree)


def set_result(scale: float | None = None, zero_point: int | None = None) -> Damage:
    def damage(inside: Inside) -> None:
        parameters = inside.result.quantization
        if scale is not None:
            parameters.scale = np.asarray([scale], np.float32)
        if zero_point is not None:
            parameters.zeroPoint = np.asarray([zero_point], np.int64)

    return damage


def set_operand(slot: int, field: str, change: Callable[[Any], Any]) -> Damage:
    def damage(inside: Inside) -> None:
        parameters = inside.operand(slot).quantization
        setattr(parameters, field, change(getattr(parameters, field)))

    return damage


def drop_result(inside: Inside) -> None:
    inside.result.quantization = None


def drop_bias_scale(inside: Inside) -> None:
    inside.operand(2).quantization = None


def split_scale(inside: Inside) -> None:
    parameters = inside.operand(0).quantization
    parameters.scale = np.repeat(parameters.scale, 4)
    parameters.zeroPoint = np.repeat(parameters.zeroPoint, 4)
    parameters.quantizedDimension = 3


def float_bias(inside: Inside) -> None:
    inside.operand(2).type = schema.TensorType.FLOAT32


def lowest_weight(inside: Inside) -> None:
    inside.data(1)[0] = 0x80


def zero_divisor(inside: Inside) -> None:
    zero_point = inside.operand(1).quantization.zeroPoint[0]
    inside.data(1)[:] = np.int8(zero_point).view(np.uint8)


def first_version(inside: Inside) -> None:
    inside.tree.operatorCodes[inside.op.opcodeIndex].version = 1


def one_channel(scale: Any) -> Any:
    changed = np.array(scale)
    changed[2] *= 2
    return changed


DAMAGED: dict[str, tuple[str, str, Damage]] = {
    "scale NaN": ("scale-positive", "CONV_2D", set_result(scale=float("nan"))),
    "scale 0": ("scale-positive", "ADD", set_result(scale=0.0)),
    "scale below 0": ("scale-positive", "RESHAPE", set_result(scale=-0.5)),
    "scale infinite": ("scale-positive", "MEAN", set_result(scale=float("inf"))),
    "zero point beyond int8": ("zero-point-range", "CONV_2D", set_result(zero_point=200)),
    "zero point of a padding": ("zero-point-range", "PAD", set_result(zero_point=-129)),
    "one scale too few": (
        "number-of-scales", "CONV_2D", set_operand(1, "scale", lambda scale: scale[1:])
    ),
    "one zero point too few": (
        "number-of-scales", "DEPTHWISE_CONV_2D", set_operand(1, "zeroPoint", lambda zero: zero[1:])
    ),
    "scales along another axis": (
        "number-of-scales", "CONV_2D", set_operand(1, "quantizedDimension", lambda axis: 3)
    ),
    "no parameters": ("missing-parameters", "CONV_2D", drop_result),
    "activation per channel": ("per-channel-activation", "ADD", split_scale),
    "bias scale": ("bias-scale", "CONV_2D", set_operand(2, "scale", lambda scale: scale * 2)),
    "bias scale of one channel": (
        "bias-scale", "FULLY_CONNECTED", set_operand(2, "scale", one_channel)
    ),
    "bias without scale": ("bias-scale", "CONV_2D", drop_bias_scale),
    "bias zero point": (
        "bias-type", "DEPTHWISE_CONV_2D", set_operand(2, "zeroPoint", lambda zero: zero + 1)
    ),
    "float bias": ("bias-type", "CONV_2D", float_bias),
    "weight zero point": (
        "weight-zero-point", "CONV_2D", set_operand(1, "zeroPoint", lambda zero: zero + 1)
    ),
    "weight zero point of TRANSPOSE_CONV": (
        "weight-zero-point", "TRANSPOSE_CONV", set_operand(1, "zeroPoint", lambda zero: zero + 3)
    ),
    "weight of -128": ("lowest-weight", "CONV_2D", lowest_weight),
    "division by zero": ("constant-divisor", "DIV/by a constant", zero_divisor),
    **{
        f"another scale of {label}": ("same-scale", label, set_result(scale=0.9))
        for label in (
            "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER", "RESIZE_BILINEAR",
            "RESIZE_NEAREST_NEIGHBOR", "MAXIMUM", "MINIMUM", "SELECT_V2", "TILE", "DEPTH_TO_SPACE",
            "SPACE_TO_DEPTH", "AVERAGE_POOL_2D", "MAX_POOL_2D", "REDUCE_MAX", "PACK", "PAD",
            "MIRROR_PAD", "CONCATENATION/ranges far apart", "DYNAMIC_UPDATE_SLICE",
        )
    },
    "another zero point of a table": ("same-scale", "GATHER/constant table", set_result(None, 9)),
    "padding value of another scale": (
        "same-scale", "PADV2", set_operand(2, "scale", lambda scale: scale * 2)
    ),
    **{
        f"scale of {label}": ("fixed-output", label, set_result(scale=0.01))
        for label in ("LOGISTIC", "SOFTMAX", "TANH", "L2_NORMALIZATION", "LOG_SOFTMAX")
    },
    **{
        f"zero point of {label}": ("fixed-output", label, set_result(zero_point=3))
        for label in ("LOGISTIC", "SOFTMAX", "TANH", "L2_NORMALIZATION", "LOG_SOFTMAX")
    },
    **{
        f"version 1 of {label}": ("op-version", label, first_version)
        for label in ("CONV_2D", "FULLY_CONNECTED", "ADD", "SOFTMAX", "TRANSPOSE_CONV")
    },
}  # fmt: skip
"""Rule that must be found, base, and damage by what is planted."""


def rules(tflite: bytes) -> set[str]:
    return {finding.rule for finding in edgeq.lint(tflite).findings}


@pytest.mark.parametrize("label", DAMAGED)
def test_a_planted_fault_is_found(label: str) -> None:
    rule, base, damage = DAMAGED[label]
    assert rule not in rules(exported_case(base))
    assert rule in rules(damaged(base, damage))


def lstm(scale: float) -> bytes:
    """A sequence LSTM whose int16 cell state has a scale."""
    row, state = Value((1, 2, 4), "int8", 0, 9), Value((1, 4), "int16", 0, 9)
    operands = [row] + [None] * 17 + [Value((1, 4), "int8", 0, 9), state] + [None] * 4
    case = one("UNIDIRECTIONAL_SEQUENCE_LSTM", tuple(operands), row)
    return plant(
        case, {"x0": Stored(0.1), "x18": Stored(0.1), "x19": Stored(scale), "y0": Stored(0.1)}
    )


def shorts(name: str, zero_point: int = 0) -> bytes:
    """An op on int16 tensors."""
    image = Value((1, 8, 8, 4), "int16", 0, 9)
    results = {
        "SPACE_TO_DEPTH": (Value((1, 4, 4, 16), "int16"), {"blockSize": 2}),
        "DEPTH_TO_SPACE": (Value((1, 16, 16, 1), "int16"), {"blockSize": 2}),
        **dict.fromkeys(("ARG_MAX", "ARG_MIN"), (
            Value((1, 8, 8), "int32"), {"outputType": schema.TensorType.INT32}
        )),
    }  # fmt: skip
    operands: tuple[Any, ...] = (image,)
    if name in ("SQUARED_DIFFERENCE", "ADD"):
        operands = (image, image)
    if name.startswith("ARG"):
        operands = (image, np.asarray(3, np.int32))
    result, options = results.get(name, (image, {}))
    case = one(name, operands, result, **options)
    stored = {key: Stored(0.1, zero_point) for key in case.inputs}
    if result.dtype == "int16":
        stored["y0"] = Stored(0.1, zero_point)
    return plant(case, stored)


def chain(*names: str, kinds: tuple[str, ...] = (), scales: tuple[float, ...] = ()) -> bytes:
    """Ops of one input in a row; `kinds` and `scales` are those of the tensors between."""
    steps = [
        Step(name, (f"t{i}",), {f"t{i + 1}": vector(kinds[i + 1])}) for i, name in enumerate(names)
    ]
    case = OneOp("chain", {"t0": vector(kinds[0])}, tuple(steps))
    stored = {
        f"t{i}": Stored(scale)
        for i, (kind, scale) in enumerate(zip(kinds, scales, strict=True))
        if kind != "float32"
    }
    return plant(case, stored)


INT8, FLOAT = "int8", "float32"
MADE: dict[str, tuple[str, Callable[[], bytes], Callable[[], bytes]]] = {
    "int16 zero point": (
        "symmetric-int16", lambda: shorts("ADD", 3), lambda: shorts("ADD")
    ),
    "int16 op without kernel": (
        "int16-form", lambda: shorts("SPACE_TO_DEPTH"), lambda: shorts("ADD")
    ),
    "cell state": ("cell-state", lambda: lstm(0.003), lambda: lstm(2.0**-11)),
    "large cell state": ("cell-state", lambda: lstm(2.0**-8), lambda: lstm(2.0**-9)),
    "weights along the inputs": (
        "weight-axis",
        lambda: convolution("FULLY_CONNECTED", shape=(8, 8), weight=Stored((0.01,) * 8, axis=1)),
        lambda: convolution("FULLY_CONNECTED", shape=(8, 8)),
    ),
    "shifted weights": (
        "shifted-weight",
        lambda: convolution("FULLY_CONNECTED", weight=Stored(0.01, 3)),
        lambda: convolution("FULLY_CONNECTED", weight=Stored(0.01)),
    ),
    "float between integers": (
        "float-between-integers",
        lambda: chain("DEQUANTIZE", "SIN", "QUANTIZE", kinds=(INT8, FLOAT, FLOAT, INT8),
                      scales=(1, 1, 1, 2)),
        lambda: chain("DEQUANTIZE", "SIN", kinds=(INT8, FLOAT, FLOAT), scales=(1, 1, 1)),
    ),
    "there and back": (
        "conversion-pair",
        lambda: chain("DEQUANTIZE", "QUANTIZE", kinds=(INT8, FLOAT, INT8), scales=(1, 1, 1)),
        lambda: chain("DEQUANTIZE", kinds=(INT8, FLOAT), scales=(1, 1)),
    ),
    "requantized twice": (
        "conversion-pair",
        lambda: chain("QUANTIZE", "QUANTIZE", kinds=(INT8,) * 3, scales=(1, 2, 1)),
        lambda: chain("QUANTIZE", "QUANTIZE", kinds=(INT8,) * 3, scales=(1, 2, 4)),
    ),
    "requantized to the same": (
        "conversion-pair", lambda: unary("QUANTIZE", 1, 1), lambda: unary("QUANTIZE", 1, 2)
    ),
    "sum beyond the delegate": (
        "xnnpack/addition-scales", lambda: binary("ADD", 300, 1, 1), lambda: binary("ADD", 1, 1, 1)
    ),
    "convolution beyond the delegate": (
        "xnnpack/requantization-scale",
        lambda: convolution("CONV_2D", result=Stored(1e-5)), lambda: convolution("CONV_2D"),
    ),
}  # fmt: skip
"""Rule, a file that breaks it and one that does not, by what is planted."""


@pytest.mark.parametrize("label", MADE)
def test_a_made_fault_is_found(label: str) -> None:
    rule, bad, good = MADE[label]
    assert rule in rules(bad())
    assert rule not in rules(good())


def test_every_rule_is_shown_by_a_planted_fault() -> None:
    shown = {rule for rule, *_ in (*DAMAGED.values(), *MADE.values())}
    assert {rule.name for rule in RULES} - shown == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_sentence_a_source_and_advice(rule: Any) -> None:
    assert rule.sentence
    assert rule.source
    assert rule.advice


def test_a_finding_says_where_what_and_what_to_do() -> None:
    tflite = damaged("RESHAPE", set_result(scale=0.9))
    (finding,) = edgeq.lint(tflite).errors
    graph = parse(tflite).graphs[0]
    (op,) = [op for op in graph.operators if op.name == "RESHAPE"]
    assert (finding.op, finding.name, finding.graph) == (op.index, "RESHAPE", 0)
    assert finding.where == graph.tensors[op.inputs[0]].name
    assert "has the same scale and zero point" in finding.message
    assert "against scale 0.9" in finding.message.replace("0.899999976", "0.9")
    assert "edgeq export" in finding.advice


@pytest.mark.parametrize("label", CASE)
def test_what_edgeq_exports_has_no_errors(label: str) -> None:
    for target in TARGETS:
        assert edgeq.lint(exported_case(label), target).errors == ()
    own = {f.rule for f in edgeq.lint(exported_case(label)).findings if "/" not in f.rule}
    assert own == set()


@pytest.mark.parametrize("label", CASE)
def test_float_files_have_no_errors(label: str) -> None:
    result = edgeq.lint(CASE[label].build())
    assert result.errors == ()
    assert {op.op for op in result.ops if not op.obstacles} == taken(CASE[label].build())


def test_the_oldest_versions_are_those_that_the_converter_writes() -> None:
    written: dict[str, set[int]] = {}
    for label in CASE:
        for op in parse(exported_case(label)).graphs[0].operators:
            written.setdefault(op.name, set()).add(op.version)
    assert {n: min(written[n]) for n in OPS if n in written} == {
        n: row.int8_version for n, row in OPS.items() if n in written
    }
    replaced = {case.name for case in CASES if case.becomes}
    assert {n for n in OPS if n not in written} <= replaced


@pytest.mark.parametrize(
    "name", sorted(name for name, row in OPS.items() if row.int16 is Int16.NO_KERNEL)
)
def test_int16_is_refused_by_the_kernels_themselves(name: str) -> None:
    with pytest.raises(ModelError), Session(shorts(name), threads=1) as session:
        session.invoke([np.ones((1, 8, 8, 4), np.int16)] * len(session.input_names))


@pytest.mark.parametrize("name", MOVERS)
def test_what_is_refused_by_xnnpack_alone_is_an_error(name: str) -> None:
    case = MOVERS[name]
    stored = dict.fromkeys(case.inputs, Stored(1.0)) | dict.fromkeys(case.outputs, Stored(2.0))
    assert "same-scale" in {f.rule for f in edgeq.lint(plant(case, stored)).errors}


def test_the_demo_has_no_errors(exported: EdgeModel) -> None:
    result = edgeq.lint(exported.tflite)
    assert result.errors == ()
    assert result.mapped_ops == exported.report.delegated_ops
    assert len(result.ops) == exported.report.total_ops


@pytest.mark.parametrize(
    "recipe",
    ["static_wi8_ai8", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "weight_only_wi4_afp32"],
)
def test_what_a_peer_exports_has_no_errors(
    recipe: str, demo_model: LiteModel, demo_images: Any, tmp_path: Path
) -> None:
    quantizer = pytest.importorskip("ai_edge_quantizer")
    recipes = pytest.importorskip("ai_edge_quantizer.recipe")
    path = tmp_path / "float.tflite"
    path.write_bytes(demo_model.tflite)
    peer = quantizer.Quantizer(str(path), getattr(recipes, recipe)())
    calibration = None
    if peer.need_calibration:
        (signature,) = parse(path.read_bytes()).signatures
        name = signature.inputs[0][0]
        calibration = peer.calibrate(
            {signature.key: [{name: image[None]} for image in demo_images]}
        )
    tflite = bytes(peer.quantize(calibration).quantized_model)
    result = edgeq.lint(tflite)
    assert [finding.message for finding in result.errors] == []
    assert {op.op for op in result.ops if not op.obstacles} == taken(tflite)


def test_an_op_left_float_between_integers_is_a_warning() -> None:
    rows = Value((1, 16))
    names = (("TANH", "x", "a"), ("SIN", "a", "b"), ("ABS", "b", "y"))
    case = OneOp("SIN", {"x": rows}, tuple(Step(n, (s,), {r: rows}) for n, s, r in names))
    recipe = Recipe(rules=(Rule(op="SIN", mode=Mode.FLOAT, reason="a test"),))
    edge = edgeq.export(case.build(), case.draw(SAMPLES), recipe=recipe, progress=False)
    found = [f for f in edgeq.lint(edge.tflite).findings if f.rule == "float-between-integers"]
    assert [(f.name, f.severity) for f in found] == [("SIN", Severity.WARNING)]
    assert edgeq.lint(edge.tflite).errors == ()


def test_every_subgraph_is_judged() -> None:
    tree = unpack(damaged("RESHAPE", set_result(scale=0.9)))
    tree.subgraphs.append(tree.subgraphs[0])
    result = edgeq.lint(pack(tree))
    assert [finding.graph for finding in result.errors] == [0, 1]
    assert {op.graph for op in result.ops} == {0, 1}


def test_the_edge_tpu_is_told_about_its_memory_and_run_time() -> None:
    result = edgeq.lint(exported_case("TRANSPOSE"), "edgetpu")
    assert any("TRANSPOSE needs version 14" in note for note in result.notes)
    weights = np.ones((9000, 1000), np.int8)
    case = one(
        "FULLY_CONNECTED", (Value((1, 1000), "int8", 0, 9), weights), Value((1, 9000), "int8")
    )
    large = plant(case, {"x0": Stored(0.1), 1: Stored(0.1), "y0": Stored(0.1)})
    (note,) = edgeq.lint(large, "edgetpu").notes
    assert note.startswith("9.0 MB of parameters exceed about 8 MB on the chip")


def test_the_function_wins_over_any_module() -> None:
    assert isinstance(edgeq.lint, types.FunctionType)
    assert edgeq.lint is edgeq.linter.lint


def test_a_path_is_read_and_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(exported_case("ADD"))
    assert edgeq.lint(path) == edgeq.lint(exported_case("ADD"))
    with pytest.raises(ModelError, match="cannot read the model"):
        edgeq.lint(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match=r"not a \.tflite file"):
        edgeq.lint(b"nothing of that kind")
    with pytest.raises(RecipeError, match="target must be one of xnnpack, edgetpu, portable"):
        edgeq.lint(path, "phone")


def test_the_result_is_plain_json() -> None:
    fields = json.loads(edgeq.lint(damaged("RESHAPE", set_result(scale=0.9))).to_json())
    assert (fields["errors"], fields["total_ops"]) == (1, 3)
    assert fields["findings"][0]["rule"] == "same-scale"
    assert fields["ops"][1]["name"] == "RESHAPE"
