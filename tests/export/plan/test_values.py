"""Masks and other infinite values: they become the lowest integer, or their ops stay float."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from one_op import INFINITY, OneOp, Step, Value

import edgeq
from edgeq.calibrate.calibration import Beyond, Calibration
from edgeq.calibrate.observers import Fixed, MinMax
from edgeq.calibrate.run import Calibrator
from edgeq.converter import check_runs
from edgeq.errors import ModelError
from edgeq.export.convert.convert_plan import convert
from edgeq.export.plan.choices import Choice
from edgeq.export.plan.left_float import without_unbounded
from edgeq.export.plan.margin import with_margin
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.plan.values import Values
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import Mode
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]

TOKENS = 6
SCORES = Value((1, TOKENS, TOKENS), low=-3.0, high=4.0)
ROW = Value((1, 1, TOKENS))
CAUSAL = np.triu(np.ones((TOKENS, TOKENS), bool), 1)
FILLS = (-np.inf, -INFINITY, -1e9, -1e4, -100.0)


def number(value: float) -> Array:
    return np.asarray(value, np.float32)


def constant_mask(fill: float) -> OneOp:
    mask = np.where(CAUSAL, fill, 0).astype(np.float32)
    return attention(Step("ADD", ("x", mask), {"masked": SCORES}))


def chosen_mask(fill: float) -> OneOp:
    return attention(
        Step("SELECT_V2", ("hidden", number(fill), "x"), {"masked": SCORES}),
        hidden=Value(ROW.shape, "bool"),
    )


def added_choice(fill: float) -> OneOp:
    return attention(
        Step("SELECT_V2", ("hidden", number(fill), number(0)), {"mask": ROW}),
        Step("ADD", ("x", "mask"), {"masked": SCORES}),
        hidden=Value(ROW.shape, "bool"),
    )


def computed_mask(fill: float) -> OneOp:
    """As BERT's `(1 - attention_mask) * fill`, where that is a number."""
    return attention(
        Step("SUB", (number(1), "shown"), {"hidden": ROW}),
        Step("MUL", ("hidden", number(max(fill, -INFINITY))), {"mask": ROW}),
        Step("ADD", ("x", "mask"), {"masked": SCORES}),
        shown=Value(ROW.shape, low=0.0, high=1.0),
    )


def subtracted_mask(fill: float) -> OneOp:
    return attention(
        Step("MUL", ("hidden", number(min(-fill, INFINITY))), {"mask": ROW}),
        Step("SUB", ("x", "mask"), {"masked": SCORES}),
        hidden=Value(ROW.shape, low=0.0, high=1.0),
    )


def moved_mask(fill: float) -> OneOp:
    """The mask on its way through ops that only move it, beside a bias of positions."""
    flat, bias = Value((1, TOKENS)), np.linspace(-1, 1, TOKENS, dtype=np.float32)
    return attention(
        Step("SELECT_V2", ("hidden", number(fill), bias), {"mask": flat}),
        Step("RESHAPE", ("mask", np.asarray(ROW.shape, np.int32)), {"row": ROW}),
        Step("ADD", ("row", "x"), {"masked": SCORES}),
        hidden=Value(flat.shape, "bool"),
    )


def attention(*steps: Step, **inputs: Value) -> OneOp:
    weights = Step("SOFTMAX", ("masked",), {"weights": SCORES}, {"beta": 1.0})
    return OneOp("masked", {"x": SCORES, **inputs}, (*steps, weights))


MASKS = (constant_mask, chosen_mask, added_choice, computed_mask, subtracted_mask, moved_mask)


def samples(case: OneOp, count: int) -> list[dict[str, npt.NDArray[np.generic]]]:
    """Scores, and masks that hide any tokens but the first."""
    drawn: list[dict[str, npt.NDArray[np.generic]]] = []
    for sample in case.draw(count):
        for name in sample.keys() - {"x"}:
            hidden = np.asarray(sample[name] > 0.5)
            hidden[..., 0] = False
            sample[name] = (~hidden if name == "shown" else hidden).astype(sample[name].dtype)
        drawn.append(sample)
    return drawn


def planned(case: OneOp, drawn: list[dict[str, npt.NDArray[np.generic]]]) -> tuple[LiteModel, Plan]:
    model = LiteModel(case.build(), "tflite")
    names = [name for name, _ in model.input_tensors()]
    seen = Calibrator(model, threads=1).run(tuple(s[n] for n in names) for s in drawn)
    return model, make_plan(model, seen, floated(model, seen))


