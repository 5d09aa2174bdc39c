"""Quantization-aware training: what is trained is what the exported file computes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables
from documents import run_blocks
from numpy.typing import NDArray

import edgeq
from edgeq import Mode, ModelError, Recipe, RecipeError, Rule
from edgeq.demo import accuracy
from edgeq.fidelity.sqnr import Fidelity
from edgeq.qtypes import DType, affine, quantize
from edgeq.recipe import as_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from edgeq.export.frontends.fake_quantize import (  # noqa: E402
    ActivationFakeQuantize,
    WeightFakeQuantize,
    WeightForm,
)

TUTORIAL = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()


class Network(nn.Module):  # type: ignore[misc]
    """A convolution with its batch normalisation, a transposed one, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(4, 5)
        with torch.no_grad():
            for part in (self.norm.weight, self.norm.running_var):
                part.uniform_(0.2, 3.0)
            self.norm.running_mean.normal_()

    def forward(self, image: Any) -> Any:
        hidden = functional.relu(self.norm(self.conv(image)))
        return self.head(functional.relu(self.up(hidden)).mean((2, 3)))


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 3, 10, 10)).astype(np.float32)


def outputs(made: edgeq.EdgeModel, data: NDArray[np.float32]) -> NDArray[np.float32]:
    with made.session() as session:
        ones = [next(iter(session.run((data[i : i + 1],)).values())) for i in range(len(data))]
    return np.concatenate(ones)


def trained(recipe: str | Recipe) -> Any:
    """A small module after a few steps of training."""
    module = edgeq.qat.prepare(Network().eval(), images(1), recipe)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    module.train()
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.from_numpy(images(16))).square().mean().backward()
        optimizer.step()
    edgeq.qat.freeze(module)
    return module.eval()


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("int16x8", "weight_int8")),
        "weight_int4",
    ],
)
def test_the_export_computes_what_was_trained(recipe: str) -> None:
    module, data = trained(recipe), images(20)
    made = edgeq.export(module, data, recipe=recipe, min_sqnr_db=None, progress=False)
    with torch.no_grad():
        expected = module(torch.from_numpy(data)).numpy()
    fidelity = Fidelity.of(expected, outputs(made, data))
    tables.add_row("export beside its training", {"recipe": recipe, "SQNR dB": fidelity.sqnr_db})
    # Outputs and sums between the layers are rounded by the file alone.
    assert fidelity.sqnr_db > (35 if recipe == "int8" else 60)
    assert any("fake quantization" in note for note in made.report.notes)


def test_the_ranges_that_were_learned_are_those_of_the_file() -> None:
    module = trained("int8")
    learned = module.get_submodule("up").edgeq_input.range
    assert learned is not None
    made = edgeq.export(module, 9 * images(20), recipe="int8", min_sqnr_db=None, progress=False)
    graph = made.rewritten.graph
    op = next(op for op in graph.operators if op.name == "TRANSPOSE_CONV")
    read = next(t.index for _, t in graph.operands(op) if not t.is_constant)
    assert made.plan.tensors[read] == affine(*learned)


def test_layers_behind_a_pool_or_a_sigmoid_are_exported() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip
    prepared = edgeq.qat.prepare(module, images(1)).train()
    prepared(torch.from_numpy(images(16)))
    made = edgeq.export(prepared, images(20), recipe="int8", progress=False)
    assert not made.report.float_ops


def test_weights_are_rounded_with_the_normalisation_in_them() -> None:
    norm = nn.BatchNorm2d(4).eval()
    norm.running_var.uniform_(0.1, 4.0)
    with torch.no_grad():
        norm.weight[1] = 0.0
    weight = torch.randn(4, 3, 3, 3)
    found = WeightFakeQuantize(WeightForm(DType.INT4, 0), norm)(weight)
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().reshape(-1, 1, 1, 1)
    steps = (found * factor).detach()
    for channel in (0, 2, 3):
        levels = steps[channel].unique()
        assert len(levels) <= 15
        gaps = levels.diff() / levels.diff().min()
        assert torch.allclose(gaps, gaps.round(), atol=1e-3)
    assert torch.isfinite(found).all()


def test_gradients_pass_inside_the_range_and_stop_outside() -> None:
    rounding = ActivationFakeQuantize(DType.INT8)
    rounding(torch.tensor([-1.0, 1.0]))
    edgeq_range = rounding.range
    assert edgeq_range == (-1.0, 1.0)
    rounding.eval()
    values = torch.tensor([-3.0, -0.5, 0.3, 5.0], requires_grad=True)
    rounded = rounding(values)
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    qparams = affine(-1.0, 1.0)
    inside = np.array([-0.5, 0.3], np.float32)
    expected = (quantize(inside, qparams) - qparams.zero_point[0]) * qparams.scale[0]
    assert rounded.detach().numpy()[1:3] == pytest.approx(expected, abs=1e-6)


