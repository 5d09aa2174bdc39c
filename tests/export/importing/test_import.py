"""Files of other converters are read as LiteRT runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from file_parts import (
    DENSE,
    SCALED,
    composite,
    edited,
    open_sizes,
    set_op,
    stored_as,
    values,
    with_subgraphs,
)
from one_op import OneOp, Step, Value

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, ModelError
from edgeq.export.frontends import tflite as frontend
from edgeq.export.importing import SizeSource
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse, schema
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]


def ints(*numbers: int) -> npt.NDArray[np.int32]:
    return np.asarray(numbers, np.int32)


def traced(tflite: bytes, data: object, worker: Worker, sample: object = None) -> LiteModel:
    return frontend.trace(tflite, SizeSource(sample, RepDataset(data)), worker)


def run(tflite: Any, sample: Mapping[str, Array]) -> list[Array]:
    with Session(tflite, "none", threads=1) as session:
        return list(session.run(dict(sample)).values())


def sqnr_db(expected: list[Array], found: list[Array]) -> float:
    assert [a.shape for a in expected] == [a.shape for a in found]
    total = Fidelity()
    for one, other in zip(expected, found, strict=True):
        total = total.observe(one, other)
    return total.sqnr_db


def names(model: LiteModel) -> list[str]:
    return [op.name for op in model.graph.operators]


SHAPES = OneOp(
    "RESHAPE/open",
    {"x": Value((1, 4, 6))},
    (
        Step("SHAPE", ("x",), {"shape": Value((3,), "int32")}, {"outType": 2}),
        Step(
            "STRIDED_SLICE", ("shape", ints(0), ints(1), ints(1)), {"n": Value((), "int32")},
            {"shrinkAxisMask": 1},
        ),
        Step("PACK", ("n", np.int32(24)), {"flat": Value((2,), "int32")}, {"valuesCount": 2}),
        Step("RESHAPE", ("x", "flat"), {"rows": Value((1, 24))}),
        Step("FULLY_CONNECTED", ("rows", values(3, 24), None), {"y": Value((1, 3))}),
    ),
)  # fmt: skip
"""What a file with an open batch works its shapes out by."""


def open_batch(tflite: bytes) -> bytes:
    sizes = {"x": (-1, 4, 6), "rows": (-1, 24), "y": (-1, 3)}
    return edited(tflite, lambda tree: open_sizes(tree, sizes))


@pytest.mark.parametrize("count", [1, 3])
def test_an_open_batch_is_that_of_the_sample(converter: Worker, count: int) -> None:
    file, sample = open_batch(SHAPES.build()), values(count, 4, 6)
    model = traced(file, [sample], converter)
    assert names(model) == ["RESHAPE", "FULLY_CONNECTED"]
    assert [tensor.shape for _, tensor in model.input_tensors()] == [(count, 4, 6)]
    assert [tensor.shape for _, tensor in model.output_tensors()] == [(count, 3)]
    assert model.notes == (
        f"input 'x' may have any size along dimension 0; in the file it is {count}, as in the "
        "sample",
    )
    assert sqnr_db(run(file, {"x": sample}), run(model.tflite, {"x": sample})) > 120


def test_rows_of_an_array_are_samples_of_an_open_batch() -> None:
    edge_model = edgeq.export(open_batch(SHAPES.build()), values(60, 4, 6), recipe="int8")
    assert edge_model.report.outputs[0].sqnr_db > 25
    assert "dimension 0" in edge_model.report.notes[0]


def test_two_files_of_which_one_leaves_its_batch_open_are_compared() -> None:
    file, data = open_batch(SHAPES.build()), values(12, 4, 6)
    edge_model = edgeq.export(file, data, recipe="dynamic_int8")
    found = edgeq.compare(file, edge_model.tflite, data)
    assert found.outputs[0].sqnr_db > 30


def test_a_sample_that_does_not_fit_an_open_size_is_told(converter: Worker) -> None:
    with pytest.raises(
        DataError, match=r"shape \(-1, 4, 6\), where -1 is any size. .* \(1, 2, 1, 1, 6\)"
    ):
        traced(open_batch(SHAPES.build()), [values(1, 2, 6)[:, :, None, None]], converter)
    sizes = {"x": (-1, -1, -1), "rows": (-1, 24)}
    wide = edited(SHAPES.build(), lambda tree: open_sizes(tree, sizes))
    with pytest.raises(ModelError, match=r"inputs of shape \(5, 4, 7\), as the sample has them"):
        traced(wide, [values(5, 4, 7)], converter)


def test_sizes_that_depend_on_values_stay_open(converter: Worker) -> None:
    case = OneOp(
        "WHERE/open",
        {"x": Value((1, 8))},
        (
            Step("FULLY_CONNECTED", ("x", values(8, 8), None), {"y": Value((1, 8))}),
            Step("GREATER", ("y", np.float32(0)), {"large": Value((1, 8), "bool")}),
            Step("WHERE", ("large",), {"places": Value((1, 2), "int64")}),
            Step("GATHER_ND", ("y", "places"), {"found": Value((1,))}),
        ),
    )
    file = edited(case.build(), lambda tree: open_sizes(tree, {"places": (-1, 2), "found": (-1,)}))
    model = traced(file, [values(1, 8)], converter)
    assert [tensor.shape for _, tensor in model.output_tensors()] == [(-1,)]
    sample = {"x": values(1, 8, seed=5)}
    assert sqnr_db(run(file, sample), run(model.tflite, sample)) > 120


def halves(tree: Any) -> None:
    weight = values(5, 8).astype(np.float16)
    stored_as(tree, 0, 1, weight, type=schema.TensorType.FLOAT16)


def integers(tree: Any) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.full(5, 0.02, np.float32)
    quantization.zeroPoint, quantization.quantizedDimension = np.zeros(5, np.int64), 0
    weight = np.clip(values(5, 8) / 0.02, -127, 127).astype(np.int8)
    stored_as(tree, 0, 1, weight, type=schema.TensorType.INT8, quantization=quantization)


@pytest.mark.parametrize(("change", "said", "least_db"), [
    (halves, "1 as float16", 60), (integers, "1 as int8", 25),
])  # fmt: skip
def test_stored_weights_are_read(
    converter: Worker, change: Any, said: str, least_db: float
) -> None:
    file = edited(DENSE.build(), change)
    model = traced(file, values(8, 8), converter)
    assert names(model) == ["FULLY_CONNECTED"]
    assert {tensor.dtype for tensor in model.graph.tensors} == {"float32"}
    assert said in model.notes[0]
    sample = {"x": values(1, 8, seed=3)}
    assert sqnr_db(run(file, sample), run(model.tflite, sample)) > 120
    assert sqnr_db(run(DENSE.build(), sample), run(model.tflite, sample)) > least_db
    edge_model = edgeq.export(file, values(12, 8), recipe="int8")
    assert edge_model.report.notes[0] == model.notes[0]


def test_dynamic_range_files_are_read(converter: Worker) -> None:
    file = edgeq.export(DENSE.build(), values(12, 8), recipe="dynamic_int8").tflite
    model = traced(file, values(8, 8), converter)
    assert {tensor.dtype for tensor in model.graph.tensors} == {"float32"}
    assert "1 as int8" in model.notes[0]
    sample = {"x": values(1, 8, seed=3)}
    assert sqnr_db(run(file, sample), run(model.tflite, sample)) > 30


def test_integer_activations_are_refused_with_the_way_out(converter: Worker) -> None:
    file = edgeq.export(DENSE.build(), values(12, 8), recipe="int8").tflite
    with pytest.raises(ModelError, match=r"is quantized already: .* `edgeq dequantize`"):
        edgeq.export(file, values(12, 8))


def test_a_reshape_to_a_scalar_reads_an_empty_shape() -> None:
    case = OneOp(
        "RESHAPE/scalar",
        {"x": Value((1, 6))},
        (
            Step("FULLY_CONNECTED", ("x", values(1, 6), None), {"y": Value((1, 1))}),
            Step("RESHAPE", ("y", np.zeros(0, np.int32)), {"z": Value(())}),
        ),
    )
    file = case.build()
    shape = parse(file).graphs[0].operators[1].inputs[1]
    constant = parse(file).graphs[0].tensors[shape]
    assert constant.is_constant
    assert constant.data is not None
    assert constant.data.shape == (0,)
    for recipe in ("int8", "auto", "dynamic_int8"):
        edge_model = edgeq.export(file, values(20, 6), recipe=recipe)
        assert edge_model.report.outputs[0].sqnr_db > 20
        with edge_model.session() as session:
            assert session.run(values(1, 6))["z"].shape == ()


def test_a_composite_is_written_out(converter: Worker) -> None:
    file, sample = composite(), {"x": values(1, 8, seed=2)}
    model = traced(file, values(8, 8), converter)
    assert names(model) == ["FULLY_CONNECTED", "MUL", "ADD"]
    assert len(model.tree.subgraphs) == 1
    assert sqnr_db(run(file, sample), run(model.tflite, sample)) > 120
    edge_model = edgeq.export(file, values(20, 8), recipe="int8")
    assert edge_model.report.outputs[0].sqnr_db > 25


def test_a_plain_call_is_written_out_even_inside_a_call(converter: Worker) -> None:
    inner = OneOp(
        "MUL/inner",
        {"p": Value((1, 5))},
        (Step("MUL", ("p", np.float32(3)), {"q": Value((1, 5))}),),
    )
    outer = OneOp(
        "ADD/outer",
        {"a": Value((1, 5))},
        (
            Step("RELU", ("a",), {"r": Value((1, 5))}),
            Step("ADD", ("r", "a"), {"s": Value((1, 5))}),
        ),
    )
    case = OneOp(
        "RELU/caller",
        {"x": Value((1, 8))},
        (*DENSE.steps, Step("RELU", ("y",), {"z": Value((1, 5))})),
    )

    def calls(tree: Any) -> None:
        for graph, place in ((0, 1), (1, 0)):
            options = schema.CallOptionsT()
            options.subgraph = graph + 1
            set_op(tree, place, "CALL", options, graph=graph)

    file = edited(with_subgraphs(case.build(), outer.build(), inner.build()), calls)
    model = traced(file, values(8, 8), converter)
    assert names(model) == ["FULLY_CONNECTED", "MUL", "ADD"]
    x = values(1, 8, seed=2)
    y = x @ values(5, 8).T + values(5, seed=1)
    assert sqnr_db([4 * y], run(model.tflite, {"x": x})) > 100


def test_a_call_that_passes_too_much_is_damage(converter: Worker) -> None:
    options = schema.CallOptionsT()
    options.subgraph = 1
    file = edited(
        with_subgraphs(DENSE.build(), SCALED.build()), lambda tree: set_op(tree, 0, "CALL", options)
    )
    with pytest.raises(ModelError, match="a CALL passes 3 tensors where its subgraph has 2"):
        traced(file, values(8, 8), converter)


def test_a_graph_that_runs_itself_is_damage(converter: Worker) -> None:
    options = schema.CallOptionsT()
    file = edited(DENSE.build(), lambda tree: set_op(tree, 0, "CALL", options))
    with pytest.raises(ModelError, match="graph 0 runs itself"):
        parse(file)
    options.subgraph = 7
    with pytest.raises(ModelError, match="runs graph 7 of 1"):
        parse(edited(DENSE.build(), lambda tree: set_op(tree, 0, "CALL", options)))
