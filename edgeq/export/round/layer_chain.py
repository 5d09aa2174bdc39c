"""Layers in a row: what they put out with any weights, and which way to go for it to be nearer.

A layer is a convolution, a depthwise one or a dense one with what is fused into it, and with the
integers that its result becomes. Sums that BLAS orders are exact ones. Knows nothing of how weights
are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.exact import product
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.weighted_ops import (
    Site,
    bias_of,
    constant,
    padded,
    reached,
    source_of,
    strides_of,
)
from edgeq.flatbuffer import Graph, Operator
from edgeq.ops import OPS, Kind
from edgeq.qtypes import FloatArray, IntArray, QParams

Array = npt.NDArray[np.float32]

LIMITS = {
    "NONE": (-math.inf, math.inf), "RELU": (0.0, math.inf), "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}  # fmt: skip
"""What fused activations leave, by name."""


READ = 16
"""Products that take as long as it takes to have a number ready for them."""


QUIETEST = 0.01
"""Deviation over the loudest channel's that every channel is taken to have."""


@dataclass(frozen=True)
class Seen:
    """What a layer's gradients are made of: its inputs as it multiplies them, and what got through.

    Attributes:
        values: Its inputs.
        read: Padded images of a depthwise layer, rows of any other.
        inside: Whether each result is within the limits, beyond which nothing changes it.
    """

    values: Array
    read: Array
    inside: npt.NDArray[np.bool_]


class Layer:
    """An op with a weight of its own.

    Args:
        graph: Of the float model.
        site: The weight.
        qparams: Of its result; None where that stays float.

    Attributes:
        op: The op.
        site: The weight.
        positions: Results of one channel that a sample has.
    """

    def __init__(self, graph: Graph, site: Site, qparams: QParams | None) -> None:
        (self.op,) = site.ops
        self.site = site
        self._qparams = qparams
        self._is_depthwise = OPS[self.op.name].kind is Kind.DEPTHWISE
        self._is_dense = OPS[self.op.name].kind is Kind.DENSE
        weight, made = (graph.tensors[t].shape for t in (site.tensor, self.op.outputs[0]))
        self.positions = math.prod(max(1, size) for size in made[:-1])
        self._channels = made[-1]
        self._columns = math.prod(weight) // (1 if self._is_depthwise else self._channels)
        self._kernel = tuple(map(int, weight[1:3]))

    @property
    def work(self) -> float:
        """About how long one sample takes, in products."""
        depth = 1 if self._is_depthwise else self._channels
        return self.positions * self._columns * (depth + READ)

    def outputs(
        self, values: Array, weight: Array, bias: Array | float, rounds: bool
    ) -> tuple[Array, Seen]:
        """What the layer puts out, and what its gradients are made of.

        Args:
            values: Its inputs, many samples along the first axis.
            weight: Of the op's layout.
            bias: `(channels,)`.
            rounds: Whether the result is what integers of it hold.
        """
        read = self._read(values)
        sums = self._products(values.shape, read, weight) + bias
        low, high = self._limits(rounds)
        inside = (sums > low) & (sums < high)
        if math.isfinite(low) or math.isfinite(high):
            np.clip(sums, low, high, out=sums)
        if rounds and self._qparams is not None:
            scale = np.float32(self._qparams.scale[0])
            sums = np.rint(sums / scale) * scale
        return sums, Seen(values, read, inside)

    def of_weight(self, read: Array, change: Array) -> Array:
        """The sum over all positions of what was multiplied times a change of the results.

        Args:
            read: As of `Seen`, or squares of it.
            change: Of what was put out, within the limits alone, or squares of it.

        Returns:
            Of the weight's shape.
        """
        if self._is_depthwise:
            taps = [
                (read[w] * change).sum(axis=(0, 1, 2)) for w in self._windows(change.shape[1:3])
            ]
            return np.stack(taps).reshape(1, *self._kernel, -1)
        found = _product(change.reshape(-1, change.shape[-1]).T, read)
        return found if self._is_dense else found.reshape(len(found), *self._kernel, -1)

    def of_halves(self, read: Array, change: Array) -> list[Array]:
        """As `of_weight`, of each half of the samples."""
        at = len(change) // 2
        middle = at * len(read) // len(change)
        halves = ((read[:middle], change[:at]), (read[middle:], change[at:]))
        return [self.of_weight(one, other) for one, other in halves]

    def squares(self, read: Array, change: Array) -> Array:
        """As `of_weight`, squared for each sample before they are added up."""
        count = len(change)
        if change[0].size == change.shape[-1] and not self._is_depthwise:
            return self.of_weight(np.square(read), np.square(change))
        each = zip(np.split(read, count), np.split(change, count), strict=True)
        return _sum(np.square(self.of_weight(one, other)) for one, other in each)

    def of_inputs(self, seen: Seen, weight: Array, change: Array) -> Array:
        """What a change of the results is one of the inputs.

        Args:
            seen: What `outputs` gave.
            weight: That it was given.
            change: As for `of_weight`.
        """
        if self._is_dense:
            return _product(change, weight).reshape(seen.values.shape)
        counts, short = reached(self.op, seen.values.shape[1:3], self._kernel)
        samples, height, width, depth = seen.values.shape
        images = np.zeros((samples, height + short[0], width + short[1], depth), np.float32)
        if self._is_depthwise:
            taps: Iterator[Array] = (change * tap for tap in weight.reshape(-1, depth))
        else:
            rows = _product(change.reshape(-1, change.shape[-1]), weight.reshape(len(weight), -1))
            taps = iter(np.moveaxis(rows.reshape(samples, *counts, -1, depth), 3, 0))
        for window, tap in zip(self._windows(counts), taps, strict=True):
            images[window] += tap
        top, left = short[0] // 2, short[1] // 2
        return images[:, top : top + height, left : left + width]

    def _limits(self, rounds: bool) -> tuple[float, float]:
        low, high = LIMITS[self.op.fused_activation]
        if not rounds or self._qparams is None:
            return low, high
        (scale,), (zero_point,) = self._qparams.scale, self._qparams.zero_point
        ends = self._qparams.dtype.limits(self._qparams.narrow_range)
        least, most = ((end - zero_point) * scale for end in ends)
        return max(low, least), min(high, most)

    def _read(self, values: Array) -> Array:
        if self._is_dense:
            return values.reshape(-1, self._kernel[0])
        counts, short = reached(self.op, values.shape[1:3], self._kernel)
        images = padded(values, short)
        if self._is_depthwise:
            return images
        taps = [images[window] for window in self._windows(counts)]
        rows = taps[0] if len(taps) == 1 else np.stack(taps, axis=3)
        return rows.reshape(-1, len(taps) * values.shape[-1])

    def _products(self, shape: tuple[int, ...], read: Array, weight: Array) -> Array:
        if self._is_dense:
            return _product(read, weight.T)
        counts, _ = reached(self.op, shape[1:3], self._kernel)
        if not self._is_depthwise:
            rows = _product(read, weight.reshape(len(weight), -1).T)
            return rows.reshape(shape[0], *counts, -1)
        taps = weight.reshape(-1, weight.shape[-1])
        found = np.zeros((shape[0], *counts, shape[-1]), np.float32)
        for window, tap in zip(self._windows(counts), taps, strict=True):
            found += read[window] * tap
        return found

    def _windows(self, counts: Sequence[int]) -> Iterator[Any]:
        """Where each tap of the kernel reads padded images, for so many results."""
        strides, dilations = strides_of(self.op)
        for taps in np.ndindex(*self._kernel):
            starts = [tap * step for tap, step in zip(taps, dilations, strict=True)]
            yield (
                np.s_[:],
                *(
                    slice(start, start + (count - 1) * stride + 1, stride)
                    for start, count, stride in zip(starts, counts, strides, strict=True)
                ),
            )


