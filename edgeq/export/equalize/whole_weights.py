"""Weights with one scale for all of their channels, which rows and columns of any range share.

Scaling a channel changes the rows of the weight that writes it and the columns of those that read
it. Knows one weight at a time, and what rounding it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.calibrate.channel_statistics import ChannelStatistics
from edgeq.export.equalize.channel_groups import Absorber, ChannelGroups
from edgeq.ops import OPS, Kind
from edgeq.qtypes import FloatArray

_TINY = 1e-30


@dataclass(frozen=True)
class WholeWeight:
    """A weight with one scale.

    Attributes:
        source: The tensor that it is multiplied with.
        output: The tensor that it writes.
        largest: Largest absolute weight of each row and channel over the root of the result's
            power, `(rows, channels)`; `(channels, outputs of each)` of a depthwise one.
        power: Mean squares of what it reads, `(channels,)`.
        taps: How often each channel is in a result.
        is_depthwise: Whether each row reads one channel alone.
    """

    source: int
    output: int
    largest: FloatArray
    power: FloatArray
    taps: int
    is_depthwise: bool

    def scaled(self, source: FloatArray, output: FloatArray) -> FloatArray:
        """`largest` where the channels that it reads and writes are divided by scales."""
        if self.is_depthwise:
            return self.largest * source[:, None] / output.reshape(self.largest.shape)
        return self.largest * source / output[:, None]

    def rows(self, found: FloatArray) -> FloatArray:
        """The largest of each output channel, of what `scaled` gives."""
        return found.reshape(-1) if self.is_depthwise else found.max(axis=1)

    def noise(self, source: FloatArray, output: FloatArray) -> float:
        """Noise over signal of its results that rounding it to the nearest integers makes."""
        step = float(self.scaled(source, output).max(initial=0.0)) / 127
        read = self.power / source**2 * self.taps
        written = np.square(step * output) / 12
        if self.is_depthwise:
            return float((written.reshape(self.largest.shape) * read[:, None]).sum())
        return float(written.sum() * read.sum())


def whole_weights(
    groups: ChannelGroups, absorbers: Sequence[Absorber], seen: Mapping[int, ChannelStatistics]
) -> tuple[WholeWeight, ...]:
    """The weights of some ops, of those with a weight that is no grouped convolution's.

    Args:
        groups: The channels.
        absorbers: Ops whose weights have one scale.
        seen: What the tensors that they read hold.
    """
    found = (_whole(groups, one, seen[one.source]) for one in absorbers if one.source in seen)
    return tuple(one for one in found if one is not None)


def _whole(
    groups: ChannelGroups, absorber: Absorber, seen: ChannelStatistics
) -> WholeWeight | None:
    op, row, depth = absorber.op, OPS[absorber.op.name], len(seen.power)
    if row.weight is None or row.bias is None:
        return None
    weight = groups.graph.tensors[op.inputs[row.weight.slot]].data
    assert weight is not None
    is_depthwise = row.kind is Kind.DEPTHWISE
    if not is_depthwise and weight.shape[-1] % depth:
        return None
    by_tap = np.abs(weight.astype(np.float64))
    if is_depthwise:
        by_tap = by_tap.reshape(-1, depth, weight.shape[-1] // depth).transpose(1, 2, 0)
    else:
        by_tap = by_tap.reshape(len(weight), -1, depth).transpose(0, 2, 1)
    energy = np.square(by_tap).sum(axis=2)
    power = (energy * (seen.power[:, None] if is_depthwise else seen.power)).sum()
    largest = by_tap.max(axis=2) / np.sqrt(max(float(power), _TINY))
    return WholeWeight(
        absorber.source, op.outputs[0], largest, seen.power, by_tap.shape[2], is_depthwise
    )
