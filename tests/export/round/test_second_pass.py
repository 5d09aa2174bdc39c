"""Rounding once more by what the integers before give: arithmetic, order, when it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value
from output_noise import output_noise

import edgeq
from edgeq.calibrate.run import Calibrator
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round import refinement
from edgeq.export.round.gptq import Grid, fit
from edgeq.export.round.moments import Missing
from edgeq.export.round.pieces import Pieces, live_bytes
from edgeq.export.round.refinement import LEAST_SAMPLES
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.rounder import Rounder
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, Kind
from edgeq.recipe import INT8, PRESETS, Mode, Recipe, Rule
from edgeq.report import Report
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]
WIDTH = 32
SAMPLES = 96


def draw(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network() -> OneOp:
    """Layers with ReLU, a residual sum, and two layers that read the same."""
    rows = Value((64, WIDTH))

    def layer(source: str, made: str, seed: int) -> Step:
        weight, bias = draw(WIDTH, WIDTH, seed=seed) / 4, draw(WIDTH, seed=seed + 1) / 4
        options = {"fusedActivationFunction": 1}
        return Step("FULLY_CONNECTED", (source, weight, bias), {made: rows}, options)

    steps = (
        layer("x", "a", 1), layer("a", "b", 3), Step("ADD", ("a", "b"), {"c": rows}),
        layer("c", "d", 5), layer("c", "e", 7), Step("ADD", ("d", "e"), {"f": rows}),
        layer("f", "y", 9),
    )  # fmt: skip
    return OneOp("network", {"x": rows}, steps)


def rows_of(count: int, seed: int, spread: float = 1.0) -> list[Array]:
    """Rows of few dimensions, one of ten of them four times as loud."""
    hidden = draw(count, 64, 6, seed=seed) * spread
    hidden[:, ::10] *= 4.0
    return list((hidden @ draw(6, WIDTH, seed=99)).astype(np.float32))


def samples_of(model: LiteModel, rows: Sequence[Array]) -> list[Sample]:
    return list(RepDataset(list(rows)).samples(input_specs(model)))


class Case:
    """The network with a plan whose ranges cut off what is loud, and its weights rounded once."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.model = LiteModel(network().build(), "tflite")
        quiet = samples_of(self.model, [rows / 2.5 for rows in rows_of(32, 11)])
        self.choices = choose(self.model, INT8)
        self.plan: Plan = make_plan(self.model, Calibrator(self.model, 1).run(quiet), self.choices)
        self.samples = samples_of(self.model, rows_of(samples, 12))
        self.rounder = Rounder(self.model, self.choices, self.samples, threads=1)
        self.first = self.rounder.round(self.plan)

    def noise(self, rounded: Rounded, samples: Sequence[Sample]) -> float:
        """What the outputs lose with all that the plan has in integers."""
        made = rounded.model(self.model)
        editor = GraphEditor(made.tree)
        editor.round_trips(self.plan.tensors)
        return output_noise(self.model.tflite, editor.finish(), samples)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def halves(rows: Array, wanted: Array, weight: Array) -> list[Array]:
    return [Missing.of(weight, rows[:, i::2], wanted[:, i::2], True).products for i in range(2)]


def test_what_is_missing_goes_with_the_middle_of_both() -> None:
    rows, wanted, weight = draw(2, 50, 9), draw(2, 50, 9, seed=1) + 3, draw(2, 4, 9, seed=2)
    short = weight @ (wanted - rows).transpose(0, 2, 1)
    middle = (rows + wanted) / 2
    apart = middle - middle.mean(axis=1, keepdims=True)
    found = Missing.of(weight, rows, wanted, centred=True)
    assert found.mean == pytest.approx(short.mean(axis=-1), abs=1e-4)
    assert found.products == pytest.approx(short @ apart / 50, abs=1e-4)
    found = Missing.of(weight, rows, wanted, centred=False)
    assert found.products == pytest.approx(short @ middle / 50, abs=1e-3)


def test_a_weight_makes_up_for_what_its_inputs_lose() -> None:
    wanted, weight = draw(1, 600, 12), draw(1, 5, 12, seed=2)
    rows = wanted * np.float32(0.9)
    squares = np.einsum("gpi,gpj->gij", rows, rows) / 600
    grid = Grid(np.full(weight.shape, 0.01), np.zeros(weight.shape), -1000, 1000)
    found = fit(weight, squares, grid, halves(rows, wanted, weight))
    assert found == pytest.approx(weight / 0.9, abs=0.03)
    assert fit(weight, squares, grid) == pytest.approx(weight, abs=0.03)


