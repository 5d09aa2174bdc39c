"""Modules are exported as people write and call them: what they return, keep, check and take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import edgeq
from edgeq.converter import start_converter
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError
from edgeq.export import frontends
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

nn = torch.nn

X, OTHER = (torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with start_converter() as started:
        yield started


def traced(model: Any, sample: Any, worker: Worker) -> LiteModel:
    return frontends.trace(model, None, RepDataset([sample]), worker)


def outputs(model: LiteModel, *arrays: Any) -> dict[str, Any]:
    with Session(model.tflite) as session:
        return dict(session.run([np.asarray(array) for array in arrays]))


class Layer(nn.Module):
    """A dense layer of eight, for modules that do something odd with it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)


@dataclass
class Found:
    logits: torch.Tensor
    hidden: Any = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: Any


class OfDataclass(Layer):
    def forward(self, x: torch.Tensor) -> Found:
        return Found(self.dense(x), {"deep": [self.dense(x) + 1, None]})


class Cache:
    """A container that its package has registered with PyTorch."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept


torch.utils._pytree.register_pytree_node(
    Cache, lambda cache: (cache.kept, None), lambda kept, _: Cache(list(kept))
)


class OfConstants(Layer):
    def forward(self, x: torch.Tensor) -> Any:
        return self.dense(x), None, Pair(x * 2, 3), Cache([x + 1, x - 1])


RETURNED: dict[str, tuple[Callable[[], nn.Module], list[str], str]] = {
    "dataclass": (OfDataclass, ["logits", "hidden_deep_0"], "'hidden_deep_1'"),
    "constants": (
        OfConstants,
        ["output_0", "output_2_first", "output_3_0", "output_3_1"],
        "'output_1', 'output_2_second'",
    ),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_returned_besides_tensors_is_left_out(name: str, worker: Worker) -> None:
    kind, names, left_out = RETURNED[name]
    module = kind().eval()
    model = traced(module, X, worker)
    assert {name for name, _ in model.signature.outputs} == set(names)
    assert model.notes == (
        f"what the forward pass returns besides tensors is left out: {left_out}",
    )
    found = outputs(model, OTHER)
    np.testing.assert_allclose(found[names[0]], module.dense(OTHER).detach(), atol=1e-5)


class Checking(Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dense(x)
        assert not torch.isnan(y).any(), "not a number"
        if y.abs().max() > 1e6:
            raise ValueError("too large")
        return y


class CheckingDataclass(Checking):
    def forward(self, x: torch.Tensor) -> Any:
        return Found(super().forward(x), None)


class CheckingConstants(Checking):
    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": super().forward(x), "hidden": None}


@pytest.mark.parametrize("kind", [CheckingDataclass, CheckingConstants])
def test_checks_and_what_is_no_tensor_are_left_out_together(kind: Any, worker: Worker) -> None:
    module = kind().eval()
    model = traced(module, X, worker)
    assert len(model.notes) == 2
    expected = module.dense(OTHER).detach()
    np.testing.assert_allclose(outputs(model, OTHER)["logits"], expected, atol=1e-5)


class Branching(Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.dense(x)
        return -x


def test_checks_of_values_are_left_out(worker: Worker) -> None:
    module = Checking().eval()
    model = traced(module, X, worker)
    assert model.notes == ("assertions on the values of tensors are not in the file",)
    np.testing.assert_allclose(outputs(model, OTHER)["output_0"], module(OTHER).detach(), atol=1e-5)


def test_a_branch_that_values_decide_over_is_named(worker: Worker) -> None:
    with pytest.raises(ModelError, match=r"Branching \(test_torch_calls.py:\d+: if x.sum\(\) > 0"):
        traced(Branching().eval(), X, worker)


class Encoder(Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


def test_a_method_of_a_module_keeps_its_layers(worker: Worker) -> None:
    module = Encoder().train()
    model = traced(module.encode, X, worker)
    np.testing.assert_allclose(
        outputs(model, OTHER)["output_0"], module.encode(OTHER).detach(), atol=1e-5
    )
    assert "dense" in {tensor.name for tensor in model.graph.tensors}
    assert module.training
    assert "forward" not in vars(module)


def test_a_function_of_tensors_is_exported(worker: Worker) -> None:
    layer = nn.Linear(8, 8).eval()
    model = traced(lambda x: torch.relu(layer(x)) + 1, X, worker)
    expected = torch.relu(layer(OTHER)) + 1
    np.testing.assert_allclose(outputs(model, OTHER)["output_0"], expected.detach(), atol=1e-5)


class OfNests(Layer):
    def forward(self, batch: dict[str, torch.Tensor], more: list[torch.Tensor]) -> torch.Tensor:
        return self.dense(batch["x"]) * batch["scale"] + more[1]


class OfOneDict(Layer):
    """A model whose only parameter is a dict of all inputs."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.dense(batch["x"]) * batch["scale"]


def test_a_dict_is_the_one_parameter_of_a_model_that_has_no_other() -> None:
    model, sample = OfOneDict().eval(), {"x": X, "scale": OTHER}
    made = edgeq.export(model, [sample] * 12, recipe="int8", progress=False)
    wanted = model({name: torch.as_tensor(array) for name, array in sample.items()})
    with made.session() as session:
        assert set(session.input_names) == {"x", "scale"}
        (output,) = session.run(sample).values()
    np.testing.assert_allclose(output, wanted.detach(), atol=0.1)


def test_samples_hold_arrays_in_lists_and_dicts(worker: Worker) -> None:
    module, scale = OfNests().eval(), torch.ones(1, 1) * 3
    sample = ({"x": X, "scale": scale}, [X, OTHER])
    model = traced(module, sample, worker)
    turned = ({"scale": scale, "x": X}, (X, OTHER))
    named = {"batch": turned[0], "more": [X, OTHER]}
    for data in (sample, turned, named):
        (arrays,) = RepDataset([data]).samples(input_specs(model))
        np.testing.assert_allclose(
            outputs(model, *arrays)["output_0"], module(*sample).detach(), atol=1e-5
        )


def test_modules_without_float_numbers_are_refused(worker: Worker) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match=r"'dense\.weight' has no numbers"):
        traced(Encoder(), X, worker)
    dense = nn.Sequential(nn.Linear(8, 8))
    quantized = torch.ao.quantization.quantize_dynamic(dense, {nn.Linear})
    with pytest.raises(ModelError, match="layer '0' is quantized already"):
        traced(quantized, X, worker)


def test_a_module_of_inference_mode_is_exported(worker: Worker) -> None:
    with torch.inference_mode():
        module = nn.Linear(8, 8).eval()
    assert "output_0" in outputs(traced(module, X, worker), OTHER)


@pytest.mark.parametrize("name", ["model.pt2", "script.pt"])
def test_saved_files_are_exported(name: str, tmp_path: Path, worker: Worker) -> None:
    module, path = nn.Linear(8, 8).eval(), tmp_path / name
    if name == "model.pt2":
        torch.export.save(torch.export.export(module, (X,)), path)
    else:
        torch.jit.save(torch.jit.script(module), path)
    (found,) = outputs(traced(path, X, worker), OTHER).values()
    np.testing.assert_allclose(found, module(OTHER).detach(), atol=1e-5)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pt2"])
def test_file_of_weights_alone_is_refused(name: str, tmp_path: Path, worker: Worker) -> None:
    path = tmp_path / name
    torch.save(nn.Linear(8, 8).state_dict(), path)
    with pytest.raises(
        ModelError, match=r"weights\.pt2? holds no .*A file of weights has no model"
    ):
        traced(path, X, worker)
