"""Tests for the model definitions that other tests export."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, perturbed, samples
from torch import Tensor, nn

# Millions of parameters with 1000 classes, as published.
PUBLISHED_PARAMETERS = {
    "mobilenet_v1": 4.23,
    "mobilenet_v2": 3.50,
    "mobilenet_v3_large": 5.48,
    "mobilenet_v3_small": 2.54,
    "efficientnet_lite0": 4.65,
    "efficientnet_b0": 5.29,
    "resnet18": 11.69,
    "resnet50": 25.56,
    "regnet_y_400mf": 4.34,
    "densenet121": 7.98,
    "ghostnet": 5.18,
    "mobileone_s0": 2.08,
    "repvgg_a0": 9.11,
    "convnext_tiny": 28.59,
    "squeezenet1_1": 1.235,
    "shufflenet_v2": 2.28,
    "vit_tiny": 5.72,
}
SMALL = ["mobilenet_v3_small", "mobileone_s0", "shufflenet_v2", "audio_net", "mlp"]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def _model(name: str) -> nn.Module:
    return perturbed(ARCHITECTURES[name])


@cache
def _inputs(name: str) -> Tensor:
    """Inputs that the weights were not fitted to."""
    return torch.from_numpy(samples(ARCHITECTURES[name], 6, seed=100))


def _run(name: str, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = _model(name)(inputs)
    return outputs


@cache
def _outputs(name: str) -> Tensor:
    return _run(name, _inputs(name))


@every_architecture
def test_outputs_have_the_expected_shape_and_are_finite(name: str) -> None:
    outputs = _outputs(name)
    positions = (64, 64) if name == "unet" else ()
    assert outputs.shape == (6, 100, *positions)
    assert outputs.isfinite().all()


@every_architecture
def test_outputs_differ_between_inputs(name: str) -> None:
    outputs = _outputs(name)
    spread = outputs.std(dim=0).mean() / outputs.square().mean().sqrt()
    assert spread > 0.4
    assert len(set(outputs.argmax(dim=1).flatten().tolist())) > 1


@every_architecture
def test_outputs_keep_similar_inputs_together(name: str) -> None:
    inputs = _inputs(name)
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    outputs = _outputs(name)
    change = _run(name, inputs + 0.01 * noise) - outputs
    assert change.std() < 0.1 * (outputs - outputs.mean(dim=0)).std()


@every_architecture
def test_activations_neither_vanish_nor_explode(name: str) -> None:
    spreads: dict[str, float] = {}

    def record(path: str, outputs: Tensor) -> None:
        spreads[path] = outputs.std().item()

    handles = [
        module.register_forward_hook(lambda _, __, outputs, path=path: record(path, outputs))
        for path, module in _model(name).named_modules()
    ]
    _run(name, _inputs(name))
    for handle in handles:
        handle.remove()
    assert min(spreads.values()) > 0.01
    assert max(spreads.values()) < 20.0


@pytest.mark.parametrize("name", SMALL)
def test_models_depend_on_the_seed_only(name: str) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = perturbed(architecture).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in _model(name).state_dict().items():
        assert torch.equal(value, again[key]), key
    other = perturbed(architecture, seed=1)
    with torch.no_grad():
        assert not torch.allclose(other(_inputs(name)), _outputs(name))


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_counts_match_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = ARCHITECTURES[name].build(num_classes=1000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.005)


@pytest.mark.parametrize("name", ["resnet18", "unet", "audio_net", "mlp"])
def test_samples_are_reproducible_and_standardised(name: str) -> None:
    architecture = ARCHITECTURES[name]
    drawn = samples(architecture, 32)
    assert drawn.dtype == np.float32
    assert drawn.shape == (32, *architecture.input_shape[1:])
    np.testing.assert_array_equal(samples(architecture, 4), drawn[:4])
    assert not np.array_equal(samples(architecture, 32, seed=1), drawn)
    assert abs(drawn.mean()) < 0.1
    assert 0.8 < drawn.std() < 1.2
