"""LSTM layers as loops: the op's numbers in every run, whatever it begins with and gives away."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from one_op import TANH, Array, OneOp, Step, Value

import edgeq
from edgeq.export.importing import loop_layer
from edgeq.export.rewrite import rewrite
from edgeq.export.rewrite.recurrence import looped
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

FLOAT_DB = 90.0
WIDTH, DEPTH = 8, 6


class Layer(NamedTuple):
    steps: int
    batch: int = 1
    time_major: bool = False
    projected: int = 0
    begins: bool = False
    gives_cell: bool = False
    clips: tuple[float, float] = (0.0, 0.0)

    def model(self) -> OneOp:
        """The op; it begins with zeros or with tensors, whose copies come first."""
        batch, width, state = self.batch, WIDTH, self.projected or WIDTH
        weights = [_drawn(i, width, size) for i, size in enumerate([DEPTH] * 4 + [state] * 4)]
        biases = [_drawn(9 + i, width) for i in range(4)]
        projection = _drawn(20, state, width) if self.projected else None
        starts = {
            "h": Value((batch, state), is_state=True),
            "c": Value((batch, width), is_state=True),
        }
        cell_clip, state_clip = self.clips
        shape = (self.steps, batch) if self.time_major else (batch, self.steps)
        operands = (
            "x", *weights, *[None] * 3, *biases, projection, None, "h", "c", *[None] * 4
        )  # fmt: skip
        options = {
            "fusedActivationFunction": TANH, "timeMajor": self.time_major,
            "cellClip": cell_clip, "projClip": state_clip,
        }  # fmt: skip
        steps = [
            *(self._start(name, value) for name, value in starts.items()),
            Step("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, {"y": Value((*shape, state))}, options),
        ]
        if self.gives_cell:
            first = np.zeros((1, 3), np.int32)
            steps += [
                Step("GATHER_ND", ("y", first), {"one": Value((1,))}),
                Step("EQUAL", ("one", "one"), {"is": Value((1,), dtype="bool")}),
                Step("SELECT_V2", ("is", "c", "c"), {"last": Value((batch, width))}),
            ]
        inputs = {"x": Value((*shape, DEPTH))}
        given = {f"{name}0": Value(v.shape) for name, v in starts.items()} if self.begins else {}
        return OneOp("lstm", {**inputs, **given}, tuple(steps))

    def _start(self, name: str, value: Value) -> Step:
        if self.begins:
            return Step("SELECT_V2", (np.asarray([True]), f"{name}0", f"{name}0"), {name: value})
        return Step("FILL", (np.asarray(value.shape, np.int32), np.zeros((), "f4")), {name: value})


def _drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


LAYERS = {
    "zeros": Layer(12),
    "rounds that do not divide": Layer(13, gives_cell=True),
    "time first": Layer(10, batch=2, time_major=True),
    "batch first": Layer(10, batch=3),
    "states that are given": Layer(9, batch=2, begins=True, gives_cell=True),
    "projection": Layer(11, batch=2, projected=3, begins=True),
    "projection, cell put out": Layer(11, projected=3, gives_cell=True),
    "several loops": Layer(90, batch=2, gives_cell=True),
    "clips": Layer(16, projected=3, clips=(0.4, 0.2)),
}


def outputs(model: LiteModel, samples: list[dict[str, Array]]) -> list[Array]:
    """The only output for each sample, the first one again at the end."""
    found = []
    with Session(model.tflite, threads=1) as session:
        for sample in (*samples, samples[0]):
            session.invoke(list(sample.values()))
            found.append(session.outputs()[0].copy())
    np.testing.assert_array_equal(found[0], found[-1])
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_a_loop_gives_what_the_op_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looped, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(loop_layer, "MOST_CARRIED", 2000)
    layer = LAYERS[name]
    case = layer.model()
    model = LiteModel(case.build(), "tflite")
    made = rewrite(model)
    kinds = Counter(op.name for op in made.graph.operators)
    assert kinds["WHILE"] == (3 if layer.steps == 90 else 1)
    assert not any("LSTM" in kind for kind in kinds)
    assert [made.graph.tensors[t].name for t in made.graph.outputs] == [
        model.graph.tensors[t].name for t in model.graph.outputs
    ]
    assert "with a scale for each row" in made.notes[0]
    samples = case.draw(3)
    for one, other in zip(outputs(model, samples), outputs(made, samples), strict=True):
        assert Fidelity.of(one, other).sqnr_db > FLOAT_DB


FED = {
    "a step that is fed its states": Layer(1, begins=True, gives_cell=True),
    "a projection and a batch": Layer(2, batch=2, projected=3, begins=True),
}


@pytest.mark.parametrize("name", FED)
def test_few_steps_are_written_out(name: str) -> None:
    case = FED[name].model()
    model = LiteModel(case.build(), "tflite")
    made = rewrite(model)
    assert {op.name for op in made.graph.operators} <= {
        "RESHAPE", "TRANSPOSE", "FULLY_CONNECTED", "SLICE", "ADD", "MUL", "LOGISTIC", "TANH",
        "CONCATENATION",
    }  # fmt: skip
    with Session(made.tflite, threads=1) as session:
        coverage = session.coverage()
    assert len(coverage.delegated) == coverage.total
    samples = case.draw(3)
    for one, other in zip(outputs(model, samples), outputs(made, samples), strict=True):
        assert Fidelity.of(one, other).sqnr_db > FLOAT_DB


def ones() -> OneOp:
    """A layer whose states begin each run as ones."""
    case = Layer(12).model()
    *starts, last = case.steps
    filled = [Step(s.name, (s.operands[0], np.ones((), "f4")), s.outputs) for s in starts]
    return OneOp(case.label, case.inputs, (*filled, last))


@pytest.mark.parametrize("case", [ones(), Layer(12).model()], ids=["ones", "small"])
def test_what_a_loop_does_not_serve_stays_the_op(case: OneOp) -> None:
    model = LiteModel(case.build(), "tflite")
    assert rewrite(model) is model


def uneven() -> OneOp:
    """A layer whose rows are of very different sizes, so that one scale for a gate loses most."""
    case = Layer(12).model()
    *starts, last = case.steps
    rows = np.exp(-np.arange(WIDTH, dtype="f4"))[:, None]
    operands = tuple(
        o * rows if isinstance(o, np.ndarray) and o.ndim == 2 else o for o in last.operands
    )
    return OneOp(
        case.label, case.inputs, (*starts, Step(last.name, operands, last.outputs, last.options))
    )


def test_rows_of_different_sizes_keep_their_numbers_in_integers() -> None:
    case = uneven()
    found = {
        old: edgeq.export(case.build(), case.draw(20), recipe="dynamic_int8", min_runtime=old)
        for old in (None, "2.14")
    }
    assert found[None].report.sqnr_db > found["2.14"].report.sqnr_db + 3
    names: dict[str | None, set[Any]] = {
        old: {op.name for op in parse(made.tflite).graphs[0].operators}
        for old, made in found.items()
    }
    assert "WHILE" in names[None]
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in names["2.14"]  # which reads no scale for a row


def called_twice() -> OneOp:
    """The uneven layer on two inputs."""
    case = uneven()
    first, again = case.steps, []
    for step in first:
        operands = tuple(f"{o}2" if isinstance(o, str) else o for o in step.operands)
        again.append(Step(
            step.name, operands, {f"{name}2": v for name, v in step.outputs.items()}, step.options
        ))  # fmt: skip
    x, y = case.inputs["x"], first[-1].outputs["y"]
    both = Step("ADD", ("y", "y2"), {"sum": y})
    return OneOp("twice", {"x": x, "x2": x}, (*first, *again, both))


def test_a_layer_that_is_called_twice_has_one_body() -> None:
    case = called_twice()
    edge = edgeq.export(case.build(), case.draw(20), recipe="dynamic_int8")
    main, *others = parse(edge.tflite).graphs
    assert Counter(op.name for op in main.operators)["WHILE"] == 2
    _, body = others
    dense = [op for op in body.operators if op.name == "FULLY_CONNECTED"]
    assert {body.tensors[op.inputs[1]].dtype for op in dense} == {"int8"}
    assert edge.report.sqnr_db > 30


def test_a_calibration_of_the_loop_is_none_of_the_op() -> None:
    case = uneven()
    found = edgeq.calibrate(case.build(), case.draw(4))
    with pytest.raises(edgeq.ModelError, match=r"otherwise than for 2\.14: export without min_run"):
        edgeq.export(case.build(), case.draw(4), calibration=found, min_runtime="2.14")
