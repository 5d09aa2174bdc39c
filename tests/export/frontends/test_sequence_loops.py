"""GRU and simple recurrent layers as loops: the same numbers in every run, and integer weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeq import export
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import PRESETS, Mode, Recipe, Rule
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

nn = torch.nn
Array = npt.NDArray[Any]

FLOAT_DB = 90.0


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def converter() -> Iterator[Worker]:
    with start_converter() as worker:
        yield worker


class Whole(nn.Module):  # type: ignore[misc]
    """All that a recurrent layer gives, beginning with a computed state where it is given one."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, steps: Any, *state: Any) -> Any:
        return self.layer(steps, *(torch.tanh(one) for one in state))


LAYERS: dict[str, tuple[Any, tuple[tuple[int, ...], ...], int]] = {
    "gru": (lambda: nn.GRU(6, 8, 2, batch_first=True), ((1, 30, 6),), 2),
    "gru of both directions": (lambda: nn.GRU(6, 8, bidirectional=True), ((17, 3, 6),), 2),
    "gru with a state": (lambda: nn.GRU(6, 8, bias=False), ((9, 2, 6), (1, 2, 8)), 1),
    "simple, in several loops": (
        lambda: nn.RNN(6, 8, batch_first=True, nonlinearity="relu"), ((2, 300, 6),), 3,
    ),
    "simple": (lambda: nn.RNN(6, 8), ((11, 1, 6),), 1),
    "few steps": (lambda: nn.GRU(6, 8), ((3, 1, 6),), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_run_gives_what_the_module_gives(name: str, converter: Worker) -> None:
    make, shapes, loops = LAYERS[name]
    torch.manual_seed(0)
    module = Whole(make()).eval()
    sample = tuple(normal(*shape) for shape in shapes)
    model = frontends.trace(module, sample, RepDataset([sample]), converter)
    assert not model.notes
    assert Counter(op.name for op in model.graph.operators)["WHILE"] == loops
    for delegate in ("xnnpack", "none"):
        with Session(model.tflite, delegate, threads=1) as session:
            for seed in (0, 1, 0):
                arrays = [normal(*shape, seed=seed) for shape in shapes]
                session.invoke(arrays)
                with torch.no_grad():
                    expected = module(*map(torch.from_numpy, arrays))
                for one, other in zip(expected, session.outputs(), strict=True):
                    assert Fidelity.of(one.numpy(), other).sqnr_db > FLOAT_DB


class Tagger(nn.Module):  # type: ignore[misc]
    """A recurrent layer of both directions and a classifier of its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 5)

    def forward(self, steps: Any) -> Any:
        return self.head(self.layer(steps)[0].mean(1))


@pytest.fixture(scope="module")
def tagger(converter: Worker) -> tuple[LiteModel, Array]:
    torch.manual_seed(0)
    data = normal(12, 20, 8)
    return frontends.trace(Tagger().eval(), data[:1], RepDataset(data), converter), data


@pytest.mark.slow
def test_auto_makes_the_weights_of_a_loop_integers() -> None:
    """Where it has units enough for that to be faster."""
    torch.manual_seed(0)
    data = normal(12, 20, 64)
    edge = export(nn.GRU(64, 128, batch_first=True).eval(), data, progress=False)
    _, *bodies = parse(edge.tflite).graphs
    dense = [(g, op) for g in bodies for op in g.operators if op.name == "FULLY_CONNECTED"]
    assert {g.tensors[op.inputs[1]].dtype for g, op in dense} == {"int8"}
    assert edge.report.sqnr_db > 30.0


@pytest.mark.parametrize("recipe", ["dynamic_int8", "int8"])
def test_the_weights_of_a_loop_are_integers_in_presets(
    recipe: str, tagger: tuple[LiteModel, Array]
) -> None:
    model, data = tagger
    edge = export(model.tflite, data, recipe=recipe)
    main, *bodies = parse(edge.tflite).graphs
    assert Counter(op.name for op in main.operators)["WHILE"] == 2
    dense = [(g, op) for g in bodies for op in g.operators if op.name == "FULLY_CONNECTED"]
    assert {g.tensors[op.inputs[1]].dtype for g, op in dense} == {"int8"}
    assert all(g.tensors[op.inputs[1]].is_constant for g, op in dense)
    assert edge.report.sqnr_db > 30.0
    assert edge.report.edge_bytes < 0.7 * edge.report.float_bytes
    assert not any("WHILE" in where for where in edge.report.float_ops)
    with edge.session() as session:
        first, _, again = (session.run(data[i : i + 1]) for i in (0, 1, 0))
    for name, output in first.items():
        np.testing.assert_array_equal(output, again[name])


STORED = {"weight_int8": "int8", "weight_int4": "int4", "float16": "float16"}


@pytest.mark.parametrize("recipe", STORED)
def test_stored_weights_of_a_loop_become_float_in_its_body(
    recipe: str, tagger: tuple[LiteModel, Array]
) -> None:
    """There they do so once; in front of the loop they would be copied and packed in each round."""
    model, data = tagger
    edge = export(model.tflite, data, recipe=recipe)
    main, *bodies = parse(edge.tflite).graphs
    loops = [op for op in main.operators if op.name == "WHILE"]
    fed = {main.producers[t].name for op in loops for t in op.inputs if t in main.producers}
    assert "DEQUANTIZE" not in fed
    dense = [(g, op) for g in bodies for op in g.operators if op.name == "FULLY_CONNECTED"]
    stored = [g.tensors[g.producers[op.inputs[1]].inputs[0]] for g, op in dense]
    assert {(t.dtype, t.is_constant) for t in stored} == {(STORED[recipe], True)}
    assert edge.report.edge_bytes < 0.8 * edge.report.float_bytes
    for delegate in ("xnnpack", "none"):
        with Session(model.tflite, delegate) as before, edge.session(delegate) as after:
            for seed in (0, 1, 0):
                sample = data[seed : seed + 1]
                (expected,), (found,) = (s.run(sample).values() for s in (before, after))
                assert Fidelity.of(expected, found).sqnr_db > (20.0 if "4" in recipe else 40.0)


def test_a_target_in_integers_gets_the_rounds_written_out(tagger: tuple[LiteModel, Array]) -> None:
    model, data = tagger
    edge = export(model.tflite, data, target="edgetpu")
    graphs = parse(edge.tflite).graphs
    assert len(graphs) == 1
    assert not edge.report.float_ops
    assert edge.report.sqnr_db > 20.0


def test_a_rule_leaves_the_weights_of_a_loop_float(tagger: tuple[LiteModel, Array]) -> None:
    model, data = tagger
    rule = Rule(op="WHILE", mode=Mode.FLOAT, reason="a trial")
    edge = export(
        model.tflite, data, recipe=Recipe("trial", rules=(rule, *PRESETS["dynamic_int8"].rules))
    )
    bodies = parse(edge.tflite).graphs[1:]
    dense = [(g, op) for g in bodies for op in g.operators if op.name == "FULLY_CONNECTED"]
    assert {g.tensors[op.inputs[1]].dtype for g, op in dense} == {"float32"}
    assert all(g.tensors[op.inputs[1]].is_constant for g, op in dense)