def test_halves_that_contradict_each_other_change_nothing() -> None:
    rows, weight = draw(1, 600, 12), draw(1, 5, 12, seed=2)
    squares = np.einsum("gpi,gpj->gij", rows, rows) / 600
    grid = Grid(np.full(weight.shape, 0.05), np.zeros(weight.shape), -127, 127)
    one = draw(1, 5, 12, seed=3)
    assert np.array_equal(fit(weight, squares, grid, [one, -one]), fit(weight, squares, grid))


def test_noise_takes_half_of_what_least_squares_would_let_it() -> None:
    wanted, weight = draw(1, 4000, 12), draw(1, 5, 12, seed=2)
    rows = wanted + draw(1, 4000, 12, seed=3) / 2
    squares = np.einsum("gpi,gpj->gij", rows, rows) / 4000
    grid = Grid(np.full(weight.shape, 0.01), np.zeros(weight.shape), -1000, 1000)
    found = fit(weight, squares, grid, halves(rows, wanted, weight))
    assert found == pytest.approx(0.9 * weight, abs=0.1)


@pytest.mark.parametrize("places", [(1, 2, 3, 4, 7), (3, 7), (7,), (0, 5)])
def test_pieces_hold_what_the_whole_model_does(case: Case, places: tuple[int, ...]) -> None:
    graph, samples = case.model.graph, case.samples[:3]
    pieces = Pieces(case.model, case.plan.tensors, samples, len(graph.operators), threads=1)
    editor = GraphEditor(case.first.model(case.model).tree)
    made = [op.outputs[0] for op in graph.operators]
    editor.add_outputs(made)
    editor.round_trips(case.plan.tensors)
    with Session(editor.finish()) as session:
        for place in places:
            pieces.run_to(place, case.first)
            for sample, values in zip(samples, pieces.values, strict=True):
                session.invoke(sample)
                whole = dict(zip([*graph.outputs, *made[:-1]], session.outputs(), strict=True))
                read = {t for op in graph.operators[place:] for t in op.inputs}
                known = read & {*graph.inputs, *(t for t in made[:place])}
                assert set(values) == known
                for tensor in known - set(graph.inputs):
                    assert np.array_equal(values[tensor], whole[tensor])


@pytest.mark.parametrize("end", [1, 4, 7])
def test_live_bytes_are_those_of_what_later_ops_read(case: Case, end: int) -> None:
    graph = case.model.graph
    found = live_bytes(graph, end)
    for place in range(end + 1):
        made = {*graph.inputs, *(t for op in graph.operators[:place] for t in op.outputs)}
        read = {t for op in graph.operators[place:end] for t in op.inputs}
        expected = sum(4 * int(np.prod(graph.tensors[t].shape)) for t in made & read)
        assert found[place] == expected


def test_a_piece_is_written_without_a_look_at_the_ops_beside_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    finish = GraphEditor.finish

    def counted(editor: GraphEditor) -> Any:
        sizes.append(len(editor.tree.subgraphs[0].tensors))
        return finish(editor)

    monkeypatch.setattr(GraphEditor, "finish", counted)
    count = len(case.model.graph.operators)
    pieces = Pieces(case.model, case.plan.tensors, case.samples[:1], count, threads=1)
    for place in range(1, count + 1):
        pieces.run_to(place, case.first)
    # An op has at most three operands and a result, and this one two twins more in integers.
    assert len(sizes) == count - 1
    assert max(sizes) <= 6 < len(case.model.graph.tensors)


def test_the_second_pass_leaves_less_noise_on_unseen_samples(case: Case) -> None:
    unseen = samples_of(case.model, rows_of(40, 13))
    again = case.rounder.refined(case.plan, case.first)
    assert case.rounder.not_refined == ""
    assert set(again.weights) == set(case.first.weights)
    assert case.noise(again, unseen) < 0.9 * case.noise(case.first, unseen)


def test_weights_stay_on_the_grid_of_the_plan(case: Case) -> None:
    again = case.rounder.refined(case.plan, case.first)
    for index, weight in again.weights.items():
        scale = np.asarray(case.plan.operands[index, 1].scale)
        integers = weight / scale.reshape(-1, 1)
        assert np.abs(integers - np.rint(integers)).max() < 1e-3
        assert np.abs(integers).max() < 127.5


def test_the_number_of_threads_leaves_no_trace(case: Case) -> None:
    found = [
        Rounder(case.model, case.choices, case.samples, threads=n).refined(case.plan, case.first)
        for n in (1, 3)
    ]
    for index, weight in found[0].weights.items():
        assert np.array_equal(weight, found[1].weights[index])
        assert np.array_equal(found[0].biases[index], found[1].biases[index])


