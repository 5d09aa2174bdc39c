"""Scales of channels with which integers lose less, by an estimate of what rounding costs.

A channel that is quieter than others has few of their common integers. Dividing it by a scale below
1 gives it more, while the weights that read it become less even. Knows statistics, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgeq.calibrate.channel_statistics import ChannelStatistics
from edgeq.export.deploy.scales_entry import on_grid
from edgeq.export.equalize.channel_groups import Absorber, ChannelGroups, Indices
from edgeq.export.equalize.whole_weights import WholeWeight
from edgeq.ops import OPS, Kind, ScaleRule
from edgeq.qtypes import FloatArray

QUIETEST = 1 / 64
"""A channel that is quieter counts as one of so much of the loudest one's range."""

HEADROOM = 1.15
"""Ranges of scaled channels over what samples have shown: each now ends where its channel does."""

LEAST_GAIN_DB = 2.0
"""Scales are taken where so much is won by the estimate, which errs by about as much."""

LEAST_CUT_GAIN_DB = 6.0
"""Likewise where an op becomes a slower one for them: a depthwise convolution takes XNNPACK about
half a nanosecond more for each number than a sum."""

GPTQ_SHARE = 0.6
"""Noise of weights that are rounded by what they compute, over that of the nearest integers."""

LOUDNESS_POWERS = (0.25, 0.5, 0.75, 1.0)
WEIGHT_POWERS = (0.0, 0.25, 0.5)
"""Powers of a channel's range and of its weights' that are tried.

Source:
    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", 2023, with the two powers apart.
"""

WHOLE_POWERS = (0.0, 0.25, 0.5)
"""Powers that are tried of a channel's range, of the rows that write it, and of the columns that
read it, where weights have one scale.

Source:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
    with a half for rows and columns.
"""

SWEEPS = 3
"""How often all channels are gone through where weights have one scale: each changes the next."""

_TINY = 1e-30


def channel_scales(
    groups: ChannelGroups,
    seen: Mapping[int, ChannelStatistics],
    whole: Sequence[WholeWeight] = (),
) -> FloatArray:
    """Finds the scale that each group of channels is to be divided by; 1 where too little is won.

    Args:
        groups: The channels.
        seen: What those that may be scaled hold, by tensor.
        whole: Weights with one scale for all of their channels.

    Returns:
        `(groups,)`.
    """
    scales: FloatArray = np.ones(len(groups.is_free))
    clusters = list(_clusters(groups, seen, whole))
    for sweep in range(SWEEPS if whole else 1):
        for cluster in clusters:
            least_db = 0.0 if sweep else cluster.least_gain_db
            best = _best(_Estimate(groups, seen, cluster), scales, least_db)
            scales = scales if best is None else best
    return scales


@dataclass(frozen=True)
class Reader:
    """An op with a weight, as the noise in what it reads and in its weight sees it.

    Attributes:
        tensor: What it reads.
        energy: Sum of squares of what each channel is multiplied with, over the result's power.
        largest: Largest absolute weight of each row and channel, over the root of that power,
            `(rows, channels)`; None where every channel has a scale of its own.
        taps: How often each channel is in a result.
    """

    tensor: int
    energy: FloatArray
    largest: FloatArray | None
    taps: int


@dataclass(frozen=True)
class _Cluster:
    """Tensors that have scales in common, and the ops with weights that read them."""

    tensors: tuple[int, ...]
    readers: tuple[Reader, ...]
    whole: tuple[WholeWeight, ...] = ()
    least_gain_db: float = LEAST_GAIN_DB


def _best(estimate: _Estimate, present: FloatArray, least_db: float) -> FloatArray | None:
    """Scales with the least noise; None where that is not so much less than now."""
    limit = estimate.noise(present) * 10 ** (-least_db / 10)
    candidates = list(estimate.candidates(present))
    noises = [estimate.noise(candidate) for candidate in candidates]
    best = int(np.argmin(noises))
    return candidates[best] if noises[best] < limit else None


