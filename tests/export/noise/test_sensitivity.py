"""Noise of each change: measured part by part, as whole models that are changed have it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from one_op import INFINITY, OneOp, Step, Value
from rewrite_cases import lstm

from edgeq.calibrate.run import Calibrator
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.export.noise import sensitivity
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.sensitivity import Judge, measure_noise
from edgeq.export.noise.tails import places
from edgeq.export.plan.choices import choose
from edgeq.export.plan.left_float import without_unbounded
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.values import Values
from edgeq.export.round.rounded import Rounded
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.recipe import INT8
from edgeq.runtime.session import Session

ROWS = Value((1, 6, 8))
RANDOM = np.random.default_rng(3)


def dense(source: str, result: str) -> Step:
    weight = RANDOM.normal(size=(8, 8)).astype(np.float32)
    return Step("FULLY_CONNECTED", (source, weight), {result: ROWS}, {"keepNumDims": True})


def branched() -> OneOp:
    """Dense layers of which later ones read earlier results."""
    steps = (
        dense("x", "a"),
        Step("TANH", ("a",), {"early": ROWS}),
        dense("early", "b"),
        Step("ADD", ("b", "a"), {"c": ROWS}),
        dense("c", "d"),
        Step("SOFTMAX", ("d",), {"late": ROWS}, {"beta": 1.0}),
    )
    return OneOp("branched", {"x": ROWS}, steps)


def masked() -> OneOp:
    """A softmax of scores of which some are minus infinity, as no sum gives them another value."""
    mask = np.where(np.arange(8) % 2, -INFINITY, 0).astype(np.float32)
    steps = (
        dense("x", "scores"),
        Step("ADD", ("scores", mask), {"hidden": ROWS}),
        Step("SOFTMAX", ("hidden",), {"shares": ROWS}, {"beta": 1.0}),
        dense("shares", "y"),
    )
    return OneOp("masked", {"x": ROWS}, steps)


def changes_of(case: OneOp) -> tuple[Changes, list[Sample]]:
    model = LiteModel(case.build(), "tflite")
    samples = list(RepDataset(case.draw(6)).samples(input_specs(model)))
    calibration = Calibrator(model, 1).run(samples)
    choices = without_unbounded(model, Values(model, calibration), choose(model, INT8))
    return Changes(model, make_plan(model, calibration, choices), Rounded()), samples[:4]


def noise_of_whole_models(changes: Changes, change: Change, samples: list[Sample]) -> float:
    """Of a change, from the whole model with it in place of the float model."""
    editor, graph = GraphEditor(changes.model.tree), changes.graph
    changes.make(change, editor, 0)
    judge, found = Judge(changes.model, samples), []
    with Session(editor.finish(), threads=1, trusted=True) as session:
        for number, sample in enumerate(samples):
            session.invoke(sample)
            outputs = dict(zip(graph.outputs, session.outputs(), strict=True))
            found.append(judge.noise(number, outputs))
    return float(np.mean(found))


def test_the_loudest_of_many_changes_are_found_without_a_look_at_all_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 60
    names = ["x", *(f"t{i}" for i in range(count))]
    steps = [Step("TANH", (a,), {b: ROWS}) for a, b in itertools.pairwise(names)]
    changes, samples = changes_of(OneOp("chain", {"x": ROWS}, tuple(steps)))
    hashed: list[Change] = []
    known = Change.__hash__
    monkeypatch.setattr(Change, "__hash__", lambda self: hashed.append(self) or known(self))
    monkeypatch.setattr(sensitivity, "_affordable", lambda *_: (2, count))
    noise = measure_noise(changes.model, changes.plan, Rounded(), samples, lambda: None)
    assert len(noise.tensors) == count + 1
    assert len(hashed) < 20 * count


@pytest.mark.parametrize("build_ns", [1.0, 1e9], ids=["many parts", "one part"])
@pytest.mark.parametrize("case", [branched, masked, lstm], ids=lambda case: case.__name__)
def test_parts_tell_what_whole_models_do(
    case: Callable[[], OneOp], build_ns: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "BUILD_OP_NS", build_ns)
    monkeypatch.setattr(sensitivity, "BUILD_BYTE_NS", 0.0)
    monkeypatch.setattr(sensitivity, "LOUD_SHARE", 0.0)  # all samples for all
    changes, samples = changes_of(case())
    plan, rounded = changes.plan, changes._rounded
    noise = measure_noise(changes.model, plan, rounded, samples, lambda: None)
    for change in changes:
        expected = noise_of_whole_models(changes, change, samples)
        each = {w: noise.weights[w] for w in change.weights}
        each |= {t: noise.tensors[t] for t in change.tensors}
        assert sum(each.values()) == pytest.approx(expected, rel=0.02, abs=1e-9)


def test_what_keeps_a_value_between_runs_is_not_parted() -> None:
    graph = LiteModel(lstm().build(), "tflite").graph
    index = next(op.index for op in graph.operators if "LSTM" in op.name)
    assert places(graph)[0]
    assert not places(graph)[index]
