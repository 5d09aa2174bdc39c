"""Owns a trained network that doubles the size of photographs, and photographs.

The network is the smallest ESRGAN of UpscalerJS, a Keras model that the npm package
@upscalerjs/esrgan-slim (MIT) carries for TensorFlow.js. The
photographs are those of the Python package scikit-image (BSD-3-Clause). Knows nothing of
quantization.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import npm, wheel
from PIL import Image

os.environ.setdefault("KERAS_BACKEND", "jax")
import keras  # the backend must be chosen before

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


def load_network() -> keras.Model:
    """The trained network: `(1, 64, 64, 3)` in [0, 255] to `(1, 128, 128, 3)`."""
    stored = NETWORK.read(lambda path: path.startswith("package/models/x2/"))
    description = json.loads(stored.pop("package/models/x2/model.json"))
    (content,) = stored.values()
    network = _network(description["modelTopology"]["model_config"]["config"]["layers"])
    weights, start = {}, 0
    for group in description["weightsManifest"]:
        for weight in group["weights"]:
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(content, np.float32, count, start)
            weights[weight["name"]] = values.reshape(weight["shape"])
            start += values.nbytes
    for layer in network.layers:
        if layer.weights:
            name = layer.name
            layer.set_weights([weights[f"{name}/kernel"], weights[f"{name}/bias"]])
    return network


def _network(layers: Sequence[Mapping[str, Any]]) -> keras.Model:
    """The functional model that stored layers describe, each after those that it reads."""
    first = layers[0]["name"]
    tensors = {first: keras.Input((SMALL, SMALL, 3), batch_size=1, name=first)}
    for stored in layers[1:]:
        layer = getattr(keras.layers, stored["class_name"]).from_config(stored["config"])
        sources = [tensors[node[0]] for node in stored["inbound_nodes"][0]]
        tensors[stored["name"]] = layer(sources if len(sources) > 1 else sources[0])
    return keras.Model(tensors[first], tensors[layers[-1]["name"]])


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
