"""Rounds weights once more by what layers in a row put out together.

A layer by itself has no way to know which of its errors the next ones let through. Here integers
move by one step where the results behind up to three layers get nearer to the float model's, with
the inputs that the quantized model gives: in each row the one that promises most, by slope and
curvature, as long as that holds. Starts from the second pass, so that it has nothing to catch up.

Source:
    Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, for the
    change of the loss by rounding as its second order; Li et al., "BRECQ: Pushing the Limit of
    Post-Training Quantization by Block Reconstruction", 2021, for blocks of layers as its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.gptq import Grid
from edgeq.export.round.layer_chain import Array, Block, Layer, Seen, chains, loudness, power
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.second_pass import SecondPass
from edgeq.export.round.weighted_ops import Site, source_of
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import IntArray

MOST_LAYERS = 3
"""Layers in a row: a bottleneck has three."""

ROUNDS, LEAST_ROUNDS = 20, 3
"""How often each row of each layer may move one of its integers; fewer within the budget."""

BUDGET = 6e11
"""Work of all rounds, in products: about two minutes of one core of 2020."""

POSITIONS, LEAST_BATCH = 4096, 8
"""Positions of the results that a step looks at, and samples at least."""

TRIALS = 4
"""How often a step tries to do moves, and goes on where the loss falls."""

PATIENCE = 2
"""Rounds that may pass without a gain on the samples that judge."""

DAMPING = 0.3
"""Share of a weight's curvature that draws it to the float model's: what the data left out."""

SEED = 0


class Reconstruction(SecondPass):
    """A pass in the order of the second one that fits layers in a row together.

    Args:
        model: The float model that the plan speaks of.
        plan: Whose grids the weights are put on.
        sites: Weights that may change.
        learned: Indices of ops whose weights do.
        samples: Inputs to run, all at once in memory.
        judges: Inputs that tell whether layers in a row keep what they were fitted to.
        threads: Samples that run side by side; None takes what this process may use.
    """

    def __init__(
        self,
        model: LiteModel,
        plan: Plan,
        sites: Sequence[Site],
        learned: Collection[int],
        samples: Sequence[Sample],
        judges: Sequence[Sample],
        threads: int | None,
    ) -> None:
        super().__init__(model, plan, sites, [*samples, *judges], threads)
        self._fitted = len(samples)
        free = [site for site in sites if all(op.index in learned for op in site.ops)]
        found = chains(model.graph, free, MOST_LAYERS)
        self._begun = {chain[0].key: chain[-1].key for chain in found}
        self._ended = {chain[-1].key: chain for chain in found}
        self._read: dict[object, list[list[Array]]] = {}
        work = sum(_work([Layer(model.graph, site, None) for site in chain]) for chain in found)
        self._rounds = int(np.clip(BUDGET / max(1.0, work), LEAST_ROUNDS, ROUNDS))

    def _with(self, rounded: Rounded, site: Site) -> Rounded:
        if site.key in self._begun:
            read, sides = source_of(site.ops[0]), (self._given, self._wanted)
            self._read[self._begun[site.key]] = [[v[read] for v in s.values] for s in sides]
        chain = self._ended.get(site.key)
        return rounded if chain is None else self._learned(rounded, chain)

    def _learned(self, rounded: Rounded, chain: Sequence[Site]) -> Rounded:
        """With the weights of layers in a row as they put out what is wanted together, where that
        holds on the samples that judge."""
        given, wanted = self._read.pop(chain[-1].key)
        block = Block(self._graph, self._plan, chain, rounded)
        targets = [block.wanted(values) for values in wanted]
        block.loudness = loudness(targets[: self._fitted])
        fitted, judges = slice(self._fitted), slice(self._fitted, None)
        descent = Descent(block, given[fitted], targets[fitted])
        found = descent.best(
            self._rounds,
            lambda tried: block.loss(block.weights(tried), given[judges], targets[judges]),
        )
        for layer, integers, shift in zip(block.layers, found, block.shifts, strict=True):
            rounded = rounded.with_site(self._graph, self._plan, layer.site, integers, shift)
        self._refresh(block, found, given, chain[-1])
        return rounded

    def _refresh(
        self, block: Block, integers: Sequence[IntArray], given: Sequence[Array], last: Site
    ) -> None:
        """Has the last layer of a row read what those before it put out by now."""
        weights, read = block.weights(integers), source_of(last.ops[0])
        for values, known in zip(given, self._given.values, strict=True):
            for layer, weight, bias in zip(block.layers[:-1], weights, block.biases, strict=False):
                values, _ = layer.outputs(values, weight, bias, rounds=True)
            known[read] = values.reshape(known[read].shape)


class Descent:
    """Moves integers of layers in a row, one of each row at a time, while that helps.

    Args:
        block: The layers.
        given: What they read, sample by sample.
        wanted: What they shall put out.
    """

    def __init__(self, block: Block, given: Sequence[Array], wanted: Sequence[Array]) -> None:
        self._block = block
        self._given, self._wanted = given, wanted
        self._shares = [1.0] * len(block.layers)
        self._random = np.random.default_rng(SEED)
        self._batch = min(len(given), _batch(block.layers))

    def best(self, rounds: int, judge: Callable[[Sequence[IntArray]], float]) -> Sequence[IntArray]:
        """The integers after the best of so many rounds, in each of which the last layer is first.

        Args:
            rounds: How many there are at most.
            judge: What is lost with some integers.
        """
        integers: Sequence[IntArray] = self._block.integers
        best, least, since = integers, judge(integers), 0
        for _ in range(rounds):
            for place in range(len(integers) - 1, -1, -1):
                integers = self._step(integers, place)
            lost, since = judge(integers), since + 1
            if lost < least:
                best, least, since = integers, lost, 0
            if since >= PATIENCE:
                break
        return best

    def _step(self, integers: Sequence[IntArray], place: int) -> Sequence[IntArray]:
        block, weights = self._block, self._block.weights(integers)
        some = self._random.choice(len(self._given), self._batch, replace=False)
        values, wanted = (
            np.concatenate([side[i] for i in some]) for side in (self._given, self._wanted)
        )
        made, seen = block.outputs(values, weights)
        error = (made - wanted) / block.loudness
        signs = (self._random.integers(0, 2, made.shape) * 2 - 1).astype(np.float32)
        slope, probe = (
            block.change_of(place, seen, weights, change / block.loudness)
            for change in (2 * error, signs)
        )
        exact = block.exact(place)
        moves = Moves.of(
            block.layers[place], seen[place], integers[place], exact, block.grids[place], slope,
            probe,
        )  # fmt: skip

        def loss(tried: IntArray) -> float:
            weights = block.weights(_with(integers, place, tried))
            error = block.error(seen[place].values, weights, wanted, place)
            return power(error) + float((moves.hold * np.square(tried - exact)).sum())

        return _with(
            integers, place, self._moved(integers[place], place, moves, loss, loss(integers[place]))
        )

    def _moved(
        self, integers: IntArray, place: int, moves: Moves, loss: Callable[[IntArray], float],
        before: float,
    ) -> IntArray:  # fmt: skip
        """Does moves, those that promise most first, as many at once as the loss bears."""
        ranks = np.argsort(np.argsort(-moves.gains, kind="stable"), kind="stable")
        useful, done = int((moves.gains > 0).sum()), 0
        for _ in range(TRIALS):
            if done >= useful:
                break
            many = min(max(1, int(self._shares[place] * useful)), useful - done)
            tried = moves.done(integers, (ranks >= done) & (ranks < done + many))
            after = loss(tried)
            if after < before:
                integers, before, done = tried, after, done + many
                self._shares[place] = min(1.0, 2 * self._shares[place])
            elif many == 1:
                done += 1
            else:
                self._shares[place] /= 3
        return integers


@dataclass(frozen=True)
class Moves:
    """The integer of each row of a weight that is best moved by one step.

    Attributes:
        axis: Of the weight's rows.
        places: Of the integer in each row.
        steps: Which way, -1 or 1.
        gains: How much less the loss is by slope and curvature, as far as two halves of the samples
            agree; below 0 is more.
        hold: What each step away from the float model's weight costs, times its square.
    """

    axis: int
    places: npt.NDArray[np.intp]
    steps: IntArray
    gains: Array
    hold: Array

    @classmethod
    def of(
        cls, layer: Layer, seen: Seen, integers: IntArray, exact: Array, grid: Grid,
        slope: Array, probe: Array,
    ) -> Moves:  # fmt: skip
        """The best move of each row.

        Args:
            layer: The layer.
            seen: What it was last given.
            integers: Its weight.
            exact: The float model's, in steps of the grid.
            grid: What that may become.
            slope: Of the loss, along what the layer puts out.
            probe: A change of random signs of the results, as one of what the layer puts out:
                what the squares of such changes are on average is the curvature.
        """
        halves = [along * grid.scale for along in layer.of_halves(seen.read, slope)]
        bent = layer.squares(seen.read, probe) * np.square(grid.scale)
        hold = DAMPING * bent
        halves = [half + hold * (integers - exact) for half in halves]
        ways = np.where(halves[0] + halves[1] > 0, -1, 1)
        agreed = 2 * np.maximum(*(half * ways for half in halves))
        free = (integers + ways >= grid.low) & (integers + ways <= grid.high)
        axis = OPS[layer.op.name].weight_axis or 0
        gains = _rows(np.where(free, -agreed - bent - hold, -1.0), axis)
        places = gains.argmax(axis=1)
        picked = np.arange(len(places)), places
        return cls(axis, places, _rows(ways, axis)[picked], gains[picked], hold)

    def done(self, integers: IntArray, chosen: npt.NDArray[np.bool_]) -> IntArray:
        """The weight with the moves of some rows."""
        moved = np.moveaxis(integers, self.axis, 0).copy()
        rows = np.flatnonzero(chosen)
        flat = moved.reshape(len(moved), -1)
        flat[rows, self.places[rows]] += self.steps[rows]
        return np.ascontiguousarray(np.moveaxis(moved, 0, self.axis))


def _rows(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """A weight as `(rows, columns)`."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _batch(layers: Sequence[Layer]) -> int:
    """Samples that a step looks at."""
    return max(LEAST_BATCH, POSITIONS // layers[-1].positions)


def _work(layers: Sequence[Layer]) -> float:
    """Work of one round: each layer has a step, and that looks at all of them."""
    return len(layers) * _batch(layers) * sum(layer.work for layer in layers)


def _with(integers: Sequence[IntArray], place: int, tried: IntArray) -> Sequence[IntArray]:
    return [*integers[:place], tried, *integers[place + 1 :]]
