"""`PairedRun`: runs samples through a model, or two side by side, and collects what they show.

Models are seen in real numbers: integers that a file stores with a scale are converted on the way.
Knows nothing of where models and samples come from.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.input_spec import InputSpec, input_specs
from edgeq.data.rep_dataset import Sample
from edgeq.data.steps import Step
from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.fidelity import metrics
from edgeq.fidelity.index_outputs import holds_indices
from edgeq.fidelity.parts import (
    AxisRows,
    Kind,
    Part,
    kinds_db,
    kinds_in,
    least_db,
    merged_rows,
    parts_of,
    rows_of,
)
from edgeq.fidelity.sqnr import Drift, Fidelity, SampleSpread, WorstSample
from edgeq.flatbuffer import Tensor
from edgeq.model import LiteModel
from edgeq.qtypes import QParams, dequantize, quantize
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]
Ports = tuple[tuple[str, Tensor], ...]

TOGETHER_BYTES = 256 << 20
"""Larger ones are loaded one after the other: an interpreter takes several times a file's size."""

WORST_SAMPLES = 10
"""So many of the samples that are farthest apart are remembered."""


@dataclass(frozen=True)
class Link:
    """How a model takes another's samples, and gives its outputs as the other does.

    Attributes:
        inputs: For each input, its place in the sample and how the file stores it, if not as it is.
        outputs: For each of the other's outputs, the same of this model's.
    """

    inputs: tuple[tuple[int, QParams | None], ...]
    outputs: tuple[tuple[int, QParams | None], ...]

    @classmethod
    def between(cls, reference: LiteModel, model: LiteModel) -> Link:
        """Matches inputs and outputs by name, or by position where the names are others.

        Raises:
            ModelError: The two do not take and give the same.
        """
        taken, wanted = model.input_tensors(), reference.input_tensors()
        given, asked = model.output_tensors(), reference.output_tensors()
        inputs = _matched("input", taken, wanted)
        for (name, tensor), place in zip(taken, inputs, strict=True):
            if _real_dtype(tensor) != _real_dtype(wanted[place][1]):
                raise ModelError(
                    f"the two models do not go together: input {name!r} is "
                    f"{_real_dtype(wanted[place][1])} in the first and {tensor.dtype} in the second"
                )
        stored = [tensor.qparams for _, tensor in taken]
        outputs = _matched("output", asked, given)
        return cls(
            tuple(zip(inputs, stored, strict=True)),
            tuple((place, given[place][1].qparams) for place in outputs),
        )

    def stored(self, sample: Sequence[Array]) -> list[Array]:
        """A sample as this model takes it."""
        return [
            sample[place] if qparams is None else quantize(sample[place], qparams)
            for place, qparams in self.inputs
        ]

    def real(self, outputs: Sequence[Array]) -> list[Array]:
        """This model's outputs as the other gives them."""
        return [
            outputs[place] if qparams is None else dequantize(outputs[place], qparams)
            for place, qparams in self.outputs
        ]


def _real_dtype(tensor: Tensor) -> str:
    """The dtype of a tensor in real numbers: float32 where its integers have a scale."""
    return tensor.dtype if tensor.qparams is None else "float32"


def _matched(what: str, ports: Ports, others: Ports) -> list[int]:
    """For each port, the place of its counterpart among the others."""
    names, candidates = [name for name, _ in ports], [name for name, _ in others]
    if len(names) != len(candidates):
        raise ModelError(
            f"the two models do not go together: one has {len(names)} {what}s "
            f"({', '.join(names)}), the other {len(candidates)} ({', '.join(candidates)})"
        )
    by_name = sorted(names) == sorted(candidates) and len(set(names)) == len(names)
    places = [candidates.index(n) for n in names] if by_name else list(range(len(names)))
    for (name, tensor), place in zip(ports, places, strict=True):
        other = others[place][1]
        if -1 not in (*tensor.shape, *other.shape) and tensor.shape != other.shape:
            raise ModelError(
                f"the two models do not go together: {what} {name!r} has the shape {tensor.shape} "
                f"in one and {other.shape} in the other"
            )
    return places