def test_ranges_follow_the_batches_until_they_are_frozen() -> None:
    rounding = ActivationFakeQuantize(DType.INT8)
    values = torch.tensor([-1.0, 1.0])
    assert rounding.eval()(values).tolist() == [-1.0, 1.0]
    rounding.train()
    rounding(values)
    rounding(21 * values)
    assert rounding.range == (pytest.approx(-2.0), pytest.approx(2.0))
    rounding.frozen.fill_(True)
    rounding(100 * values)
    assert rounding.range == (pytest.approx(-2.0), pytest.approx(2.0))


def test_rules_say_which_layers_are_trained_how() -> None:
    rules = (Rule("head", mode=Mode.FLOAT, reason="small"), Rule("up", mode=Mode.WEIGHT_INT8))
    recipe = Recipe("mixed", rules, default=Mode.STATIC_INT8)
    module = edgeq.qat.prepare(Network().eval(), images(1), recipe)
    quantized = [n for n, p in module.named_modules() if parametrize.is_parametrized(p)]
    assert quantized == ["conv", "up"]
    inputs = [n for n, p in module.named_modules() if isinstance(p, ActivationFakeQuantize)]
    assert inputs == ["conv.edgeq_input"]


def test_the_module_that_was_given_stays_as_it_was() -> None:
    module = Network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    edgeq.qat.prepare(module, images(1))
    assert module.training
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Functional(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.matrix = nn.Linear(4, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, values: Any) -> Any:
        return functional.linear(self.first(values).relu(), self.matrix)


def test_what_cannot_be_trained_is_said() -> None:
    sample = np.ones((1, 4), np.float32)
    with pytest.warns(UserWarning, match="not trained with fake quantization, but quantized"):
        edgeq.qat.prepare(Functional().eval(), sample)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edgeq.qat.prepare(Network().eval(), images(1))


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"is for PyTorch modules\. Received: str"):
        edgeq.qat.prepare("model.tflite", images(1))
    with pytest.raises(
        ModelError, match=r"only a module made by edgeq\.qat\.prepare can be frozen"
    ):
        edgeq.qat.freeze(Network())
    module = edgeq.qat.prepare(Network().eval(), images(1))
    with pytest.raises(
        RecipeError, match="trains with the zero point 0: leave out symmetric=False"
    ):
        edgeq.qat.prepare(
            Network().eval(), images(1), replace(as_recipe("weight_int4"), symmetric=False)
        )
    with pytest.raises(ModelError, match="carries fake quantization already"):
        edgeq.qat.prepare(module, images(1))
    with pytest.raises(ModelError, match="makes no weight of a layer of the module an integer"):
        edgeq.qat.prepare(Network().eval(), images(1), "float16")


def test_training_nears_what_few_bits_took_it_from() -> None:
    """The small network, taught by itself in float."""
    recipe = replace(as_recipe("weight_int4"), per_channel=False)
    model, data = Network().eval(), torch.from_numpy(images(64))
    module = edgeq.qat.prepare(model, images(1), recipe)
    edgeq.qat.freeze(module)
    module.train()
    wanted = model(data).detach()
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.mse_loss(module(data), wanted)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0] / 3


@pytest.mark.slow
def test_training_wins_back_what_four_bits_lose() -> None:
    """The tutorial's numbers, from the files that it exports."""
    names = run_blocks(TUTORIAL.partition("## Flax")[0])
    data, teacher = names["data"], names["model"]
    before = accuracy(teacher(torch.from_numpy(data.test)).detach().numpy(), data.labels)
    nearest, by_data, trained = (
        accuracy(outputs(names[made], data.test), data.labels)
        for made in ("nearest", "rounded", "edge_model")
    )
    found = {"float %": before, "nearest %": nearest, "PTQ %": by_data, "QAT %": trained}
    row = {name: 100 * share for name, share in found.items()}
    tables.add_row("int4 weights, one scale for each tensor", row)
    assert before - nearest >= 0.03
    assert by_data > nearest
    assert trained - nearest >= 0.8 * (before - nearest)
    assert trained >= by_data


@pytest.mark.slow
def test_training_with_qwix_keeps_the_accuracy_and_the_scales() -> None:
    for package in ("flax", "optax", "qwix"):
        pytest.importorskip(package)
    names = run_blocks(TUTORIAL.partition("## Flax")[2])
    unseen = slice(names["TRAINED"], None)
    images, labels = np.asarray(names["images"][unseen]), np.asarray(names["labels"][unseen])
    logits = names["network"].apply(names["variables"], images)
    before, made = accuracy(np.asarray(logits), labels), names["edge_model"]
    assert before > 0.7
    assert accuracy(outputs(made, images), labels) > before - 0.03
    assert any("keep the scales that the model brought" in note for note in made.report.notes)
    assert not made.report.float_ops
