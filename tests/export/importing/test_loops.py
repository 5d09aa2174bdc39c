"""Loops and branches stay as they are, and what stands around them is quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from file_parts import DENSE, edited, set_op, values, with_subgraphs
from one_op import OneOp, Step, Value

import edgeq
from edgeq.flatbuffer import parse, schema
from edgeq.recipe import Mode, Rule
from edgeq.runtime.session import Session

BEHIND = Step("FULLY_CONNECTED", ("z", values(4, 5, seed=3), None), {"out": Value((1, 4))})

CONDITION = OneOp(
    "LESS/condition",
    {"i": Value((), "int32"), "v": Value((1, 5))},
    (Step("LESS", ("i", np.int32(3)), {"more": Value((), "bool")}),),
)

BODY = OneOp(
    "TANH/body",
    {"i": Value((), "int32"), "v": Value((1, 5))},
    (
        Step("ADD", ("i", np.int32(1)), {"next": Value((), "int32")}),
        Step("FULLY_CONNECTED", ("v", 0.3 * values(5, 5, seed=2), None), {"w": Value((1, 5))}),
        Step("TANH", ("w",), {"t": Value((1, 5))}),
    ),
)


def loop() -> bytes:
    """A dense layer, three rounds of another one, and a third."""
    case = OneOp(
        "WHILE/around",
        {"x": Value((1, 8)), "start": Value((), "int32")},
        (
            *DENSE.steps,
            Step("WHILE", ("start", "y"), {"n": Value((), "int32"), "z": Value((1, 5))}),
            BEHIND,
        ),
    )

    def link(tree: Any) -> None:
        options = schema.WhileOptionsT()
        options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
        set_op(tree, 1, "WHILE", options)
        body = tree.subgraphs[2]
        added = body.operators[0].outputs[0]
        body.outputs = np.asarray([added, body.outputs[0]], np.int32)

    return edited(with_subgraphs(case.build(), CONDITION.build(), BODY.build()), link)


@pytest.mark.parametrize("recipe", ["dynamic_int8", "int8"])
def test_a_loop_stays_and_the_rest_is_quantized(recipe: str) -> None:
    chosen = edgeq.INT8 if recipe == "int8" else recipe
    if recipe == "int8":
        rule = Rule(op="WHILE", mode=Mode.FLOAT, reason="a loop")
        chosen = edgeq.Recipe("int8 around loops", rules=(rule, *edgeq.INT8.rules))
    file = loop()
    data = [{"x": np.tanh(values(1, 8, seed=i)), "start": np.int32(0)} for i in range(40)]
    edge_model = edgeq.export(file, data, recipe=chosen)
    fresh = {"x": np.tanh(values(1, 8, seed=77)), "start": np.int32(0)}
    with Session(file, "none") as before, edge_model.session() as after:
        expected, found = before.run(fresh)["out"], after.run(fresh)["out"]
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 18
    graphs = parse(edge_model.tflite).graphs
    assert len(graphs) == 3
    dense = [op for op in graphs[0].operators if op.name == "FULLY_CONNECTED"]
    assert [graphs[0].tensors[op.inputs[1]].dtype for op in dense] == ["int8", "int8"]
