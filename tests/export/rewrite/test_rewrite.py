"""Every rewrite: the same numbers before and after, and more of the int8 model in the delegate."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from one_op import INFINITY, VALID, Array, OneOp, Step, Value
from rewrite_cases import CASES, Rewritten
from stages import to_int8
from typer.testing import CliRunner

import edgeq
from edgeq import Mode, ModelError, Recipe, RecipeError, Rule
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Fixed
from edgeq.cli import app
from edgeq.export.plan.choices import choose
from edgeq.export.plan.placement import planned_obstacles
from edgeq.export.plan.planner import make_plan
from edgeq.export.rewrite import REWRITES, rewrite
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.qtypes import QParams
from edgeq.runtime.coverage import Coverage
from edgeq.runtime.session import Session
from edgeq.targets import TARGETS, Target

SAMPLES = 20
ROUNDING = 1e-6
"""Largest difference that float rounding makes, as a share of the largest output."""


def _outputs(tflite: bytes, case: OneOp) -> dict[str, list[Array]]:
    """Outputs for each sample, by name."""
    found: dict[str, list[Array]] = {}
    with Session(tflite, threads=1) as session:
        for sample in case.draw(SAMPLES):
            for name, array in session.run(sample).items():
                found.setdefault(name, []).append(array)
    return found


def _judged(tflite: bytes, expected: dict[str, list[Array]], case: OneOp) -> tuple[float, Coverage]:
    """Lowest SQNR of an output, and what the delegate took."""
    actual, found = _outputs(tflite, case), []
    for name, arrays in expected.items():
        fidelity = Fidelity()
        for one, other in zip(arrays, actual[name], strict=True):
            fidelity = fidelity.observe(one, other)
        found.append(fidelity.sqnr_db)
    with Session(tflite, threads=1) as session:
        return min(found), session.coverage()


def _shown(coverage: Coverage) -> str:
    return f"{len(coverage.delegated)}/{coverage.total} in {coverage.partitions}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_rewrite_keeps_the_numbers_and_serves_int8(case: Rewritten, converter: Worker) -> None:
    model = LiteModel(case.model.build(), "tflite")
    rewritten, samples = rewrite(model, TARGETS[case.target]), case.model.draw(SAMPLES)
    assert tuple(op.name for op in rewritten.graph.operators) == case.ops
    expected, actual = _outputs(model.tflite, case.model), _outputs(rewritten.tflite, case.model)
    assert set(actual) == set(expected)
    is_exact = all(row.exact for row in REWRITES if row.name == case.name)
    for name, arrays in expected.items():
        rounding = 0 if is_exact else ROUNDING * np.abs(arrays).max()
        np.testing.assert_allclose(actual[name], arrays, rtol=0, atol=rounding)
    after, taken = _judged(to_int8(converter, rewritten, samples), expected, case.model)
    row: dict[str, str | float] = {"rewrite": case.label, "SQNR dB": after, "taken": _shown(taken)}
    assert case.is_delegated == (len(taken.delegated) == taken.total)
    if case.has_int8:
        before, taken = _judged(to_int8(converter, model, samples), expected, case.model)
        row.update({"before dB": before, "taken before": _shown(taken)})
        assert after >= before - case.loss_db
    tables.add_row("rewrites in int8", {"before dB": "", "taken before": "", **row})


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in ("reduction of a long row", "softplus written out")],
    ids=lambda case: case.label,
)
def test_what_int8_would_ruin_is_faithful(case: Rewritten, converter: Worker) -> None:
    model = LiteModel(case.model.build(), "tflite")
    tflite = to_int8(converter, rewrite(model), case.model.draw(SAMPLES))
    level, _ = _judged(tflite, _outputs(model.tflite, case.model), case.model)
    # 22 to 28 where sums of 12,000 numbers overflow, and 2 by exponentials up to 160,000
    assert level > 35


def test_every_rewrite_has_a_case() -> None:
    assert {row.name for row in REWRITES} == {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_rewritten_model_has_nothing_left_to_rewrite(case: Rewritten) -> None:
    for target in TARGETS.values():
        rewritten = rewrite(LiteModel(case.model.build(), "tflite"), target)
        assert rewrite(rewritten, target) is rewritten


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_no_rewrite_makes_ops_that_its_target_does_not_run(target: Target) -> None:
    for case in CASES:
        model = LiteModel(case.model.build(), "tflite")
        before, after = (_left_out(m, target) for m in (model, rewrite(model, target)))
        assert len(after) <= len(before), f"{case.label}: {before} became {after}"
        if case.target == target.name != "xnnpack":
            assert not after, case.label


def _left_out(model: LiteModel, target: Target) -> list[str]:
    """Ops that a target does not run in int8, whatever the ranges."""
    ranges = {tensor.index: Fixed(-3.0, 3.0) for tensor in model.graph.tensors}
    recipe = Recipe(strict=False)
    plan = make_plan(model, Calibration(model.digest, 128, ranges), choose(model, recipe))
    obstacles = planned_obstacles(model, plan, target)
    return [op.name for op in model.graph.operators if obstacles[op.index]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_inputs_outputs_and_layers_keep_their_names(case: Rewritten) -> None:
    model = LiteModel(case.model.build(), "tflite")
    rewritten = rewrite(model, TARGETS[case.target])
    assert rewritten.signature == model.signature
    for index in (*model.graph.inputs, *model.graph.outputs):
        assert rewritten.graph.tensors[index].name == model.graph.tensors[index].name
    layers = {tensor.name for tensor in model.graph.tensors}
    assert {rewritten.layer(op) for op in rewritten.graph.operators} <= layers


def test_an_output_keeps_its_name_where_the_op_that_made_it_goes() -> None:
    rows, half = Value((2, 16)), Value((1, 16))
    relu = Step("RELU", ("x",), {"a": rows})
    split = Step("SPLIT", (np.asarray(0, np.int32), "a"), {"b": half, "c": half}, {"numSplits": 2})
    same = Step("RESHAPE", ("b", np.asarray([1, 16], np.int32)), {"y": half})
    case = OneOp("same", {"x": rows}, (relu, split, same))
    rewritten = rewrite(LiteModel(case.build(), "tflite"))
    assert [op.name for op in rewritten.graph.operators] == ["MUL", "SPLIT"]
    expected, actual = _outputs(case.build(), case), _outputs(rewritten.tflite, case)
    np.testing.assert_array_equal(actual["y"], expected["y"])


@st.composite
def _layout_changes(draw: st.DrawFn) -> OneOp:
    """A chain of RESHAPE and TRANSPOSE."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    steps, start = [], Value(shape)
    for number in range(draw(st.integers(1, 5))):
        name = draw(st.sampled_from(["RESHAPE", "TRANSPOSE"]))
        if name == "TRANSPOSE":
            order = draw(st.permutations(range(len(shape))))
            shape, operand = tuple(shape[a] for a in order), np.asarray(order, np.int32)
        else:
            shape = _regrouped(draw, math.prod(shape))
            operand = np.asarray(shape, np.int32)
        source = f"t{number - 1}" if steps else "x"
        steps.append(Step(name, (source, operand), {f"t{number}": Value(shape)}))
    steps.append(Step("LOGISTIC", (f"t{len(steps) - 1}",), {"y": Value(shape)}))
    return OneOp("layout", {"x": start}, tuple(steps))


