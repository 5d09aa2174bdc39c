"""Latency of loaded models, measured in turn so that a drifting machine treats all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.runtime.session import Session


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference.

    Attributes:
        median_ms: Median in milliseconds.
        min_ms: Fastest in milliseconds.
        runs: Number of timed runs.
    """

    median_ms: float
    min_ms: float
    runs: int


def interleaved_latency(
    runs: Mapping[str, tuple[Session, Sequence[npt.NDArray[Any]]]],
    budget_s: float = 0.25,
    most_runs: int = 50,
) -> dict[str, Latency]:
    """Times every session on its sample, one run each in turn.

    Args:
        runs: Loaded models by name, with the arrays of one sample in input order.
        budget_s: Stop after this many seconds, but not before three rounds.
        most_runs: Most timed runs of each.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for session, sample in runs.values():
        session.invoke(sample)
    end = time.perf_counter() + budget_s
    for round_number in range(most_runs):
        if round_number >= 3 and time.perf_counter() > end:
            break
        for name, (session, sample) in runs.items():
            start = time.perf_counter()
            session.invoke(sample)
            times[name].append((time.perf_counter() - start) * 1000)
    return {
        name: Latency(statistics.median(found), min(found), len(found))
        for name, found in times.items()
    }
