"""The ladder: whatever fails, and where, `auto` ends in a file that says what is float, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.errors import ConversionError, UnsupportedOpError, VerificationError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse
from edgeq.isolation import JobCrashed, Worker
from edgeq.ops import OPS
from edgeq.recipe import Mode, Recipe, Rule

ROWS = Value((1, 64))
CONVERT, RUN = "edgeq.mlir:quantize", "edgeq.runtime.session:outputs_of"


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(3).normal(size=shape) / 8).astype(np.float32)


def dense(name: str, source: str) -> Step:
    operands = (source, weights(64, 64), weights(64))
    return Step("FULLY_CONNECTED", operands, {name: ROWS})


CASE = OneOp(
    "ladder",
    {"x": ROWS},
    (
        dense("stem", "x"),
        Step("TANH", ("stem",), {"bent": ROWS}),
        dense("head", "bent"),
        Step("LOGISTIC", ("head",), {"y": ROWS}),
    ),
)


def export(**options: Any) -> EdgeModel:
    return edgeq.export(CASE.build(), CASE.draw(20), threads=1, progress=False, **options)


class Sabotaged:
    """A real child process, which is said to die of jobs of a kind."""

    def __init__(self, inner: Worker, dies: Callable[..., bool]) -> None:
        self._inner, self._dies = inner, dies

    def __enter__(self) -> Sabotaged:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()

    def call(self, job: str, *arguments: Any, **limits: Any) -> Any:
        if self._dies(job, *arguments):
            raise JobCrashed("was killed by SIGABRT", "")
        return self._inner.call(job, *arguments, **limits)


Sabotage = Callable[[Callable[..., bool]], None]


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    from edgeq import converter

    real = converter.Worker

    def start(dies: Callable[..., bool]) -> None:
        monkeypatch.setattr(converter, "Worker", lambda preload=(): Sabotaged(real(preload), dies))

    return start


def converts_gate(job: str, *arguments: Any) -> bool:
    return job == CONVERT and any(mark.op == 3 for mark in arguments[1])


def runs_int8_gate(job: str, *arguments: Any) -> bool:
    if job != RUN:
        return False
    graph = parse(arguments[0]).graphs[0]
    return any(
        op.name == "LOGISTIC" and graph.tensors[op.inputs[0]].dtype == "int8"
        for op in graph.operators
    )


@pytest.mark.parametrize("recipe", ["auto", "int8"])
@pytest.mark.parametrize(
    ("dies", "reason"),
    [
        (converts_gate, "converting to int8: the converter was killed by SIGABRT"),
        (runs_int8_gate, "the exported model: the runtime was killed by SIGABRT"),
    ],
)
def test_an_op_that_brings_a_child_down_is_left_float(
    sabotage: Sabotage, dies: Callable[..., bool], reason: str, recipe: str
) -> None:
    sabotage(dies)
    made = export(recipe=recipe)
    assert reason in made.report.float_ops["LOGISTIC at y (op 3)"]
    assert recipe == "auto" or list(made.report.float_ops) == ["LOGISTIC at y (op 3)"]
    assert made.report.sqnr_db > 25


def test_strict_names_the_op_that_brings_the_converter_down(sabotage: Sabotage) -> None:
    sabotage(converts_gate)
    message = "LOGISTIC at y (op 3) cannot be static_int8: converting to int8: the converter was"
    with pytest.raises(ConversionError, match=re.escape(message)):
        export(recipe="int8", strict=True)


def test_what_fails_with_every_op_is_left_float_altogether(sabotage: Sabotage) -> None:
    sabotage(lambda job, *arguments: job == CONVERT)
    made = export()
    assert made.report.sqnr_db > 25
    assert not any(kind.startswith("int8") for kind in made.report.op_counts)


def test_an_op_that_cannot_be_planned_is_left_float(monkeypatch: pytest.MonkeyPatch) -> None:
    row = OPS["FULLY_CONNECTED"]
    assert row.weight is not None
    no_such_axis = replace(row, weight=replace(row.weight, axis=9))
    monkeypatch.setitem(OPS, row.name, no_such_axis)
    found = export(recipe="int8").report.float_ops
    assert set(found) == {"FULLY_CONNECTED at stem (op 0)", "FULLY_CONNECTED at head (op 2)"}
    assert all("Error: " in reason for reason in found.values())


def test_a_plan_that_keeps_too_little_on_new_data_gives_way_to_a_more_faithful_one() -> None:
    least_db = 90.0
    with pytest.raises(VerificationError, match="below min_sqnr_db=90"):
        export(recipe="int8", min_sqnr_db=least_db)
    made = export(min_sqnr_db=least_db)
    assert made.report.sqnr_db > least_db
    assert any("a plan was dropped: output 'y'" in note for note in made.report.notes)


def test_where_no_integers_keep_enough_weights_of_16_bits_do() -> None:
    made = export(min_sqnr_db=62.0)
    assert made.report.op_counts["dequantize of float16 weights"] == 2
    assert any("a plan was dropped: output 'y'" in note for note in made.report.notes)


def test_a_plan_that_misses_the_goal_on_samples_held_out_gives_way() -> None:
    steps = (
        Step("FULLY_CONNECTED", ("x", weights(64, 64), None), {"stem": ROWS}),
        Step("TANH", ("stem",), {"y": ROWS}),
    )
    case = OneOp("quiet", {"x": ROWS}, steps)
    recipe = Recipe("mine", (Rule(op="FULLY_CONNECTED"),), Mode.AUTO)
    data = np.concatenate([sample["x"] for sample in case.draw(40)])
    loud = edgeq.export(case.build(), data, recipe=recipe, progress=False)
    data[4::5] *= 1e-3  # a whole int8 step is more than any of these
    quiet = edgeq.export(case.build(), data, recipe=recipe, min_sqnr_db=None, progress=False)
    assert loud.report.op_counts["int8"] >= 1
    assert quiet.report.sqnr_db > 20
    assert "dB on samples held out" in " ".join(quiet.report.notes)


def test_only_strict_makes_an_error_of_what_has_no_form() -> None:
    steps = (dense("stem", "x"), Step("SIN", ("stem",), {"y": ROWS}))
    case = OneOp("waves", {"x": ROWS}, steps)
    made = edgeq.export(case.build(), case.draw(20), recipe="int8", progress=False)
    listed = "1 op(s) stay float that the recipe wants in integers: SIN at y (op 1) (no int8 form"
    assert any(note.startswith(listed) for note in made.report.notes)
    message = "1 op(s) cannot be static_int8 as the recipe wants: SIN at y (op 1) (no int8 form"
    with pytest.raises(UnsupportedOpError, match=re.escape(message)):
        edgeq.export(case.build(), case.draw(20), recipe="int8", strict=True, progress=False)


def test_outputs_whose_size_depends_on_the_values_keep_the_float_models_size() -> None:
    wide = Value((1, 512))
    steps = (
        Step("FULLY_CONNECTED", ("x", weights(512, 64), None), {"stem": wide}),
        Step("GREATER", ("stem", np.zeros(1, np.float32)), {"mask": Value((1, 512), "bool")}),
        Step("WHERE", ("mask",), {"places": Value((512, 2), "int64")}),
        Step("GATHER_ND", ("stem", "places"), {"y": Value((512,))}),
    )
    case = OneOp("found", {"x": ROWS}, steps)
    with pytest.raises(VerificationError, match="its size depends on the values"):
        edgeq.export(case.build(), case.draw(20), recipe="int8", progress=False)
    made = edgeq.export(case.build(), case.draw(20), progress=False)
    assert made.report.sqnr_db > 25


@pytest.mark.parametrize("recipe", ["auto", "int8", "dynamic_int8"])
def test_outputs_that_are_masked_with_infinity_are_exported(recipe: str) -> None:
    mask = np.where(np.arange(64) % 3 == 0, -np.inf, 0).astype(np.float32)[None]
    steps = (dense("scores", "x"), Step("ADD", ("scores", mask), {"y": ROWS}))
    case = OneOp("masked", {"x": ROWS}, steps)
    made = edgeq.export(case.build(), case.draw(20), recipe=recipe, progress=False)
    assert made.report.sqnr_db > 25
    with made.session() as session:
        (output,) = session.run(case.draw(1)[0]).values()
    assert (np.isneginf(output) == np.isneginf(mask)).all()


def test_what_is_divided_by_is_float_where_it_turns_out_to_round_to_zero() -> None:
    """A norm over few channels, whose least roots only what judges the file has."""
    image, one = Value((1, 8, 8, 4)), Value((1, 8, 8, 1))
    steps = (
        Step("MUL", ("x", "x"), {"squares": image}),
        Step("MEAN", ("squares", np.array([3], np.int32)), {"mean": one}, {"keepDims": True}),
        Step("ADD", ("mean", np.float32(1e-6)), {"safe": one}),
        Step("SQRT", ("safe",), {"root": one}),
        Step("DIV", ("x", "root"), {"y": image}),
    )
    case = OneOp("norm", {"x": image}, steps)
    data = case.draw(12)
    for sample in data:
        sample["x"][:] = 1 + 0.1 * np.tanh(sample["x"])
    seen = edgeq.calibrate(case.build(), data, recipe="int8", progress=False)
    for sample in data[9:10]:  # which is held out
        sample["x"][:, :4] *= 1e-3
    made = edgeq.export(
        case.build(), data, recipe="int8", calibration=seen, min_sqnr_db=None, progress=False
    )
    assert [place.split(" ")[0] for place in made.report.float_ops] == [
        "MEAN",
        "ADD",
        "SQRT",
        "DIV",
    ]
    assert "which in integers rounds to 0" in made.report.float_ops["SQRT at root (op 3)"]
    assert any("a plan was dropped" in note for note in made.report.notes)
    with made.session() as session:
        assert np.isfinite(session.run(data[9])["y"]).all()
