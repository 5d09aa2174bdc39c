"""Owns the demo's classifier as a trained case: a small MobileNetV2 on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cases import Case, Outputs

from edgeq import demo
from edgeq.demo.network import load_network


def load(name: str = "fmnist") -> Case:
    """Reads the bundled network and images."""
    data = demo.load_data()

    def top1(outputs: Sequence[Outputs]) -> float:
        return 100 * demo.accuracy(np.concatenate([logits for (logits,) in outputs]), data.labels)

    return Case(
        name,
        load_network(),
        [(image[np.newaxis],) for image in data.calibration],
        [(image[np.newaxis],) for image in data.test],
        top1,
        "top-1 %",
    )
