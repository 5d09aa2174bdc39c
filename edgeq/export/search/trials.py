"""`Trials`: plans are built and judged on the real interpreter; what was tried is known after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from edgeq.data.rep_dataset import Sample
from edgeq.errors import VerificationError
from edgeq.export.build import Builder, Built
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.search.candidates import Candidate, Kernels, kernels_of
from edgeq.export.search.ladder import Ladder
from edgeq.fidelity.paired_run import Array, PairedRun, Runner
from edgeq.model import LiteModel
from edgeq.runtime.benchmark import interleaved_latency
from edgeq.terminal.progress import Tell, unheard

_Key: TypeAlias = frozenset[tuple[int, Choice]]

MEASURE_S = 4.0
"""How long a plan and the float model run in turn, where time is measured."""

MOST_RUNS = 400
"""Most timed runs of each."""

NOT_FINISHED = (
    "channels are as they are and weights rounded once: scaling channels and rounding a second "
    "time made outputs worse on the samples that plans are judged by"
)

HELD_BYTES = 256 << 20
"""The float model's outputs are kept up to so many bytes; larger ones are computed each time."""

MOST_FINALS = 4
"""Most plans that are measured once more, side by side."""


@dataclass(frozen=True)
class Trials:
    """Means to try plans with.

    Attributes:
        original: The user's float model, which a plan is held against.
        ladder: Builds the files, and leaves float what there is no sound file with.
        samples: Inputs to judge by; not those that the result is judged by.
        measure: Whether time is measured here instead of estimated.
        advance: Called now and then, for the progress bar.
        tell: Called with what the best plan so far is, likewise.
        wanted: The float model's outputs of the samples; filled here.
        times: Measured time over the float model's of what runs the same kernels; filled here.
        ladders: Those that finish some choices; filled here.
        results: What finishing some choices came to, as they were where it made them worse;
            filled here.
    """

    original: LiteModel
    ladder: Ladder
    samples: Sequence[Sample]
    measure: bool
    advance: Callable[[], None]
    tell: Tell = unheard
    wanted: list[list[Array]] = field(default_factory=list)
    times: dict[Kernels, float] = field(default_factory=dict)
    ladders: dict[_Key, Ladder] = field(default_factory=dict)
    results: dict[_Key, Candidate] = field(default_factory=dict)

    @property
    def builder(self) -> Builder:
        """Builds the files."""
        return self.ladder.builder

    def tried(self, offer: Candidate) -> Candidate:
        """An offer with its real SQNR, and its real time if that is measured.

        What there is no sound file with is float in it.
        """
        rung = self._ladder(offer).built(offer.choices, self.advance)
        offer = self._stepped(offer, rung.choices)
        pair = PairedRun((self.original, LiteModel(rung.built.tflite, "edgeq")))
        try:
            sqnr_db = self._least_db(pair)
        except VerificationError:
            return offer.refused
        kernels = kernels_of(offer.choices)
        if self.measure and kernels not in self.times:
            with contextlib.closing(pair.load()) as runner:
                (self.times[kernels],) = self._measured_times(runner, pair)
        return replace(offer, time=self.times.get(kernels, offer.time), sqnr_db=sqnr_db)

    def _least_db(self, pair: PairedRun) -> float:
        """SQNR in dB of the worst part of the second model's outputs.

        Raises:
            VerificationError: An output is not finite.
        """
        with contextlib.closing(pair.load((1,) if self.wanted else None)) as runner:
            return pair.total(map(pair.seen, self._answers(runner), self.samples)).least_db

    def _answers(self, runner: Runner) -> Iterator[list[list[Array]]]:
        """Both models' outputs of each sample; those of the first are known after the first run."""
        if self.wanted:
            for wanted, sample in zip(self.wanted, self.samples, strict=True):
                yield [wanted, *runner.run(sample)]
            return
        held: list[list[Array]] = []
        for sample in self.samples:
            wanted, made = runner.run(sample)
            if len(self.samples) * sum(array.nbytes for array in wanted) <= HELD_BYTES:
                held.append(wanted)
            yield [wanted, made]
        if len(held) == len(self.samples):
            self.wanted.extend(held)

    def finished(self, offer: Candidate, scales: bool) -> Candidate:
        """A tried offer with all that takes more time, where that is better; else as it is.

        Args:
            offer: The offer.
            scales: Whether channels may be scaled for it.
        """
        key = _key(offer.choices)
        if key in self.results:
            return self.results[key] if self.results[key].is_finished else offer
        ladder = None if offer.is_finished else self.ladder.finished(offer.choices, scales)
        if ladder is None:
            return offer
        self.ladders[key] = ladder
        other = self.tried(replace(offer, is_finished=True))
        self.results[key] = other if other.sqnr_db > offer.sqnr_db else offer
        return self.results[key]

    def built(self, offer: Candidate) -> Built:
        """The file of a tried offer."""
        built = self._ladder(offer).builder.build(offer.choices)
        known = self.results.get(_key(offer.choices))
        if known is None or known.is_finished:
            return built
        return replace(built, notes=(*built.notes, NOT_FINISHED))

    def _ladder(self, offer: Candidate) -> Ladder:
        return self.ladders[_key(offer.choices)] if offer.is_finished else self.ladder

    def _stepped(self, offer: Candidate, choices: Choices) -> Candidate:
        """The offer as it was built; a finished one stays so for what became of its choices."""
        if offer.is_finished:
            self.ladders[_key(choices)] = self._ladder(offer)
        return replace(offer, choices=choices)

    def side_by_side(
        self, tried: Sequence[Candidate], finals: Sequence[Candidate]
    ) -> list[Candidate]:
        """Tried plans, those that may be chosen with times that were measured in one run."""
        by_kernels = {kernels_of(c.choices): c for c in finals}
        if not self.measure or len(by_kernels) < 2:
            return list(tried)
        files = {
            kernels: self.built(candidate).tflite
            for kernels, candidate in list(by_kernels.items())[:MOST_FINALS]
        }
        run = PairedRun((self.original, *(LiteModel(f, "edgeq") for f in files.values())))
        with contextlib.closing(run.load()) as runner:
            self.times.update(zip(files, self._measured_times(runner, run), strict=True))
        return [replace(c, time=self.times.get(kernels_of(c.choices), c.time)) for c in tried]

    def _measured_times(self, runner: Runner, run: PairedRun) -> list[float]:
        """Latency of each model of a run over that of the first one."""
        first = self.samples[0]
        both = zip(runner.sessions, run.links, strict=True)
        runs = {str(i): (session, link.stored(first)) for i, (session, link) in enumerate(both)}
        budget_s = MEASURE_S / 2 * len(runs)
        base, *others = interleaved_latency(runs, budget_s, MOST_RUNS).values()
        return [other.min_ms / base.min_ms for other in others]


def _key(choices: Choices) -> _Key:
    return frozenset(choices.items())
