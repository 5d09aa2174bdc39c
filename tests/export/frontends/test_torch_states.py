"""What a module keeps between its calls becomes inputs and outputs, however it is written."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

nn = torch.nn

STEPS = np.random.default_rng(0).normal(size=(12, 1, 8)).astype(np.float32)
X = torch.from_numpy(STEPS[0])


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with start_converter() as started:
        yield started


class Keeper(nn.Module):
    """Has a dense layer of eight, and all that is kept by some of its kinds."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.dense = nn.Linear(8, 8)
        for parameter in self.dense.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.register_buffer("last", torch.zeros(1, 8))
        self.register_buffer("ones", torch.ones(1, 8))
        self.register_buffer("ring", torch.zeros(1, 3, 8))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("lowest", torch.full((1, 8), float("inf")))
        self.plain = torch.zeros(1, 8)
        self.pair = (torch.zeros(1, 8), torch.full((1, 8), 0.5))
        self.late: Any = None
        self.calls = 0
        self.seen = torch.zeros(1, 0, 8)


class Assigned(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1  # which nothing reads
        self.last = torch.tanh(self.dense(x) + self.last)
        return self.last * 2


class InPlace(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.last.mean()
        self.last.copy_(self.dense(x))
        return before + x


class FromOnes(Keeper):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.ones = self.ones * 0.9 + x
        return {"y": self.dense(self.ones), "ones_out": x}


class Ring(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ring = torch.where(
            (torch.arange(3) == self.place % 3)[None, :, None], x[:, None], self.ring
        )
        self.place += 1
        return self.dense(self.ring.mean(1)) / self.place


class Plain(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.plain = torch.tanh(self.dense(x) + self.plain)
        return self.plain + x


class PlainInPlace(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.plain.mul_(0.5).add_(self.dense(x))
        return self.plain + x


class Pair(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.pair
        self.pair = (torch.tanh(self.dense(x) + h), c * 0.9 + h)
        return self.pair[1] + x


class Late(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.late is None:
            self.late = torch.zeros_like(x)
        self.late = torch.tanh(self.dense(x) + self.late)
        return self.late + x


class Inner(nn.Module):
    """Has it below."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Assigned()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) + 1


def traced(model: Any, worker: Worker) -> LiteModel:
    return frontends.trace(model, None, RepDataset([X]), worker)


def streamed(tflite: Any, states: dict[str, str] | None) -> list[dict[str, Any]]:
    with Session(tflite) as session:
        stream = session.stream(states)
        return [stream.run(x) for x in STEPS]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Assigned, ["last"]),
        (InPlace, ["last"]),
        (FromOnes, ["ones"]),
        (Ring, ["ring", "place"]),
        (Plain, ["plain"]),
        (PlainInPlace, ["plain"]),
        (Pair, ["pair_0", "pair_1"]),
        (Late, ["late"]),
        (Inner, ["block_last"]),
    ],
)
def test_states_are_inputs_and_outputs(kind: Any, names: list[str], worker: Worker) -> None:
    module = kind().eval()
    before = copy.deepcopy(module)
    model = traced(module, worker)
    assert [taken for taken, _ in model.states] == [f"{name}_in" for name in names]
    assert [given.rstrip("_") for _, given in model.states] == [f"{name}_out" for name in names]
    assert not model.doubts
    for x, found in zip(STEPS, streamed(model.tflite, dict(model.states)), strict=True):
        made = before(torch.from_numpy(x))
        expected = made if isinstance(made, dict) else {"output_0": made}
        assert set(found) == set(expected)
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name].detach(), atol=1e-5)
    held = {**dict(module.named_buffers()), "plain": getattr(module, "plain", X)}
    assert not any(torch._is_functional_tensor(value) for value in held.values())
    assert not any(value[..., :1].any() for name, value in held.items() if name == "last")


class Counting(Keeper):
    """What it keeps is for others to read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.plain = self.dense(x)
        return self.plain * 2


class Table(Keeper):
    """Makes what it lacks in its first call, and passes on what it has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.late is None:
            self.late = torch.zeros_like(x)
        self.pair = tuple(part.clone() for part in self.pair)
        return self.dense(x) + self.late + self.pair[1]


@pytest.mark.parametrize("kind", [Counting, Table])
def test_what_no_later_call_reads_or_changes_stays_out(kind: Any, worker: Worker) -> None:
    module = kind().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch would have it registered as a buffer
        model = traced(module, worker)
    assert not model.states
    assert not model.doubts
    assert module.plain.sum() == 0  # the user's module is as it was


class Growing(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, x[:, None]], 1)
        return self.dense(self.seen.mean(1))


class FromInfinity(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.lowest = torch.minimum(self.lowest, x)
        return self.dense(self.lowest)


class LateOnes(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.late is None:
            self.late = torch.ones_like(x)
        self.late = self.late * 0.9 + x
        return self.dense(self.late)


class CountingCalls(Keeper):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.last * 0.5 + self.dense(x)
        return self.last / self.calls


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Growing, "seen"), (FromInfinity, "lowest"), (LateOnes, "late"), (CountingCalls, "calls")],
)
def test_what_cannot_be_a_port_is_told_of(kind: Any, name: str, worker: Worker) -> None:
    model = traced(kind().eval(), worker)
    assert [doubt.partition(". ")[0] for doubt in model.doubts] == [
        f"the model keeps what later calls depend on in '{name}'"
    ]


@pytest.mark.parametrize("data", ["steps", "sequences"])
def test_data_of_such_a_module_bring_no_states(data: str) -> None:
    steps = np.concatenate([STEPS] * 4)
    given = steps[:, 0] if data == "steps" else edgeq.Sequences([steps[:, 0]] * 2)
    edge = edgeq.export(Assigned().eval(), given, recipe="int8", progress=False)
    assert edge.io.states == (("last_in", "last_out"),)
    assert any("were taken as one" in note for note in edge.report.notes) == (data == "steps")
    module = Assigned().eval()
    expected = np.concatenate([module(torch.from_numpy(x)).detach() for x in STEPS])
    found = np.concatenate([made["output_0"] for made in streamed(edge.tflite, None)])
    assert 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()) > 20
    assert edge.report.sqnr_db > 20


def test_sequences_without_states_are_for_models_that_have_some() -> None:
    data = edgeq.Sequences([STEPS[:, 0]])
    with pytest.raises(edgeq.DataError, match="keeps no states by itself"):
        edgeq.export(nn.Linear(8, 8).eval(), data, recipe="int8", progress=False)