@dataclass
class Tally:
    """Results of some samples.

    Attributes:
        samples: How many they are.
        outputs: How far the second model's outputs are from the first's; empty for one model.
        powers: Signal and noise of each sample, by output.
        rows: The same by rows of each output, which are judged in parts.
        kept: What each metric needs of each model's answers, in the order of the samples.
        targets: The samples' labels, if a metric needs them at the end.
        worst: The samples that are farthest apart, the worst first.
        steps: Place of each sample in its sequence; empty where they are of none.
    """

    samples: int = 0
    outputs: list[Fidelity] = field(default_factory=list)
    powers: list[list[tuple[float, float]]] = field(default_factory=list)
    rows: list[tuple[AxisRows, ...]] = field(default_factory=list)
    kept: list[dict[str, list[Array]]] = field(default_factory=list)
    targets: list[Array] = field(default_factory=list)
    worst: list[WorstSample] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes in what the samples behind these have shown."""
        if not self.samples:
            vars(self).update(vars(other))
            return
        behind = [replace(w, index=w.index + self.samples) for w in other.worst]
        ranked = sorted((*self.worst, *behind), key=lambda w: (w.sqnr_db, w.index))
        self.worst = ranked[:WORST_SAMPLES]
        self.samples += other.samples
        self.outputs = [a.merge(b) for a, b in zip(self.outputs, other.outputs, strict=True)]
        for own, more in zip(self.powers, other.powers, strict=True):
            own += more
        self.rows = [merged_rows(a, b) for a, b in zip(self.rows, other.rows, strict=True)]
        for mine, others in zip(self.kept, other.kept, strict=True):
            for name, rows in others.items():
                mine[name] += rows
        self.targets += other.targets
        self.steps += other.steps

    @property
    def parts(self) -> list[tuple[Part, ...]]:
        """The parts that each output falls into."""
        return [tuple(parts_of(rows)) for rows in self.rows]

    @property
    def kinds(self) -> list[list[Kind]]:
        """The kinds of values that each output holds."""
        return [kinds_in(rows) for rows in self.rows]

    def kinds_db(self, kinds: Sequence[Sequence[Kind]]) -> list[float]:
        """SQNR in dB of each output and of the kinds of its values, those that are named."""
        found = zip(self.outputs, self.rows, kinds, strict=True)
        return [db for o, rows, own in found for db in (o.sqnr_db, *kinds_db(rows, own))]

    @property
    def spreads(self) -> list[SampleSpread]:
        """How each output differs from sample to sample."""
        return [SampleSpread.of(powers) for powers in self.powers]

    @property
    def drifts(self) -> list[Drift | None]:
        """How each output's SQNR goes along sequences; None where there are none."""
        return [Drift.of(powers, self.steps) for powers in self.powers]

    @property
    def least_db(self) -> float:
        """SQNR in dB of the worst part of the worst output."""
        both = zip(self.outputs, self.parts, strict=True)
        return min(least_db(output.sqnr_db, parts) for output, parts in both)


class Runner:
    """The models of a paired run, loaded: a session of one thread for each.

    Attributes:
        sessions: The sessions, in the order of the models.
    """

    def __init__(self, models: Sequence[LiteModel], links: Sequence[Link]) -> None:
        self.sessions = [Session(model.tflite, threads=1, trusted=True) for model in models]
        self._links = links
        self._given: list[list[Array]] = [[] for _ in models]

    def close(self) -> None:
        """Lets go of the interpreters."""
        for session in self.sessions:
            session.close()

    def run(self, sample: Sequence[Array]) -> list[list[Array]]:
        """Every model's outputs of a sample, in real numbers and in the first model's order.

        In the steps of a sequence, which come in order, each model takes its own states.
        """
        before, self._given = self._given, []
        for session, link, given in zip(self.sessions, self._links, before, strict=True):
            own = sample.behind(given) if isinstance(sample, Step) else sample
            session.invoke(link.stored(own))
            self._given.append(link.real(session.outputs()))
        return self._given


def without_shared_infinity(outputs: Sequence[Array]) -> list[Array]:
    """An output of two models, with 0 where both give the same infinity, as masked scores are."""
    if len(outputs) < 2:
        return list(outputs)
    shared = np.isinf(outputs[0]) & (outputs[0] == outputs[1])
    return [np.where(shared, 0, output) if shared.any() else output for output in outputs]


