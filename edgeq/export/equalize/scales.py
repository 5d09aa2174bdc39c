"""Scales of channels with which the noise of int8 in activations and weights is least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.export.equalize.channels import Absorber, Channels
from edgeq.export.equalize.statistics import ChannelStatistics
from edgeq.ops import OPS, Kind, ScaleRule
from edgeq.qtypes import FloatArray

QUIETEST = 1 / 64
"""A quieter channel is taken for one of so much of the loudest channel's range."""

HEADROOM = 1.15
"""Where an op cuts values off, no channel is brought nearer to that than this."""

LEAST_GAIN = 0.05
"""Share of the noise that must go, by estimate, for channels to be scaled."""

ROUNDED_BETTER = float(__import__('os').environ.get('RB','0.6'))
"""Noise of weights rounded by what they compute, over that of weights rounded to nearest."""


@dataclass(frozen=True)
class Reader:
    """An op with a weight, as the noise of what it reads sees it.

    Attributes:
        tensor: What it reads.
        energy: Sum of squares of the weights that each channel meets, over the power of the result.
        rows: Largest absolute weight of each row (output channel) and channel `(rows, channels)`;
            None where each channel has a scale of its own.
        taps: Products of each channel in a result.
        power: Power of the results, summed over output channels.
    """

    tensor: int
    energy: FloatArray
    rows: FloatArray | None
    columns: FloatArray | None
    taps: int
    power: float


