"""Every row of the op table, proved on the real converter and kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from one_op import CASES, OneOp, Step, Value
from stages import to_int8

import edgeq
from edgeq import Mode, Recipe, Rule, UnsupportedOpError
from edgeq.export.search.costs import kind
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import Graph, Operator, parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY, OPS, Holds, Int16, Kind, OpRow, ScaleRule
from edgeq.runtime.session import Session
from edgeq.targets.xnnpack import FORMS, Form

SAMPLES = 20
FLOOR_DB = 30.0
"""Lowest SQNR of a real output."""
AGREEMENT = 0.95
"""Share of truth values and indices that int8 must not change."""


def _dtypes(graph: Graph, op: Operator) -> set[str]:
    return {graph.tensors[t].dtype for t in (*op.inputs, *op.outputs) if t >= 0}


def _check_integer(case: OneOp, graph: Graph) -> None:
    names = [op.name for op in graph.operators]
    assert (case.becomes or case.name) in names
    inner = [op for op in graph.operators if op.name not in BOUNDARY]
    assert {op.name for op in inner if "float32" in _dtypes(graph, op)} == set()
    assert {op.name for op in inner if "int8" not in _dtypes(graph, op)} == set()


def _check_scales(graph: Graph) -> None:
    for op in graph.operators:
        row = OPS.get(op.name)
        tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
        if row is not None and row.rule is ScaleRule.SAME:
            assert len({t.qparams for t in tensors if t.dtype == "int8"}) == 1, op.name
        if row is not None and row.rule is ScaleRule.FIXED:
            assert graph.tensors[op.outputs[0]].qparams == row.fixed, op.name


def _check_weights(case: OneOp, graph: Graph) -> None:
    row = OPS[case.name]
    for op in graph.operators:
        if op.name != (case.becomes or case.name) or row.weight is None:
            continue
        weight = graph.tensors[op.inputs[row.weight.slot]]
        if weight.data is not None:
            assert weight.qparams is not None
            several = len(weight.qparams.scale) > 1
            assert weight.qparams.axis == (row.weight_axis if several else None)
            assert set(weight.qparams.zero_point) == {0}
            assert weight.data.min() >= -127


def _check_outputs(case: OneOp, float_model: bytes, edge_model: bytes) -> None:
    fidelity: dict[str, Fidelity] = {}
    agreement: dict[str, list[float]] = {}
    with Session(float_model) as reference, Session(edge_model) as edge:
        for sample in case.draw(SAMPLES):
            expected, actual = reference.run(sample), edge.run(sample)
            for name, array in expected.items():
                if array.dtype == np.float32:
                    seen = fidelity.get(name, Fidelity())
                    fidelity[name] = seen.observe(array, actual[name])
                else:
                    equal = float(np.mean(array == actual[name]))
                    agreement.setdefault(name, []).append(equal)
    assert {*fidelity, *agreement} == set(case.outputs)
    assert {n: f.sqnr_db for n, f in fidelity.items() if f.sqnr_db < FLOOR_DB} == {}
    assert {n: v for n, v in agreement.items() if np.mean(v) < AGREEMENT} == {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_op_runs_in_int8(case: OneOp, converter: Worker) -> None:
    float_model = case.build()
    edge_model = to_int8(converter, LiteModel(float_model, "tflite"), case.draw(SAMPLES))
    graph = parse(edge_model).graphs[0]
    _check_integer(case, graph)
    _check_scales(graph)
    _check_weights(case, graph)
    _check_outputs(case, float_model, edge_model)


def test_the_reference_kernel_of_int8_sums_is_wrong(converter: Worker) -> None:
    """If this fails, the kernel has changed: the guide's sentence on delegates can go."""
    case = next(case for case in CASES if case.label == "SUM")
    model = LiteModel(case.build(), "tflite")
    edge_model = to_int8(converter, model, case.draw(SAMPLES))
    seen = {}
    for delegate in ("xnnpack", "none", "reference"):
        with Session(model.tflite) as reference, Session(edge_model, delegate) as edge:
            ((name, expected),) = reference.run(case.draw(1)[0]).items()
            seen[delegate] = Fidelity.of(expected, edge.run(case.draw(1)[0])[name]).sqnr_db
    assert min(seen["xnnpack"], seen["none"]) > FLOOR_DB > 15 > seen["reference"]


