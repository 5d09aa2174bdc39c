"""Range and power of each channel of some tensors, on samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.files import is_large
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session


@dataclass(frozen=True)
class ChannelStatistics:
    """What each channel of a tensor holds.

    Attributes:
        low: Lowest value of the two samples that reach lowest, at most 0, `(2, channels)`.
        high: Highest value of the two samples that reach highest, at least 0, `(2, channels)`.
        mean: Mean values, `(channels,)`.
        power: Mean squares, `(channels,)`.
        filled: Share of the values that are not 0, which needs no rounding, `(channels,)`.
        samples: Number of samples.
        positions: Values of each channel in a sample.
    """

    low: FloatArray
    high: FloatArray
    mean: FloatArray
    power: FloatArray
    filled: FloatArray
    samples: int
    positions: int

    def merge(self, other: ChannelStatistics) -> ChannelStatistics:
        """With those of other samples."""
        samples = self.samples + other.samples
        share = other.samples / samples
        mean = self.mean + (other.mean - self.mean) * share
        power = self.power + (other.power - self.power) * share
        filled = self.filled + (other.filled - self.filled) * share
        low = np.sort(np.concatenate([self.low, other.low]), axis=0)[:2]
        high = np.sort(np.concatenate([self.high, other.high]), axis=0)[:-3:-1]
        return ChannelStatistics(low, high, mean, power, filled, samples, self.positions)

    @property
    def largest(self) -> FloatArray:
        """Largest absolute values, `(channels,)`."""
        found: FloatArray = np.maximum(-self.low[0], self.high[0])
        return found

    @property
    def variance(self) -> FloatArray:
        """Mean squares around the means, `(channels,)`."""
        found: FloatArray = np.maximum(self.power - np.square(self.mean), 0.0)
        return found

    def cut_off(self, least: FloatArray, most: FloatArray) -> FloatArray:
        """Mean square, by channel, of what samples to come lose where values are cut off.

        Each new sample goes beyond the farthest of n with probability 1 / (n + 1), in one place, by
        an excess that is exponentially distributed; the gap between the two farthest estimates its
        mean.

        Args:
            least: The lowest value that stays, by channel.
            most: The highest one.

        Source:
            Robson and Whitlock, "Estimation of a truncation point" (1964).
        """
        below = _excess(-self.low, -least)
        above = _excess(self.high, most)
        found: FloatArray = (below + above) / ((self.samples + 1) * self.positions)
        return found


def _excess(ends: FloatArray, limit: FloatArray) -> FloatArray:
    """Mean square of an excess over the farther of two ends that is also one over a limit."""
    gap = np.maximum(ends[0] - ends[1], 1e-30)
    found: FloatArray = 2 * gap**2 * np.exp(-np.maximum(limit - ends[0], 0.0) / gap)
    return found


def channel_statistics(
    model: LiteModel, tensors: Sequence[int], samples: Sequence[Sample], threads: int | None
) -> dict[int, ChannelStatistics]:
    """Runs samples and looks at each channel of some tensors."""
    editor = GraphEditor(model.tree)
    editor.add_outputs([t for t in tensors if t not in model.graph.inputs])
    tflite = editor.finish()
    found: dict[int, ChannelStatistics] = {}

    def look(session: Session, sample: Sequence[npt.NDArray[Any]]) -> list[ChannelStatistics]:
        session.invoke(sample)
        return [channels_of(session.view(t)) for t in tensors]

    # Each session has weights of its own, of which a large model has room for one.
    each, members = (threads, 1) if is_large(len(tflite)) else (1, threads)
    with Crew(lambda: Session(tflite, threads=each, trusted=True), members) as crew:
        for seen in crew.map(samples, look):
            for tensor, one in zip(tensors, seen, strict=True):
                found[tensor] = found[tensor].merge(one) if tensor in found else one
    return found


def channels_of(values: FloatArray) -> ChannelStatistics:
    """What the channels of one sample hold, along its last axis."""
    rows = values.reshape(-1, *values.shape[-1:])
    mean = rows.mean(axis=0, dtype=np.float64)
    power = np.square(rows, dtype=np.float64).mean(axis=0)
    low, high = np.zeros((2, 2, rows.shape[-1]))
    low[0], high[0] = np.minimum(rows.min(axis=0), 0.0), np.maximum(rows.max(axis=0), 0.0)
    return ChannelStatistics(low, high, mean, power, (rows != 0).mean(axis=0), 1, len(rows))
