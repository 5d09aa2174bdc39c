"""Modes: what a recipe gives each op, how weights are stored, and all of it on the kernels."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from mode_table import MODES, OPS, PAGE, Cell, cell, cells
from one_op import CASES, OneOp, Step, Value

import edgeq
from edgeq.errors import RecipeError, UnsupportedOpError
from edgeq.export.export_options import ExportOptions
from edgeq.export.plan import choices as plan_choices
from edgeq.export.plan.choices import Choice, choose, decided_together, nearest_form
from edgeq.export.plan.strictness import check_strict, float_notes, reasons_of
from edgeq.export.plan.weight_scales import affine_qparams, block_qparams, stored_qparams
from edgeq.flatbuffer import pack, parse, unpack
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.qtypes import (
    DType,
    QParams,
    dequantize,
    pack_bits,
    quantize,
    quantize_blocks,
    unpack_bits,
)
from edgeq.recipe import Mode, Recipe, Rule
from edgeq.runtime.session import Session

RNG = np.random.default_rng(7)
ROWS = Value((4, 64))


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * RNG.exponential(1, size=shape)).astype(np.float32)


def dense(name: str, source: str, inputs: int = 64, outputs: int = 64) -> Step:
    operands = (source, weights(outputs, inputs), weights(outputs))
    return Step("FULLY_CONNECTED", operands, {name: Value((4, outputs))})


def two_layers() -> OneOp:
    steps = (dense("stem", "x"), Step("LOGISTIC", ("stem",), {"act": ROWS}), dense("head", "act"))
    return OneOp("two layers", {"x": ROWS}, steps)


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], Cell]:
    return {(mode, op): cell for mode, op, cell in cells()}


ONE_CHANNEL = [case for case in CASES if case.label.endswith("/one channel")]


@pytest.mark.parametrize("case", ONE_CHANNEL, ids=lambda case: case.label)
def test_every_mode_works_on_one_channel(case: OneOp, converter: Worker) -> None:
    found = {name: cell(converter, case, recipe) for name, recipe in MODES.items()}
    assert {name: c.reason for name, c in found.items() if math.isnan(c.sqnr_db)} == {}
    least = {n: c.sqnr_db for n, c in found.items() if n.startswith(("int8", "dynamic_int8"))}
    assert min(least.values()) > 30, least


def test_every_mode_works_on_every_weighted_op(table: dict[tuple[str, str], Cell]) -> None:
    assert {key: c.reason for key, c in table.items() if math.isnan(c.sqnr_db)} == {}
    kinds = {key: c.form for key, c in table.items()}
    assert kinds["dynamic_int8", "dense"] == "float32 with int8 weights"
    assert kinds["dynamic_int4", "dense"] == "float32 with int4 weights"
    assert kinds["weight_int2", "convolution"] == "dequantize of weights, float32"
    assert kinds["int16x8", "depthwise convolution"] == "int16"


def test_the_page_is_the_table(table: dict[tuple[str, str], Cell]) -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(MODES)
    for mode, row in zip(MODES, rows, strict=True):
        shown = row.strip("| ").split(" | ")
        assert shown[0] == f"`{mode}`"
        for op, text in zip(OPS, shown[1:], strict=True):
            cell = table[mode, op]
            near = [replace(cell, sqnr_db=cell.sqnr_db + d).text() for d in (-1, 0, 1)]
            assert text in near, (mode, op)


@pytest.mark.parametrize(
    ("name", "mode", "expected", "reason"),
    [
        ("FULLY_CONNECTED", Mode.DYNAMIC_INT4, Mode.DYNAMIC_INT4, ""),
        ("CONV_2D", Mode.DYNAMIC_INT4, Mode.DYNAMIC_INT8, "no dynamic_int4 CONV_2D"),
        ("DEPTHWISE_CONV_2D", Mode.DYNAMIC_INT8, Mode.WEIGHT_INT8, "no dynamic_int8 DEPTHWISE"),
        ("DEPTHWISE_CONV_2D", Mode.WEIGHT_INT4, Mode.WEIGHT_INT4, ""),
    ],
)
def test_an_op_without_a_dynamic_kernel_says_what_it_becomes(
    name: str, mode: Mode, expected: Mode, reason: str
) -> None:
    found = nearest_form(name, Choice(mode))
    assert found.mode is expected
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)


def test_rules_mix_modes_in_one_model() -> None:
    case = two_layers()
    recipe = Recipe("mixed", (Rule(layer="head", mode=Mode.DYNAMIC_INT8),))
    made = edgeq.export(case.build(), case.draw(20), recipe=recipe, progress=False)
    kinds = {op.name: [] for op in parse(made.tflite).graphs[0].operators}
    graph = parse(made.tflite).graphs[0]
    for op in graph.operators:
        kinds[op.name].append([graph.tensors[t].dtype for t in op.inputs[:2]])
    assert kinds["FULLY_CONNECTED"] == [["int8", "int8"], ["float32", "int8"]]
    assert kinds["LOGISTIC"] == [["int8"]]
    assert made.report.sqnr_db > 25


def test_what_a_mode_has_no_form_for_is_an_error_or_float_with_the_reason() -> None:
    steps = (dense("stem", "x"), Step("GELU", ("stem",), {"y": ROWS}, {"approximate": False}))
    model = LiteModel(OneOp("m", {"x": ROWS}, steps).build(), "tflite")
    recipe = Recipe(default=Mode.INT16X8)
    reason = "no int16 form in the converter or the kernels"
    found = choose(model, recipe)
    assert found[1] == Choice(Mode.FLOAT, reason)
    assert float_notes(model, recipe, reasons_of(found)) == (
        f"1 op(s) stay float that the recipe wants in integers: GELU at y (op 1) ({reason}). "
        "strict=True makes that an error",
    )
    message = f"1 op(s) cannot be int16x8 as the recipe wants: GELU at y (op 1) ({reason})"
    with pytest.raises(UnsupportedOpError, match=re.escape(message)):
        check_strict(model, recipe, reasons_of(found), strict=True)


@pytest.mark.parametrize(
    ("own", "strict", "is_error"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_a_rule_says_for_itself_whether_it_is_strict(
    own: bool | None, strict: bool, is_error: bool
) -> None:
    steps = (dense("stem", "x"), Step("SIN", ("stem",), {"y": ROWS}))
    model = LiteModel(OneOp("m", {"x": ROWS}, steps).build(), "tflite")
    recipe = Recipe(rules=(Rule(op="SIN", strict=own),))
    float_ops = reasons_of(choose(model, recipe))
    expected = pytest.raises(UnsupportedOpError) if is_error else contextlib.nullcontext()
    with expected:
        check_strict(model, recipe, float_ops, strict)


def test_a_target_that_computes_in_integers_alone_is_strict_until_told_otherwise() -> None:
    assert ExportOptions.read(target="edgetpu").strict
    assert not ExportOptions.read(target="edgetpu", strict=False).strict
    assert not ExportOptions.read(target="xnnpack").strict
    with pytest.raises(RecipeError, match=r"strict must be True, False or None\. Received: 'no'"):
        ExportOptions.read(strict="no")


def test_a_rule_that_is_not_strict_may_match_nothing() -> None:
    model = LiteModel(two_layers().build(), "tflite")
    recipe = Recipe(rules=(Rule(layer="nowhere", mode=Mode.FLOAT, strict=False),))
    assert {c.mode for c in choose(model, recipe).values()} == {Mode.STATIC_INT8}


def test_one_scale_for_all_channels_when_asked() -> None:
    case = two_layers()
    for mode in (Mode.STATIC_INT8, Mode.DYNAMIC_INT8):
        recipe = Recipe("r", default=mode, per_channel=False)
        made = edgeq.export(
            case.build(), case.draw(20), recipe=recipe, min_sqnr_db=None, progress=False
        )
        graph = parse(made.tflite).graphs[0]
        stored = [t.qparams for t in graph.tensors if t.is_constant and t.dtype == "int8"]
        assert [len(q.scale) for q in stored if q is not None] == [1, 1]


def shifted() -> OneOp:
    """Two layers whose weights are far from symmetric."""
    image, hidden = Value((1, 8, 8, 4)), Value((1, 8, 8, 16))
    kernel, matrix = (RNG.normal(1.0, 1.0, s).astype(np.float32) for s in ((16, 1, 1, 4), (8, 16)))
    options = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    return OneOp("shifted", {"x": image}, (
        Step("CONV_2D", ("x", kernel, np.zeros(16, np.float32)), {"a": hidden}, options),
        Step("FULLY_CONNECTED", ("a", matrix), {"y": Value((1, 8, 8, 8))}, {"keepNumDims": True}),
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "gain_db"), [(Mode.WEIGHT_INT8, 2.0), (Mode.WEIGHT_INT4, 2.0), (Mode.WEIGHT_INT2, 3.0)]
)
def test_zero_points_of_shifted_weights_keep_more(
    mode: Mode, gain_db: float, converter: Worker
) -> None:
    case = shifted()
    before, after = (
        cell(converter, case, Recipe("r", default=mode, symmetric=symmetric))
        for symmetric in (True, False)
    )
    assert after.sqnr_db > before.sqnr_db + gain_db
    assert (after.form, after.delegated) == (before.form, before.delegated)


def test_an_export_with_zero_points_of_weights_computes_with_them() -> None:
    case, recipe = shifted(), Recipe("r", default=Mode.WEIGHT_INT4, symmetric=False)
    data = case.draw(12)
    made = edgeq.export(case.build(), data, recipe=recipe, progress=False)
    stored = [w.qparams for w in made.plan.stored.values()]
    assert [len(q.zero_point) for q in stored if isinstance(q, QParams) and any(q.zero_point)] == [
        16, 8,
    ]  # fmt: skip
    assert edgeq.lint(made.tflite).errors == ()
    with made.session() as session, Session(edgeq.dequantize(made.tflite)) as plain:
        for sample in data:
            expected = plain.run(sample)["y"]
            np.testing.assert_allclose(session.run(sample)["y"], expected, rtol=1e-4, atol=1e-4)


def test_a_table_keeps_the_zero_point_0() -> None:
    recipe = Recipe("r", default=Mode.WEIGHT_INT4, symmetric=False)
    (choice,) = choose(LiteModel(OPS["embedding"].build(), "tflite"), recipe).values()
    assert (choice.mode, choice.weights.symmetric) == (Mode.WEIGHT_INT4, True)
    assert choice.reason == "kernels look rows up in a table whose zero points are 0 alone"


@pytest.mark.parametrize("dtype", [DType.INT2, DType.INT4, DType.INT8])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_zero_points_lose_no_more_than_none(dtype: DType, axis: int | None) -> None:
    for data in (weights(8, 64), np.abs(weights(8, 64)), -np.abs(weights(8, 64)) - 1):
        forms = (affine_qparams(data, axis, dtype), stored_qparams(data, axis, dtype))
        error = [np.square(dequantize(quantize(data, q), q) - data).sum() for q in forms]
        assert error[0] <= error[1]
        assert forms[0].axis == axis


def test_blocks_of_int4_weights_keep_more() -> None:
    case = OneOp("wide", {"x": Value((4, 512))}, (dense("y", "x", inputs=512),))
    found = {}
    for size in (0, 32):
        recipe = Recipe("blocks", default=Mode.DYNAMIC_INT4, block_size=size)
        made = edgeq.export(
            case.build(), case.draw(20), recipe=recipe, min_sqnr_db=None, progress=False
        )
        assert made.report.delegated_ops == made.report.total_ops
        found[size] = made.report.sqnr_db
    assert found[32] > found[0] + 1


def test_blocks_that_do_not_fit_are_said() -> None:
    case = OneOp("narrow", {"x": Value((4, 48))}, (dense("y", "x", inputs=48),))
    model = LiteModel(case.build(), "tflite")
    recipe = Recipe("blocks", default=Mode.DYNAMIC_INT4, block_size=32)
    assert choose(model, recipe)[0].reason == "its columns do not divide into blocks of 32"


def test_a_weight_that_two_ops_share_is_stored_once() -> None:
    shared = weights(64, 64)
    steps = (
        Step("FULLY_CONNECTED", ("x", shared, None), {"a": ROWS}),
        Step("FULLY_CONNECTED", ("a", shared, None), {"y": ROWS}),
    )
    case = OneOp("shared", {"x": ROWS}, steps)
    tree = unpack(case.build())
    first, second = tree.subgraphs[0].operators
    second.inputs = np.where([False, True, False], first.inputs, second.inputs)
    float_model = pack(tree)
    for name in ("dynamic_int8", "weight_int8", "float16"):
        made = edgeq.export(
            float_model, case.draw(12), recipe=name, min_sqnr_db=None, progress=False
        )
        graph = parse(made.tflite).graphs[0]
        big = [t for t in graph.tensors if t.is_constant and t.shape == (64, 64)]
        readers = {op.inputs[1] for op in graph.operators if op.name == "FULLY_CONNECTED"}
        read = [t for t in big if t.index in readers or t.dtype != "float32"]
        assert (len(read), len(readers)) == (1, 1)


@pytest.mark.parametrize("mode", [Mode.WEIGHT_INT4, Mode.WEIGHT_INT8])
def test_an_embedding_of_any_index_shape_is_looked_up(mode: Mode) -> None:
    table_values = weights(40, 16)
    step = Step("GATHER", (table_values, "ids"), {"y": Value((2, 3, 16))})
    case = OneOp("GATHER", {"ids": Value((2, 3), "int32", 0, 40)}, (step,))
    made = edgeq.export(
        case.build(), case.draw(12), recipe=mode.value, min_sqnr_db=None, progress=False
    )
    assert [op.name for op in parse(made.tflite).graphs[0].operators] == [
        "RESHAPE", "EMBEDDING_LOOKUP", "RESHAPE",
    ]  # fmt: skip
    sample = case.draw(1)[0]["ids"]
    assert edgeq.lint(made.tflite).errors == ()
    with made.session() as session:
        found = session.run(sample)["y"]
    assert found.shape == (2, 3, 16)
    assert mode.weight_dtype is not None
    qparams = stored_qparams(table_values, 0, mode.weight_dtype)
    expected = dequantize(quantize(table_values, qparams), qparams)[sample]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [DType.INT2, DType.INT4, DType.INT8])
def test_bits_are_packed_and_unpacked(dtype: DType) -> None:
    low, high = dtype.limits()
    integers = RNG.integers(low, high + 1, (3, 5)).astype(np.int8)
    packed = pack_bits(integers, dtype)
    assert len(packed) == -(-15 * dtype.bits // 8)
    if dtype.bits < 8:
        np.testing.assert_array_equal(unpack_bits(packed, (3, 5), dtype), integers)


def test_few_bits_clip_where_that_loses_less() -> None:
    data = RNG.standard_t(3, size=(8, 256)).astype(np.float32)
    for axis in (0, None):
        found = stored_qparams(data, axis, DType.INT4)
        plain = np.abs(data).max(axis=1 if axis == 0 else None) / 7
        full = replace(found, scale=tuple(np.atleast_1d(plain).astype(np.float32).astype(float)))
        error = [np.square(dequantize(quantize(data, q), q) - data).sum() for q in (found, full)]
        assert error[0] < error[1]


def test_block_scales_are_exact_in_float16() -> None:
    data = weights(4, 128)
    qparams = block_qparams(data, 32, DType.INT4)
    scales = np.asarray(qparams.scale)
    assert scales.shape == (4, 4)
    np.testing.assert_array_equal(scales.astype(np.float16).astype(float), scales)
    assert np.abs(quantize_blocks(data, qparams)).max() <= 7


def test_repeats_in_a_large_graph_have_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_choices, "LARGE", 2)
    counts = Value((4, 64), "int32")
    steps = (
        Step("ADD", ("n", "n"), {"step": counts}),
        Step("ADD", ("x", "x"), {"step#1": ROWS}),
        Step("ADD", ("step#1", "x"), {"step#2": ROWS}),
    )
    model = LiteModel(OneOp("counts", {"x": ROWS, "n": counts}, steps).build(), "tflite")
    assert decided_together(model.graph) == {0: (0,), 1: (1, 2), 2: (1, 2)}
