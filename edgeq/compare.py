"""How far two models' outputs are apart. Plain arithmetic on arrays, streaming over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fidelity:
    """Running sums of one output over samples; merges by adding.

    Attributes:
        signal: Sum of squares of the float output.
        noise: Sum of squares of the difference.
        largest: Largest absolute difference.
    """

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def observe(self, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Fidelity:
        """With one more sample, both arrays of the same shape."""
        reference = expected.astype(np.float64)
        difference = reference - actual.astype(np.float64)
        return Fidelity(
            self.signal + float(np.square(reference).sum()),
            self.noise + float(np.square(difference).sum()),
            float(np.maximum(self.largest, np.abs(difference).max(initial=0.0))),
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; infinite where nothing differs."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf
