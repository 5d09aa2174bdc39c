"""Owns the bundled demo: its images, its float .tflite and how its accuracy is counted.

Needs numpy only; the PyTorch form of the same model is in `edgeq.demo.network`.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASS_NAMES", "DemoData", "accuracy", "float_model_path", "load_data", "normalise"]

CLASS_NAMES: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class DemoData:
    """Images for calibrating and for judging the demo model.

    Attributes:
        calibration: `(200, 1, 28, 28)` float32 in [-1, 1], from the train split.
        test: `(1000, 1, 28, 28)` float32 in [-1, 1], from the test split.
        labels: `(1000,)` int64, the class of each test image as an index into `CLASS_NAMES`.
    """

    calibration: NDArray[np.float32]
    test: NDArray[np.float32]
    labels: NDArray[np.int64]


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turns grey images into the model's input.

    Args:
        images: `(n, 28, 28)` uint8.

    Returns:
        `(n, 1, 28, 28)` float32 in [-1, 1].
    """
    return images[:, np.newaxis].astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def load_data() -> DemoData:
    """Reads the bundled images, normalised as the demo model expects them."""
    images = files("edgeq.demo") / "assets" / "images.npz"
    with images.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return DemoData(
            calibration=normalise(arrays["calibration"]),
            test=normalise(arrays["test"]),
            labels=arrays["labels"].astype(np.int64),
        )


def float_model_path() -> Path:
    """Returns the path of the float model: `(1, 1, 28, 28)` float32 to logits `(1, 10)`."""
    return Path(str(files("edgeq.demo") / "assets" / "model.tflite"))


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Counts how often the highest logit is the right class.

    Args:
        logits: `(n, 10)`.
        labels: `(n,)` integer.

    Returns:
        The share of right answers, from 0 to 1.

    Raises:
        ValueError: If there are no logits, or not one label for each row of them.
    """
    if logits.ndim != 2 or len(logits) == 0 or labels.shape != (len(logits),):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} do not match")
    return float(np.mean(logits.argmax(axis=1) == labels))