def floated(model: LiteModel, seen: Calibration) -> dict[int, Choice]:
    choices = {op.index: Choice(Mode.STATIC_INT8) for op in model.graph.operators}
    return without_unbounded(model, Values(model, seen), choices)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("make", MASKS)
def test_hidden_tokens_weigh_nothing_and_the_others_what_they_should(
    make: object, fill: float, converter: Worker
) -> None:
    assert callable(make)
    case = make(fill)
    model, plan = planned(case, samples(case, 40))
    assert plan.float_ops == {}
    worst = 0.0
    tflite = convert(converter, model, plan).tflite
    with Session(model.tflite, threads=1) as float_session, Session(tflite, threads=1) as session:
        for sample in samples(case, 60)[40:]:
            expected = float_session.run(sample)["weights"]
            found = session.run(sample)["weights"]
            assert not found[expected == 0].any()
            worst = max(worst, float(np.abs(expected - found).max()))
    assert worst < 0.04, worst


def held(tensor: str, model: LiteModel) -> int:
    return next(t.index for t in model.graph.tensors if t.name == tensor)


def test_scores_keep_all_integers_for_what_can_matter() -> None:
    case = constant_mask(-np.inf)
    model, plan = planned(case, samples(case, 128))
    low, high = plan.tensors[held("masked", model)].range()
    assert -20 < low < -8
    assert high == pytest.approx(4, abs=0.2)


