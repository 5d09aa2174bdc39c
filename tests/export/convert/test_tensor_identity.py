"""Files whose tensors share a name, or have none: exported like others, with their names kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from one_op import CASES, OneOp, Step, Value

import edgeq
from edgeq import Mode, Recipe, Rule
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse, rename_tensors
from edgeq.recipe import PRESETS

ROWS = Value((1, 8, 32))


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(5).normal(size=shape) / 4).astype(np.float32)


def model() -> OneOp:
    """A table that is looked up, layers with a weight, one that shares its scale, and a softmax."""
    tokens = Value((1, 8), "int32", 0, 15)
    steps = (
        Step("GATHER", (weights(16, 32), "x"), {"rows": ROWS}),
        Step("FULLY_CONNECTED", ("rows", weights(32, 32), None), {"a": ROWS},
             {"keepNumDims": True}),
        Step("RELU", ("a",), {"b": ROWS}),
        Step("FULLY_CONNECTED", ("b", weights(32, 32), None), {"c": ROWS}, {"keepNumDims": True}),
        Step("SOFTMAX", ("c",), {"y": ROWS}, {"beta": 1.0}),
    )  # fmt: skip
    return OneOp("names", {"x": tokens}, steps)


def exported(case: OneOp, name: str, **options: object) -> tuple[EdgeModel, EdgeModel]:
    """The model with all tensors called `name`, and with names of their own, exported alike."""
    named, data = case.build(), case.draw(12)
    unnamed = rename_tensors(named, lambda index, old: name)
    both = [
        edgeq.export(file, data, min_sqnr_db=None, progress=False, **options)
        for file in (unnamed, named)
    ]
    return both[0], both[1]


def same_results(one: EdgeModel, other: EdgeModel, case: OneOp) -> bool:
    with one.session() as session, other.session() as reference:
        return all(
            a.tobytes() == b.tobytes()
            for sample in case.draw(3)
            for a, b in zip(
                session.run(sample).values(), reference.run(sample).values(), strict=True
            )
        )


@pytest.mark.parametrize("name", ["same", ""])
@pytest.mark.parametrize("recipe", sorted(PRESETS))
def test_names_that_repeat_or_are_empty_change_nothing_and_come_back(
    recipe: str, name: str
) -> None:
    case = model()
    unnamed, named = exported(case, name, recipe=recipe)
    assert unnamed.report.op_counts == named.report.op_counts
    assert list(unnamed.report.float_ops.values()) == list(named.report.float_ops.values())
    assert same_results(unnamed, named, case)
    tensors = parse(unnamed.tflite).graphs[0].tensors
    assert unnamed.origins == named.origins
    own = unnamed.rewritten.graph.tensors
    back = [tensors[i].name for i, origin in unnamed.origins.items() if own[origin].name == name]
    assert len(back) >= 3
    assert {text.removesuffix("/rows") for text in back} == {name}


def test_reports_and_layers_are_right_without_names() -> None:
    case = model()
    rule = Rule(op="SOFTMAX", mode=Mode.FLOAT, reason="mine")
    unnamed, _ = exported(case, "", recipe=Recipe("r", (rule,)))
    assert unnamed.report.float_ops == {"SOFTMAX at ? (op 3)": "mine"}
    found = edgeq.debug(unnamed, unnamed, case.draw(3), progress=False)
    assert {"FULLY_CONNECTED", "SOFTMAX"} <= {line.op for line in found.layers}


def test_integer_ports_are_set_without_names() -> None:
    case = model()
    unnamed, named = exported(case, "same", recipe="int8", outputs="uint8")
    assert [port.dtype for port in unnamed.io.outputs] == ["uint8"]
    assert same_results(unnamed, named, case)


def test_products_of_products_are_int8_as_planned() -> None:
    square = Value((1, 8, 8))
    flags = {"adjX": False, "adjY": False}
    steps = (
        Step("BATCH_MATMUL", ("a", "b"), {"once": square}, flags),
        Step("BATCH_MATMUL", ("a", "once"), {"twice": square}, flags),
        Step("BATCH_MATMUL", ("b", "twice"), {"y": square}, flags),
    )
    case = OneOp("products", {"a": square, "b": square}, steps)
    made = edgeq.export(case.build(), case.draw(20), recipe="int8", strict=True, progress=False)
    assert {kind.split(" ")[0] for kind in made.report.op_counts} == {"int8", "quantize/dequantize"}
    assert {made.float_model.graph.tensors[t].name for t in made.origins.values()} >= {"once", "y"}
    assert not any("edgeq" in t.name for t in parse(made.tflite).graphs[0].tensors)


def test_several_results_of_one_op_get_their_names_back() -> None:
    case = next(case for case in CASES if case.label == "SPLIT")
    made = edgeq.export(
        case.build(), case.draw(12), recipe="int8", min_sqnr_db=None, progress=False
    )
    names = {tensor.name for tensor in parse(made.tflite).graphs[0].tensors}
    assert {"y0", "y1"} <= names
    assert not [name for name in names if "edgeq." in name or ";" in name]


def test_an_op_of_two_results_is_found_again_and_computes_in_int8() -> None:
    row, three = Value((2, 16)), Value((2, 3))
    steps = (
        Step("TOPK_V2", ("x", np.asarray(3, np.int32)), {"v": three, "i": Value((2, 3), "int32")}),
        Step("GATHER", ("t", "i"), {"y": three}),
    )
    case = OneOp("highest", {"x": row, "t": Value((16,))}, steps)
    made = edgeq.export(
        case.build(), case.draw(20), recipe="int8", min_sqnr_db=None, progress=False
    )
    assert made.report.float_ops == {}
    (op,) = (op for op in parse(made.tflite).graphs[0].operators if op.name == "TOPK_V2")
    tensors = parse(made.tflite).graphs[0].tensors
    assert [tensors[t].name for t in op.outputs] == ["v/int8", "i"]


def test_an_op_that_the_converter_left_float_is_found_again_in_int8() -> None:
    axis = np.asarray([1], np.int32)
    steps = (
        Step("FLOOR", ("x",), {"a": ROWS}),
        Step("REVERSE_V2", ("x", axis), {"reversed": ROWS}),
        Step("CEIL", ("reversed",), {"b": ROWS}),
        Step("MUL", ("a", "b"), {"y": ROWS}),
    )
    case = OneOp("reversed", {"x": ROWS}, steps)
    made = edgeq.export(case.build(), case.draw(12), recipe="int8", progress=False)
    reverse = next(op for op in made.beside_float().graph.operators if op.name == "REVERSE_V2")
    assert made.beside_float().dtype(reverse) == "int8"
    assert made.beside_float().layer(reverse) == "reversed"
    tensors = made.rewritten.graph.tensors
    assert tensors[made.origins[reverse.outputs[0]]].name == "reversed"
