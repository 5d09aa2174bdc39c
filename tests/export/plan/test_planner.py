"""The planner as the pure function it is: graphs and ranges in, parameters and reasons out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from one_op import INFINITY, OneOp, Step, Value

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import MinMax
from edgeq.errors import ModelError, RecipeError, UnsupportedOpError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.plan.choices import choose
from edgeq.export.plan.margin import with_margin
from edgeq.export.plan.planner import INT32_MAX, make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.plan.strictness import check_strict, reasons_of
from edgeq.model import LiteModel
from edgeq.ops import OPS, OpRow, ScaleRule
from edgeq.qtypes import DType, QParams, affine, float32, quantize, symmetric
from edgeq.recipe import INT8, Mode, Recipe, Rule

Array = npt.NDArray[np.float32]
Operands = tuple[str | npt.NDArray[np.generic] | None, ...]

X = Value((1, 4))
WIDE = Value((1, 8))
GATE = QParams(DType.INT8, (1 / 256,), (-128,))
"""What the kernel of LOGISTIC dictates."""


def floats(values: object) -> Array:
    return np.asarray(values, np.float32)


def step(op: str, operands: Operands, output: str, value: Value = X, **options: object) -> Step:
    return Step(op, operands, {output: value}, options)


@dataclass(frozen=True)
class Planned:
    """A small model and what was planned for it."""

    model: LiteModel
    plan: Plan

    def tensor(self, name: str) -> QParams | None:
        """The parameters of a computed tensor; None if it stays float."""
        index = next(t.index for t in self.model.graph.tensors if t.name == name)
        return self.plan.tensors.get(index)


def build(inputs: Mapping[str, Value], *steps: Step) -> LiteModel:
    return LiteModel(OneOp("model", inputs, steps).build(), "tflite")


def planned(model: LiteModel, ranges: Mapping[str, tuple[float, float]], *rules: Rule) -> Planned:
    """The plan for made-up ranges, by tensor name."""
    index = {t.name: t.index for t in model.graph.tensors}
    found = {index[name]: MinMax(*limits) for name, limits in ranges.items()}
    calibration = Calibration(model.digest, 128, found)
    return Planned(model, make_plan(model, calibration, choose(model, Recipe("test", rules))))


def test_same_scale_ops_of_the_demo_share_parameters(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    plan = make_plan(demo_model, demo_calibration, choose(demo_model, INT8))
    graph = demo_model.graph
    same = [op for op in graph.operators if OPS[op.name].rule is ScaleRule.SAME]
    assert same
    for op in same:
        read = [t.index for _, t in graph.operands(op) if t.dtype == "float32"]
        assert len({plan.tensors[t] for t in (*read, *op.outputs)}) == 1, demo_model.where(op)


def test_free_tensors_of_the_demo_take_the_range_that_was_measured(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    plan = make_plan(demo_model, demo_calibration, choose(demo_model, INT8))
    graph = demo_model.graph
    tied = {
        t
        for op in graph.operators
        if OPS[op.name].rule is ScaleRule.SAME
        for t in (*op.inputs, *op.outputs)
    }
    free = [t for t in demo_calibration.ranges if t not in tied]
    assert len(free) > 10
    for tensor in free:
        found, values = demo_calibration.ranges[tensor], math.prod(graph.tensors[tensor].shape)
        expected = with_margin(found, demo_calibration.samples, values)
        assert plan.tensors[tensor] == affine(*expected)


def test_every_weight_of_the_demo_is_quantized_by_its_channels(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    plan = make_plan(demo_model, demo_calibration, choose(demo_model, INT8))
    graph = demo_model.graph
    for op in graph.operators:
        row = OPS[op.name]
        if row.weight is None:
            continue
        slot = row.weight.slot
        weight, qparams = graph.tensors[op.inputs[slot]], plan.operands[op.index, slot]
        assert weight.data is not None
        assert (qparams.axis, qparams.narrow_range) == (row.weight_axis, True)
        assert len(qparams.scale) == weight.shape[row.weight_axis or 0]
        others = tuple(a for a in range(weight.data.ndim) if a != row.weight_axis)
        assert np.abs(quantize(weight.data, qparams)).max(axis=others).max() == 127


def test_a_concatenation_spans_all_its_inputs() -> None:
    model = build({"a": X, "b": X}, step("CONCATENATION", ("a", "b"), "y", WIDE, axis=1))
    found = planned(model, {"a": (-1.0, 0.5), "b": (2.0, 9.0)})
    assert [found.tensor(name) for name in "aby"] == [affine(-1.0, 9.0)] * 3
    assert found.plan.operands == {}


def test_groups_reach_through_chains_of_same_scale_ops() -> None:
    shape = np.asarray([2, 4], np.int32)
    model = build(
        {"a": X, "b": X},
        step("RESHAPE", ("a", np.asarray([1, 4], np.int32)), "c"),
        step("CONCATENATION", ("c", "b"), "d", Value((2, 4)), axis=0),
        step("RESHAPE", ("d", shape), "e", Value((2, 4))),
        step("ABS", ("e",), "y", Value((2, 4))),
    )
    found = planned(model, {"a": (-1.0, 1.0), "b": (0.0, 7.0), "y": (0.0, 7.0)})
    assert [found.tensor(name) for name in "abcde"] == [affine(-1.0, 7.0)] * 5
    assert found.tensor("y") == affine(0.0, 7.0)


FIXED = [row for row in OPS.values() if row.rule is ScaleRule.FIXED]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row.name)
def test_fixed_scales_ignore_the_data(row: OpRow) -> None:
    found = planned(build({"x": X}, step(row.name, ("x",), "y")), {"x": (-3.0, 5.0)})
    assert (found.tensor("x"), found.tensor("y")) == (affine(-3.0, 5.0), row.fixed)


def test_a_same_scale_op_behind_a_fixed_one_keeps_the_fixed_scale() -> None:
    model = build(
        {"x": X},
        step("LOGISTIC", ("x",), "gate"),
        step("RESHAPE", ("gate", np.asarray([4], np.int32)), "y", Value((4,))),
    )
    found = planned(model, {"x": (-3.0, 5.0)})
    assert (found.tensor("gate"), found.tensor("y")) == (GATE, GATE)
    assert found.plan.operands == {}


def test_a_fixed_scale_is_requantized_where_it_meets_another() -> None:
    model = build(
        {"x": X},
        step("LOGISTIC", ("x",), "gate"),
        step("CONCATENATION", ("x", "gate"), "y", WIDE, axis=1),
    )
    found = planned(model, {"x": (-3.0, 0.5)})
    wanted = affine(-3.0, 255 / 256)
    assert [found.tensor(name) for name in ("x", "gate", "y")] == [wanted, GATE, wanted]
    assert found.plan.operands == {(1, 1): wanted}


@pytest.mark.parametrize(
    ("constant", "limits"),
    [
        (floats([-1.0]), (-3.0, 5.0)),
        (floats([8.0]), (-3.0, 8.0)),
        (floats([-INFINITY]), (-3.0, 5.0)),
    ],
    ids=["within", "beyond", "a stand-in for infinity"],
)
def test_constants_of_a_same_scale_op_count(constant: Array, limits: tuple[float, float]) -> None:
    model = build({"x": X}, step("MAXIMUM", ("x", constant), "y"))
    found = planned(model, {"x": (-3.0, 5.0)})
    assert (found.tensor("x"), found.tensor("y")) == (affine(*limits), affine(*limits))
    assert found.plan.operands == {(0, 1): affine(*limits)}


def test_a_relu_wastes_no_integer_on_negative_numbers() -> None:
    found = planned(build({"x": X}, step("RELU", ("x",), "y")), {"x": (-4, 6), "y": (0, 6)})
    assert found.tensor("y") == QParams(DType.INT8, (float32(6 / 255),), (-128,))


def test_a_constant_that_is_no_weight_takes_its_own_range() -> None:
    model = build({"x": X}, step("MUL", ("x", floats([0.25, 2, 1, 0])), "y"))
    found = planned(model, {"x": (-1.0, 1.0), "y": (-2.0, 2.0)})
    assert found.plan.operands == {(0, 1): affine(0.0, 2.0)}


def test_weights_without_a_channel_axis_take_one_scale() -> None:
    weights = floats(np.arange(32).reshape(4, 8) - 20)
    model = build({"x": X}, step("BATCH_MATMUL", ("x", weights), "y", WIDE))
    found = planned(model, {"x": (-1.0, 1.0), "y": (-2.0, 2.0)})
    assert found.plan.operands == {(0, 1): symmetric(20.0)}


def test_a_computed_right_matrix_is_centred() -> None:
    square = Value((1, 4, 4))
    model = build(
        {"x": square, "k": square},
        step("RESHAPE", ("k", np.array([1, 4, 4], np.int32)), "keys", square, newShape=[1, 4, 4]),
        step("BATCH_MATMUL", ("x", "keys"), "y", square),
    )
    ranges = {"x": (-1.0, 0.9), "y": (-2.0, 2.0)}
    found = planned(model, {**ranges, "k": (-2.0, 1.5), "keys": (-2.0, 1.5)})
    assert found.tensor("keys") == found.tensor("k") == symmetric(2.0)
    assert found.tensor("x") == affine(-1.0, 0.9)
    one_sided = planned(model, {**ranges, "k": (-0.1, 1.5), "keys": (-0.1, 1.5)})
    assert one_sided.tensor("keys") == affine(-0.1, 1.5)


def fully_connected(weights: Array, bias: Array | None) -> LiteModel:
    output = Value((1, len(weights)))
    return build({"x": X}, step("FULLY_CONNECTED", ("x", weights, bias), "y", output))


@pytest.mark.parametrize("bias", [floats([1e6, 0.5]), floats([-1e6, 0.0])])
def test_a_bias_never_overflows_its_32_bits(bias: Array) -> None:
    weights = floats([[0.5] * 4, [0.25] * 4])
    found = planned(fully_connected(weights, bias), {"x": (-1.0, 1.0), "y": (-2.0, 2.0)})
    scale, step_in = np.asarray(found.plan.operands[0, 1].scale), found.tensor("x")
    assert step_in is not None
    assert (np.abs(bias) / (scale * step_in.scale[0]) <= INT32_MAX).all()
    assert scale[0] > 0.5 / 127
    assert scale[1] == float32(0.25 / 127)


def test_a_dead_channel_keeps_the_resolution_of_its_bias() -> None:
    weights = floats([[0.5] * 4, [0.0] * 4])
    found = planned(fully_connected(weights, floats([1.0, 1.0])), {"x": (-1, 1), "y": (-2, 2)})
    assert found.plan.operands[0, 1].scale == (float32(0.5 / 127),) * 2


@pytest.mark.parametrize(
    ("weights", "bias"),
    [
        (floats([[np.nan, 0, 0, 0]]), None),
        (floats([[np.inf, 0, 0, 0]]), None),
        (floats([[1, 0, 0, 0]]), floats([np.nan])),
    ],
)
def test_weights_that_are_no_numbers_are_named(weights: Array, bias: Array | None) -> None:
    message = re.escape("FULLY_CONNECTED at y (op 0): its weight or bias holds NaN or infinite")
    with pytest.raises(ModelError, match=message):
        planned(fully_connected(weights, bias), {"x": (-1, 1), "y": (-2, 2)})


CHAIN = (
    step("RELU", ("x",), "stem.relu"),
    step("ABS", ("stem.relu",), "head.abs"),
    step("EXP", ("head.abs",), "head.exp"),
)
CHAIN_RANGES = {"x": (-1.0, 1.0), "stem.relu": (0, 1), "head.abs": (0, 1), "head.exp": (1, 3)}


@pytest.mark.parametrize(
    ("rules", "reasons", "integer"),
    [
        ((), {}, {"x", "stem.relu", "head.abs", "head.exp"}),
        (
            (Rule(layer="head", mode=Mode.FLOAT, reason="it is sensitive"),),
            {1: "it is sensitive", 2: "it is sensitive"},
            {"x", "stem.relu"},
        ),
        (
            (Rule(op="ABS", mode=Mode.FLOAT),),
            {1: "layer='' op='ABS' mode='float'"},
            {"x", "stem.relu", "head.abs", "head.exp"},
        ),
        (
            (Rule(op="EXP"), Rule(layer="head", mode=Mode.FLOAT, reason="the rest of it")),
            {1: "the rest of it"},
            {"x", "stem.relu", "head.abs", "head.exp"},
        ),
        ((Rule(mode=Mode.FLOAT, reason="all"),), dict.fromkeys(range(3), "all"), set()),
    ],
    ids=["no rules", "a layer", "an op without a reason", "first match wins", "everything"],
)
def test_rules_leave_ops_float_with_their_reason(
    rules: tuple[Rule, ...], reasons: dict[int, str], integer: set[str]
) -> None:
    model = build({"x": X}, *CHAIN)
    found = planned(model, CHAIN_RANGES, *rules)
    assert found.plan.float_ops == reasons
    assert {model.graph.tensors[t].name for t in found.plan.tensors} == integer
    assert all(op not in reasons for op, _ in found.plan.operands)


def test_the_recipes_default_may_be_float() -> None:
    model = build({"x": X}, *CHAIN)
    seen = {t.index: MinMax(*CHAIN_RANGES[t.name]) for t in model.graph.tensors}
    calibration = Calibration(model.digest, 128, seen)
    plan = make_plan(model, calibration, choose(model, Recipe("float", (), Mode.FLOAT)))
    assert plan == Plan({}, {}, dict.fromkeys(range(3), "the recipe's default"))


@pytest.mark.parametrize(
    ("first", "op", "expected"),
    [
        (step("LOGISTIC", ("x",), "a"), "LOGISTIC", affine(0.0, 255 / 256)),
        (step("MAXIMUM", ("x", floats([7.0])), "a"), "MAXIMUM", affine(-3.0, 7.0)),
    ],
    ids=["fixed", "same"],
)
def test_what_a_float_op_gives_to_an_integer_op_has_a_range(
    first: Step, op: str, expected: QParams
) -> None:
    model = build({"x": X}, first, step("ABS", ("a",), "y"))
    found = planned(model, {"x": (-3.0, 5.0), "y": (0, 7)}, Rule(op=op, mode=Mode.FLOAT))
    assert found.tensor("a") == expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            (Rule(layer="head.aps", mode=Mode.FLOAT),),
            "the rule layer='head.aps' op='*' mode='float' matches no op (an earlier rule may take "
            "them all). Near misses: head.abs",
        ),
        ((Rule(op="RELU6"),), "Near misses: RELU"),
        ((Rule(layer="head", op="RELU"),), "matches no op"),
        ((Rule(layer="qqqqqqqq"),), "Near misses: none"),
        ((Rule(), Rule(op="ABS", reason="mine")), "op='ABS' mode='static_int8' (mine) matches no"),
    ],
)
def test_a_rule_that_matches_nothing_is_refused(rules: tuple[Rule, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        planned(build({"x": X}, *CHAIN), CHAIN_RANGES, *rules)


def sines(count: int) -> LiteModel:
    """A chain of ops that have no int8 form."""
    names = ["x", *(f"sine{i}" for i in range(count))]
    steps = (step("SIN", (before,), after) for before, after in pairwise(names))
    return build({"x": X}, *steps)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (2, "2 op(s) cannot be static_int8 as the recipe wants: SIN at sine0 (op 0), SIN at sine1"),
        (10, "SIN at sine7 (op 7) and 2 more"),
        (1, "Rule(op='SIN', mode=Mode.FLOAT, reason='...')"),
    ],
)
def test_ops_without_an_int8_form_are_all_named(count: int, message: str) -> None:
    model = sines(count)
    float_ops = reasons_of(choose(model, INT8))
    with pytest.raises(UnsupportedOpError, match=re.escape(message)):
        check_strict(model, INT8, float_ops, strict=True)


def test_a_rule_leaves_an_op_without_an_int8_form_float() -> None:
    rule = Rule(op="SIN", mode=Mode.FLOAT, reason="no kernel")
    found = planned(sines(2), {"x": (-1, 1), "sine0": (-1, 1), "sine1": (-1, 1)}, rule)
    assert found.plan == Plan({}, {}, {0: "no kernel", 1: "no kernel"})


def test_ops_on_integers_need_no_form() -> None:
    count = Value((1, 4), "int32")
    step_on_integers = step("FLOOR_MOD", ("n", np.asarray([3], np.int32)), "m", count)
    found = planned(build({"n": count}, step_on_integers), {})
    assert found.plan == Plan({}, {}, {})


def test_a_calibration_of_another_model_is_refused(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    other = replace(demo_calibration, model="0" * 64)
    message = r"made from another float model \(its SHA-256 starts with 0{12}, .*calibrate again"
    with pytest.raises(ModelError, match=message):
        make_plan(demo_model, other, choose(demo_model, INT8))


def test_a_tensor_without_a_range_is_named() -> None:
    with pytest.raises(ModelError, match=r"tensor 'stem\.relu' was not calibrated"):
        planned(build({"x": X}, *CHAIN), {"x": (-1, 1), "head.abs": (0, 1), "head.exp": (1, 3)})


def test_a_quantized_model_is_refused(exported: EdgeModel) -> None:
    model = LiteModel(exported.tflite, "tflite")
    with pytest.raises(ModelError, match=r"quantized already: tensor '.*' is int\d+\. Export"):
        make_plan(model, Calibration(model.digest, 1, {}), {})


def test_planning_changes_nothing_and_repeats(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    before, ranges = demo_model.tflite, dict(demo_calibration.ranges)
    plans = [make_plan(demo_model, demo_calibration, choose(demo_model, INT8)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert (demo_model.tflite, dict(demo_calibration.ranges)) == (before, ranges)


def test_a_plan_is_ready_for_json() -> None:
    model = fully_connected(floats([[0.5] * 4, [0.25] * 4]), None)
    found = planned(model, {"x": (-1.0, 2.0), "y": (-2.0, 2.0)})
    fields = json.loads(json.dumps(found.plan.to_dict(model)))
    x, weights = affine(-1.0, 2.0), found.plan.operands[0, 1]
    assert fields["tensors"]["x"] == {
        "dtype": "int8", "scale": list(x.scale), "zero_point": list(x.zero_point),
        "quantization_dimension": None, "narrow_range": False,
    }  # fmt: skip
    assert fields["operands"] == {
        "y operand 1": {
            "dtype": "int8", "scale": list(weights.scale), "zero_point": [0],
            "quantization_dimension": 0, "narrow_range": True,
        }
    }  # fmt: skip
    assert fields["float"] == {}


def test_reasons_are_in_the_json_by_where_the_op_is() -> None:
    model = build({"x": X}, *CHAIN)
    rule = Rule(op="EXP", mode=Mode.FLOAT, reason="too steep")
    fields = planned(model, CHAIN_RANGES, rule).plan.to_dict(model)
    assert fields["float"] == {"EXP at head.exp (op 2)": "too steep"}
