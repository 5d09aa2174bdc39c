"""Ops that a converter gave axes which their kernel does not make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edgeq
from edgeq.flatbuffer import parse
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree
from edgeq.flatbuffer.kernel_shapes import settle_shapes
from edgeq.runtime import Session


def dense(declared: tuple[int, ...], keep_axes: bool = True) -> bytes:
    """A file with one FULLY_CONNECTED of (6, 8) by (4, 8), whose output has the declared shape."""
    editor = GraphEditor(empty_tree())
    source, result = editor.tensor("x", (6, 8)), editor.tensor("y", declared)
    weights = editor.constant("weights", np.arange(32, dtype=np.float32).reshape(4, 8) / 32)
    bias = editor.constant("bias", np.zeros(4, np.float32))
    editor.set_ports([source], [result])
    op = editor.op(
        "FULLY_CONNECTED", [source, weights, bias], [result], version=5, keepNumDims=keep_axes
    )
    editor.append(op)
    return bytes(edgeq.flatbuffer.with_signature(editor.finish()))


def samples(shape: tuple[int, ...]) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32))


@pytest.mark.parametrize("keep_axes", [True, False])
def test_a_shape_of_as_many_numbers_is_made_by_a_reshape(keep_axes: bool) -> None:
    graph = parse(settle_shapes(dense((1, 6, 4), keep_axes))).graphs[0]
    assert [op.name for op in graph.operators] == ["FULLY_CONNECTED", "RESHAPE"]
    shapes = [graph.tensors[op.outputs[0]].shape for op in graph.operators]
    assert shapes == [(6, 4), (1, 6, 4)]


@pytest.mark.parametrize("declared", [(6, 4), (6, 5)])
def test_other_files_stay_as_they_are(declared: tuple[int, ...]) -> None:
    file = dense(declared)
    assert settle_shapes(file) is file


def test_such_a_file_is_run_and_exported() -> None:
    file = dense((1, 6, 4))
    data = samples((6, 8))
    with Session(file) as session:
        expected = session.run(data[0])["y"].reshape(-1)
    edge = edgeq.export(file, data, recipe="int8", progress=False)
    with edge.session() as session:
        found = session.run(data[0])["y"]
    assert found.shape == (1, 6, 4)
    assert np.abs(found.reshape(-1) - expected).max() < 0.2


class BiasBehindReshape(torch.nn.Module):
    """What Keras' Dense becomes in ONNX: rows are multiplied, reshaped, and then get their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x.tanh().permute(1, 0, 2).reshape(40, 8) @ self.first.weight).reshape(1, 40, 8)
        rows = (rows + self.first.bias).reshape(40, 8)
        return (rows @ self.second.weight.T).reshape(1, 40, 4) + self.second.bias


def test_the_converters_own_files_are_settled() -> None:
    torch.manual_seed(0)
    edge = edgeq.export(
        BiasBehindReshape().eval(), samples((1, 40, 8)), recipe="int8", progress=False
    )
    assert edge.report.sqnr_db > 25
    graph = edge.float_model.graph
    assert graph.tensors[graph.outputs[0]].shape == (1, 40, 4)


class SumsAlongAxes(torch.nn.Module):
    """Attention whose query is a bias at first: rows of keys are reshaped and added to."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16)
        self.score = torch.nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys, read = self.key(x), x.new_zeros(1, 8)
        for _ in range(2):
            scores = self.score(torch.tanh(keys + self.query(read)[:, None]))
            read = (torch.softmax(scores, 1) * x).sum(1)
        return read


def test_sums_keep_the_axes_that_others_read() -> None:
    torch.manual_seed(0)
    model = SumsAlongAxes().eval()
    data = samples((1, 4, 8))
    edge = edgeq.export(model, data, recipe="weight_int8", progress=False)
    assert not edge.report.notes
    with torch.no_grad(), edge.session() as session:
        expected = model(torch.from_numpy(data[0])).numpy()
        assert np.abs(session.run(data[0])["output_0"] - expected).max() < 0.02


def test_a_sum_with_other_axes_is_reshaped() -> None:
    editor = GraphEditor(empty_tree())
    source, result = editor.tensor("x", (4, 8)), editor.tensor("y", (1, 4, 8))
    summand = editor.constant("summand", np.ones(8, np.float32))
    editor.set_ports([source], [result])
    editor.append(editor.op("ADD", [source, summand], [result]))
    graph = parse(settle_shapes(editor.finish())).graphs[0]
    shapes = [(op.name, graph.tensors[op.outputs[0]].shape) for op in graph.operators]
    assert shapes == [("ADD", (4, 8)), ("RESHAPE", (1, 4, 8))]