class Block:
    """Layers in a row with the integers that their weights have.

    Args:
        graph: Of the float model.
        plan: Whose grids weights and activations are on.
        chain: The weights.
        rounded: What they are.

    Attributes:
        layers: The layers.
        integers: The weights, of each layer.
        biases: What is added, of each layer.
        shifts: How much more that is than in the float model.
        loudness: What counts as much in each channel of the results.
    """

    def __init__(self, graph: Graph, plan: Plan, chain: Sequence[Site], rounded: Rounded) -> None:
        self.layers = [Layer(graph, s, plan.tensors.get(s.ops[0].outputs[0])) for s in chain]
        self.grids = [site.grid for site in chain]
        values = [rounded.weights[site.ops[0].index] for site in chain]
        self.integers = [
            np.rint(v / grid.scale + grid.zero_point).astype(np.int32)
            for v, grid in zip(values, self.grids, strict=True)
        ]
        self._float_weights = [constant(graph.tensors[site.tensor]) for site in chain]
        self._float_biases = [_bias(graph, layer.op) for layer in self.layers]
        self.biases = [
            rounded.biases.get(layer.op.index, bias)
            for layer, bias in zip(self.layers, self._float_biases, strict=True)
        ]
        self.loudness: Array = np.ones(1, np.float32)
        self.shifts = [b - f for b, f in zip(self.biases, self._float_biases, strict=True)]

    def weights(self, integers: Sequence[IntArray]) -> list[Array]:
        """The real numbers that integers stand for."""
        return [
            ((i - grid.zero_point) * grid.scale).astype(np.float32)
            for i, grid in zip(integers, self.grids, strict=True)
        ]

    def exact(self, place: int) -> Array:
        """The float model's weight of a layer in steps of its grid."""
        grid = self.grids[place]
        return (self._float_weights[place] / grid.scale + grid.zero_point).astype(np.float32)

    def wanted(self, values: Array) -> Array:
        """What the float model puts out of its own inputs."""
        for layer, weight, bias in zip(
            self.layers, self._float_weights, self._float_biases, strict=True
        ):
            values, _ = layer.outputs(values, weight, bias, rounds=False)
        return values

    def outputs(
        self, values: Array, weights: Sequence[Array], start: int = 0
    ) -> tuple[Array, list[Seen]]:
        """What it puts out in integers, and what each layer from one on has seen.

        Args:
            values: What that layer reads.
            weights: Of all layers.
            start: Its place.
        """
        seen = []
        layers = list(zip(self.layers, weights, self.biases, strict=True))[start:]
        for layer, weight, bias in layers:
            values, one = layer.outputs(values, weight, bias, rounds=True)
            seen.append(one)
        return values, seen

    def change_of(
        self, place: int, seen: Sequence[Seen], weights: Sequence[Array], change: Array
    ) -> Array:
        """What a change of the results is one of what a layer puts out, within its limits.

        Args:
            place: Of the layer in the row.
            seen: What `outputs` gave.
            weights: That it was given.
            change: Of the results.
        """
        for at in range(len(self.layers) - 1, place, -1):
            change = self.layers[at].of_inputs(seen[at], weights[at], change * seen[at].inside)
        return change * seen[place].inside

    def error(
        self, values: Array, weights: Sequence[Array], wanted: Array, start: int = 0
    ) -> Array:
        """What results are off by, by their loudness; arguments as for `outputs`."""
        found: Array = (self.outputs(values, weights, start)[0] - wanted) / self.loudness
        return found

    def loss(
        self, weights: Sequence[Array], given: Sequence[Array], wanted: Sequence[Array]
    ) -> float:
        """Sum of the squares that the results of samples are off by, each by its loudness."""
        pairs = zip(given, wanted, strict=True)
        return sum(power(self.error(x, weights, y)) for x, y in pairs)


