"""The calibration stage: ranges of tensors, measured on the data, given, or known beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from edgeq.calibrate import distributed
from edgeq.calibrate.advice import MOST_SAMPLES, advise, spread_out
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator, Checkpoint
from edgeq.calibrate.state_growth import StateGrowth
from edgeq.converter import check_runs
from edgeq.data import cluster
from edgeq.data.held_out import HeldOut, HeldOutSequences, spread
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.data.rows import Rows
from edgeq.data.steps import completed
from edgeq.errors import RecipeError
from edgeq.export.export_options import ExportOptions
from edgeq.export.plan.choices import Choices, observers
from edgeq.export.prepare import Prepared, check_made_for
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import Mode
from edgeq.terminal.progress import Advance, nothing

LEARNED = 256
"""Samples to round weights by where layers in a row are fitted to them together."""


@dataclass(frozen=True)
class Ranges:
    """Ranges of a model as the data have shown them.

    Attributes:
        calibration: The ranges that a plan rests on.
        samples: The data, with some samples held out.
        independent: Whether those were kept out of calibration.
        advice: What looks suspicious of model and data, one sentence each.
    """

    calibration: Calibration
    samples: HeldOut
    independent: bool
    advice: tuple[str, ...]

    def with_advice(self, more: tuple[str, ...]) -> Ranges:
        """The same with more advice behind it."""
        return replace(self, advice=(*self.advice, *more))

    def moved(self, before: LiteModel, after: LiteModel) -> Ranges:
        """The same of a model whose constants differ in the last bits from those before."""
        if after is before:
            return self
        self.calibration.check_model(before)
        return replace(self, calibration=replace(self.calibration, model=after.digest))


def ranges_for(
    choices: Choices,
    prepared: Prepared,
    data: RepDataset,
    options: ExportOptions,
    converter: Worker,
    advance: Advance,
) -> Ranges:
    """The ranges that a plan needs: measured, unless they are given or nothing is static.

    Args:
        choices: What becomes of each op.
        prepared: The model.
        data: The representative data, which is read to its end.
        options: What was asked for.
        converter: The converter's child process, in which the model runs for the first time.
        advance: Called after each item of the data.

    Raises:
        DataError: The data does not fit, or gives values that are not finite.
        ModelError: The calibration that was given is of another model.
    """
    growth = StateGrowth()
    samples = growth.watched(_samples(prepared, data, advance))
    learns = any(choice.weights.rounding == "reconstruct" for choice in choices.values())
    held = HeldOut(samples, passed=LEARNED if learns else HeldOut.PASSED)
    if prepared.float_model.states:
        held = HeldOutSequences(samples, data.of(prepared.float_model).part_steps)
    given = options.calibration
    if given is not None:
        given = replace(given, observers={**given.observers, **prepared.known})
        check_made_for(given, prepared, options)
    if not any(c.mode.is_static or c.mode is Mode.AUTO for c in choices.values()):
        given = Calibration(prepared.rewritten.digest, 0, {})
    if given is None:
        found = _measured(prepared, options, held, converter)
    else:
        found = given
        held.exhaust()
    few = spread(held.samples, MOST_SAMPLES)
    advice = advise(prepared.rewritten, found, few) if found.samples else ()
    grows = growth.advice([name for name, _ in prepared.float_model.input_tensors()])
    independent = held.independent and options.calibration is None
    return Ranges(found, held, independent, (*advice, *([grows] if grows else [])))


def measured_ranges(
    prepared: Prepared,
    data: RepDataset,
    source: object,
    options: ExportOptions,
    converter: Worker,
    advance: Advance,
    start: Calibration | None,
    checkpoint: Checkpoint | None,
) -> tuple[Calibration, list[Sample]]:
    """The ranges of all tensors over all of the data, and a few samples from all over it.

    Args:
        prepared: The model.
        data: The representative data.
        source: What `data` reads, as `data_source` gives it.
        options: What was asked for.
        converter: The converter's child process, in which the model runs for the first time.
        advance: Called after each item of the data.
        start: What earlier samples have shown, which are skipped.
        checkpoint: Called after each sample with a function that gives what was seen so far.
    """
    kept: list[Sample] = []
    if not isinstance(source, Rows):
        samples = _samples(prepared, data, advance)
        rest = itertools.islice(samples, start.samples if start else 0, None)
        stream = spread_out(rest, kept)
        return _measured(prepared, options, stream, converter, start, checkpoint), kept
    kept = list(itertools.islice(_samples(prepared, data), MOST_SAMPLES))
    _measured(prepared, options, kept[:1], converter)
    watching = _watching(prepared, options)
    rewritten, threads = prepared.rewritten, options.threads
    return distributed.calibrate(rewritten, source, watching, threads, advance), kept


def _samples(prepared: Prepared, data: RepDataset, advance: Advance = nothing) -> Iterator[Sample]:
    """The samples, those of sequences with the float model's states."""
    model = prepared.float_model
    return completed(data.of(model).samples(input_specs(model), advance), model)


def data_source(
    rep_dataset: object, engine: str, start: Calibration | None, checkpoint: Checkpoint | None
) -> object:
    """The data in the form that the engine reads; fails before any work is done.

    Raises:
        RecipeError: The engine cannot do what is asked.
    """
    if engine == "ray" and not (start is None and checkpoint is None):
        raise RecipeError(
            "engine='ray' takes neither start nor checkpoint: calibrate the samples that are left "
            "and call start.merge(...) with the result"
        )
    return cluster.source(rep_dataset, engine)


def _watching(prepared: Prepared, options: ExportOptions) -> dict[int, Any]:
    """The observer of each tensor."""
    return {**observers(prepared.rewritten, options.recipe), **prepared.known}


def _measured(
    prepared: Prepared,
    options: ExportOptions,
    samples: Iterable[Sample],
    converter: Worker,
    start: Calibration | None = None,
    checkpoint: Checkpoint | None = None,
) -> Calibration:
    """Calibrates, once the first sample has run in the child: a model may kill its process."""
    calibrator = Calibrator(prepared.rewritten, options.threads, _watching(prepared, options))
    stream = iter(samples)
    first = list(itertools.islice(stream, 1))
    for sample in first:
        for tflite in (prepared.float_model.tflite, calibrator.instrumented.tflite):
            check_runs(converter, tflite, sample, "the float model")
    return calibrator.run(itertools.chain(first, stream), start, checkpoint)
