"""Streams and normalisations whose integers spoil the outputs together, though none does alone."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.export.noise import float_regions
from edgeq.export.noise.regions import regions, unrolled
from edgeq.model import LiteModel

ROWS, WIDTH, BLOCKS = 24, 32, 4
AXES = np.array([2], np.int32)


def stream(quiet: float) -> OneOp:
    """Blocks that a stream of rows is normalised for; the first row, so quiet, is the output."""
    rows, row, flat = Value((1, ROWS, WIDTH)), Value((1, ROWS, 1)), Value((ROWS, WIDTH))
    as_rows, as_flat = (np.array(value.shape, np.int32) for value in (rows, flat))
    random = np.random.default_rng(3)
    factors = np.ones((1, ROWS, 1), np.float32)
    factors[0, 0] = quiet
    steps = [Step("MUL", ("x", factors), {"sum0": rows})]
    keep = {"keepDims": True}
    for i in range(BLOCKS):
        weight = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / (4 * math.sqrt(WIDTH))
        steps += [
            Step("MEAN", (f"sum{i}", AXES), {f"middle{i}": row}, keep),
            Step("SUB", (f"sum{i}", f"middle{i}"), {f"centred{i}": rows}),
            Step("MUL", (f"centred{i}", f"centred{i}"), {f"squares{i}": rows}),
            Step("MEAN", (f"squares{i}", AXES), {f"variance{i}": row}, keep),
            Step("ADD", (f"variance{i}", np.float32(0.1)), {f"safe{i}": row}),
            Step("RSQRT", (f"safe{i}",), {f"factor{i}": row}),
            Step("MUL", (f"centred{i}", f"factor{i}"), {f"even{i}": rows}),
            Step("RESHAPE", (f"even{i}", as_flat), {f"flat{i}": flat}),
            Step("FULLY_CONNECTED", (f"flat{i}", weight), {f"made{i}": flat}),
            Step("RESHAPE", (f"made{i}", as_rows), {f"term{i}": rows}),
            Step("ADD", (f"sum{i}", f"term{i}"), {f"sum{i + 1}": rows}),
        ]  # fmt: skip
    first, size = np.zeros(3, np.int32), np.array([1, 1, WIDTH], np.int32)
    last = Step("SLICE", (f"sum{BLOCKS}", first, size), {"y": Value((1, 1, WIDTH))})
    return OneOp("stream", {"x": rows}, (*steps, last))


def attention(count: int) -> OneOp:
    """Shares of rows by a softmax of so many numbers, and means of the rows by these."""
    scores, rows = Value((1, 8, count)), Value((1, count, 8))
    shares = Step("SOFTMAX", ("x",), {"shares": scores}, {"beta": 1.0})
    product = Step("BATCH_MATMUL", ("shares", "rows"), {"y": Value((1, 8, 8))})
    return OneOp("attention", {"x": scores, "rows": rows}, (shares, product))


def exported(case: OneOp, **options: Any) -> EdgeModel:
    return edgeq.export(
        case.build(), case.draw(40), recipe="int8", min_sqnr_db=None, progress=False, **options
    )


def test_a_stream_whose_roundings_add_up_is_float_and_its_weights_are_static() -> None:
    report = exported(stream(0.2)).report
    assert {place.split()[0] for place in report.float_ops} == {
        "MUL",
        "MEAN",
        "SUB",
        "ADD",
        "RSQRT",
    }
    assert all("what is joined with it leave" in why for why in report.float_ops.values())
    assert report.op_counts["int8"] >= BLOCKS
    assert report.sqnr_db > 30


def test_what_writes_a_float_stream_in_too_few_integers_computes_in_dynamic_range() -> None:
    report = exported(stream(0.02)).report
    assert report.op_counts["float32 with int8 weights"] == BLOCKS
    assert report.sqnr_db > 20


def test_a_stream_that_keeps_enough_is_integers() -> None:
    assert exported(stream(1.0)).report.float_ops == {}


def test_a_stream_that_float_would_slow_down_is_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_regions, "MOST_TIME", 0.5)
    edge = exported(stream(0.2))
    assert all("what is joined" not in why for why in edge.report.float_ops.values())


@pytest.mark.parametrize("options", [{"strict": True}, {"target": "portable"}])
def test_what_must_be_integers_is(options: dict[str, Any]) -> None:
    assert exported(stream(0.2), **options).report.float_ops == {}


def test_a_softmax_that_no_delegate_runs_in_integers_is_float_where_its_steps_are_coarse() -> None:
    report = exported(attention(64), target="portable", strict=False).report
    ((place, why),) = report.float_ops.items()
    assert place.startswith("SOFTMAX")
    assert "are not faster" in why


def test_a_region_ends_at_weights_and_at_what_moves_numbers_into_it_or_out() -> None:
    graph = LiteModel(stream(1.0).build(), "tflite").graph
    (found,) = regions(graph)
    names = [op.name for op in graph.operators if op.index not in found]
    assert names == ["RESHAPE", "FULLY_CONNECTED", "RESHAPE"] * BLOCKS + ["SLICE"]


def recurrence(kept: float, weight: bool = False, width: int = WIDTH) -> OneOp:
    """`h = kept * h + gains * x` of 16 rows `x`, unrolled, or as a network of 16 layers."""
    row, random = Value((1, width)), np.random.default_rng(0)
    shares, gains = (np.full((1, width), f, np.float32) for f in (kept, 1.0))
    gains *= random.uniform(0.5, 1.0, (1, width)).astype(np.float32)
    steps, last = list[Step](), "x0"
    for i in range(1, 16):
        if weight:
            layer = kept * np.eye(WIDTH) + random.normal(size=(WIDTH, WIDTH)) / 100
            steps.append(Step("FULLY_CONNECTED", (last, layer.astype(np.float32)), {f"l{i}": row}))
        else:
            steps.append(Step("MUL", (last, shares), {f"l{i}": row}))
        steps.append(Step("MUL", (f"x{i}", gains), {f"g{i}": row}))
        last = f"h{i}"
        steps.append(Step("ADD", (f"l{i}", f"g{i}"), {last: row}))
    return OneOp("recurrence", {f"x{i}": row for i in range(16)}, tuple(steps))


def test_what_an_unrolled_network_repeats_is_told_from_layers() -> None:
    graph = LiteModel(recurrence(0.9).build(), "tflite").graph
    (found,) = unrolled(graph)
    written = {graph.tensors[graph.operators[i].outputs[0]].name[0] for i in found}
    assert written == {"l", "h"}
    assert unrolled(LiteModel(recurrence(0.9, weight=True).build(), "tflite").graph) == []


@pytest.mark.parametrize(
    ("least_db", "least_gain", "ops"),
    [(20.0, 3.0, {}), (60.0, 3.0, {"MUL": 15, "ADD": 15}), (60.0, 60.0, {})],
)
def test_what_an_unrolled_network_carries_is_float_where_it_adds_up_and_that_wins_enough(
    least_db: float, least_gain: float, ops: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_regions, "STEPS_DB", least_db)
    monkeypatch.setattr(float_regions, "LEAST_GAIN_DB", least_gain)
    edge = exported(recurrence(0.9))
    assert Counter(place.split()[0] for place in edge.report.float_ops) == ops


def test_what_an_unrolled_network_carries_is_integers_where_other_roundings_are_as_loud(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float_regions, "STEPS_DB", 60.0)
    row, offset = Value((1, WIDTH)), np.full((1, WIDTH), 150.0, np.float32)
    case = recurrence(0.9)
    steps = (
        Step("ADD", ("h15", offset), {"high": row}),
        Step("RELU", ("high",), {"same": row}),
        Step("SUB", ("same", offset), {"y": row}),
    )
    case = OneOp("recurrence", case.inputs, (*case.steps, *steps))
    assert exported(case).report.float_ops == {}


def test_recurrences_that_win_enough_together_alone_are_float(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float_regions, "STEPS_DB", 60.0)
    inputs, steps, row = dict[str, Value](), list[Step](), Value((1, 8))
    sums = ["first0", "sum1", "sum2"]
    for i in range(3):
        case = recurrence(0.9, width=8 + i)
        inputs |= {f"{name}of{i}": value for name, value in case.inputs.items()}
        for step in case.steps:
            read = tuple(f"{x}of{i}" if isinstance(x, str) else x for x in step.operands)
            made = {f"{name}of{i}": value for name, value in step.outputs.items()}
            steps.append(Step(step.name, read, made))
        cut = (f"h15of{i}", np.zeros(2, np.int32), np.array([1, 8], np.int32))
        steps.append(Step("SLICE", cut, {f"first{i}": row}))
        if i:
            steps.append(Step("ADD", (sums[i - 1], f"first{i}"), {sums[i]: row}))
    edge = exported(OneOp("recurrences", inputs, tuple(steps)))
    assert sum(place.startswith("MUL") for place in edge.report.float_ops) == 45
