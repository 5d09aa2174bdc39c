"""Latency and memory of models, measured in turn so that a drifting machine treats all alike."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.files import Content
from edgeq.isolation import MEMORY_USED, JobCrashed, JobFailed, Worker
from edgeq.ports import IO, Port
from edgeq.runtime.backend import load_backend
from edgeq.runtime.file_check import check_file
from edgeq.runtime.session import Session


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference.

    Attributes:
        median_ms: Median in milliseconds.
        min_ms: Fastest in milliseconds: what other work disturbs least.
        p90_ms: Time that nine of ten runs stay below.
        p99_ms: Time that 99 of 100 runs stay below.
        runs: Number of timed runs.
    """

    median_ms: float
    min_ms: float
    p90_ms: float
    p99_ms: float
    runs: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Latency:
        """The latency of timed runs, in milliseconds each."""
        p90, p99 = np.percentile(times_ms, (90, 99)).tolist()
        return cls(statistics.median(times_ms), min(times_ms), p90, p99, len(times_ms))


def interleaved_latency(
    runs: Mapping[str, tuple[Session, Sequence[npt.NDArray[Any]]]],
    budget_s: float = 0.25,
    most_runs: int = 50,
    warm_up: int = 1,
) -> dict[str, Latency]:
    """Times every session on its sample, one run each in turn, in another order in each round.

    What ran just before decides what is left in the caches; no session always follows the same one.

    Args:
        runs: Loaded models by name, with the arrays of one sample in input order.
        budget_s: Stop after this many seconds, but not before three rounds.
        most_runs: Most timed runs of each.
        warm_up: Runs of each before that, which do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(warm_up):
        for session, sample in runs.values():
            session.invoke(sample)
    order, shuffle = list(runs), random.Random(0).shuffle
    end = time.perf_counter() + budget_s
    for round_number in range(most_runs):
        if round_number >= 3 and time.perf_counter() > end:
            break
        shuffle(order)
        for name in order:
            session, sample = runs[name]
            start = time.perf_counter()
            session.invoke(sample)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: Latency.of(found) for name, found in times.items()}


@dataclass(frozen=True)
class Setting:
    """How models are run.

    Attributes:
        delegate: As for `Session`.
        options: As for `Session`.
        threads: As for `Session`; None takes what this process may use.
        backend: As for `Session`.
    """

    delegate: str = "xnnpack"
    options: Mapping[str, object] = field(default_factory=dict)
    threads: int | None = None
    backend: str | None = None

    def load(self, tflite: Content) -> Session:
        """A session of a model that is known to be sound."""
        return Session(
            tflite, self.delegate, self.threads, self.options or None, backend=self.backend,
            trusted=True,
        )  # fmt: skip

    def check(self, tflite: Content) -> None:
        """Tries a model of unknown origin in a child process.

        Raises:
            ModelError: It is damaged.
        """
        check_file(tflite, self.delegate, None, self.backend)


@dataclass(frozen=True)
class Benchmark:
    """Latency and memory of one model.

    Attributes:
        name: What the caller calls it.
        latency: Time of one run.
        ratio: Its fastest run over that of the first model.
        load_ms: Time to load it.
        memory_mb: What loading and running it added to a process; None where no system tells.
        placement: Where its ops run, in one sentence.
        size_bytes: Of the file.
    """

    name: str
    latency: Latency
    ratio: float
    load_ms: float
    memory_mb: float | None
    placement: str
    size_bytes: int


def benchmark(
    models: Mapping[str, Content],
    setting: Setting | None = None,
    seconds: float = 3.0,
    most_runs: int = 1000,
    warm_up: int = 3,
) -> tuple[Benchmark, ...]:
    """Measures models on random inputs, round after round with one run each in turn.

    Args:
        models: Files by name.
        setting: How they are run.
        seconds: How long, for all together; every model runs three times at least.
        most_runs: Most timed runs of each model.
        warm_up: Runs of each model before that.

    Raises:
        EdgeqError: As for `Session`.
    """
    setting = setting or Setting()
    loads, runs = {}, {}
    for tflite in models.values():
        setting.check(tflite)
    memory = {name: _memory_mb(tflite, setting) for name, tflite in models.items()}
    with contextlib.ExitStack() as stack:
        for name, tflite in models.items():
            start = time.perf_counter()
            session = stack.enter_context(setting.load(tflite))
            loads[name] = (time.perf_counter() - start) * 1000
            runs[name] = session, random_sample(session.io)
        latency = interleaved_latency(runs, seconds, most_runs, warm_up)
        first = next(iter(latency.values()))
        return tuple(
            Benchmark(
                name, latency[name], latency[name].min_ms / first.min_ms, loads[name],
                memory[name], runs[name][0].describe(), len(tflite),
            )
            for name, tflite in models.items()
        )  # fmt: skip


def random_sample(io: IO) -> list[npt.NDArray[Any]]:
    """A sample of random numbers; integers that have no scale, such as indices, are 0."""
    generator = np.random.default_rng(0)
    return [_random(port, generator) for port in io.inputs]


def _random(port: Port, generator: np.random.Generator) -> npt.NDArray[Any]:
    if port.qparams is not None:
        low, high = port.qparams.dtype.limits()
        return generator.integers(low, high, port.shape, port.dtype, endpoint=True)
    if port.dtype == "float32":
        return generator.uniform(-1.0, 1.0, port.shape).astype(np.float32)
    return np.zeros(port.shape, port.dtype)


def _memory_mb(tflite: Content, setting: Setting) -> float | None:
    """Memory of a model, told by a child that nothing else has filled."""
    if not MEMORY_USED.exists():
        return None
    with Worker(["edgeq.runtime.benchmark"]) as worker:
        try:
            found: float = worker.call("edgeq.runtime.benchmark:added_memory_mb", tflite, setting)
        except (JobCrashed, JobFailed) as error:
            reason = " ".join(error.reason.split())
            raise ModelError(f"the model ran once, and then its process {reason}") from None
    return found


def added_memory_mb(tflite: Content, setting: Setting) -> float:
    """Job: what loading and running a model adds to this process, in MB."""
    load_backend(setting.backend)
    before = _resident_mb()
    with setting.load(tflite) as session:
        session.invoke(random_sample(session.io))
        return max(_resident_mb() - before, 0.0)


def _resident_mb() -> float:
    pages = int(MEMORY_USED.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
