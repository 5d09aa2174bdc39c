"""Outputs of indices: which they are, and that they are judged by their agreement throughout."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import INT32, OneOp, Step, Value

import edgeq
from edgeq.export.noise.sensitivity import powers
from edgeq.fidelity.index_outputs import holds_indices
from edgeq.fidelity.parts import Kind
from edgeq.model import LiteModel
from edgeq.report.thresholds import Thresholds

X = Value((1, 8, 12))
PLACES = Value((1, 8), "int32")
BEST = Step("ARG_MAX", ("x", np.int32(2)), {"places": PLACES}, {"outputType": INT32})
ROUNDED = Step("CAST", ("x",), {"places": Value((1, 8, 12), "int32")})


def then(name: str, shape: tuple[int, ...], *more: object, dtype: str = "int32") -> Step:
    return Step(name, ("places", *more), {"y": Value(shape, dtype)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "indices"),
    [
        ((BEST,), True),
        ((BEST, then("CAST", (1, 8), dtype="int64")), True),
        ((BEST, then("RESHAPE", (8,), np.asarray([8], np.int32))), True),
        ((BEST, then("ADD", (1, 8), np.int32(3))), True),
        ((BEST, then("SUM", (1,), np.asarray([1], np.int32))), False),
        ((BEST, then("CAST", (1, 8), dtype="float32")), False),
        ((ROUNDED,), False),
    ],
    ids=["argmax", "cast", "moved", "shifted", "summed", "real", "rounded"],
)
def test_which_outputs_hold_indices(steps: tuple[Step, ...], indices: bool) -> None:
    graph = LiteModel(OneOp("case", {"x": X}, steps).build(), "tflite").graph
    assert holds_indices(graph, graph.outputs[0]) == indices


def test_indices_are_judged_by_their_agreement() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 12)).astype(np.float32)
    scores = Value((1, 8, 64))
    steps = (
        Step("FULLY_CONNECTED", ("x", weights, None), {"scores": scores}, {"keepNumDims": True}),
        Step(
            "ARG_MAX", ("scores", np.int32(2)), {"places": Value((1, 8), "int32")},
            {"outputType": INT32},
        ),
    )  # fmt: skip
    float_tflite = OneOp("tagger", {"x": X}, steps).build()
    rows = rng.normal(size=(120, 1, 8, 12)).astype(np.float32)
    edge = edgeq.export(float_tflite, list(rows), recipe="int8", progress=False)
    (output,) = edge.report.outputs
    assert output.are_indices
    assert output.top1_agreement is not None
    assert 0.9 < output.top1_agreement < 1
    share = output.top1_agreement
    assert output.sqnr_db == pytest.approx(-10 * np.log10(1 - share))
    row = next(n for n in edge.report.text().splitlines() if f"same indices in {output.name}" in n)
    assert f"{share:.2%}" in row
    checked = edgeq.check(
        edge, edge, list(rows), thresholds=Thresholds(min_agreement=0.999), progress=False
    )
    (promise,) = checked.promises
    assert not promise.kept
    assert "of the highest scores or indices agree" in promise.found


def test_an_index_that_differs_is_noise_however_near_it_is() -> None:
    one, other = np.asarray([7.0, 8, 9, 10]), np.asarray([7.0, 8, 9, 11])
    assert powers([one], [other], [None]).tolist() == [0.25]
    assert powers([one], [other], [[Kind(None)]]).tolist() == [1.0]