def test_every_row_has_a_case() -> None:
    assert set(OPS) - {case.name for case in CASES} == set()


def _around(name: str) -> OneOp:
    """The op between two that int8 has."""
    rows = Value((1, 16))
    steps = (
        Step("RELU", ("x",), {"before": rows}),
        Step(name, ("before",), {"middle": rows}),
        Step("ABS", ("middle",), {"y": rows}),
    )
    return OneOp(name, {"x": rows}, steps)


@pytest.mark.parametrize("name", ["CEIL", "FLOOR", "SIN"])
def test_op_without_row_is_refused_with_the_way_out(name: str) -> None:
    case = _around(name)
    with pytest.raises(UnsupportedOpError) as caught:
        edgeq.export(case.build(), case.draw(SAMPLES), recipe="int8", strict=True, progress=False)
    assert f"{name} at middle (op 1)" in str(caught.value)
    assert f"Rule(op='{name}', mode=Mode.FLOAT" in str(caught.value)


def test_op_without_row_stays_float_by_rule_with_its_reason() -> None:
    case = _around("FLOOR")
    recipe = Recipe(rules=(Rule(op="FLOOR", mode=Mode.FLOAT, reason="whole numbers are cheap"),))
    edge = edgeq.export(case.build(), case.draw(SAMPLES), recipe=recipe, progress=False)
    graph = parse(edge.tflite).graphs[0]
    inner = [op for op in graph.operators if op.name not in BOUNDARY]
    assert {op.name for op in inner if "float32" in _dtypes(graph, op)} == {"FLOOR"}
    assert {op.name for op in inner if "int8" in _dtypes(graph, op)} == {"MUL", "LEAKY_RELU"}
    assert edge.report.float_ops == {"FLOOR at middle (op 1)": "whole numbers are cheap"}


NEW_ROW = OpRow(
    "ELU", ScaleRule.FREE, "kernel", Kind.NONLINEAR, Holds.NEW, 1, Int16.NOT_MADE
)  # fmt: skip


@pytest.fixture
def new_op(monkeypatch: pytest.MonkeyPatch) -> OneOp:
    """A model around an op that one row and one entry of a target's table make known."""
    monkeypatch.delitem(OPS, NEW_ROW.name, raising=False)
    monkeypatch.delitem(FORMS, NEW_ROW.name)
    case = _around(NEW_ROW.name)
    with pytest.raises(UnsupportedOpError, match="ELU at middle"):
        edgeq.export(case.build(), case.draw(SAMPLES), recipe="int8", strict=True, progress=False)
    monkeypatch.setitem(OPS, NEW_ROW.name, NEW_ROW)
    monkeypatch.setitem(FORMS, NEW_ROW.name, Form(integer=True))
    return case


def test_a_new_op_is_one_row_and_one_entry_of_a_target(
    new_op: OneOp, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = new_op.draw(SAMPLES)
    lines = edgeq.plan(new_op.build(), data, recipe="int8", progress=False).ops
    (planned,) = [line for line in lines if line.op == "ELU"]
    assert (planned.mode, planned.obstacle, planned.reason) == ("static int8", "", "")
    graph = LiteModel(new_op.build(), "tflite").graph
    assert kind(graph, graph.operators[1]) == "nonlinear"
    edge = edgeq.export(new_op.build(), data, recipe="int8", progress=False)
    assert edge.report.float_ops == {}
    assert edge.report.delegated_ops == edge.report.total_ops
    found = edgeq.lint(edge.tflite)
    assert found.findings == ()
    assert found.mapped_ops == len(found.ops)
    monkeypatch.setitem(OPS, "ELU", replace(NEW_ROW, int8_version=2))
    (finding,) = edgeq.lint(edge.tflite).findings
    assert finding.message.endswith("version 1 of ELU, int8 since 2")
