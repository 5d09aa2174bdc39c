"""Models with states: exported by sequences, one scale for both ends of a state, judged in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming_models import CacheStep, CausalConv, GruStep, TanhRnn, inputs, made, sequences

import edgeq
from edgeq.compare.compare_models import evaluate
from edgeq.export.edge_model import EdgeModel
from edgeq.export.plan import planner
from edgeq.flatbuffer import parse
from edgeq.ports import read_io, read_states
from edgeq.runtime.session import Session

KINDS = (GruStep, CausalConv, TanhRnn)
INT8 = {"recipe": "int8", "inputs": "int8", "outputs": "int8", "progress": False}


def export(kind: type[Any]) -> EdgeModel:
    found = edgeq.export(made(kind), sequences(kind), **INT8)
    assert isinstance(found, EdgeModel)
    return found


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def exported(request: pytest.FixtureRequest, gru: EdgeModel) -> tuple[type[Any], EdgeModel]:
    return request.param, gru if request.param is GruStep else export(request.param)


@pytest.fixture(scope="module")
def gru() -> EdgeModel:
    return export(GruStep)


@pytest.fixture(scope="module")
def gru_file(gru: EdgeModel) -> bytes:
    """What was traced of it."""
    return bytes(gru.float_model.tflite)


def decibels(real: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((real**2).sum() / ((real - other) ** 2).sum()))


def test_both_ends_of_a_state_have_one_scale_and_are_named(
    exported: tuple[type[Any], EdgeModel],
) -> None:
    kind, edge = exported
    ((taken, given),) = kind.states.items()
    assert edge.io.states == ((taken, given),)
    assert edge.io == read_io(edge.tflite)
    ports = {port.name: port for port in (*edge.io.inputs, *edge.io.outputs)}
    assert ports[taken].dtype == ports[given].dtype == "int8"
    assert ports[taken].qparams == ports[given].qparams != ports["x"].qparams or kind is CausalConv
    assert edge.describe().to_dict()["states"] == [{"input": taken, "output": given}]
    assert edge.report.op_counts.get("float32", 0) == 0
    assert not [note for note in edge.report.notes if "fed back" in note]


def test_the_scale_covers_what_goes_in_and_what_comes_out(gru: EdgeModel) -> None:
    ((taken, given),), ranges = gru.rewritten.state_tensors, gru.calibration.ranges
    assert ranges[taken] != ranges[given]
    both = [end for tensor in (taken, given) for end in ranges[tensor]]
    low, high = gru.plan.tensors[taken].range()
    assert low - 0.01 <= min(both)
    assert max(both) <= high + 0.01


def test_a_thousand_steps_are_as_good_as_ten(exported: tuple[type[Any], EdgeModel]) -> None:
    kind, edge = exported
    ((state, _),) = kind.states.items()
    port = next(p for p in edge.io.inputs if p.name == state)
    real, held = [], []
    with edge.session(threads=1) as session, Session(edge.float_model.tflite) as plain:
        for xs in inputs(kind, 6, 1000, seed=1):
            one, other = plain.stream(kind.states), session.stream()
            for x in xs:
                one.run(x[None])
                other.run(x[None], real=True)
                real.append(one.states[state])
                held.append(port.dequantize(other.states[state]))
    pair = [np.stack(states).reshape(6, 1000, -1) for states in (real, held)]
    first = decibels(*(states[:, 5:15] for states in pair))
    later = [decibels(*(s[:, at : at + 100] for s in pair)) for at in range(100, 1000, 100)]
    assert first > 24
    assert min(later) >= first - 1


def test_an_integer_state_is_fed_back_byte_by_byte(exported: tuple[type[Any], EdgeModel]) -> None:
    kind, edge = exported
    ((taken, given),) = kind.states.items()
    port = next(p for p in edge.io.inputs if p.name == taken)
    x = next(p for p in edge.io.inputs if p.name == "x")
    with edge.session(threads=1) as session:
        stream, state = session.stream(), port.quantize(np.zeros(port.shape))
        for step in inputs(kind, 1, 20)[0]:
            out = session.run({"x": x.quantize(step[None]), taken: state})
            streamed = stream.run(x.quantize(step[None]))
            state = out[given]
            assert streamed.keys() == {"y"}
            assert (streamed["y"] == out["y"]).all()
            assert stream.states[taken].tobytes() == state.tobytes()


def test_scales_that_are_not_joined_differ(
    monkeypatch: pytest.MonkeyPatch, gru_file: bytes
) -> None:
    """What the tests above rest on: without the joining, a state has two scales, and a note."""
    monkeypatch.setattr(planner._Planner, "_join_states", lambda self: None)
    monkeypatch.setattr(planner._Planner, "_fix_states", lambda self: None)
    edge = edgeq.export(gru_file, sequences(GruStep), **INT8)
    _, h_in = edge.io.inputs
    h_out = next(p for p in edge.io.outputs if p.name == "h_out")
    assert h_in.qparams != h_out.qparams
    (note,) = [note for note in edge.report.notes if "fed back" in note]
    assert "the state 'h_in' cannot have the scale of 'h_out'" in note


def test_each_model_is_judged_by_its_own_states(gru: EdgeModel) -> None:
    edge = gru
    data = sequences(GruStep, 2, 50, seed=2)
    found = edgeq.compare(edge, edge, data, progress=False)
    real, held = [], []
    with edge.session(threads=1) as session, Session(edge.float_model.tflite) as plain:
        for xs in data:
            streams = plain.stream(GruStep.states), session.stream()
            for x in xs:
                one, other = (stream.run(x[None], real=True) for stream in streams)
                real.append(one["y"])
                held.append(other["y"])
    y = next(output for output in found.outputs if output.name == "y")
    assert found.samples == 100
    assert y.sqnr_db == pytest.approx(decibels(np.stack(real), np.stack(held)), abs=1e-3)
    assert y.drift is not None
    assert len(y.drift.tenths_db) == 10
    assert "tenth of steps" in found.text()


def test_the_report_is_of_whole_sequences_that_were_kept_back(
    gru: EdgeModel, gru_file: bytes
) -> None:
    report = gru.report
    assert report.independent
    assert (report.calibrated_samples, report.judged_samples) == (11 * 60, 60)
    assert all(output.drift is not None for output in report.outputs)
    assert "first and last tenth of steps" in report.text()
    few = edgeq.export(gru_file, sequences(GruStep, 2, 30), **INT8).report
    assert (few.calibrated_samples, few.judged_samples) == (60, 60)
    assert any("give at least 10 sequences" in warning for warning in few.warnings())


def test_a_cache_of_integers_is_written_in_place() -> None:
    edge = edgeq.export(made(CacheStep), CacheStep.sequences(), **INT8)
    graph = parse(edge.tflite).graphs[0]
    writes = [op for op in graph.operators if op.name == "DYNAMIC_UPDATE_SLICE"]
    assert [graph.tensors[op.outputs[0]].dtype for op in writes] == ["int8", "int8"]
    assert {t for op in writes for t in op.inputs[:1]} <= set(graph.inputs)
    assert edge.report.op_counts.get("float32", 0) == 0
    ports = {port.name: port for port in (*edge.io.inputs, *edge.io.outputs)}
    assert ports["keys"].qparams == ports["keys_out"].qparams != ports["values"].qparams
    assert ports["values"].qparams == ports["values_out"].qparams
    assert edge.report.sqnr_db > 25


def test_a_file_knows_the_shapes_of_its_states(gru_file: bytes) -> None:
    data = edgeq.Sequences(list(inputs(GruStep, 2, 8)), {1: "h_out"})
    edge = edgeq.export(gru_file, data, **INT8)
    assert edge.io.states == (("h_in", "h_out"),)


def test_a_saved_file_with_a_description_names_its_states(gru: EdgeModel, tmp_path: Path) -> None:
    path = gru.save(tmp_path / "gru.tflite", metadata=gru.describe())
    with Session(path, threads=1) as session:
        assert list(session.stream().states) == ["h_in"]


def test_auto_tries_plans_step_by_step(gru_file: bytes) -> None:
    edge = edgeq.export(gru_file, sequences(GruStep), progress=False)
    assert edge.report.sqnr_db > 20
    assert read_states(edge.tflite) == (("h_in", "h_out"),)
    with edge.session(threads=1) as session:
        assert session.stream().run(np.ones((1, 16), np.float32))["y"].shape == (1, 8)


def test_states_of_one_signature_stay_with_it(gru_file: bytes) -> None:
    models = {"gru": gru_file, "conv": made(CausalConv)}
    data = {"gru": sequences(GruStep, 2, 10), "conv": sequences(CausalConv, 2, 10)}
    edge = edgeq.export(models, data, **INT8)
    assert read_states(edge.tflite, "gru") == (("h_in", "h_out"),)
    assert read_states(edge.tflite, "conv") == (("past", "past_out"),)
    with edge.session("conv", threads=1) as session:
        stream = session.stream()
        stream.run(np.ones((1, 8, 1), np.int8))
        assert (stream.states["past"][..., -1] == 1).all()


def test_other_functions_take_sequences_too(gru_file: bytes) -> None:
    data = sequences(GruStep, 3, 8)
    planned = edgeq.plan(gru_file, data, recipe="int8", progress=False)
    ((taken, given),) = planned.model.state_tensors
    assert planned.plan.tensors[taken] == planned.plan.tensors[given]
    calibration = edgeq.calibrate(gru_file, data, progress=False)
    assert calibration.samples == 24
    edge = edgeq.export(gru_file, sequences(GruStep), calibration=calibration, **INT8)
    assert edgeq.check(edge, edge, data, progress=False).comparison.samples == 24
    diagnosis = edgeq.debug(edge, edge, data, progress=False)
    assert diagnosis.samples == 16
    xs = list(inputs(GruStep, 2, 5))
    labelled = edgeq.Sequences([[(x, 3) for x in s] for s in xs], GruStep.states, data.start)
    assert 0 <= evaluate(edge, labelled, output="y", progress=False)["accuracy"] <= 1


def test_a_search_reads_sequences_often(gru_file: bytes) -> None:
    data = sequences(GruStep, 3, 8)
    once = edgeq.Sequences(iter([iter(s[:, None]) for s in data]), data.states, data.start)
    found = edgeq.search(
        gru_file, once, eval_data=data, metric="retrieval", output="y", max_minutes=0.0,
        progress=False,
    )  # fmt: skip
    assert found.edge_model.io.states == (("h_in", "h_out"),)


def test_a_state_has_one_type(gru_file: bytes) -> None:
    with pytest.raises(edgeq.RecipeError, match="'h_out' is fed back to 'h_in', so that both"):
        edgeq.export(gru_file, sequences(GruStep), **{**INT8, "outputs": {"y": "int8"}})


def test_calibration_sees_the_states_of_use(gru_file: bytes) -> None:
    data = sequences(GruStep, 2, 40)
    found = edgeq.calibrate(gru_file, data, progress=False)
    edge = edgeq.export(gru_file, sequences(GruStep), calibration=found, **INT8)
    taken, _ = edge.rewritten.state_tensors[0]
    low, high = found.ranges[taken]
    with Session(edge.float_model.tflite) as session:
        seen = [np.zeros((1, 32), np.float32)]
        for xs in data:
            stream = session.stream(GruStep.states)
            for x in xs[:-1]:
                stream.run(x[None])
                seen.append(stream.states["h_in"])
    assert (low, high) == (np.min(seen), np.max(seen))
