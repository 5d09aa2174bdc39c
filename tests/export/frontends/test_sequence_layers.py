"""LSTM layers as the runtime's own op: the same numbers in every run, small and soon exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edgeq import export
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import Graph, parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

nn = torch.nn
Array = npt.NDArray[Any]

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
FLOAT_DB = 90.0
RUNS = 3


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def converter() -> Iterator[Worker]:
    with start_converter() as worker:
        yield worker


class States(nn.Module):  # type: ignore[misc]
    """All results of an LSTM with time first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, bidirectional=True)

    def forward(self, steps: Any) -> Any:
        outputs, (state, cell) = self.lstm(steps)
        return outputs, state, cell


class Decoder(nn.Module):  # type: ignore[misc]
    """An LSTM that begins with what the delegate computes, on rows that plain kernels pick."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.start = nn.Embedding(9, 6), nn.Linear(5, 8)
        self.lstm = nn.LSTM(6, 8, batch_first=True)

    def forward(self, words: Any, context: Any) -> Any:
        start = torch.tanh(self.start(context)).unsqueeze(0)
        return self.lstm(self.table(words), (start, 0.5 * start))[0]


class Learned(nn.Module):  # type: ignore[misc]
    """Two layers that begin with constants, whose outputs are multiplied with a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, bias=False, batch_first=True, proj_size=3)
        self.state = nn.Parameter(torch.randn(2, 1, 3))
        self.cell = nn.Parameter(torch.randn(2, 1, 8))

    def forward(self, steps: Any) -> Any:
        return self.lstm(steps, (self.state, self.cell))[0]


class Outputs(nn.Module):  # type: ignore[misc]
    """The outputs of an LSTM alone."""

    def __init__(self, lstm: Any) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, steps: Any) -> Any:
        return self.lstm(steps)[0]


class Computed(nn.Module):  # type: ignore[misc]
    """An LSTM whose weights depend on the input, so that only its steps can be written out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)

    def forward(self, steps: Any) -> Any:
        weights = [weight * steps.mean().cos() for weight in self.lstm.parameters()]
        zeros = torch.zeros(1, 1, 8)
        return torch.lstm(steps, (zeros, zeros), weights, True, 1, 0.0, False, False, True)[0]


def steps(seed: int) -> tuple[Array, ...]:
    return (normal(1, 5, 6, seed=seed),)


class Case(NamedTuple):
    kind: Callable[[], Any]
    sample: Callable[[int], tuple[Array, ...]]
    layers: int
    ops: int


CASES = {
    "states": Case(States, lambda seed: (normal(4, 2, 6, seed=seed),), 2, 25),
    "decoder": Case(
        Decoder,
        lambda seed: (
            np.random.default_rng(seed).integers(0, 9, (2, 4), np.int32),
            normal(2, 5, seed=seed),
        ),
        1, 15,
    ),
    "learned": Case(Learned, steps, 2, 14),
}  # fmt: skip


def runs_as_the_module(
    model: LiteModel, module: Any, sample: Callable[[int], Any], delegate: str = "xnnpack"
) -> None:
    """Several runs of one session, the first input again at the end."""
    first: list[Array] = []
    with Session(model.tflite, delegate, threads=1) as session:
        for seed in (*range(RUNS), 0):
            session.invoke(sample(seed))
            found = [array.copy() for array in session.outputs()]
            with torch.no_grad():
                made = module(*map(torch.from_numpy, sample(seed)))
            expected = made if isinstance(made, tuple) else (made,)
            for one, other in zip(expected, found, strict=True):
                assert Fidelity.of(one.numpy(), other).sqnr_db > FLOAT_DB
            first = first or found
    for one, other in zip(first, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_run_begins_with_the_states_that_the_module_has(
    case: Case, converter: Worker
) -> None:
    torch.manual_seed(0)
    module = case.kind().eval()
    model = frontends.trace(module, case.sample(0), RepDataset([case.sample(0)]), converter)
    counts = Counter(op.name for op in model.graph.operators)
    assert not model.notes
    assert counts[LSTM] == case.layers
    assert sum(counts.values()) <= case.ops
    for delegate in ("xnnpack", "none"):
        runs_as_the_module(model, module, case.sample, delegate)


def test_an_lstm_with_computed_weights_is_unrolled(converter: Worker) -> None:
    module = Computed().eval()
    model = frontends.trace(module, steps(0), RepDataset([steps(0)]), converter)
    assert "the op takes constants" in model.notes[0]
    assert LSTM not in {op.name for op in model.graph.operators}
    runs_as_the_module(model, module, steps)


class Tagger(nn.Module):  # type: ignore[misc]
    """Two bidirectional layers and a classifier of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, steps: Any) -> Any:
        return self.head(self.lstm(steps)[0].mean(1))


@pytest.fixture(scope="module")
def tagger() -> tuple[Any, Array]:
    torch.manual_seed(0)
    return Tagger().eval(), normal(12, 20, 8)


def stored_types(graph: Graph) -> list[str]:
    """Type that a weight of each LSTM is stored in, whether it is made float when loaded or not."""
    read = [op.inputs[1] for op in graph.operators if op.name == LSTM]
    unpacked = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name == "DEQUANTIZE"}
    return [graph.tensors[unpacked.get(tensor, tensor)].dtype for tensor in read]


@pytest.mark.parametrize("recipe", ["auto", "dynamic_int8", "int8"])
def test_lstm_weights_are_integers_in_every_recipe(recipe: str, tagger: tuple[Any, Array]) -> None:
    module, data = tagger
    edge = export(module, data, recipe=recipe)
    report = edge.report
    graph = parse(edge.tflite).graphs[0]
    assert stored_types(graph) == ["int8"] * 4
    assert report.sqnr_db > 35.0
    assert report.edge_bytes < 0.4 * report.float_bytes
    assert report.total_ops - report.op_counts.get("dequantize of weights", 0) <= 32
    with edge.session() as session:
        first, _, again = (session.run(data[i : i + 1]) for i in (0, 1, 0))
    for name, output in first.items():
        np.testing.assert_array_equal(output, again[name])


def test_a_layer_whose_weights_do_not_fit_one_scale_stays_float() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(8, 24, 2, batch_first=True).eval()
    data = normal(12, 20, 8)
    with torch.no_grad():
        module.weight_ih_l0[:, 0] *= 1000.0
    data[..., 0] /= 1000.0
    edge = export(Outputs(module), data)
    assert stored_types(parse(edge.tflite).graphs[0]) == ["float32", "int8"]
    assert edge.report.sqnr_db > 20.0