def _clusters(
    groups: ChannelGroups, seen: Mapping[int, ChannelStatistics], whole: Sequence[WholeWeight]
) -> Iterator[_Cluster]:
    """The tensors that must be decided on together, where an op with a weight reads them."""
    key: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for tensor in seen:
        free = np.unique(groups.of(tensor))
        met = {key[first[g]] for g in free[groups.is_free[free]].tolist() if g in first}
        joined = [t for k in met for t in members.pop(k)] + [tensor]
        key.update(dict.fromkeys(joined, tensor))
        members[tensor] = joined
        first.update(dict.fromkeys(free.tolist(), tensor))
    readers: dict[int, list[Reader]] = {}
    for absorber in groups.absorbers:
        if absorber.source in seen and OPS[absorber.op.name].bias is not None:
            one = _reader(groups, absorber, seen[absorber.source])
            readers.setdefault(key[absorber.source], []).append(one)
    cut = {absorber.source for absorber in groups.absorbers if absorber.is_cut}
    for last, tensors in members.items():
        if last in readers:
            touching = (w for w in whole if w.source in tensors or w.output in tensors)
            least_db = LEAST_GAIN_DB if cut.isdisjoint(tensors) else LEAST_CUT_GAIN_DB
            yield _Cluster(tuple(tensors), tuple(readers[last]), tuple(touching), least_db)


def _reader(groups: ChannelGroups, absorber: Absorber, seen: ChannelStatistics) -> Reader:
    row = OPS[absorber.op.name]
    assert row.weight is not None
    weight = groups.graph.tensors[absorber.op.inputs[row.weight.slot]].data
    assert weight is not None
    by_row = _by_row(weight, len(seen.power), row.kind)
    energy = np.square(by_row, dtype=np.float64).sum(axis=(0, 2))
    power = max(float(energy @ seen.power), _TINY)
    is_even = row.kind is Kind.DEPTHWISE or by_row.shape[0] * by_row.shape[2] < len(weight)
    largest = None if is_even else np.abs(by_row).max(axis=2) / np.sqrt(power)
    return Reader(absorber.source, energy / power, largest, by_row.shape[2])


