"""Sensitivity of each op: the float model runs with one op quantized after the other.

An op is quantized by what its integers would lose: its weight is rounded, or its result, all in a
float model on the delegate. Nothing is converted. Everything runs on one sample, and what is loud
there on others as well.
"""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.changes import Change, Changes
from edgeq.export.noise.tails import Tail, Values, places
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.pieces import Pieces
from edgeq.export.round.rounded import Rounded
from edgeq.export.search.costs import WITHOUT_DOT_PRODUCT, float_ns
from edgeq.fidelity.index_outputs import holds_indices
from edgeq.fidelity.parts import Kind, kinds_of
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray
from edgeq.runtime.session import Session, available_cpus

BUDGET_S = 40.0
"""About how long the measuring may take; of a slow model only the loudest ops are told apart."""

MOST_SAMPLES = 4
"""Samples that what is loud runs on."""

LOUD_SHARE, LOUD = 0.25, 0.003
"""Loud is what makes so much of the noise of a change at the mean, or so much noise (25 dB)."""

LOUD_RUNS = 1.0
"""Runs on other samples than the first, over those on the first: what is loud is about a third."""

BUILD_OP_NS, BUILD_BYTE_NS = 300_000.0, 2.0
"""Seconds that writing and loading a changed model take for each op and byte of the file."""

THREADS = 2
"""Measurements side by side that the budget counts on."""

HELD_BYTES = 64 << 20
"""Bytes of differences that are held at a time, where tensors are not larger themselves."""

RUINED = 1e6
"""Relative noise of outputs that are no numbers any more."""

Block = Sequence[Change]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Noise:
    """Noise power over signal power at the outputs, summed over the outputs.

    Attributes:
        weights: Of each op whose weight is rounded to integers.
        tensors: Of each computed tensor that is rounded to integers.

    What is decided together has equal shares of what all of it does.
    """

    weights: Mapping[int, float]
    tensors: Mapping[int, float]


def measure_noise(
    model: LiteModel,
    plan: Plan,
    rounded: Rounded,
    samples: Sequence[Sample],
    advance: Callable[[], None],
    budget_s: float = BUDGET_S,
) -> Noise:
    """Measures what rounding each weight and each tensor of a plan does to the outputs.

    Args:
        model: The float model.
        plan: All that could be rounded, with its parameters.
        rounded: Its weights as integers have them.
        samples: Inputs, of which a few are used.
        advance: Called after each measurement.
        budget_s: About how many seconds to take.
    """
    changes = Changes(model, plan, rounded)
    wanted = list(changes)
    if not wanted or not model.graph.operators:
        return Noise({}, {})
    judge = Judge(model, samples[:MOST_SAMPLES])
    meter = Meter(changes, judge, advance)
    size, told_apart = _affordable(meter, wanted, budget_s)
    found = meter.measured([wanted[i : i + size] for i in range(0, len(wanted), size)], [0])
    if size > 1:
        loudest = set(sorted(wanted, key=lambda change: -found[change])[:told_apart])
        found.update(meter.measured([[c] for c in wanted if c in loudest], [0]))
    elif len(judge.samples) > 1:
        bound = min(LOUD, LOUD_SHARE * float(np.mean(list(found.values()))))
        loud = [[c] for c in wanted if found[c] >= max(bound, np.finfo(float).tiny)]
        found.update(meter.measured(loud, range(1, len(judge.samples))))
    return Noise(
        {op: found[c] / len(c.weights) for c in wanted for op in c.weights},
        {tensor: found[c] / len(c.tensors) for c in wanted for tensor in c.tensors},
    )


def _affordable(meter: Meter, wanted: Block, budget_s: float) -> tuple[int, int]:
    """Changes that are made at once, and how many of the loudest are told apart after that.

    The time of a measurement is estimated, not taken: the same model gives the same file.
    """
    count = len(wanted)
    runs = budget_s * 1e9 * THREADS / meter.estimate_ns(wanted)
    if runs >= (1 + LOUD_RUNS) * count:
        return 1, count
    return math.ceil(2 * count / max(runs, 2.0)), int(runs / 2)