def _regrouped(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    shape = []
    for _ in range(draw(st.integers(0, 3))):
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        count //= shape[-1]
    return (*shape, count)


@settings(max_examples=60, deadline=None)
@given(_layout_changes())
def test_layout_changes_become_fewer_and_do_the_same(case: OneOp) -> None:
    model = LiteModel(case.build(), "tflite")
    rewritten = rewrite(model)
    assert len(rewritten.graph.operators) <= len(model.graph.operators)
    np.testing.assert_array_equal(
        _outputs(rewritten.tflite, case)["y"], _outputs(model.tflite, case)["y"]
    )


_SIDES = [
    sides
    for sides in itertools.product((4, 5, 6, 7), (1, 2, 3, 4), (1, 2, 3), ((1, 1), (0, 1), (2, 1)))
    if sum(sides[3]) + sides[0] >= sides[1] >= sides[2]
]


def _padded(name: str, sides: tuple[int, int, int, tuple[int, int]]) -> OneOp:
    """A window over a padded image, whose width is one more than its height."""
    size, kernel, stride, (before, after) = sides
    shape = (1, size, size + 1, 3)
    margins = np.asarray([[0, 0], [before, after], [before, after], [0, 0]], np.int32)
    padded = tuple(d + int(sum(m)) for d, m in zip(shape, margins, strict=True))
    out = tuple((d - kernel) // stride + 1 for d in padded[1:3])
    common = {"padding": VALID, "strideW": stride, "strideH": stride}
    if name == "CONV_2D":
        pad = Step("PAD", ("x", margins), {"padded": Value(padded)})
        weights = np.random.default_rng(0).normal(size=(2, kernel, kernel, 3)).astype(np.float32)
        operands: tuple[str | Array, ...] = ("padded", weights, weights[:, 0, 0, 0])
        window = Step(name, operands, {"y": Value((1, *out, 2))},
                      {**common, "dilationWFactor": 1, "dilationHFactor": 1})  # fmt: skip
    else:
        lowest = np.asarray(-INFINITY, np.float32)
        pad = Step("PADV2", ("x", margins, lowest), {"padded": Value(padded)})
        window = Step(name, ("padded",), {"y": Value((1, *out, 3))},
                      {**common, "filterWidth": kernel, "filterHeight": kernel})  # fmt: skip
    return OneOp(name, {"x": Value(shape)}, (pad, window))


@pytest.mark.parametrize("name", ["CONV_2D", "MAX_POOL_2D"])
def test_padding_is_taken_away_only_where_the_numbers_stay(name: str) -> None:
    taken = 0
    for sides in _SIDES:
        case = _padded(name, sides)
        rewritten = rewrite(LiteModel(case.build(), "tflite"))
        names = {op.name for op in rewritten.graph.operators}
        taken += names == {name}
        np.testing.assert_array_equal(
            _outputs(rewritten.tflite, case)["y"], _outputs(case.build(), case)["y"], str(sides)
        )
    assert 0 < taken < len(_SIDES)


def test_rule_on_an_op_that_is_rewritten_tells_so() -> None:
    rows = Value((2, 16))
    case = OneOp("NEG", {"x": rows}, (Step("NEG", ("x",), {"y": rows}),))
    recipe = Recipe(rules=(Rule(op="NEG", mode=Mode.FLOAT, reason="the sign is cheap"),))
    with pytest.raises(
        RecipeError, match="NEG may be what is rewritten into other ops: then name its layer"
    ):
        edgeq.export(case.build(), case.draw(SAMPLES), recipe=recipe, progress=False)


@pytest.mark.parametrize("mode", ["dynamic_int8", "dynamic_int4", "weight_int4"])
def test_product_with_a_constant_matrix_gets_the_modes_of_a_dense_layer(mode: str) -> None:
    rows, left = Value((2, 5, 8)), Value((2, 5, 16))
    weights = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    case = OneOp("BATCH_MATMUL", {"x": left}, (Step("BATCH_MATMUL", ("x", weights), {"y": rows}),))
    edge = edgeq.export(case.build(), case.draw(SAMPLES), recipe=mode, progress=False)
    (stored,) = edge.plan.stored.values()
    assert isinstance(stored.qparams, QParams)
    assert stored.dynamic == mode.startswith("dynamic")
    assert (stored.qparams.dtype, len(stored.qparams.scale)) == (Mode(mode).weight_dtype, 8)


@pytest.fixture(scope="module")
def native() -> OneOp:
    """Ops that the Edge TPU runs as they are, and some that it runs in another form."""
    image, half = Value((1, 8, 8, 4)), Value((1, 4, 4, 4))
    pool = {"filterWidth": 2, "filterHeight": 2, "strideW": 2, "strideH": 2, "padding": VALID}
    bound = np.asarray(0.75, np.float32)
    return OneOp("native", {"x": image}, (
        Step("RELU", ("x",), {"a": image}),
        Step("MAX_POOL_2D", ("a",), {"b": half}, pool),
        Step("LEAKY_RELU", ("b",), {"c": half}, {"alpha": 0.1}),
        Step("MINIMUM", ("c", bound), {"y": half}),
    ))  # fmt: skip


def test_what_the_edge_tpu_runs_as_it_is_stays(native: OneOp) -> None:
    data = native.draw(9)
    edge = edgeq.export(native.build(), data, target="edgetpu", progress=False)
    assert [op.name for op in edge.rewritten.graph.operators] == [
        "RELU", "MAX_POOL_2D", "PRELU", "MINIMUM",
    ]  # fmt: skip
    placed = edgeq.lint(edge.tflite, "edgetpu")
    assert placed.mapped_ops == len(placed.ops) == 4
    both = edgeq.plan(native.build(), data, target="portable", progress=False)
    assert {op.op for op in both.ops if op.obstacle} == {"MINIMUM"}


def test_a_calibration_for_another_target_is_refused(native: OneOp, tmp_path: Path) -> None:
    data, settings = native.draw(9), {"target": "edgetpu", "progress": False}
    made = edgeq.calibrate(native.build(), data, progress=False)
    with pytest.raises(
        ModelError,
        match="made for target 'xnnpack', for which the model is rewritten otherwise than for "
        "'edgetpu': calibrate with target='edgetpu' too",
    ):
        edgeq.plan(native.build(), data, calibration=made, **settings)
    made = edgeq.calibrate(native.build(), data, **settings)
    given = edgeq.plan(native.build(), data, calibration=made, **settings)
    assert given.plan == edgeq.plan(native.build(), data, **settings).plan
    (tmp_path / "model.tflite").write_bytes(native.build())
    np.savez(tmp_path / "data.npz", x=np.stack([sample["x"][0] for sample in data]))
    files = [str(tmp_path / name) for name in ("model.tflite", "data.npz", "made.json")]
    command = ["calibrate", files[0], "--data", files[1], "-o", files[2], "--target", "edgetpu"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert Calibration.load(files[2]) == made
    with pytest.raises(RecipeError, match="target must be one of xnnpack"):
        edgeq.calibrate(native.build(), data, target="moon")
