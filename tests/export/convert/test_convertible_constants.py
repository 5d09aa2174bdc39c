"""Constants that the converter would make wrong integers of."""

from __future__ import annotations

import numpy as np
import pytest

import edgeq

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from torch import nn  # noqa: E402


@pytest.mark.parametrize("groups", [1, 8])
def test_equal_biases_have_the_scales_of_their_channels(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, groups=groups).eval()
    with torch.no_grad():
        layer.bias.fill_(1.0)
        layer.weight *= torch.logspace(0, -2, 8)[:, None, None, None]
    images = np.random.default_rng(0).normal(size=(12, 8, 8, 8)).astype(np.float32)
    recipe = edgeq.Recipe("nearest", equalize=False, rounding="nearest")
    edge = edgeq.export(layer, images, recipe=recipe, progress=False)
    with torch.no_grad():
        wanted = layer(torch.from_numpy(images[:1])).numpy()
    (found,) = edge.session().run(images[:1]).values()
    error = np.abs(found - wanted).max(axis=(0, 2, 3))
    assert error.max() < 0.03 * np.abs(wanted).max()