def loudness(values: Sequence[Array]) -> Array:
    """Deviation of each channel of some results: later layers are used to it.

    Otherwise quiet channels would make up for loud ones, which a layer alone never does.
    """
    rows = np.concatenate([one.reshape(-1, one.shape[-1]) for one in values])
    found: Array = rows.std(axis=0)
    least = max(QUIETEST * float(np.max(found)), 1e-30)
    return np.maximum(found, least)


def power(error: Array) -> float:
    """Sum of squares."""
    return float(np.square(error, dtype=np.float64).sum())


def _bias(graph: Graph, op: Operator) -> FloatArray:
    bias = bias_of(graph, op)
    return np.zeros(1, np.float32) if bias is None else bias


def _product(left: Array, right: Array) -> Array:
    found: Array = product(left[None], right[None])[0]
    return found


def _sum(terms: Iterator[Array]) -> Array:
    """The sum of arrays, in their order."""
    found = next(terms)
    for term in terms:
        found += term
    return found


def chains(graph: Graph, sites: Sequence[Site], most: int) -> list[tuple[Site, ...]]:
    """Weights whose ops stand in a row: each reads what the one before puts out, and nothing else
    does.

    Args:
        graph: Of the float model.
        sites: The weights; those whose gradients are not known are left out.
        most: Weights in a row, at most.
    """
    known = {site.ops[0].index: site for site in sites if is_known(graph, site)}
    found: list[list[Site]] = []
    for index in sorted(known):
        before = found[-1] if found else []
        is_next = bool(before) and _follows(graph, before[-1].ops[0], known[index].ops[0])
        if is_next and len(before) < most:
            before.append(known[index])
        else:
            found.append([known[index]])
    return [tuple(chain) for chain in found]


def is_known(graph: Graph, site: Site) -> bool:
    """Whether the gradients of a weight are known: of one op, which is a plain one of its kind."""
    op = site.ops[0]
    if len(site.ops) > 1 or op.fused_activation not in LIMITS:
        return False
    kind, shape = OPS[op.name].kind, constant(graph.tensors[site.tensor]).shape
    depth = graph.tensors[source_of(op)].shape[-1]
    if kind is Kind.DENSE:
        return True
    return kind in (Kind.CONVOLUTION, Kind.DEPTHWISE) and int(shape[-1]) == depth


def _follows(graph: Graph, op: Operator, other: Operator) -> bool:
    (made,) = op.outputs
    readers = [reader.index for reader, _ in graph.uses.get(made, ())]
    return readers == [other.index] and made not in graph.outputs and source_of(other) == made