class Judge:
    """The float model's outputs of some samples, and how far others are from them.

    Args:
        model: The float model.
        samples: The samples.
    """

    def __init__(self, model: LiteModel, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._outputs = model.graph.outputs
        with Session(model.tflite, threads=1, trusted=True) as session:
            self._wanted = [_outputs(session, sample) for sample in samples]
        kinds = [kinds_of(list(answers)) for answers in zip(*self._wanted, strict=True)]
        indices = [holds_indices(model.graph, tensor.index) for _, tensor in model.output_tensors()]
        self._kinds = [None if i else kind for kind, i in zip(kinds, indices, strict=True)]
        signals = [powers(wanted, self._nothing(wanted), self._kinds) for wanted in self._wanted]
        self._signal = np.mean(signals, axis=0)

    def _nothing(self, outputs: Sequence[Array]) -> list[Array]:
        """Outputs that have nothing of the signal of these."""
        both = zip(outputs, self._kinds, strict=True)
        return [a + 1 if kinds is None else np.zeros_like(a) for a, kinds in both]

    def noise(self, sample: int, changed: Mapping[int, Array]) -> float:
        """Noise over signal, summed over the outputs and the parts that they fall into.

        Args:
            sample: Which of the samples was run.
            changed: Outputs that may be others than the float model's, by tensor.
        """
        return float(self.parts(sample, changed).sum())

    def parts(self, sample: int, changed: Mapping[int, Array]) -> FloatArray:
        """Noise over signal of each part of each output that is not 0 throughout.

        Outputs whose size changes with the values have no noise that can be told.

        Args:
            sample: Which of the samples was run.
            changed: Outputs that may be others than the float model's, by tensor.
        """
        heard = self._signal > 0
        ruined = np.full(heard.sum(), RUINED / max(1, heard.sum()))
        wanted = self._wanted[sample]
        given = [
            _cleaned(changed[tensor]) if tensor in changed else output
            for tensor, output in zip(self._outputs, wanted, strict=True)
        ]
        if any(a.shape != b.shape for a, b in zip(wanted, given, strict=True)):
            return ruined
        noise = powers(wanted, given, self._kinds)
        found: FloatArray = noise[heard] / self._signal[heard]
        return found if np.isfinite(found.sum()) else ruined


def powers(
    wanted: Sequence[Array], given: Sequence[Array], kinds: Sequence[Sequence[Kind] | None]
) -> FloatArray:
    """Noise power of the parts of all outputs.

    Args:
        wanted: The float model's outputs.
        given: Others.
        kinds: What `kinds_of` says of each output; None of indices, of which those that differ
            are the noise, and all of them the signal.
    """
    found: list[float] = []
    for a, b, parts in zip(wanted, given, kinds, strict=True):
        if parts is None:
            found.append(float(np.mean(a != b)))
        else:
            with np.errstate(all="ignore"):
                found += [part.power(a - b) for part in parts]
    return np.asarray(found)


def _outputs(session: Session, sample: Sample) -> list[Array]:
    session.invoke(sample)
    return [_cleaned(output) for output in session.outputs()]


def _cleaned(output: Array) -> Array:
    """An output with 0 in place of infinities, which masks put there."""
    found = np.array(output, np.float64)
    return np.where(np.isinf(found), 0.0, found)


class Meter:
    """Runs a float model with changes, part after part of it.

    Args:
        changes: All that can be changed.
        judge: Says what is noise.
        advance: Called after each measurement.
    """

    def __init__(self, changes: Changes, judge: Judge, advance: Callable[[], None]) -> None:
        self._changes = changes
        self._judge = judge
        self._advance = advance
        model = changes.model
        self._run_ns = float_ns(model.graph)
        self._build_ns = len(model.graph.operators) * BUILD_OP_NS
        self._build_ns += len(model.tflite) * BUILD_BYTE_NS
        self._places = [i for i, is_open in enumerate(places(model.graph)) if is_open]
        self._noise: dict[Change, dict[int, float]] = {}
        self._is_stopped = False

    def estimate_ns(self, wanted: Block) -> float:
        """Nanoseconds of a sample with one of so many changes, its share of all files included."""
        parts = self._count(wanted, len(wanted))
        near = (self._run_ns / 2 + self._sums_ns(wanted)) / parts
        return self._run_ns / 2 + near + parts * self._build_ns / (2 * len(wanted))

    def measured(self, blocks: Sequence[Block], samples: Sequence[int]) -> dict[Change, float]:
        """Noise of each change, its share of its block's, on all samples that it has run on so far.

        Args:
            blocks: Changes that are made together.
            samples: Which samples to run.
        """
        model, cpus = self._changes.model, available_cpus()
        chosen = [self._judge.samples[i] for i in samples]
        pieces = Pieces(model, {}, chosen, len(model.graph.operators), None)
        running: collections.deque[Future[None]] = collections.deque()
        with ThreadPoolExecutor(cpus, thread_name_prefix="edgeq-noise") as pool:
            try:
                for start, part in self._parts(blocks, len(chosen)):
                    pieces.run_to(start, Rounded())
                    values = [dict(held) for held in pieces.values]
                    running.append(pool.submit(self._measure, start, part, values, samples))
                    if len(running) > cpus:
                        running.popleft().result()
                while running:
                    running.popleft().result()
            except BaseException:  # who interrupts it does not wait for what the threads have left
                self._is_stopped = True
                raise
        found = (change for block in blocks for change in block)
        return {change: float(np.mean([*self._noise[change].values()])) for change in found}

    def _measure(
        self, start: int, blocks: Sequence[Block], values: Sequence[Values], samples: Sequence[int]
    ) -> None:
        for block in blocks:
            for change in block:
                self._noise.setdefault(change, {}).update(dict.fromkeys(samples, 0.0))
        for seen in Tail(self._changes, start, blocks).run(values):
            sample, block = samples[seen.sample], blocks[seen.block]
            noise = self._judge.noise(sample, seen.outputs) / len(block)
            for change in block:
                self._noise[change][sample] = noise
            self._advance()
            if self._is_stopped:
                return

    def _parts(self, blocks: Sequence[Block], samples: int) -> list[tuple[int, list[Block]]]:
        """Places among the ops, and the blocks of changes that are made behind each of them."""
        changes = [change for block in blocks for change in block]
        most = math.ceil(len(blocks) / self._count(changes, len(blocks) * samples))
        found: list[tuple[int, list[Block]]] = []
        held = 0
        for first, block in sorted(((self._first(b), b) for b in blocks), key=lambda p: p[0]):
            place = self._places[bisect.bisect_right(self._places, first) - 1]
            is_full = not found or len(found[-1][1]) >= most or held > HELD_BYTES
            if is_full and not (found and place <= found[-1][0]):
                found.append((place, []))
                held = 0
            found[-1][1].append(block)
            held += 4 * samples * self._elements(block)
        return found

    def _first(self, block: Block) -> int:
        """Index of the first op that a block changes the result of."""
        return max(0, min(self._changes.makers(Change.joined(block))))

    def _count(self, changes: Block, runs: int) -> int:
        """Parts with which so many runs take the least time, their files included."""
        near = self._run_ns / 2 + self._sums_ns(changes)
        best = round(math.sqrt(2 * runs * near / self._build_ns))
        return max(min(best, len(changes)), 1)

    def _sums_ns(self, changes: Block) -> float:
        rate = WITHOUT_DOT_PRODUCT.float32["elementwise"].element_ns
        return 3 * rate * self._elements(changes)

    def _elements(self, changes: Block) -> int:
        """Of all tensors that some changes make others of."""
        graph = self._changes.graph
        written = {t for change in changes for t in self._changes.written(change)}
        return sum(math.prod(max(1, n) for n in graph.tensors[t].shape) for t in written)