class _FaultError(Exception):
    """Carries an error to where the number of its sample is known."""

    def __init__(self, error: EdgeqError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class PairedRun:
    """Runs samples through one model or two; it can be sent to other processes.

    Attributes:
        models: One model; or a float model and the one that is compared with it.
        kept: For each metric by name, a built-in one's name, or None to keep outputs for a user's.
        output: Which output metrics look at, by its place.
        threads: Samples that run side by side; None takes what this process may use.
    """

    models: tuple[LiteModel, ...]
    kept: Mapping[str, str | None] = field(default_factory=dict)
    output: int = 0
    threads: int | None = None

    @functools.cached_property
    def links(self) -> tuple[Link, ...]:
        """How each model takes and gives what the first does."""
        return tuple(Link.between(self.models[0], model) for model in self.models)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Inputs of the models, in real numbers."""
        tensors = [tensor for _, tensor in self.models[0].input_tensors()]
        specs = zip(input_specs(self.models[0]), tensors, strict=True)
        return tuple(replace(spec, dtype=_real_dtype(tensor)) for spec, tensor in specs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, as the first model has them."""
        return tuple(name for name, _ in self.models[0].output_tensors())

    @functools.cached_property
    def are_indices(self) -> tuple[bool, ...]:
        """Whether each output of the first model holds indices."""
        outputs = self.models[0].output_tensors()
        return tuple(holds_indices(self.models[0].graph, tensor.index) for _, tensor in outputs)

    def load(self, places: Sequence[int] | None = None) -> Runner:
        """The models, or those of them at some places, ready to run."""
        chosen = range(len(self.models)) if places is None else places
        return Runner([self.models[i] for i in chosen], [self.links[i] for i in chosen])

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Places of the models that are small enough to be loaded at the same time."""
        places = tuple(range(len(self.models)))
        if sum(len(model.tflite) for model in self.models) < TOGETHER_BYTES:
            return (places,)
        return tuple((place,) for place in places)

    def __call__(self, samples: Iterable[Sample]) -> Tally:
        """Runs samples, several at once, and adds up their results; steps one after the other.

        Args:
            samples: What to run; each has its labels behind the inputs if there are metrics.

        Raises:
            DataError: The first model's output is not finite, or labels do not fit the output.
            VerificationError: The second model's output is not finite.
        """
        stream = iter(samples)
        first = list(itertools.islice(stream, 1))
        if any(isinstance(sample, Step) for sample in first):
            with contextlib.closing(self.load()) as runner:
                return self.total(self.one(runner, s) for s in itertools.chain(first, stream))
        with Crew(self.load, self.threads) as crew:
            return self.total(crew.map(itertools.chain(first, stream), self.one))

    def total(self, ones: Iterable[Tally]) -> Tally:
        """Adds up the results of samples, in order; errors name the sample."""
        whole = Tally()
        try:
            for one in ones:
                whole.add(one)
        except _FaultError as fault:
            raise type(fault.error)(f"sample {whole.samples}: {fault}") from None
        return whole

    def one(self, runner: Runner, sample: Sequence[Array]) -> Tally:
        """Runs one sample; called on several threads at once."""
        return self.seen(runner.run(sample), sample)

    def seen(self, answers: Sequence[Sequence[Array]], sample: Sequence[Array]) -> Tally:
        """Compares the models' outputs of one sample."""
        inputs = len(self.links[0].inputs)
        targets = sample[inputs] if len(sample) > inputs else None
        try:
            self._check_shapes(answers)
            kept = [self._kept(outputs, targets) for outputs in answers]
            answers = list(
                zip(*map(without_shared_infinity, zip(*answers, strict=True)), strict=True)
            )
            self._check_finite(answers)
        except EdgeqError as error:
            raise _FaultError(error) from None
        wanted = [targets] if None in self.kept.values() and targets is not None else []
        if len(answers) == 1:
            return Tally(1, kept=kept, targets=wanted)
        pairs = list(zip(answers[0], answers[1], self.are_indices, strict=True))
        seen = [Fidelity.of_indices(a, b) if i else Fidelity.of(a, b) for a, b, i in pairs]
        rows = [() if i else rows_of(a, b) for a, b, i in pairs]
        changed = any(output.top1.same < output.top1.count for output in seen)
        worst = WorstSample(0, min(output.sqnr_db for output in seen), changed)
        powers = [[(output.signal.value, output.noise.value)] for output in seen]
        steps = [sample.place] if isinstance(sample, Step) else []
        return Tally(1, seen, powers, rows, kept, wanted, [worst], steps)

    def _kept(self, outputs: Sequence[Array], targets: Array | None) -> dict[str, list[Array]]:
        if not self.kept:
            return {}
        rows = outputs[self.output]
        if targets is None:
            return {name: [rows] for name in self.kept}
        if rows.shape[:1] != targets.shape[:1] and len(targets) == 1:
            rows = rows[None]
        if rows.shape[:1] != targets.shape[:1]:
            raise DataError(
                f"metrics need a row of the output for each of the {len(targets)} labels of a "
                f"batch. Received: an output of shape {rows.shape}"
            )
        return {n: [metrics.kept(metric, rows, targets)] for n, metric in self.kept.items()}

    def _check_shapes(self, answers: Sequence[Sequence[Array]]) -> None:
        for name, one, other in zip(self.output_names, answers[0], answers[-1], strict=True):
            if one.shape != other.shape:
                raise VerificationError(
                    f"output {name!r} has the shape {other.shape}, and {one.shape} in the float "
                    "model: its size depends on the values"
                )

    def _check_finite(self, answers: Sequence[Sequence[Array]]) -> None:
        who = "the float model itself" if len(answers) > 1 else "the model"
        for name, output in zip(self.output_names, answers[0], strict=True):
            if not np.isfinite(output).all():
                raise DataError(
                    f"output {name!r} of {who} is not finite; drop the sample or fix the model"
                )
        for name, output in zip(self.output_names, answers[-1], strict=True):
            if not np.isfinite(output).all():
                raise VerificationError(f"output {name!r} of the exported model is not finite")
