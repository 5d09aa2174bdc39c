"""`edgeq.debug`: planted faults are named first, explained, and refined by the suggested recipe."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value
from sabotage import CHANNEL, FACTOR, LAYER, READER, sabotaged
from typer.testing import CliRunner

import edgeq
from edgeq import DataError, Diagnosis, Mode, ModelError, Recipe, Rule, demo
from edgeq.calibrate.observers import Fixed
from edgeq.cli import app
from edgeq.compare.loss_causes import Loss, explain
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel
from edgeq.qtypes import DType, QParams, dequantize, quantize
from edgeq.recipe import AUTO, INT8
from edgeq.report.diagnosis import LayerError, Spread
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]
DATA = demo.load_data()


@pytest.fixture(scope="module")
def spoilt(demo_model: LiteModel) -> bytes:
    return sabotaged(demo_model)


@pytest.fixture(scope="module")
def spoilt_edge(spoilt: bytes) -> EdgeModel:
    # Others would make up for it, or leave the layer float.
    recipe = Recipe("int8", equalize=False, rounding="gptq_once", strict=True)
    return edgeq.export(spoilt, DATA.calibration, recipe=recipe, min_sqnr_db=None)


@pytest.fixture(scope="module")
def diagnosis(spoilt: bytes, spoilt_edge: EdgeModel) -> Diagnosis:
    return edgeq.debug(spoilt, spoilt_edge.tflite, DATA.calibration)


def test_the_sabotaged_layer_is_named_first_with_its_cause(diagnosis: Diagnosis) -> None:
    worst, second = diagnosis.layers[:2]
    assert (worst.layer, worst.op, diagnosis.sensitive) == (LAYER, "CONV_2D", 1)
    assert worst.spread is not None
    assert worst.spread.loudest_channel == CHANNEL
    assert worst.spread.channel_ratio > FACTOR / 4
    assert f"its channel {CHANNEL} reaches" in worst.cause
    assert "leave it and the ops that read it float" in worst.suggestion
    assert worst.cost_db + 20 < second.cost_db
    assert [line.cost for line in diagnosis.layers] == sorted(
        (line.cost for line in diagnosis.layers), reverse=True
    )


def test_the_suggested_recipe_restores_what_was_lost(
    diagnosis: Diagnosis, spoilt: bytes, spoilt_edge: EdgeModel
) -> None:
    assert diagnosis.recipe is not None
    assert {rule.layer.replace("\\", "") for rule in diagnosis.recipe.rules} == {
        f"^{LAYER}$", f"^{READER}$",
    }  # fmt: skip
    refined = edgeq.export(spoilt, DATA.calibration, recipe=diagnosis.recipe)
    images, labels = DATA.test[:400], DATA.labels[:400]
    before, lost, found = (
        edgeq.evaluate(model, images, labels)["accuracy"]
        for model in (spoilt, spoilt_edge, refined)
    )
    assert before - lost > 0.3
    assert found - lost >= 0.9 * (before - lost)
    assert len(refined.report.float_ops) + len(refined.report.remarks) <= 2


def test_what_is_added_and_accumulated_is_what_numpy_has(
    diagnosis: Diagnosis, spoilt: bytes, spoilt_edge: EdgeModel
) -> None:
    samples = [image[None] for image in DATA.calibration[:16]]
    compared = edgeq.compare(spoilt, spoilt_edge, DATA.calibration[:16])
    by_layer = {(line.layer, line.op): line for line in diagnosis.layers}
    last = by_layer["classifier", "FULLY_CONNECTED"]
    assert last.accumulated_db == pytest.approx(compared.sqnr_db)
    assert diagnosis.sqnr_db == pytest.approx(compared.sqnr_db)
    assert last.added_db > last.accumulated_db + 20
    (port,) = spoilt_edge.io.inputs
    qparams = next(iter(spoilt_edge.plan.tensors.values()))
    images = np.concatenate(samples)
    noise = np.square(images - dequantize(quantize(images, qparams), qparams)).sum()
    first = by_layer[f"input {port.name!r}", ""]
    expected = 10 * math.log10(float(np.square(images).sum() / noise))
    assert first.added_db == first.accumulated_db == pytest.approx(expected, abs=1e-3)
    stem = by_layer["features.0", "DEPTHWISE_CONV_2D"]  # all before it only move the input
    assert stem.added_db == pytest.approx(stem.accumulated_db, abs=0.5)  # ties are rounded apart


def test_a_model_without_its_integers_is_exported_first(
    demo_model: LiteModel, demo_images: Array
) -> None:
    found = edgeq.debug(demo_model, None, iter(demo_images))
    assert (found.recipe, found.sensitive, found.samples) == (None, 0, 16)
    assert found.advice == f"nothing to do: the outputs keep {found.sqnr_db:.1f} dB"


def test_a_range_that_clips_is_found_again_among_ops_of_all_kinds(
    demo_model: LiteModel, demo_images: Array
) -> None:
    others = (
        Rule(layer="^features.9$", observer=Fixed(0.0, 6.0)),
        Rule(layer="classifier", mode=Mode.DYNAMIC_INT8),
        Rule(layer=r"8\.layers\.0", mode=Mode.FLOAT),
    )
    layer = "features.8.layers.3"
    rules = (Rule(layer=f"^{layer}$", observer=Fixed(0.0, 0.05)), *others)
    base = Recipe("clips", rules).with_rounding("gptq_once")  # or others would make up for it
    others = base.rules[1:]
    made = edgeq.export(demo_model.tflite, demo_images, recipe=base, min_sqnr_db=None)
    found = edgeq.debug(demo_model, made, demo_images, recipe=base)
    worst = found.layers[0]
    assert (worst.layer, found.sensitive) == (layer, 1)
    assert "are clipped" in worst.cause
    lines = {line.layer: line for line in found.layers}
    assert lines["classifier"].kind == "float32 with int8 weights"
    assert lines["classifier"].spread is None
    assert lines["features.8.layers.0"].kind == "float32"
    assert lines["features.8.layers.0"].added_db > 60
    assert found.recipe is not None
    better, *kept = found.recipe.rules  # in place of the rule that clips
    assert (better.observer, better.mode, tuple(kept)) == ("minmax", Mode.STATIC_INT8, others)
    refined = edgeq.export(demo_model.tflite, demo_images, recipe=found.recipe)
    assert refined.report.sqnr_db > 20 > found.sqnr_db
    assert json.loads(found.to_json())["recipe"] is None  # its own observer has no name


def test_models_that_have_nothing_in_common(exported: EdgeModel, demo_images: Array) -> None:
    value = Value((1, 1, 28, 28))
    steps = tuple(
        Step("ABS" if i else "NEG", (f"t{i - 1}" if i else "x",), {f"t{i}": value})
        for i in range(3)
    )
    other = OneOp("other", {"x": value}, steps).build()
    with pytest.raises(ModelError, match="no tensors in common by name and shape"):
        edgeq.debug(other, exported.tflite, demo_images)
    with pytest.raises(DataError, match="rep_dataset must be"):
        edgeq.debug(exported, exported, None)


def spread(**changes: Any) -> Spread:
    plain = Spread(-1.0, 1.0, 0.0, 1.0, 1.0, 2.0, 3)
    return replace(plain, **changes)


def line(cost: float, found: Spread | None = None) -> LayerError:
    return LayerError("conv", "CONV_2D", 3, "int8", cost, cost, 20.0, 20.0, found, ())


PER_TENSOR = QParams(DType.INT8, (0.1,), (0,))
PER_CHANNEL = QParams(DType.INT8, (0.1, 0.2), (0, 0), axis=0)

CAUSES: dict[str, tuple[Spread | None, float, QParams | None, str, Mode, str | None]] = {
    "clipping wins": (
        spread(clipped=0.02, channel_ratio=1e6), 0.0, None, "2.00% of its values lie outside",
        Mode.STATIC_INT8, "minmax",
    ),
    "a loud channel": (
        spread(channel_ratio=100.0, used=0.5, usual=0.5), 0.0, PER_CHANNEL,
        "its channel 3 reaches 100 times", Mode.WEIGHT_INT8, None,
    ),
    "rare values": (
        spread(usual=0.01), 0.0, None, "99.99 % of its values fill 1.00% of the range",
        Mode.STATIC_INT8, "mse",
    ),
    "a range that is not used": (
        spread(used=0.05, usual=0.05), 0.0, None, "its values reach 5.00% of the range",
        Mode.FLOAT, None,
    ),
    "a weight with one scale": (
        spread(), 1.0, PER_TENSOR, "all channels of its weight share one scale", Mode.STATIC_INT8,
        None,
    ),
    "an uneven weight": (spread(), 1.0, PER_CHANNEL, "its weight loses most", Mode.FLOAT16, None),
    "nothing in particular": (spread(), 0.0, None, "needs finer steps", Mode.FLOAT, None),
    "no integers": (None, 0.0, None, "needs finer steps", Mode.FLOAT, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CAUSES)
def test_each_cause_has_its_remedy(case: str, demo_model: LiteModel) -> None:
    found, share, weight, why, mode, observer = CAUSES[case]
    op = demo_model.graph.operators[-1]
    loss = Loss(line(1.0, found), op, op.outputs[0], share, weight)
    plain = Diagnosis((), 5.0, 4, "runtime")
    made = explain(plain, demo_model, [loss], INT8, goal_db=20.0)
    assert why in made.layers[0].cause
    assert made.recipe is not None
    (rule,) = made.recipe.rules
    assert (rule.layer, rule.mode, rule.observer) == ("^classifier$", mode, observer)
    assert rule.per_channel


@pytest.mark.parametrize(
    ("base", "recipe", "advice"), [(INT8, AUTO, "recipe='auto'"), (AUTO, None, "raise goal_db")]
)
def test_nobody_is_blamed_where_many_lose_alike(
    base: Recipe, recipe: Recipe | None, advice: str, demo_model: LiteModel
) -> None:
    losses = [Loss(line(0.1), op, op.outputs[0], 0.0, None) for op in demo_model.graph.operators]
    made = explain(Diagnosis((), 5.0, 4, "runtime"), demo_model, losses, base, goal_db=20.0)
    assert (made.sensitive, made.recipe) == (0, recipe)
    assert advice in made.advice


def test_the_text_and_the_json_have_the_facts(diagnosis: Diagnosis) -> None:
    text = " ".join(diagnosis.text().split())
    for fact in (LAYER, "why: its channel 5", "do: leave it", "16 samples", diagnosis.advice):
        assert fact in text
    fields = json.loads(diagnosis.to_json())
    assert fields["layers"][0]["spread"]["loudest_channel"] == CHANNEL
    assert fields["layers"][0]["cost_db"] == pytest.approx(diagnosis.layers[0].cost_db)
    assert sum(count for _, count in fields["layers"][0]["histogram"]) == 16 * 7 * 7 * 160
    assert Recipe.from_json(json.dumps(fields["recipe"])) == diagnosis.recipe


def test_the_command_writes_the_recipe(
    tmp_path: Path, spoilt: bytes, spoilt_edge: EdgeModel, diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("model.tflite").write_bytes(spoilt)
    spoilt_edge.save("int8.tflite")
    np.save("images.npy", DATA.calibration)
    arguments = ["debug", "model.tflite", "int8.tflite", "--data", "images.npy"]
    written = ["-o", "refined.json", "--json", "found.json", "--report", "page.html"]
    found = CliRunner().invoke(app, [*arguments, *written])
    assert found.exit_code == 0, found.stderr
    assert diagnosis.layers[0].cause in found.stdout
    assert edgeq.Recipe.from_json(Path("refined.json").read_text()) == diagnosis.recipe
    assert Path("found.json").read_text() == diagnosis.to_json()
    page = Path("page.html").read_text()
    for name in ("layers", "delegate", "worst"):
        assert f'id="{name}"' in page
    missing = CliRunner().invoke(
        app, ["debug", "model.tflite", "no.tflite", "--data", "images.npy"]
    )
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def test_sessions_of_the_model_taken_apart_agree_with_the_whole(exported: EdgeModel) -> None:
    """Cutting what no layer reads differently changes nothing."""
    from edgeq.flatbuffer.graph_editor import GraphEditor

    model = LiteModel(exported.tflite, "edgeq")
    (first,) = model.graph.inputs
    inner = model.graph.operators[0].outputs[0]
    editor = GraphEditor(model.tree)
    (fed,) = editor.cut([inner])
    editor.add_outputs([inner])
    image = DATA.test[:1]
    with Session(editor.finish()) as apart, Session(exported.tflite) as whole:
        expected = next(iter(whole.run(image).values()))
        whole_editor = GraphEditor(model.tree)
        whole_editor.add_outputs([inner])
        with Session(whole_editor.finish()) as session:
            session.invoke([image])
            held = session.outputs()[1]
        apart.invoke([image, held])
        np.testing.assert_array_equal(apart.outputs()[0], expected)
        apart.invoke([np.zeros_like(image), held])
        np.testing.assert_array_equal(apart.outputs()[0], expected)
    assert fed != first


def test_masks_of_infinity_cost_nothing() -> None:
    """Rows of scores, the last two of each masked, as in attention with padding."""
    scores, mask = Value((4, 8)), np.zeros((1, 8), np.float32)
    mask[:, -2:] = -np.inf
    steps = (
        Step("ADD", ("x", mask), {"masked": scores}),
        Step("SOFTMAX", ("masked",), {"y": scores}, {"beta": 1.0}),
    )
    case = OneOp("masked", {"x": scores}, steps)
    edge = edgeq.export(case.build(), case.draw(20), recipe="int8", progress=False)
    found = edgeq.debug(case.build(), edge.tflite, case.draw(20), progress=False)
    assert {line.op for line in found.layers} >= {"ADD", "SOFTMAX"}
    assert not any(math.isnan(line.added_db + line.accumulated_db) for line in found.layers)


def test_the_text_says_what_rounding_alone_leaves_and_who_makes_it() -> None:
    def line_of(layer: str, cost: float, noise: float) -> LayerError:
        return replace(line(cost), layer=layer, noise=noise)

    layers = (line_of("a", 0.03, 0.03), line_of("b", 0.02, 0.01), line_of("c", 0.008, 0.0))
    short = Diagnosis(layers, 10.0, 4, "runtime", bound_db=14.0)
    assert short.bound == (
        "rounding noise alone would leave 14.0 dB, most of it from CONV_2D at a (75%); the model "
        "keeps 4.0 dB less: most of weights' loss is from CONV_2D at b (56%)"
    )
    assert short.bound in " ".join(short.text().split())
    near = replace(short, sqnr_db=15.0)
    assert near.bound.endswith("from CONV_2D at a (75%); the model keeps 15.0 dB")
    assert Diagnosis(layers, 10.0, 4, "runtime").bound == ""


def test_an_export_tells_what_rounding_alone_would_leave(spoilt_edge: EdgeModel) -> None:
    bound_db = spoilt_edge.report.bound_db
    assert bound_db is not None
    assert json.loads(spoilt_edge.report.to_json())["bound_db"] == bound_db
    assert 0.0 < bound_db < 60.0
