"""Owns the list of really trained models with real data, each judged by its task.

Every case is loaded from a module of its own; its archives are fetched from package registries
when it is first loaded. Knows nothing of quantization.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Sample = tuple[npt.NDArray[Any], ...]
"""One array for each input, batch included."""

Outputs = tuple[npt.NDArray[Any], ...]
"""One array for each output, in the float model's order."""


@dataclass(frozen=True)
class Case:
    """A trained model, what to calibrate it with and what to judge it by.

    Attributes:
        name: Key in `CASES`.
        model: Float PyTorch or Keras model, or the bytes of a float .tflite.
        representative: Samples from what the model was not judged by.
        evaluation: Samples to judge by.
        metric: How well the task is done, from the outputs of all evaluation samples in order.
        metric_name: What the metric is, with its unit.
        point: How much of the metric counts as one point.
        higher_is_better: Whether the metric grows with quality.
    """

    name: str
    model: object
    representative: Sequence[Sample]
    evaluation: Sequence[Sample]
    metric: Callable[[Sequence[Outputs]], float]
    metric_name: str
    point: float = 1.0
    higher_is_better: bool = True

    def points_lost(self, before: float, after: float) -> float:
        """Points that a metric lost from `before` to `after`; negative if it got better."""
        lost = (before - after) / self.point
        return lost if self.higher_is_better else -lost


CASES = {
    "fmnist": "fashion",
    "mnv2_cifar10": "cifar10",
    "minilm": "sentences",
    "crepe_tiny": "pitch",
    "resemblyzer": "speakers",
    "onet": "faces",
    "onet_landmarks": "faces",
    "esrgan_slim": "photos",
    "whisper_encoder": "speech",
}
"""The module that loads each case."""


def load(name: str) -> Case:
    """Loads a case of `CASES`.

    Raises:
        packages.Unavailable: Its archives are neither on this machine nor to be had.
    """
    case: Case = importlib.import_module(CASES[name]).load(name)
    return case
