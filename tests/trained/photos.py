"""Owns a trained network that doubles the size of photographs, and photographs.

The network is the smallest ESRGAN of UpscalerJS, a Keras model that the npm package
@upscalerjs/esrgan-slim (MIT) carries for TensorFlow.js; it is rebuilt here layer by layer. The
photographs are those of the Python package scikit-image (BSD-3-Clause). Knows nothing of
quantization.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import npm, wheel
from PIL import Image
from torch import Tensor, nn

NETWORK = npm(
    "@upscalerjs/esrgan-slim",
    "1.0.0",
    "b53070ff01363e74d33138106dcc72b58d341c9fb7e8fd648554a4e7744142b5",
)
PHOTOGRAPHS = wheel(
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "scikit-image",
    "0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
)
REPRESENTATIVE = ("coffee.png", "motorcycle_left.png", "ihc.png", "hubble_deep_field.jpg")
JUDGED = ("astronaut.png", "chelsea.png", "rocket.jpg", "motorcycle_right.png", "retina.jpg")
REPRESENTATIVE_TILES, JUDGED_TILES = 25, 12
"""Of each photograph."""

SMALL, LARGE = 64, 128
BORDER = 8
FLAT = 0.04
"""Tiles whose values deviate less than this, of 1, show nothing."""


class Enlarger(nn.Module):
    """A Keras functional model of a few kinds of layers, with the names that it has there.

    Args:
        layers: Layers of the stored model, each after those that it reads.
        weights: Kernels `(height, width, inputs, outputs)` and biases by stored name.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], weights: Mapping[str, NDArray[np.float32]]
    ) -> None:
        super().__init__()
        self._order = [
            (layer["name"], layer["class_name"], [node[0] for node in nodes])
            for layer in layers
            for nodes in layer["inbound_nodes"][:1]
        ]
        self._input = layers[0]["name"]
        for layer in layers:
            if layer["class_name"] == "Conv2D":
                name = layer["name"]
                conv = _convolution(weights[f"{name}/kernel"], weights[f"{name}/bias"])
                self.add_module(name, conv)

    def forward(self, image: Tensor) -> Tensor:
        """Maps `(1, 64, 64, 3)` in [0, 255] to `(1, 128, 128, 3)`."""
        results = {self._input: image.permute(0, 3, 1, 2)}
        for name, kind, sources in self._order:
            results[name] = self._layer(name, kind, [results[source] for source in sources])
        outputs: Tensor = results[name].permute(0, 2, 3, 1)
        return outputs

    def _layer(self, name: str, kind: str, inputs: Sequence[Tensor]) -> Tensor:
        if kind == "Conv2D":
            convolved: Tensor = getattr(self, name)(inputs[0])
            return convolved
        if kind == "Activation":
            return inputs[0].relu()
        if kind == "Concatenate":
            return torch.cat(list(inputs), dim=1)
        if kind == "Add":
            return inputs[0] + inputs[1]
        assert kind == "UpSampling2D"
        return nn.functional.interpolate(inputs[0], scale_factor=2, mode="nearest")


def load(name: str = "esrgan_slim") -> Case:
    """Reads the network and the photographs; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    judged = _tiles(JUDGED, JUDGED_TILES, 1)

    def peak_signal_to_noise(outputs: Sequence[Outputs]) -> float:
        pairs = zip(outputs, judged, strict=True)
        return float(np.mean([_psnr_db(made[0], large) for (made,), (_, large) in pairs]))

    return Case(
        name,
        load_network(),
        [(small,) for small, _ in _tiles(REPRESENTATIVE, REPRESENTATIVE_TILES, 0)],
        [(small,) for small, _ in judged],
        peak_signal_to_noise,
        "PSNR dB",
    )


def load_network() -> Enlarger:
    """The trained network in eval mode."""
    stored = NETWORK.read(lambda path: path.startswith("package/models/x2/"))
    description = json.loads(stored.pop("package/models/x2/model.json"))
    (content,) = stored.values()
    weights, start = {}, 0
    for group in description["weightsManifest"]:
        for weight in group["weights"]:
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(content, np.float32, count, start)
            weights[weight["name"]] = values.reshape(weight["shape"])
            start += values.nbytes
    network = Enlarger(description["modelTopology"]["model_config"]["config"]["layers"], weights)
    network.eval()
    return network


def _convolution(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Conv2d:
    height, _, inputs, outputs = kernel.shape
    conv = nn.Conv2d(inputs, outputs, height, padding=height // 2)
    conv.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    conv.bias.data = torch.from_numpy(bias.copy())
    return conv


def _tiles(
    names: Sequence[str], count: int, seed: int
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Reduced tiles `(1, 64, 64, 3)` in [0, 255] with the originals `(128, 128, 3)`."""
    random = np.random.RandomState(seed)
    found = []
    for name in names:
        content = PHOTOGRAPHS.read_one(f"skimage/data/{name}")
        photograph = Image.open(io.BytesIO(content)).convert("RGB")
        left = count
        while left:
            x, y = (random.randint(0, length - LARGE) for length in photograph.size)
            large = photograph.crop((x, y, x + LARGE, y + LARGE))
            if np.asarray(large).std() / 255 < FLAT:
                continue
            small = large.resize((SMALL, SMALL), Image.Resampling.BICUBIC)
            found.append((np.asarray(small, np.float32)[np.newaxis], np.asarray(large)))
            left -= 1
    return found


def _psnr_db(made: NDArray[np.float32], original: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio inside the border, of `(128, 128, 3)` in [0, 255]."""
    inside = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    difference = np.clip(made, 0, 255)[inside] / 255.0 - original[inside] / 255.0
    return float(-10 * np.log10(np.mean(np.square(difference)) + 1e-12))
