"""Rewrites that fail or change the numbers are left out, and the others stay."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.export.rewrite import REWRITES
from edgeq.export.rewrite.base import Apply, Rewrite, Site
from edgeq.flatbuffer import Operator

ROWS = Value((1, 8))

CASE = OneOp(
    "rewritten",
    {"x": ROWS},
    (
        Step("NEG", ("x",), {"less": ROWS}),
        Step("TANH", ("less",), {"bent": ROWS}),
        Step("MUL", ("bent", np.full((1, 8), 3, np.float32)), {"y": ROWS}),
    ),
)


def register(monkeypatch: pytest.MonkeyPatch, apply: Apply) -> None:
    row = Rewrite("sabotage", ("TANH",), "another op", "to see what comes of it", False, apply)
    module = importlib.import_module("edgeq.export.rewrite")
    monkeypatch.setattr(module, "REWRITES", (*REWRITES[:2], row, *REWRITES[2:]))


def raises(site: Site, op: Operator) -> Sequence[Any] | None:
    raise IndexError("tuple index out of range")


def changes_numbers(site: Site, op: Operator) -> Sequence[Any] | None:
    return [site.editor.op("LOGISTIC", op.inputs, op.outputs)]


def ends_the_run(site: Site, op: Operator) -> Sequence[Any] | None:
    return [site.reshape(op, op.inputs[0], op.outputs[0], [3, 3])]


@pytest.mark.parametrize(
    ("apply", "note"),
    [
        (
            raises,
            "the rewrite 'sabotage' is left out for TANH at bent: it failed with IndexError: tuple "
            "index out of range",
        ),
        (
            changes_numbers,
            "the rewrite 'sabotage' is left out: with it the model computes something else on the "
            "first sample",
        ),
        (
            ends_the_run,
            "the rewrite 'sabotage' is left out: with it the model computes something else on the "
            "first sample",
        ),
    ],
)
@pytest.mark.parametrize("recipe", ["auto", "int8"])
def test_a_wrong_rewrite_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, apply: Apply, note: str, recipe: str
) -> None:
    register(monkeypatch, apply)
    made = edgeq.export(CASE.build(), CASE.draw(20), recipe=recipe, progress=False)
    assert [op.name for op in made.rewritten.graph.operators] == ["MUL", "TANH", "MUL"]
    assert note in made.report.notes
    assert made.report.sqnr_db > 25


def test_right_rewrites_leave_no_note() -> None:
    made = edgeq.export(CASE.build(), CASE.draw(20), progress=False)
    assert not any("rewrite" in note for note in made.report.notes)