def test_padding_with_infinity_leaves_the_range_of_what_is_pooled() -> None:
    image, padded, pooled = (
        Value((1, 6, 6, 2), low=-5, high=-1),
        Value((1, 8, 8, 2)),
        Value((1, 3, 3, 2)),
    )
    margins = np.asarray([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    pool = {"strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 3, "padding": 1}
    case = OneOp("pool", {"x": image}, (
        Step("PADV2", ("x", margins, number(-INFINITY)), {"padded": padded}),
        Step("MAX_POOL_2D", ("padded",), {"y": pooled}, pool),
    ))  # fmt: skip
    model, plan = planned(case, case.draw(20))
    assert plan.float_ops == {}
    assert plan.tensors[held("y", model)].range()[0] == pytest.approx(-5, abs=0.1)


def chain(*steps: Step, **inputs: Value) -> LiteModel:
    return LiteModel(OneOp("chain", inputs, steps).build(), "tflite")


def measured(
    model: LiteModel, ranges: Mapping[str, tuple[float, float]], beyond: Mapping[str, Beyond]
) -> Calibration:
    return Calibration(
        model.digest, 64,
        {held(name, model): MinMax(*ends) for name, ends in ranges.items()},
        beyond={held(name, model): one for name, one in beyond.items()},
    )  # fmt: skip


X = Value((1, 4))


def test_an_infinite_value_without_a_limit_keeps_its_ops_float_with_the_reason() -> None:
    model = chain(
        Step("LOG", ("x",), {"log": X}), Step("MUL", ("log", number(2)), {"twice": X}),
        Step("EXP", ("twice",), {"y": X}), x=X,
    )  # fmt: skip
    seen = measured(
        model, {"x": (0, 1), "log": (-5, 0), "twice": (-10, 0), "y": (0, 1)},
        {"log": Beyond(low=True), "twice": Beyond(low=True)},
    )  # fmt: skip
    assert floated(model, seen) == {i: Choice(Mode.STATIC_INT8) for i in range(3)}  # EXP limits it
    model = chain(
        Step("LOG", ("x",), {"log": X}), Step("ABS", ("log",), {"twice": X}),
        Step("RELU", ("x",), {"y": X}), Step("ADD", ("y", "twice"), {"z": X}), x=X,
    )  # fmt: skip
    seen = measured(
        model, {"x": (0, 1), "log": (-5, 0), "twice": (0, 5), "y": (0, 1), "z": (0, 6)},
        {"log": Beyond(low=True), "twice": Beyond(high=True), "z": Beyond(high=True)},
    )  # fmt: skip
    found = floated(model, seen)
    assert found[0].reason == "it gives values down to -infinity, which no integer holds"
    assert found[1].reason == "it reads values down to -infinity, which no integer holds"
    assert found[2] == Choice(Mode.STATIC_INT8)
    assert found[3].reason == "it reads values up to infinity, which no integer holds"


@pytest.mark.parametrize("limit", [np.inf, -np.inf])
@pytest.mark.parametrize("name", ["EQUAL", "NOT_EQUAL", "LESS", "GREATER_EQUAL"])
def test_a_comparison_with_infinity_is_of_integers_and_right(
    name: str, limit: float, converter: Worker
) -> None:
    """As `logsumexp` compares its maximum."""
    truth = Value(X.shape, "bool")
    case = OneOp("compared", {"x": X}, (Step(name, ("x", number(limit)), {"y": truth}),))
    model, plan = planned(case, case.draw(40))
    assert plan.float_ops == {}
    tflite = convert(converter, model, plan).tflite
    with Session(model.tflite, threads=1) as float_session, Session(tflite, threads=1) as session:
        for sample in (*case.draw(50)[40:], {"x": np.full(X.shape, 9, np.float32)}):
            assert (session.run(sample)["y"] == float_session.run(sample)["y"]).all()


def test_the_range_of_a_few_numbers_gets_a_margin() -> None:
    model = chain(Step("RELU", ("x",), {"y": X}), x=X)
    few = replace(measured(model, {"x": (-1, 1), "y": (0, 1)}, {}), samples=36)
    values, many = Values(model, few), Values(model, replace(few, samples=128))
    wide = 1 + 2 * 3.5 * (1 / 6 - 1 / 128**0.5)
    assert values.range(held("x", model)) == pytest.approx((-wide, wide))
    assert values.range(held("y", model)) == pytest.approx((0, (wide + 1) / 2))
    assert many.range(held("x", model)) == (-1, 1)
    fixed = replace(few, observers={**few.observers, held("x", model): Fixed(-1, 1)})
    assert Values(model, fixed).range(held("x", model)) == (-1, 1)


def test_values_of_one_sample_are_no_independent_numbers() -> None:
    """Some logits of a loud sample all lie beyond; of a picture, it hardly matters."""
    by_sample = with_margin((-1, 1), samples=20, values=1)
    assert by_sample[1] > 1.8
    assert with_margin((-1, 1), samples=20, values=10) == by_sample
    assert with_margin((-1, 1), samples=5, values=4 * 32) == by_sample
    assert with_margin((-1, 1), samples=20, values=1000) == (-1, 1)
    assert with_margin((-1, 1), samples=20, values=0) == (-1, 1)


def test_one_number_an_export_has_seen_little_of_keeps_its_fidelity() -> None:
    """Without the margin the worst of these has 16 dB."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(1, 8)).astype(np.float32)
    number_of = Step("FULLY_CONNECTED", ("x", weights, None), {"y": Value((1, 1))})
    model = chain(number_of, x=Value((1, 8)))
    worst = np.inf
    for _ in range(4):
        rows = rng.normal(size=(38, 8)).astype(np.float32)
        edge = edgeq.export(model.tflite, rows[:30], recipe="int8", progress=False)
        with edge.session() as session:
            found = np.ravel([session.run(row[None])["y"] for row in rows[30:]])
        expected = rows[30:] @ weights[0]
        noise = np.square(expected - found).sum()
        worst = min(worst, 10 * np.log10(np.square(expected).sum() / noise))
    assert worst > 20, worst


def test_what_a_choice_leaves_out_needs_no_integer() -> None:
    steps = (
        Step("LOG", ("x",), {"log": X}),
        Step("SELECT_V2", ("is_positive", "log", number(0)), {"y": X}),
    )
    model = chain(*steps, x=X, is_positive=Value((1, 4), "bool"))
    ranges = {"x": (-1.0, 1.0), "log": (-5.0, 0.0), "y": (-5.0, 0.0)}
    left_out = measured(model, ranges, {"log": Beyond(low=True, nan=True)})
    assert floated(model, left_out)[1] == Choice(Mode.STATIC_INT8)
    seen = measured(model, ranges, {"log": Beyond(low=True, nan=True), "y": Beyond(nan=True)})
    assert floated(model, seen)[1].reason == "it reads NaN, which no integer holds"


def test_scores_that_something_else_reads_keep_their_range() -> None:
    case = constant_mask(-1e4)
    tail = Step("ADD", ("masked", "masked"), {"twice": SCORES})
    model, plan = planned(OneOp("both", case.inputs, (*case.steps, tail)), samples(case, 128))
    assert plan.tensors[held("masked", model)].range()[0] == pytest.approx(-1e4, rel=0.1)


def test_a_mask_that_nothing_limits_stays_float_and_takes_no_values_with_it() -> None:
    steps = (Step("SELECT_V2", ("keep", "x", number(-1e9)), {"y": X}),)
    model = chain(*steps, x=X, keep=Value((1, 4), "bool"))
    large = measured(model, {"x": (-2.0, 2.0), "y": (-1e9, 2.0)}, {})
    assert "its scale leaves no integers to the other values" in floated(model, large)[0].reason
    steps = (Step("SELECT_V2", ("keep", "x", number(-9)), {"y": X}),)
    model = chain(*steps, x=X, keep=Value((1, 4), "bool"))
    small = measured(model, {"x": (-2.0, 2.0), "y": (-9.0, 2.0)}, {})
    assert floated(model, small)[0] == Choice(Mode.STATIC_INT8)


def quotient(divisor: str | Array) -> LiteModel:
    inputs = {"x": X, "z": Value((1, 4), low=0.5)} if isinstance(divisor, str) else {"x": X}
    return chain(Step("DIV", ("x", divisor), {"y": X}), **inputs)


def test_a_division_stays_float_where_its_kernel_may_end_the_run() -> None:
    ranges = {"x": (-1.0, 1.0), "z": (0.5, 3.0), "y": (-2.0, 2.0)}
    computed, tiny = quotient("z"), quotient(np.asarray([1, 2, 1e-4, 3], np.float32))
    plain = quotient(np.asarray([1, 2, 0.5, 3], np.float32))
    why = "its kernel ends the run where the divisor rounds to 0, which no data rules out"
    assert floated(computed, measured(computed, ranges, {}))[0] == Choice(Mode.FLOAT, why)
    del ranges["z"]
    assert floated(tiny, measured(tiny, ranges, {}))[0] == Choice(Mode.FLOAT, why)
    assert floated(plain, measured(plain, ranges, {}))[0] == Choice(Mode.STATIC_INT8)


def test_a_division_by_what_comes_close_to_0_is_exported_and_runs() -> None:
    model = quotient("z")
    rng = np.random.default_rng(3)
    rows = [
        {
            "x": rng.normal(size=(1, 4)).astype(np.float32),
            "z": rng.uniform(0.5, 3, (1, 4)).astype("f4"),
        }
        for _ in range(12)
    ]
    edge = edgeq.export(model.tflite, rows, recipe="int8", progress=False)
    assert list(edge.report.float_ops.values()) == [
        "its kernel ends the run where the divisor rounds to 0, which no data rules out"
    ]
    with edge.session() as session:
        sample = {"x": np.ones((1, 4), np.float32), "z": np.full((1, 4), 1e-3, np.float32)}
        (found,) = session.run(sample).values()
    assert np.isfinite(found).all()


def difference() -> LiteModel:
    """Two large numbers that are all but equal."""
    return chain(Step("SUB", ("x", "z"), {"y": X}), x=X, z=X)


def test_a_difference_far_smaller_than_its_operands_stays_float() -> None:
    why = r"its kernel ends the process where an operand's scale is 524288 times that of the result"
    for width, is_float in ((1e-3, True), (1.0, False)):
        ranges = {"x": (-1e3, 1e3), "z": (-1e3, 1e3), "y": (-width, width)}
        model = difference()
        found = floated(model, measured(model, ranges, {}))[0]
        assert found == (Choice(Mode.FLOAT, why) if is_float else Choice(Mode.STATIC_INT8))


def test_the_kernel_ends_the_process_from_that_ratio_on(converter: Worker) -> None:
    """If this fails, the kernel has changed, and sums may be int8 at more ratios."""
    for ratio, ends in ((2.0**18, False), (2.0**19, True)):
        model = chain(Step("ADD", ("x", "z"), {"y": X}), x=X, z=X)
        ranges = {"x": (-ratio, ratio), "z": (-ratio, ratio), "y": (-1.0, 1.0)}
        seen = measured(model, ranges, {})
        tflite = convert(
            converter, model, make_plan(model, seen, {0: Choice(Mode.STATIC_INT8)})
        ).tflite
        sample = (np.zeros((1, 4), np.float32),) * 2
        with pytest.raises(ModelError, match="SIGABRT") if ends else contextlib.nullcontext():
            check_runs(converter, tflite, sample, "the exported model")
