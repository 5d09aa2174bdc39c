"""PyTorch's packed sequences: all steps run, and give what PyTorch gives on the steps there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from torch.nn.utils.rnn import (  # noqa: E402  # as users import them, by name
    pack_padded_sequence,
    pad_packed_sequence,
)

from edgeq.export.frontends.torch_program.packed import packed_layers  # noqa: E402
from edgeq.export.frontends.torch_program.packed.padded_sequences import on_all_steps  # noqa: E402

nn = torch.nn
Array = npt.NDArray[Any]

STEPS, WIDTH, UNITS = 9, 5, 6
LENGTHS = ([9, 6, 2], [1, 4, 9], [9, 9, 9])
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


class Packed(nn.Module):  # type: ignore[misc]
    """A recurrent layer between packing and padding, and what is asked for of its results."""

    def __init__(
        self, kind: str, read: str = "outputs last cell", begins: float = 0.0, fill: float = 0.0,
        total: int | None = STEPS, lengths: list[int] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(nn, kind)(WIDTH, UNITS, **options)
        self.read, self.begins, self.fill = read, begins, fill
        self.total, self.lengths = total, lengths

    def forward(self, x: Any, lengths: Any = None) -> dict[str, Any]:
        layer, first = self.layer, self.layer.batch_first
        lengths = self.lengths if lengths is None else lengths
        packed = pack_padded_sequence(x, lengths, first, enforce_sorted=False)
        outputs, states = layer(packed, self.start(x.shape[0 if first else 1]))
        padded, counts = pad_packed_sequence(outputs, first, self.fill, self.total)
        states = states if isinstance(states, tuple) else (states,)
        found = dict(zip(("last", "cell"), states, strict=False))
        found.update(outputs=padded, counts=counts)
        return {name: found[name] for name in (*self.read.split(), "counts") if name in found}

    def start(self, batch: int) -> Any:
        if not self.begins:
            return None
        count = self.layer.num_layers * (1 + self.layer.bidirectional)
        state = torch.full((count, batch, UNITS), self.begins)
        return (state, -2 * state) if isinstance(self.layer, nn.LSTM) else state


def drawn(module: Packed, batch: int, seed: int = 0) -> Any:
    """Sequences, with values behind their ends as well."""
    shape = (batch, STEPS) if module.layer.batch_first else (STEPS, batch)
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, dict[str, Any]] = {
    "two layers, two directions": {"kind": "LSTM", "num_layers": 2, "bidirectional": True},
    "batch first": {"kind": "LSTM", "batch_first": True},
    "projected": {"kind": "LSTM", "proj_size": 3, "bidirectional": True},
    "no biases": {"kind": "LSTM", "bias": False},
    "states given": {"kind": "LSTM", "begins": 0.4, "bidirectional": True},
    "filled and longer": {"kind": "LSTM", "fill": -1.5, "total": 12, "batch_first": True},
    "GRU": {"kind": "GRU", "num_layers": 2, "bidirectional": True},
    "GRU, states given": {"kind": "GRU", "begins": 0.4, "bidirectional": True},
    "tanh": {"kind": "RNN", "bidirectional": True, "batch_first": True},
    "relu": {"kind": "RNN", "nonlinearity": "relu"},
}


@pytest.mark.parametrize("case", CASES)
def test_all_steps_give_what_packed_ones_give(case: str) -> None:
    module = Packed(**CASES[case]).eval()
    for lengths in map(torch.tensor, LENGTHS):
        x, notes = drawn(module, 3), list[str]()
        with torch.no_grad():
            expected = module(x, lengths)
            with on_all_steps(notes):
                found = module(x, lengths)
        assert not notes
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            torch.testing.assert_close(found[name], array, rtol=1e-5, atol=1e-6)


def test_what_is_not_traced_is_packed_as_ever() -> None:
    x = torch.zeros(3, 2, 4)
    with on_all_steps([]):
        assert pack_padded_sequence(x, [3, 1]).data.shape == (3, 2, 4)
    assert pack_padded_sequence(x, [3, 1]).data.shape == (4, 4)
    assert isinstance(
        nn.LSTM(4, 4)(pack_padded_sequence(x, [3, 1]))[0], nn.utils.rnn.PackedSequence
    )


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("form", [packed_layers._outputs_alone, packed_layers._to_the_end])
def test_each_form_of_an_lstm_gives_what_its_steps_give(form: Any, backward: bool) -> None:
    layer, lengths = nn.LSTM(WIDTH, UNITS), torch.tensor(LENGTHS[0])
    zeros = torch.zeros(3, UNITS)
    given = (torch.randn(STEPS, 3, WIDTH), lengths, layer._flat_weights, zeros, zeros)
    with torch.no_grad():
        expected, cell = packed_layers._step_by_step(*given, True, backward, True)
        found, last = form(*given, True, backward, True)
    valid = packed_layers.is_valid(lengths, STEPS)[..., None]
    torch.testing.assert_close(found * valid, expected * valid, rtol=1e-5, atol=1e-6)
    if form is packed_layers._to_the_end:
        torch.testing.assert_close(last, cell, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def converter() -> Iterator[Worker]:
    with start_converter() as worker:
        yield worker


def traced(module: Packed, given: tuple[Any, ...], converter: Worker) -> LiteModel:
    data = RepDataset([tuple(array.numpy() for array in given)])
    return frontends.trace(module, None, data, converter, None)


def op_counts(tflite: bytes) -> dict[str, int]:
    names = [op.name for op in parse(tflite).graphs[0].operators]
    return {name: names.count(name) for name in names}


FILES: dict[str, tuple[dict[str, Any], int]] = {
    "outputs alone": ({"kind": "LSTM", "bidirectional": True, "read": "outputs last"}, 2),
    "cell as well": ({"kind": "LSTM", "bidirectional": True, "batch_first": True}, 2),
    "GRU": ({"kind": "GRU", "bidirectional": True}, 0),
}


@pytest.mark.parametrize("case", FILES)
def test_files_follow_their_lengths(case: str, converter: Worker) -> None:
    options, layers = FILES[case]
    module = Packed(**options).eval()
    made = traced(module, (drawn(module, 3), torch.tensor(LENGTHS[0])), converter)
    assert op_counts(made.tflite).get(LSTM, 0) == layers
    assert not made.notes
    with Session(made.tflite, threads=1) as session:
        for lengths in LENGTHS:
            x = drawn(module, 3, seed=1)
            expected = module(x, torch.tensor(lengths))
            found = session.run({"x": x.numpy(), "lengths": np.asarray(lengths, np.int32)})
            assert (found.pop("counts") == lengths).all()
            for name, array in found.items():
                np.testing.assert_allclose(array, expected[name].detach(), rtol=1e-4, atol=1e-5)


def test_lengths_that_are_no_input_are_constants(converter: Worker) -> None:
    module = Packed("LSTM", "outputs", lengths=[4, 9], total=None).eval()
    x = drawn(module, 2)
    made = traced(module, (x,), converter)
    assert "LESS" not in op_counts(made.tflite)
    assert [note for note in made.notes if note.startswith("pad_packed_sequence gives all steps")]
    with Session(made.tflite, threads=1) as session:
        found = session.run({"x": x.numpy()})["outputs"]
    np.testing.assert_allclose(found, module(x)["outputs"].detach(), rtol=1e-4, atol=1e-5)


def test_a_packed_classifier_keeps_its_fidelity_in_int8() -> None:
    module = nn.Sequential()
    module.body = Packed("GRU", "last", bidirectional=True, batch_first=True)
    module.head = nn.Linear(2 * UNITS, 4)
    module.forward = lambda x, lengths: module.head(
        module.body(x, lengths)["last"].transpose(0, 1).flatten(1)
    )
    rng = np.random.default_rng(0)

    def samples(count: int) -> list[tuple[Array, Array]]:
        draw = rng.standard_normal((count, 1, STEPS, WIDTH)).astype(np.float32)
        return [(x, rng.integers(2, STEPS + 1, 1)) for x in draw]

    edge = edgeq.export(module.eval(), samples(60), recipe="int8", progress=False)
    noise = power = 0.0
    with edge.session(threads=1) as session:
        for x, length in samples(40):
            expected = module(torch.from_numpy(x), torch.from_numpy(length)).detach().numpy()
            (found,) = session.run([x, length.astype(np.int32)]).values()
            power, noise = power + (expected**2).sum(), noise + ((found - expected) ** 2).sum()
    assert 10 * np.log10(power / noise) > 25
