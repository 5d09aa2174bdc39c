"""Rounding weights by what they compute: the arithmetic, what becomes of a model, its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value
from output_noise import output_noise
from rewrite_cases import lstm

import edgeq
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.errors import ModelError, RecipeError
from edgeq.export.convert.loop_weights import with_lifted_weights
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.rewrite import rewrite
from edgeq.export.round import collecting, weighted_ops
from edgeq.export.round.collecting import MOST_ROWS
from edgeq.export.round.common_weights import Party
from edgeq.export.round.gptq import Grid, fit, gain
from edgeq.export.round.loop_taps import LoopTaps
from edgeq.export.round.moments import Moments
from edgeq.export.round.rounder import MEMORY_BYTES, Rounder
from edgeq.export.round.weighted_ops import Site, patches, spread_places
from edgeq.flatbuffer import Graph, pack
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind
from edgeq.qtypes import QParams, dequantize, quantize
from edgeq.recipe import INT8, PRESETS, Recipe, Rule
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]
SIZE = 12


def draw(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def correlated(rows: int, columns: int) -> Array:
    """Data of few dimensions, as the activations of networks are."""
    return draw(rows, columns // 4) @ draw(columns // 4, columns, seed=6) + 2.0


def grid(scale: float, shape: tuple[int, ...], top: int = 127) -> Grid:
    return Grid(np.full(shape, scale), np.zeros(shape), -top, top)


def loss(error: Array, squares: Array, lost: Array | float = 0.0) -> Array:
    """Mean square of `error @ x` for each row, with what is lost besides, up to a constant."""
    found: Array = ((error.astype(np.float64) @ squares + 2 * lost) * error).sum(axis=-1)
    return found


def test_the_gain_of_one_rounding_over_another_is_what_it_loses_less() -> None:
    weight, data, lost = draw(2, 7, 30), correlated(400, 30), draw(2, 7, 30, seed=7)
    squares = np.stack([data.T @ data / len(data)] * 2)
    one, other = grid(0.1, weight.shape).nearest(weight), grid(0.2, weight.shape).nearest(weight)
    expected = loss(weight - other, squares, lost) - loss(weight - one, squares, lost)
    assert gain(weight, one, other, squares, lost) == pytest.approx(expected, rel=1e-3)
    assert not gain(weight, one, one, squares, lost).any()


def test_weights_on_the_grid_stay_as_they_are() -> None:
    weight = np.rint(draw(1, 6, 20) * 20).astype(np.float32) * 0.5
    squares = np.cov(correlated(400, 20).T)[None]
    assert np.array_equal(fit(weight, squares, grid(0.5, weight.shape)), weight)


@pytest.mark.parametrize("columns", [9, 64, 150], ids=["few", "one block", "several blocks"])
def test_what_is_computed_changes_less_than_by_rounding_to_nearest(columns: int) -> None:
    weight, data = draw(2, 7, columns), correlated(3000, columns)
    squares = np.stack([data.T @ data / len(data)] * 2)
    places = grid(0.1, weight.shape)
    found = fit(weight, squares, places)
    integers = found / 0.1
    assert np.abs(integers - np.rint(integers)).max() < 1e-3
    nearest = loss(weight - places.nearest(weight), squares)
    assert (loss(weight - found, squares) <= nearest).all()
    assert loss(weight - found, squares).sum() < nearest.sum() / 4


def test_integers_stay_within_their_limits() -> None:
    weight, data = draw(1, 5, 40), correlated(500, 40)
    found = fit(weight, (data.T @ data / len(data))[None], grid(0.3, weight.shape, top=1))
    assert set(np.unique(np.rint(found / 0.3))) <= {-1, 0, 1}


def test_columns_that_never_see_a_number_do_no_harm() -> None:
    weight, squares = draw(1, 5, 8), np.zeros((1, 8, 8))
    places = grid(0.1, weight.shape)
    assert fit(weight, squares, places) == pytest.approx(places.nearest(weight))


def test_numbers_that_are_not_finite_leave_the_nearest_ones() -> None:
    weight = draw(1, 5, 8)
    places = grid(0.1, weight.shape)
    for bad in (np.nan, np.inf):
        found = fit(weight, np.full((1, 8, 8), bad, np.float32), places)
        assert np.array_equal(found, places.nearest(weight))


def image(channels: int) -> Value:
    return Value((1, SIZE, SIZE, channels))


def dense() -> OneOp:
    """Rows with a mean, of fewer dimensions than columns."""
    steps = (
        Step(
            "FULLY_CONNECTED", ("x", correlated(48, 24).T.copy(), draw(24)), {"h": Value((4, 24))}
        ),
        Step("FULLY_CONNECTED", ("h", draw(10, 24), draw(10)), {"y": Value((4, 10))}),
    )
    return OneOp("dense", {"x": Value((4, 48), low=0.0, high=2.0)}, steps)


def convolution(name: str, kernel: Array, channels: int, **options: object) -> OneOp:
    given = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, **options}
    side = -(-SIZE // int(str(given["strideH"])))
    if given.get("padding"):
        side = (SIZE - kernel.shape[1]) // int(str(given["strideH"])) + 1
    made = Value((1, side, side, channels))
    step = Step(name, ("x", kernel, draw(channels)), {"y": made}, given)
    return OneOp(name, {"x": image(8)}, (step,))


CASES = {
    "dense": dense(),
    "conv": convolution("CONV_2D", draw(6, 3, 3, 8), 6),
    "conv of stride 2": convolution("CONV_2D", draw(6, 3, 3, 8), 6, strideW=2, strideH=2),
    "conv without padding": convolution("CONV_2D", draw(6, 3, 3, 8), 6, padding=1),
    "conv in groups": convolution("CONV_2D", draw(6, 3, 3, 4), 6),
    "dilated conv": convolution(
        "CONV_2D", draw(6, 3, 3, 8), 6, dilationWFactor=2, dilationHFactor=2
    ),
    "depthwise conv": convolution("DEPTHWISE_CONV_2D", draw(1, 3, 3, 16), 16, depthMultiplier=2),
}


def prepared(case: OneOp, recipe: Recipe = INT8) -> tuple[LiteModel, Plan, list[Sample]]:
    model = LiteModel(case.build(), "tflite")
    samples = list(RepDataset(smooth(case)).samples(input_specs(model)))
    return (
        model,
        make_plan(model, Calibrator(model, 1).run(samples), choose(model, recipe)),
        samples,
    )


def smooth(case: OneOp) -> list[Array]:
    """Samples in which neighbours are alike, as in photographs, and not 0 on average."""
    (value,) = case.inputs.values()
    noise = draw(12, *value.shape)
    for axis in range(2, noise.ndim):
        noise = sum(np.roll(noise, shift, axis) for shift in range(5)) / 2
    return list(noise + 1.0)


def rounder(model: LiteModel, samples: list[Sample], recipe: Recipe = INT8) -> Rounder:
    return Rounder(model, choose(model, recipe), samples, threads=1)


def site(graph: Graph, plan: Plan, index: int = 0) -> Site:
    return Site(graph, (graph.operators[index],), plan.operands[index, 1])


@pytest.mark.parametrize("name", CASES)
def test_rows_times_weight_is_what_the_op_computes(name: str) -> None:
    model, plan, samples = prepared(CASES[name])
    graph = model.graph
    op, found = graph.operators[0], site(graph, plan)
    editor = GraphEditor(model.tree)
    editor.add_outputs(op.outputs)
    with Session(editor.finish()) as session:
        session.invoke(samples[0])
        expected = session.view(op.outputs[0]).copy()
        rows = found.rows(session.view, MOST_ROWS, 1)
    weight, bias = graph.tensors[op.inputs[1]].data, graph.tensors[op.inputs[2]].data
    assert weight is not None
    assert bias is not None
    made = rows @ found._laid_out(weight).transpose(0, 2, 1)
    flat = made.transpose(1, 0, 2).reshape(-1, expected.shape[-1]) + bias
    assert flat == pytest.approx(expected.reshape(flat.shape), rel=1e-3, abs=1e-3)
    assert np.array_equal(found._restored(found._laid_out(weight)), weight)


@pytest.mark.parametrize("name", ["dense", "conv", "conv of stride 2"])
def test_wide_weights_are_rounded_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_ops, "MOST_COLUMNS", 24)
    model, plan, samples = prepared(CASES[name])
    graph = model.graph
    op, found = graph.operators[0], site(graph, plan)
    with Session(model.tflite) as session:
        session.invoke(samples[0])
        rows = found.rows(session.view, MOST_ROWS, 1)
    weight = found.weight
    parts, width = len(weight), weight.shape[-1]
    assert (parts, width) == ((2, 24) if name == "dense" else (3, 24))
    assert rows.shape == (parts, rows.shape[1], width)
    assert np.array_equal(found._restored(weight), graph.tensors[op.inputs[1]].data)
    monkeypatch.undo()
    whole = site(graph, plan)
    with Session(model.tflite) as session:
        session.invoke(samples[0])
        expected = whole.rows(session.view, MOST_ROWS, 1) @ whole.weight.transpose(0, 2, 1)
    made = (rows @ weight.transpose(0, 2, 1)).sum(axis=0)
    assert made == pytest.approx(expected[0], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_weights_in_parts_are_closer_than_nearest_ones_and_biases_fit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_ops, "MOST_COLUMNS", 24)
    model, plan, samples = prepared(CASES[name])
    rounded = rounder(model, samples).round(plan)
    nearest = {i: _nearest(model, plan, i) for i in rounded.weights}
    fitted = output_noise(model.tflite, rounded.model(model).tflite, samples)
    as_nearest = replace(rounded, weights=nearest, biases={}).model(model)
    assert fitted < output_noise(model.tflite, as_nearest.tflite, samples) / 1.5


def test_ops_behind_what_a_weight_is_multiplied_with_do_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = tuple(
        Step("FULLY_CONNECTED", (x, draw(8, 8, seed=i)), {y: Value((1, 8))}, {})
        for i, (x, y) in enumerate(["xa", "ab", "by"])
    )
    model = LiteModel(OneOp("three layers", {"x": Value((1, 8))}, steps).build(), "tflite")
    sites = [Site(model.graph, (op,), None) for op in model.graph.operators]
    sample, files = [draw(1, 8)], list[Graph]()

    def session(tflite: bytes, **options: object) -> Session:
        files.append(LiteModel(tflite, "tflite").graph)
        return Session(tflite, threads=1)

    monkeypatch.setattr(collecting, "Session", session)
    for count, needed in ((3, 2), (2, 1)):
        party, seen = Party(model, choose(model, INT8), [sample], 1), [Moments() for _ in sites]
        collecting.collect(party, sites[:count], seen[:count], lambda: None)
        assert len(files.pop().operators) == needed
        seen[1].flush()
        assert seen[1].mean == pytest.approx(sample[0] @ draw(8, 8, seed=0).T, rel=1e-4)


def test_a_few_columns_are_told_by_few_rows() -> None:
    image = np.random.default_rng(0).normal(size=(1, 40, 40, 6)).astype(np.float32)
    x, kernel = Value((1, 40, 40, 6)), np.ones((1, 3, 3, 6), np.float32)
    options = {"strideW": 1, "strideH": 1, "depthMultiplier": 1}
    step = Step("DEPTHWISE_CONV_2D", ("x", kernel, np.zeros(6, np.float32)), {"y": x}, options)
    graph = LiteModel(OneOp("depthwise", {"x": x}, (step,)).build(), "tflite").graph
    found = Site(graph, (graph.operators[0],), None)
    assert found.rows(lambda _: image, 4096, 4).shape == (6, 64 * 9 / 4, 9)
    assert found.rows(lambda _: image, 100, 4).shape == (6, 25, 9)


def test_weights_are_put_into_batches_with_one_look_at_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, plan, samples = prepared(next(iter(CASES.values())))
    asked: list[Site] = []
    size = MEMORY_BYTES // 4
    monkeypatch.setattr(Site, "bytes_needed", property(lambda self: asked.append(self) or size))
    sites = list(rounder(model, samples)._sites(plan)) * 30
    batches = list(rounder(model, samples)._batches(sites))
    assert [site for batch in batches for site in batch] == sites == asked
    assert {len(batch) for batch in batches[:-1]} == {4}


@pytest.mark.parametrize("name", CASES)
def test_the_float_model_with_rounded_weights_is_closer_than_with_nearest_ones(name: str) -> None:
    model, plan, samples = prepared(CASES[name])
    rounded = rounder(model, samples).round(plan)
    assert rounded.count == len(model.graph.operators)
    for index, weight in rounded.weights.items():
        qparams = plan.operands[index, 1]
        held = quantize(weight, qparams)
        assert np.asarray(held * 1.0) == pytest.approx(weight / _scale(qparams, weight), abs=1e-2)
    nearest = {i: _nearest(model, plan, i) for i in rounded.weights}
    fitted = output_noise(model.tflite, rounded.model(model).tflite, samples)
    as_nearest = replace(rounded, weights=nearest, biases={}).model(model)
    plain = output_noise(model.tflite, as_nearest.tflite, samples)
    assert fitted < plain / 2


def prepared_loop(recipe: Recipe) -> tuple[LiteModel, Plan, list[Sample]]:
    """A recurrent layer that is a loop, which gets its weights from outside."""
    case = lstm(24, spread=1.0)
    looped = rewrite(LiteModel(case.build(), "tflite"))
    model = replace(looped, tflite=pack(with_lifted_weights(looped.tree)))
    samples = list(RepDataset(smooth(case)).samples(input_specs(model)))
    return (
        model,
        make_plan(model, Calibrator(model, 1).run(samples), choose(model, recipe)),
        samples,
    )


def test_what_a_loop_multiplies_with_is_rounded_by_the_rows_of_its_steps() -> None:
    """The states of a loop go together, as they follow each other."""
    recipe = PRESETS["weight_int8"]
    model, plan, samples = prepared_loop(recipe)
    (loop,) = (op for op in model.graph.operators if op.name == "WHILE")
    rounded = rounder(model, samples, recipe).round(plan)
    assert {place for place, _ in rounded.passed} == {loop.index}
    assert {slot for _, slot in rounded.passed} == set(loop.multiplied)
    alone = replace(rounded, weights={}, biases={})
    nearest = {}
    for place, values in alone.passed.items():
        qparams = plan.stored[place].qparams
        assert isinstance(qparams, QParams)
        data = model.graph.tensors[loop.inputs[place[1]]].data
        assert data is not None
        assert not np.array_equal(values, dequantize(quantize(data, qparams), qparams))
        nearest[place] = dequantize(quantize(data, qparams), qparams)
    fitted = output_noise(model.tflite, alone.model(model).tflite, samples)
    plain = output_noise(model.tflite, replace(alone, passed=nearest).model(model).tflite, samples)
    assert fitted < plain / 1.5


def _scale(qparams: QParams, weight: Array) -> Array:
    shape = [1] * weight.ndim
    shape[qparams.axis or 0] = -1
    return np.asarray(qparams.scale).reshape(shape)


def _nearest(model: LiteModel, plan: Plan, index: int) -> Array:
    weight = model.graph.tensors[model.graph.operators[index].inputs[1]].data
    assert weight is not None
    qparams = plan.operands[index, 1]
    return (quantize(weight, qparams) * _scale(qparams, weight)).astype(np.float32)


def test_nothing_but_weights_and_biases_changes() -> None:
    model, plan, samples = prepared(CASES["dense"])
    other = rounder(model, samples).round(plan).model(model).graph
    for tensor, changed in zip(model.graph.tensors, other.tensors, strict=True):
        assert (tensor.name, tensor.shape, tensor.dtype) == (
            changed.name, changed.shape, changed.dtype,
        )  # fmt: skip
    assert [o.inputs for o in model.graph.operators] == [o.inputs for o in other.operators]


def test_a_weight_that_two_ops_read_is_rounded_once_and_both_keep_their_own_bias() -> None:
    rows, weight, bias = Value((4, 24)), draw(24, 24), draw(24)
    steps = (
        Step("FULLY_CONNECTED", ("x", weight, bias), {"h": rows}),
        Step("FULLY_CONNECTED", ("h", weight, bias), {"y": rows}),
    )
    case = OneOp("tied", {"x": rows}, steps)
    editor = GraphEditor(LiteModel(case.build(), "tflite").tree)
    operators = LiteModel(case.build(), "tflite").graph.operators
    editor.rewire({1: dict(enumerate(operators[0].inputs[1:], 1))})
    model = LiteModel(editor.finish(), "tflite")
    samples = list(RepDataset(smooth(case)).samples(input_specs(model)))
    plan = make_plan(model, Calibration(model.digest, 0, {}), choose(model, PRESETS["weight_int8"]))
    rounded = rounder(model, samples, PRESETS["weight_int8"]).round(plan)
    assert rounded.count == 1
    assert rounded.weights[0] is rounded.weights[1]
    graph = rounded.model(model).graph
    first, second = graph.operators
    assert first.inputs[1] == second.inputs[1]
    assert len(graph.operators) == 2


def test_a_kernel_of_many_ops_is_fitted_to_places_from_all_over_their_images() -> None:
    count, kernel = 48, draw(1, 3, 3, 8)
    options = {"strideW": 1, "strideH": 1, "depthMultiplier": 1}
    steps = tuple(
        Step("DEPTHWISE_CONV_2D", ("x", kernel, draw(8)), {f"y{i}": image(8)}, options)
        for i in range(count)
    )
    case = OneOp("shared", {"x": image(8)}, steps)
    apart = LiteModel(case.build(), "tflite")
    editor = GraphEditor(apart.tree)
    editor.rewire({i: {1: apart.graph.operators[0].inputs[1]} for i in range(1, count)})
    model = LiteModel(editor.finish(), "tflite")
    samples = list(RepDataset(smooth(case)).samples(input_specs(model)))
    plan = make_plan(model, Calibrator(model, 1).run(samples), choose(model, INT8))
    rounded = rounder(model, samples).round(plan)
    assert rounded.count == 1
    weights = dict.fromkeys(rounded.weights, _nearest(model, plan, 0))
    as_nearest = replace(rounded, weights=weights, biases={}).model(model)
    fitted = output_noise(model.tflite, rounded.model(model).tflite, samples)
    assert fitted < output_noise(model.tflite, as_nearest.tflite, samples) / 2


def test_a_recipe_can_have_weights_rounded_to_nearest() -> None:
    model, plan, samples = prepared(CASES["dense"])
    recipe = Recipe("mixed", (Rule("h", rounding="nearest"),))
    assert set(rounder(model, samples, recipe).round(plan).weights) == {1}
    assert rounder(model, samples, INT8.with_rounding("nearest")).round(plan).count == 0
    with pytest.raises(RecipeError, match=r"rounding must be one of .* Received: 'up'"):
        Rule(rounding="up")


def test_a_recipe_keeps_its_rounding_as_json() -> None:
    recipe = Recipe("mixed", (Rule("h", rounding="nearest"),))
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_weights_of_a_trained_grid_are_left_alone() -> None:
    model, plan, samples = prepared(CASES["dense"])
    learned = replace(model, learned=(("h", -1.0, 1.0),))
    assert rounder(learned, samples).round(plan).count == 0


@pytest.mark.parametrize("recipe", ["int8", "dynamic_int8", "weight_int4", "int16x8"])
def test_an_export_is_closer_to_its_model(recipe: str) -> None:
    case = CASES["dense"]
    data = case.draw(40)
    made = {
        rounding: edgeq.export(
            case.build(),
            data,
            recipe=PRESETS[recipe].with_rounding(rounding),
            min_sqnr_db=None,
            progress=False,
        ).report
        for rounding in ("gptq", "nearest")
    }
    assert made["gptq"].fitted_weights == 2
    assert "2 weights rounded by them" in " ".join(made["gptq"].text().split())
    assert made["nearest"].fitted_weights == 0
    assert made["gptq"].sqnr_db > made["nearest"].sqnr_db


def test_patches_come_from_all_over_the_image() -> None:
    model, _, _ = prepared(CASES["conv"])
    op = model.graph.operators[0]
    values = np.arange(SIZE * SIZE * 8, dtype=np.float32).reshape(1, SIZE, SIZE, 8)
    found = patches(op, values, (3, 3), 10)
    assert found.shape == (10, 9, 8)
    centres = found[:, 4, 0] / 8
    places = SIZE * SIZE
    assert np.all(np.abs(centres - (np.arange(10) + 0.5) * places / 10) < 1)


def test_each_sample_gives_rows_of_other_places() -> None:
    drawn = [spread_places(784, 5, number) for number in range(157)]
    assert all(len(np.unique(one)) == 5 for one in drawn)
    seen = np.unique(np.concatenate(drawn))
    assert len(seen) > 0.8 * 784  # drawn at random it would be 0.63
    assert seen.min() < 5
    assert seen.max() > 778
    assert spread_places(7, 9, 3).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_weight_that_cannot_be_rounded_by_what_it_computes_is_rounded_to_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, plan, samples = prepared(CASES["dense"])
    row = OPS["FULLY_CONNECTED"]
    monkeypatch.setitem(OPS, row.name, replace(row, kind=Kind.DEPTHWISE))
    sabotaged = rounder(model, samples)
    assert sabotaged.round(plan).weights == {}
    note, *_ = sabotaged.notes
    where = model.where(model.graph.operators[0])
    assert note.startswith(f"the weight of {where} is rounded to nearest: rounding it by what")


def test_a_loop_whose_rows_cannot_be_had_has_weights_rounded_to_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = PRESETS["weight_int8"]
    model, plan, samples = prepared_loop(recipe)

    def failing(*_: object) -> None:
        raise ModelError("the runtime failed to run the model")

    monkeypatch.setattr(LoopTaps, "rows", failing)
    sabotaged = rounder(model, samples, recipe)
    assert sabotaged.round(plan).passed == {}
    (loop,) = (op for op in model.graph.operators if op.name == "WHILE")
    said = f"the weight of {model.where(loop)} is rounded to nearest"
    assert any(note.startswith(said) for note in sabotaged.notes)
