"""Runs the files of all contestants beside the float model: time, fidelity, outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.console import Console

from benchmarks.workshop import Refused, Sample, Workshop
from edgeq.fidelity.sqnr import Fidelity
from edgeq.runtime.benchmark import interleaved_latency
from edgeq.runtime.session import Session

FLOAT = "float"
NOISE = 1.03
"""How much two times of the same file may differ here."""

MOST_RUNS = 400

Row = Mapping[str, Any]
"""Plain values of one contestant; one that made nothing has `"refused"`, the reason."""


@dataclass(frozen=True)
class Judgement:
    """What was measured of one file.

    Attributes:
        latency_ms: Fastest inference, one thread.
        latency_ratio: That over the float model's.
        size_ratio: File size over the float model's.
        sqnr_db: Of the worst output against the float model; infinite for itself.
        partitions: Pieces that the delegate runs.
        outside: Ops outside the delegate.
        outputs: Outputs of every sample, in the float model's order.
    """

    latency_ms: float
    latency_ratio: float
    size_ratio: float
    sqnr_db: float
    partitions: int
    outside: int
    outputs: Sequence[tuple[npt.NDArray[Any], ...]]

    @property
    def row(self) -> Row:
        """All but the outputs."""
        return {key: value for key, value in vars(self).items() if key != "outputs"}


def contest(
    workshop: Workshop,
    contestants: Sequence[str],
    samples: Sequence[Sample],
    seconds: float,
    status: Callable[[str], AbstractContextManager[Any]],
) -> tuple[dict[str, Judgement], dict[str, Row]]:
    """Has every contestant make its file of a traced model, and judges all of them in one run.

    Args:
        workshop: With the traced model.
        contestants: Keys of `CONTESTANTS`.
        samples: As for `judge`.
        seconds: As for `judge`.
        status: Shows what is going on.

    Returns:
        What was judged, and a row for each of `float` and the contestants in their order.
    """
    files: dict[str, Path] = {FLOAT: workshop.float_path}
    rows: dict[str, Row] = {name: {} for name in (FLOAT, *contestants)}
    for contestant in contestants:
        with status(contestant):
            made = workshop.make(contestant)
        if isinstance(made, Refused):
            rows[contestant] = {"refused": made.reason}
        else:
            files[contestant] = made
    with status("running"):
        judged = judge(files, samples, seconds)
    return judged, {**rows, **{name: found.row for name, found in judged.items()}}


def judge(
    files: Mapping[str, Path], samples: Sequence[Sample], seconds: float
) -> dict[str, Judgement]:
    """Judges every file, timed in turn in one run; `files["float"]` is what they are held against.

    Args:
        files: Paths by contestant.
        samples: What to compare outputs on; the first is timed.
        seconds: How long to time all of them together.
    """
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(Session(path, threads=1)) for name, path in files.items()
        }
        runs = {
            name: (session, _reordered(session, sessions[FLOAT], samples[0]))
            for name, session in sessions.items()
        }
        latency = interleaved_latency(runs, seconds, MOST_RUNS)
        expected = _outputs(sessions[FLOAT], sessions[FLOAT], samples)
        found = {}
        for name, session in sessions.items():
            outputs = _outputs(session, sessions[FLOAT], samples)
            coverage = session.coverage()
            found[name] = Judgement(
                latency[name].min_ms,
                latency[name].min_ms / latency[FLOAT].min_ms,
                files[name].stat().st_size / files[FLOAT].stat().st_size,
                _sqnr_db(expected, outputs),
                coverage.partitions,
                coverage.total - len(coverage.delegated),
                outputs,
            )
    return found


def _outputs(
    session: Session, reference: Session, samples: Sequence[Sample]
) -> list[tuple[npt.NDArray[Any], ...]]:
    """Outputs of each sample, with inputs and outputs in the reference's order."""
    order = [session.output_names.index(name) for name in reference.output_names]
    found = []
    for sample in samples:
        session.invoke(_reordered(session, reference, sample))
        made = session.outputs()
        found.append(tuple(made[i] for i in order))
    return found


def _reordered(session: Session, reference: Session, sample: Sample) -> Sample:
    """A sample of the reference in the order of another session's inputs."""
    named = dict(zip(reference.input_names, sample, strict=True))
    return tuple(named[name] for name in session.input_names)


def _sqnr_db(
    expected: Sequence[tuple[npt.NDArray[Any], ...]], found: Sequence[tuple[npt.NDArray[Any], ...]]
) -> float:
    totals = [Fidelity() for _ in expected[0]]
    for wanted, made in zip(expected, found, strict=True):
        pairs = zip(totals, wanted, made, strict=True)
        totals = [total.observe(one, other) for total, one, other in pairs]
    return min(total.sqnr_db for total in totals)


def print_refusals(rows: Mapping[str, Row], console: Console) -> None:
    """A line for each contestant that made nothing."""
    for contestant, row in rows.items():
        if "refused" in row:
            console.print(f"  {contestant}: {row['refused']}", markup=False, highlight=False)
