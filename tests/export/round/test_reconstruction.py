"""Rounding that layers in a row are fitted to together: gradients, descent, when it is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value
from output_noise import output_noise

import edgeq
from edgeq.calibrate.run import Calibrator
from edgeq.data.held_out import HeldOut
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round import reconstruction, refinement
from edgeq.export.round.layer_chain import LIMITS, Block, chains
from edgeq.export.round.reconstruction import Reconstruction
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.rounder import Rounder
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import QParams
from edgeq.recipe import PRESETS, Mode, Recipe, Rule
from edgeq.runtime.session import outputs_of

Array = npt.NDArray[np.float32]
DEPTH, WIDE = 6, 16
SAMPLES = 96


def draw(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bottleneck(fused: int = 3) -> OneOp:
    """Wider, across positions, narrower; then a dense layer that reads it whole."""
    narrow, wide = Value((1, 4, 4, DEPTH)), Value((1, 4, 4, WIDE))
    small, flat = Value((1, 2, 2, DEPTH)), Value((1, 5))
    once = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    twice, apart = {**once, "strideW": 2, "strideH": 2}, {**once, "dilationWFactor": 2}
    steps = (
        Step("CONV_2D", ("x", draw(WIDE, 3, 3, DEPTH, seed=1) / 4, draw(WIDE, seed=2)),
             {"a": wide}, {**apart, "fusedActivationFunction": fused}),
        Step("DEPTHWISE_CONV_2D", ("a", draw(1, 3, 3, WIDE, seed=3) / 2, draw(WIDE, seed=4)),
             {"b": wide}, {**once, "depthMultiplier": 1, "fusedActivationFunction": fused}),
        Step("CONV_2D", ("b", draw(DEPTH, 2, 2, WIDE, seed=5) / 3, draw(DEPTH, seed=6)),
             {"c": small}, twice),
        Step("FULLY_CONNECTED", ("c", draw(5, 4 * DEPTH, seed=7) / 4, draw(5, seed=8)),
             {"y": flat}),
    )  # fmt: skip
    return OneOp("bottleneck", {"x": narrow}, steps)


def images(count: int, seed: int) -> list[Array]:
    hidden = draw(count, 1, 4, 4, 3, seed=seed)
    return list(hidden @ draw(3, DEPTH, seed=99) + draw(count, 1, 4, 4, DEPTH, seed=seed) / 4)


def samples_of(model: LiteModel, data: list[Array]) -> list[Sample]:
    return list(RepDataset(data).samples(input_specs(model)))


class Case:
    """The bottleneck with a plan and its weights rounded once."""

    def __init__(self, preset: str, fused: int = 3) -> None:
        self.model = LiteModel(bottleneck(fused).build(), "tflite")
        self.choices = choose(self.model, replace(PRESETS[preset], rounding="reconstruct"))
        self.samples = samples_of(self.model, images(SAMPLES, 12))
        ranges = Calibrator(self.model, 1).run(self.samples)
        self.plan: Plan = make_plan(self.model, ranges, self.choices)
        self.rounder = Rounder(self.model, self.choices, self.samples, threads=1)
        self.first = self.rounder.round(self.plan)
        plain = choose(self.model, PRESETS[preset])
        self.twice = Rounder(self.model, plain, self.samples, threads=1)

    def noise(self, rounded: Rounded) -> float:
        """What the outputs of unseen samples lose with all that the plan has in integers."""
        editor = GraphEditor(rounded.model(self.model).tree)
        editor.round_trips(self.plan.tensors, self.plan.with_float_activations)
        unseen = samples_of(self.model, images(40, 13))
        return output_noise(self.model.tflite, editor.finish(), unseen)

    def block(self) -> Block:
        sites = self.rounder._refinable(self.plan, self.first)
        (chain,) = chains(self.model.graph, sites, 4)
        return Block(self.model.graph, self.plan, chain, self.first)


@pytest.fixture(scope="module", params=["weight_int4", "int8"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_layers_in_a_row_put_out_what_the_runtime_does(case: Case) -> None:
    for sample in case.samples[:3]:
        (wanted,) = outputs_of(case.model.tflite, sample).values()
        assert case.block().wanted(sample[0]) == pytest.approx(wanted, abs=1e-4)


def test_what_becomes_integers_is_on_their_grid() -> None:
    case = Case("int8")
    block = case.block()
    found, _ = block.outputs(case.samples[0][0], block.weights(block.integers))
    steps = found / np.float32(case.plan.tensors[case.model.graph.outputs[0]].scale[0])
    assert np.abs(steps - np.rint(steps)).max() < 1e-3


def test_slopes_are_those_of_the_loss() -> None:
    """Held against differences, in a block without limits, whose loss is smooth."""
    block = (case := Case("weight_int4", fused=0)).block()
    values = np.concatenate([sample[0] for sample in case.samples[:4]])
    weights = block.weights(block.integers)
    wanted = block.wanted(values)
    made, seen = block.outputs(values, weights)
    for place, (layer, one) in enumerate(zip(block.layers, seen, strict=True)):
        change = block.change_of(place, seen, weights, 2 * (made - wanted))
        way = draw(*weights[place].shape, seed=20 + place) / 100
        losses = [
            block.loss([*weights[:place], weights[place] + s * way, *weights[place + 1 :]],
                       [values], [wanted])
            for s in (1, -1)
        ]  # fmt: skip
        slope = float((layer.of_weight(one.read, change) * way).sum())
        assert slope == pytest.approx((losses[0] - losses[1]) / 2, rel=2e-2)


def test_limits_let_no_slope_through() -> None:
    case = Case("weight_int4")
    block = case.block()
    values = np.concatenate([sample[0] for sample in case.samples[:4]])
    weights = block.weights(block.integers)
    made, seen = block.outputs(values, weights)
    change = block.change_of(0, seen, weights, np.ones_like(made))
    assert LIMITS[block.layers[0].op.fused_activation] == (0.0, 6.0)
    assert 0.1 < seen[0].inside.mean() < 0.9
    assert not change[~seen[0].inside].any()


def test_what_layers_put_out_together_is_nearer_on_unseen_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconstruction, "MOST_LAYERS", 4)  # to the end of the network
    case = Case("weight_int4")
    twice = case.twice.refined(case.plan, case.first)
    sites = case.rounder._refinable(case.plan, case.first)
    made = Reconstruction(
        case.model, case.plan, sites, range(4), case.samples[:72], case.samples[72:], 1
    ).run(twice, lambda: None)
    assert case.noise(made) < 0.97 * case.noise(twice)


def test_where_little_is_lost_to_weights_nothing_gets_worse() -> None:
    case = Case("int8")
    twice = case.twice.refined(case.plan, case.first)
    assert case.noise(case.rounder.refined(case.plan, case.first)) < 1.05 * case.noise(twice)


def test_integers_stay_within_their_type() -> None:
    case = Case("weight_int4")
    made = case.rounder.refined(case.plan, case.first)
    for index, weight in made.weights.items():
        stored = case.plan.stored[index, 1].qparams
        assert isinstance(stored, QParams)
        shape = [-1 if axis == stored.axis else 1 for axis in range(weight.ndim)]
        integers = weight / np.asarray(stored.scale).reshape(shape)
        assert np.abs(integers - np.rint(integers)).max() < 1e-3
        assert np.abs(integers).max() < 7.5


def test_the_number_of_threads_leaves_no_trace(case: Case) -> None:
    found = [
        Rounder(case.model, case.choices, case.samples, threads=n).refined(case.plan, case.first)
        for n in (1, 3)
    ]
    for index, weight in found[0].weights.items():
        assert np.array_equal(weight, found[1].weights[index])


def test_samples_that_judge_can_keep_a_row_of_layers(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(descent: Any, steps: int) -> Any:
        return [np.zeros_like(integers) for integers in descent._block.integers]

    monkeypatch.setattr(reconstruction.Descent, "best", worse)
    twice = case.twice.refined(case.plan, case.first)
    made = case.rounder.refined(case.plan, case.first)
    assert all(weight.any() for weight in made.weights.values())
    assert case.noise(made) < 1.5 * case.noise(twice)


def test_rows_of_layers_end_where_something_else_reads_them() -> None:
    case = Case("weight_int4")
    graph = case.model.graph
    sites = case.rounder._refinable(case.plan, case.first)
    ops = [[site.ops[0].index for site in chain] for chain in chains(graph, sites, 3)]
    assert ops == [[0, 1, 2], [3]]
    editor = GraphEditor(case.model.tree)
    editor.add_outputs([graph.operators[0].outputs[0]])
    more = LiteModel(editor.finish(), "tflite")
    ops = [[site.ops[0].index for site in chain] for chain in chains(more.graph, sites, 3)]
    assert ops == [[0], [1, 2, 3]]


def test_only_layers_that_a_rule_names_are_fitted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, seen = Case("weight_int4"), []

    def noted(_: Any, rounded: Rounded, chain: Any) -> Rounded:
        seen.append([site.ops[0].index for site in chain])
        return rounded

    monkeypatch.setattr(reconstruction.Reconstruction, "_learned", noted)
    rule = Rule("^[bc]$", rounding="reconstruct", mode=Mode.WEIGHT_INT4)
    choices = choose(case.model, replace(PRESETS["weight_int4"], rules=(rule,)))
    Rounder(case.model, choices, case.samples, threads=1).refined(case.plan, case.first)
    assert seen == [[1, 2]]


def test_an_export_takes_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "CLEARLY", -9.0)
    recipe = Recipe.from_json(replace(PRESETS["weight_int4"], rounding="reconstruct").to_json())
    made, twice = (
        edgeq.export(
            bottleneck().build(), images(SAMPLES, 12), recipe=one, min_sqnr_db=None, progress=False
        )
        for one in (recipe, PRESETS["weight_int4"])
    )
    assert not any("together" in note for note in made.report.notes)
    assert made.tflite != twice.tflite
    monkeypatch.setattr(refinement, "CLEARLY", 9.0)
    kept = edgeq.export(
        bottleneck().build(), images(SAMPLES, 12), recipe=recipe, min_sqnr_db=None, progress=False
    )
    (note,) = (note for note in kept.report.notes if "together" in note)
    assert note.startswith("no layers are reconstructed together: that changed outputs by ")
    assert kept.tflite != made.tflite


def test_the_first_of_many_samples_come_from_all_of_them() -> None:
    data = [(np.full(1, i, np.float32),) for i in range(400)]
    many, few = HeldOut(data, passed=256), HeldOut(data)
    for held in (many, few):
        held.exhaust()
    numbers = [int(sample[0][0]) for sample in many.passed]
    assert len(set(numbers)) == len(numbers) == 256
    assert np.diff(sorted(numbers[:41])).max() <= 16
    assert len(few.passed) == 41