def test_samples_that_speak_against_it_keep_the_first_pass(case: Case) -> None:
    assert case.rounder.refined(case.plan, case.first) is not case.first
    others = samples_of(case.model, [rows / 3 for rows in rows_of(32, 14)])
    rounder = Rounder(case.model, case.choices, [*case.samples, *others], threads=1)
    assert rounder.refined(case.plan, case.first) is case.first
    assert "a second time changed outputs by -" in rounder.not_refined
    assert "samples that it had not seen" in rounder.not_refined


def test_few_samples_are_not_enough_for_a_second_pass(case: Case) -> None:
    few = case.samples[: LEAST_SAMPLES + 1]
    rounder = Rounder(case.model, case.choices, few, threads=1)
    assert rounder.refined(case.plan, case.first) is case.first
    assert rounder.not_refined == (
        "weights are rounded once alone: a second time takes 8 samples and some to judge by"
    )


def test_a_recipe_can_have_weights_rounded_once(case: Case) -> None:
    recipe = Recipe("mixed", (Rule("b", rounding="gptq_once"),))
    choices = choose(case.model, replace(recipe, default=Mode.STATIC_INT8))
    rounder = Rounder(case.model, choices, case.samples, threads=1)
    again = rounder.refined(case.plan, case.first)
    changed = [i for i, w in again.weights.items() if not np.array_equal(w, case.first.weights[i])]
    named = {op.index for op in case.model.graph.operators if op.name == "FULLY_CONNECTED"}
    assert set(changed) == named - {1}
    once = Rounder(case.model, choose(case.model, INT8.with_rounding("gptq_once")), case.samples)
    assert once.refined(case.plan, case.first) is case.first
    assert once.not_refined == ""


def test_activations_that_take_much_memory_leave_the_first_pass(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "MEMORY_BYTES", 1 << 16)
    assert case.rounder.refined(case.plan, case.first) is case.first
    assert case.rounder.not_refined.endswith("take too much memory for a second time")


def test_a_second_pass_that_fails_leaves_the_first_one_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(40)
    row = OPS["FULLY_CONNECTED"]
    monkeypatch.setitem(OPS, row.name, replace(row, kind=Kind.DEPTHWISE))
    assert case.rounder.refined(case.plan, case.first) is case.first
    note = case.rounder.not_refined
    assert note.startswith("weights are rounded once alone: doing it again by what the integers")


def test_an_export_has_the_weights_of_the_second_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export() -> Report:
        return edgeq.export(
            network().build(),
            rows_of(SAMPLES, 12),
            recipe="int8",
            min_sqnr_db=None,
            progress=False,
        ).report

    refined = export()
    assert not any("rounded once alone" in note for note in refined.notes)
    monkeypatch.setattr(refinement, "LEAST_SAMPLES", SAMPLES)
    once = export()
    assert refined.sqnr_db > once.sqnr_db
    assert any("rounded once alone" in note for note in once.notes)
    assert any("no channels are scaled: by estimate" in note for note in refined.notes)


@pytest.mark.parametrize("preset", ["weight_int4", "dynamic_int4"])
def test_weights_of_few_bits_are_rounded_twice(preset: str) -> None:
    twice, once = (
        edgeq.export(
            network().build(),
            rows_of(SAMPLES, 12),
            recipe=replace(PRESETS[preset], rounding=rounding),
            min_sqnr_db=None,
            progress=False,
        ).report
        for rounding in ("gptq", "gptq_once")
    )
    assert twice.sqnr_db > once.sqnr_db + 1


def test_a_weight_of_one_op_after_the_other_keeps_the_first_pass(case: Case) -> None:
    """As in a recurrent network that is written out; what stands behind is rounded again."""
    editor, operators = GraphEditor(case.model.tree), case.model.graph.operators
    editor.rewire({1: {1: operators[0].inputs[1]}})
    model = replace(case.model, tflite=editor.finish())
    quiet = samples_of(model, [rows / 2.5 for rows in rows_of(32, 11)])
    plan = make_plan(model, Calibrator(model, 1).run(quiet), case.choices)
    rounder = Rounder(model, case.choices, case.samples, threads=1)
    once = rounder.round(plan)
    again = rounder.refined(plan, once)
    assert rounder.not_refined == ""
    changed = {i for i, w in again.weights.items() if not np.array_equal(w, once.weights[i])}
    assert changed == {op.index for op in operators if op.name == "FULLY_CONNECTED"} - {0, 1}