def _by_row(weight: FloatArray, depth: int, kind: Kind) -> FloatArray:
    """A weight as `(rows, channels read, taps)`; of a grouped one, a group's rows are taps."""
    if kind is Kind.DEPTHWISE:
        return (
            weight.reshape(1, -1, depth, weight.shape[-1] // depth)
            .transpose(0, 2, 1, 3)
            .reshape(1, depth, -1)
        )
    if kind is Kind.CONVOLUTION and weight.shape[-1] < depth:
        parts = depth // weight.shape[-1]
        by_part = weight.reshape(parts, -1, weight.shape[-1])
        return by_part.transpose(0, 2, 1).reshape(1, depth, -1)
    return weight.reshape(len(weight), -1, depth).transpose(0, 2, 1)


class _Estimate:
    """Estimates what rounding a cluster's tensors and the weights that read them costs."""

    def __init__(
        self,
        groups: ChannelGroups,
        seen: Mapping[int, ChannelStatistics],
        cluster: _Cluster,
    ) -> None:
        self._groups, self._seen, self._cluster = groups, seen, cluster
        count = len(groups.is_free)
        self._loudness, self._energy, self._weight, self._least = np.zeros((4, count))
        self._most = np.full(count, np.inf)
        for tensor in cluster.tensors:
            self._look_at(tensor)
        for reader in cluster.readers:
            group = groups.of(reader.tensor)
            np.add.at(self._energy, group, reader.energy)
            if reader.largest is not None and not cluster.whole:
                largest = reader.largest.max(axis=0)
                np.maximum.at(self._weight, group, largest / max(largest.max(), _TINY))
        used = np.unique(np.concatenate([groups.of(t) for t in cluster.tensors]))
        self._free = used[groups.is_free[used]]

    def _look_at(self, tensor: int) -> None:
        group, seen = self._groups.of(tensor), self._seen[tensor]
        largest = seen.largest
        np.maximum.at(self._loudness, group, largest / max(largest.max(), _TINY))
        clip = self._groups.clipped.get(tensor)
        if clip is not None:
            share = np.minimum(1.0, seen.high[0] * HEADROOM / clip)
            np.maximum.at(self._least, group, share)
            self._most[group] = 1.0

    def candidates(self, present: FloatArray) -> Iterator[FloatArray]:
        """Scales to try; the loudest channel keeps its range."""
        loudness, weight = (
            np.maximum(values[self._free], QUIETEST) for values in (self._loudness, self._weight)
        )
        if self._cluster.whole:
            rows, columns = self._even_weights(present)
            wanted = [
                loudness**power * rows**written / columns**read
                for power, written, read in product(WHOLE_POWERS, repeat=3)
            ]
        else:
            pairs = product(LOUDNESS_POWERS, WEIGHT_POWERS)
            wanted = [loudness**power / weight**other for power, other in pairs]
        for found in wanted:
            scales = present.copy()
            scales[self._free] = on_grid(
                np.clip(found / found.max(), self._least[self._free], self._most[self._free])
            )
            yield scales

    def _even_weights(self, present: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of each free group the largest in rows that write it and in columns that read it, with
        the scales that other channels have, as shares of the weight's largest."""
        rows, columns = np.zeros((2, len(present)))
        others = present.copy()
        others[self._free] = 1.0
        for one in self._cluster.whole:
            source, output = self._groups.of(one.source), self._groups.of(one.output)
            found = one.scaled(others[source], others[output])
            found = found / max(float(found.max(initial=0.0)), _TINY)
            np.maximum.at(rows, output, one.rows(found))
            np.maximum.at(columns, source, found.max(axis=1 if one.is_depthwise else 0))
        is_written, is_read = rows[self._free] > 0, columns[self._free] > 0
        return (
            np.where(is_written, np.maximum(rows[self._free], QUIETEST), 1.0),
            np.where(is_read, np.maximum(columns[self._free], QUIETEST), 1.0),
        )

    def noise(self, scales: FloatArray) -> float:
        """Noise over signal in what the readers compute, summed over them."""
        tensors = sum(self._lost(t, scales) for t in self._cluster.tensors if self._is_rounded(t))
        if self._cluster.whole:
            return tensors + sum(self._in_whole(one, scales) for one in self._cluster.whole)
        return tensors + sum(self._in_weight(reader, scales) for reader in self._cluster.readers)

    def _in_whole(self, one: WholeWeight, scales: FloatArray) -> float:
        """By rounding a weight that has one scale."""
        of = self._groups.of
        return GPTQ_SHARE * one.noise(scales[of(one.source)], scales[of(one.output)])

    def _is_rounded(self, tensor: int) -> bool:
        """Whether a tensor has a scale of its own."""
        row = OPS.get(self._groups.graph.producers[tensor].name)
        return row is None or row.rule is not ScaleRule.SAME

    def _lost(self, tensor: int, scales: FloatArray) -> float:
        """By rounding and cutting off one tensor."""
        group: Indices = self._groups.of(tensor)
        seen, scale = self._seen[tensor], scales[group]
        clip = self._groups.clipped.get(tensor, np.inf)
        low, high = scaled_range(seen, scale, clip)
        step = (high - low) / 255 * scale
        rounded = np.minimum(seen.filled * np.square(step) / 12, seen.power)
        most = np.where((scale == 1) & (high >= clip), np.inf, high * scale)
        cut = seen.cut_off(low * scale, most)
        return float((rounded + cut) @ self._energy[group])

    def _in_weight(self, reader: Reader, scales: FloatArray) -> float:
        """By rounding the weight of one reader."""
        if reader.largest is None:
            return 0.0
        scale = scales[self._groups.of(reader.tensor)]
        steps = (reader.largest * scale).max(axis=1) / 127
        # Biases take up what a weight loses on what is the same everywhere.
        read = float((self._seen[reader.tensor].variance / scale**2).sum()) * reader.taps
        return GPTQ_SHARE * float(np.square(steps).sum()) / 12 * read


def scaled_range(seen: ChannelStatistics, scale: FloatArray, clip: float) -> tuple[float, float]:
    """`(lowest, highest)` that the integers of a tensor with scaled channels cover.

    Args:
        seen: What the tensor holds.
        scale: What each channel is divided by; 1 throughout adds no headroom.
        clip: Where values are cut off; infinite where they are not.
    """
    room = HEADROOM if (scale != 1).any() else 1.0
    low, high = room * (seen.low[0] / scale).min(), room * (seen.high[0] / scale).max()
    return float(low), min(float(high), clip)
