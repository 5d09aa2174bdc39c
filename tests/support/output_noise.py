"""How far apart two models' outputs are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.data.rep_dataset import Sample
from edgeq.files import Content
from edgeq.runtime.session import Session


def output_noise(one: Content, other: Content, samples: Sequence[Sample]) -> float:
    """Sum of the squares of what two models' first outputs differ by."""
    total = 0.0
    with Session(one) as first, Session(other) as second:
        for sample in samples:
            first.invoke(sample)
            second.invoke(sample)
            total += float(np.square(first.outputs()[0] - second.outputs()[0]).sum())
    return total