def read_by(channels: Channels, absorber: Absorber, seen: ChannelStatistics) -> Reader | None:
    """The reader that an absorber is; None for an op without a weight to round."""
    op, graph = absorber.op, channels.graph
    row = OPS[op.name]
    if row.weight is None or row.kind is Kind.ELEMENTWISE or row.bias is None:
        return None
    weight = graph.tensors[op.inputs[row.weight.slot]].data
    assert weight is not None
    depth = len(seen.power)
    squares = np.square(weight, dtype=np.float64)
    if row.kind is Kind.DEPTHWISE:
        flat = squares.reshape(-1, depth, weight.shape[-1] // depth)
        energy = flat.sum(axis=(0, 2))
        power = float((energy * seen.power).sum()) or 1.0
        return Reader(absorber.source, energy / power, None, None, 1, power)
    if row.kind is Kind.CONVOLUTION:
        groups = depth // weight.shape[-1]
        by_group = squares.reshape(groups, -1, *weight.shape[1:3], weight.shape[-1])
        energy = by_group.sum(axis=(1, 2, 3)).reshape(-1)
        largest = np.abs(weight).max(axis=(1, 2)).reshape(groups, -1, weight.shape[-1])
        taps = weight.shape[1] * weight.shape[2]
        if groups > 1:
            largest = None
    else:
        flat = squares.reshape(-1, depth)
        energy = flat.sum(axis=0)
        largest = np.abs(weight).reshape(len(weight), -1, depth).max(axis=1)
        taps = weight.size // (len(weight) * depth)
    power = float((energy * seen.power).sum()) or 1.0
    rows = None if largest is None else largest.reshape(-1, depth).astype(np.float64)
    return Reader(absorber.source, energy / power, rows, None, taps, power)


@dataclass(frozen=True)
class Cluster:
    """Tensors whose channels have scales in common.

    Attributes:
        tensors: Tensors that are rounded to integers.
        readers: Ops that multiply them with weights.
    """

    tensors: tuple[int, ...]
    readers: tuple[Reader, ...]


def scales(
    channels: Channels, seen: Mapping[int, ChannelStatistics]
) -> FloatArray:
    """The scale of each group of channels; 1 where nothing is won."""
    found = np.ones(len(channels.is_free))
    for cluster in _clusters(channels, seen):
        _set_scales(channels, seen, cluster, found)
    return found


def _clusters(
    channels: Channels, seen: Mapping[int, ChannelStatistics]
) -> Iterator[Cluster]:
    parent = {t: t for t in seen}

    def root(t: int) -> int:
        while parent[t] != t:
            t = parent[t]
        return t

    first: dict[int, int] = {}
    for tensor in seen:
        groups = np.unique(channels.of(tensor))
        for group in groups[channels.is_free[groups]].tolist():
            parent[root(tensor)] = root(first.setdefault(group, tensor))
    readers: dict[int, list[Reader]] = {}
    for absorber in channels.absorbers:
        if absorber.source in seen:
            one = read_by(channels, absorber, seen[absorber.source])
            if one is not None:
                readers.setdefault(root(absorber.source), []).append(one)
    members: dict[int, list[int]] = {}
    for tensor in seen:
        members.setdefault(root(tensor), []).append(tensor)
    for key, tensors in members.items():
        if key in readers:
            yield Cluster(tuple(tensors), tuple(readers[key]))


def _set_scales(
    channels: Channels,
    seen: Mapping[int, ChannelStatistics],
    cluster: Cluster,
    scales: FloatArray,
) -> None:
    """Sets the scales of a cluster's groups to those of the best candidate."""
    problem = _Problem(channels, seen, cluster, len(scales))
    present = problem.noise(scales)
    best, least = None, present * (1 - LEAST_GAIN)
    for candidate in problem.candidates():
        noise = problem.noise(candidate)
        if noise < least:
            best, least = candidate, noise
    if best is not None:
        scales[problem.groups] = best[problem.groups]


class _Problem:
    def __init__(
        self,
        channels: Channels,
        seen: Mapping[int, ChannelStatistics],
        cluster: Cluster,
        count: int,
    ) -> None:
        self._channels, self._seen, self._cluster = channels, seen, cluster
        self._loud = np.zeros(count)
        self._importance = np.zeros(count)
        self._weight = np.zeros(count)
        self._least = np.zeros(count)
        self._is_clipped = np.zeros(count, bool)
        used = []
        for tensor in cluster.tensors:
            group, one = channels.of(tensor), seen[tensor]
            used.append(group)
            if self._is_rounded(tensor):
                np.maximum.at(self._loud, group, one.largest / max(one.largest.max(), 1e-30))
            if tensor in channels.clipped:
                share = np.minimum(1.0, one.high[0] * HEADROOM / channels.clipped[tensor])
                np.maximum.at(self._least, group, share)
                self._is_clipped[group] = True
        for reader in cluster.readers:
            group = channels.of(reader.tensor)
            np.add.at(self._importance, group, reader.energy)
            if reader.rows is not None:
                largest = reader.rows.max(axis=0)
                np.maximum.at(self._weight, group, largest / max(largest.max(), 1e-30))
        groups = np.unique(np.concatenate(used))
        self.groups = groups[channels.is_free[groups]]

    def _is_rounded(self, tensor: int) -> bool:
        op = self._channels.graph.producers[tensor]
        return op.name not in OPS or OPS[op.name].rule is not ScaleRule.SAME

    def candidates(self) -> Iterator[FloatArray]:
        loud = np.maximum(self._loud[self.groups], QUIETEST)
        weight = np.maximum(self._weight[self.groups], QUIETEST)
        for power in (0.25, 0.5, 0.75, 1.0):
            for other in (0.0, 0.25, 0.5):
                yield self._fitted(loud**power / weight**other)

    def _fitted(self, wanted: FloatArray) -> FloatArray:
        found = np.ones(len(self._channels.is_free))
        found[self.groups] = wanted / wanted.max()
        clipped = self._is_clipped
        found[clipped] = np.clip(found[clipped], self._least[clipped], 1.0)
        found[~self._channels.is_free] = 1.0
        return found

    @staticmethod
    def is_scaled(scale: FloatArray) -> bool:
        return bool((scale != 1).any())

    def noise(self, scales: FloatArray) -> float:
        """Noise over signal at the readers' results, summed over them."""
        total = 0.0
        for tensor in self._cluster.tensors:
            if not self._is_rounded(tensor):
                continue
            group, one = self._channels.of(tensor), self._seen[tensor]
            scale = scales[group]
            low, high = (one.low[0] / scale).min(), (one.high[0] / scale).max()
            if self.is_scaled(scale):
                low, high = low * HEADROOM, high * HEADROOM
            if tensor in self._channels.clipped:
                high = min(high, self._channels.clipped[tensor])
            step = (high - low) / 255
            lost = np.minimum(one.filled * (step * scale) ** 2 / 12, one.power)
            if not (tensor in self._channels.clipped and high == self._channels.clipped[tensor] and not self.is_scaled(scale)):
                lost = lost + one.cut_off(low * scale, high * scale)
            total += float((lost * self._importance[group]).sum())
        for reader in self._cluster.readers:
            if reader.rows is None:
                continue
            scale = scales[self._channels.of(reader.tensor)]
            steps = (reader.rows * scale).max(axis=1) / 127
            read = float((self._seen[reader.tensor].power / scale**2).sum()) * reader.taps
            noise = float(np.square(steps).sum()) / 12 * read
            total += ROUNDED_BETTER * noise / reader.power
        return total
