"""The tour: one tiny model through all that edgeq does with a model, in the order of a user's day.

Read this first. Each stage has tests of its own in the folder of the same name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_op import RELU, SAME, OneOp, Step, Value

import edgeq
from edgeq import EdgeModel, Mode, Recipe, Rule, Thresholds

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(4, 3, 3, 1)).astype(np.float32)
MATRIX = RANDOM.normal(size=(3, 4)).astype(np.float32)

TINY = OneOp(
    "a convolution, a mean and a classifier",
    {"image": Value((1, 8, 8, 1))},
    (
        Step(
            "CONV_2D",
            ("image", KERNEL, np.zeros(4, np.float32)),
            {"features": Value((1, 8, 8, 4))},
            {"padding": SAME, "strideH": 1, "strideW": 1, "fusedActivationFunction": RELU},
        ),
        Step("MEAN", ("features", np.asarray([1, 2], np.int32)), {"pooled": Value((1, 4))}),
        Step("FULLY_CONNECTED", ("pooled", MATRIX, None), {"scores": Value((1, 3))}),
    ),
)

MODEL = TINY.build()  # a float .tflite; PyTorch, JAX, Keras and TensorFlow models work alike
IMAGES = np.concatenate([sample["image"] for sample in TINY.draw(40)])


@pytest.fixture(scope="module")
def edge() -> EdgeModel:
    """The model in int8, with forty images as its representative data."""
    return edgeq.export(MODEL, IMAGES, recipe="int8", progress=False)


def test_a_plan_says_what_would_become_of_each_op() -> None:
    planned = edgeq.plan(MODEL, IMAGES, recipe="int8", progress=False)
    assert [op.op for op in planned.ops] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    assert {op.mode for op in planned.ops} == {"static int8"}
    assert not any(op.reason or op.obstacle for op in planned.ops)


def test_an_export_is_small_and_close_to_the_float_model(edge: EdgeModel) -> None:
    report = edge.report
    assert report.op_counts == {"int8": 3, "quantize/dequantize": 2}
    assert report.delegated_ops == report.total_ops
    assert report.sqnr_db > 30
    assert "SQNR of scores" in report.text()


def test_a_session_runs_it(edge: EdgeModel, tmp_path: Path) -> None:
    assert edge.save(tmp_path / "tiny.tflite").read_bytes() == edge.tflite
    with edge.session() as session:
        assert (session.input_names, session.output_names) == (("image",), ("scores",))
        scores = session.run(IMAGES)["scores"]
    assert scores.shape == (40, 3)


def test_a_comparison_judges_it_on_other_data(edge: EdgeModel) -> None:
    others = np.random.default_rng(1).uniform(-3, 3, (16, 8, 8, 1)).astype(np.float32)
    found = edgeq.compare(MODEL, edge, others, progress=False)
    assert found.samples == 16
    assert found.outputs[0].sqnr_db > 30
    promised = Thresholds(min_sqnr_db=30)
    assert edgeq.check(MODEL, edge, others, promised, progress=False).passed


def test_lint_finds_nothing_wrong_with_the_file(edge: EdgeModel) -> None:
    found = edgeq.lint(edge.tflite)
    assert found.findings == ()
    assert not any(op.obstacles for op in found.ops)


def test_a_rule_leaves_an_op_float_and_the_report_says_why() -> None:
    rule = Rule(op="FULLY_CONNECTED", mode=Mode.FLOAT, reason="scores must be exact")
    mixed = edgeq.export(MODEL, IMAGES, recipe=Recipe(rules=(rule,)), progress=False)
    assert list(mixed.report.float_ops.values()) == ["scores must be exact"]


def test_auto_decides_by_itself_and_is_never_farther_from_float(edge: EdgeModel) -> None:
    chosen = edgeq.export(MODEL, IMAGES, progress=False)
    assert chosen.report.recipe == "auto"
    assert chosen.report.sqnr_db >= min(edge.report.sqnr_db, 40)


def test_what_cannot_be_done_is_one_sentence_that_says_what_to_do() -> None:
    with pytest.raises(edgeq.DataError, match=r"image.*\(1, 8, 8, 1\)"):
        edgeq.export(MODEL, IMAGES[:, :4], progress=False)
