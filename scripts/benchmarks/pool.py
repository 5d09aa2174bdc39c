"""`SessionPool` under load: its answers, its memory, and what it costs over bare interpreters."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.runtime import Session, SessionPool, load_backend
from edgeq.runtime.benchmark import random_sample

Samples = npt.NDArray[Any]
GOAL = 1.05
"""Most time of a request over that of a bare interpreter, for a model of some milliseconds."""


@dataclass(frozen=True)
class Stress:
    """What many threads saw.

    Attributes:
        requests: How many were answered.
        wrong: How many answers differed from those of one session alone.
        memory_mb: Resident memory when a tenth, a half and all of the requests were answered.
    """

    requests: int
    wrong: int
    memory_mb: tuple[float, ...]


def stress(path: Path, samples: Samples, threads: int, requests: int) -> Stress:
    """`threads` threads with `requests` requests each."""
    with Session(path, threads=1) as session:
        expected = [next(iter(session.run(sample).values())) for sample in samples]
    total, wrong = threads * requests, 0
    marks = {total // 10, total // 2, total}
    memory, lock, answered = [], threading.Lock(), itertools.count(1)

    def client(number: int) -> None:
        nonlocal wrong
        for request in range(requests):
            place = (number + request) % len(samples)
            (found,) = pool.run(samples[place]).values()
            is_wrong = not (found == expected[place]).all()
            with lock:
                wrong += is_wrong
                if next(answered) in marks:
                    memory.append(_resident_mb())

    with SessionPool(path) as pool, ThreadPoolExecutor(threads) as clients:
        list(clients.map(client, range(threads)))
    return Stress(total, wrong, tuple(memory))


@dataclass(frozen=True)
class Throughput:
    """What one contestant reached.

    Attributes:
        rate: Requests a second, median of the rounds.
        fastest_ms: The fastest request, which other work on the machine disturbs least.
    """

    rate: float
    fastest_ms: float


def throughput(
    path: Path, samples: Samples, threads: int, seconds: float, rounds: int = 20
) -> tuple[Throughput, Throughput]:
    """Bare interpreters and a pool, a thread each, in turn."""
    content = path.read_bytes()
    seen: dict[str, list[Throughput]] = {"bare": [], "pool": []}
    bare = [_Bare(content) for _ in range(threads)]
    with SessionPool(content, sessions=threads) as pool:
        runners: dict[str, Sequence[Callable[[Samples], Any]]] = {
            "bare": bare, "pool": [pool.run] * threads,
        }  # fmt: skip
        for _ in range(rounds + 1):
            for name, run in runners.items():
                seen[name].append(_round(run, samples, seconds / (2 * rounds)))
    first, second = (
        Throughput(
            statistics.median(one.rate for one in found[1:]),
            min(one.fastest_ms for one in found[1:]),
        )
        for found in seen.values()
    )
    return first, second


def added_us(tiny: bytes, path: Path, samples: Samples, requests: int = 300) -> tuple[float, float]:
    """What a request of a pool takes over one of a bare interpreter, in microseconds.

    Args:
        tiny: A model of one input that hardly takes time.
        path: A model that sweeps the caches, as requests of its size do.
        samples: Inputs of that one.
        requests: Timed requests of each.

    Returns:
        Median with the code in the caches, and right after the larger model.
    """
    bare, sweep = _Bare(tiny), _Bare(path.read_bytes())
    with SessionPool(tiny, sessions=1) as pool:
        with pool.session() as session:
            (sample,) = random_sample(session.io)
        times: dict[tuple[bool, bool], list[float]] = {}
        for number in range(requests):
            for is_cold, run in itertools.product((False, True), (bare, pool.run)):
                if is_cold:
                    sweep(samples[number % len(samples)])
                else:
                    run(sample)
                start = time.perf_counter()
                run(sample)
                spent = time.perf_counter() - start
                times.setdefault((is_cold, run is not bare), []).append(spent * 1e6)
    median = {key: statistics.median(found) for key, found in times.items()}
    warm, cold = (median[is_cold, True] - median[is_cold, False] for is_cold in (False, True))
    return warm, cold


class _Bare:
    """An interpreter as one uses it without edgeq."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = load_backend().module.Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def __call__(self, sample: Samples) -> list[Samples]:
        self._interpreter.set_tensor(self._input, sample)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _round(
    runners: Sequence[Callable[[Samples], Any]], samples: Samples, seconds: float
) -> Throughput:
    """All runners, each in a thread of its own."""
    end = time.perf_counter() + seconds

    def work(run: Callable[[Samples], Any]) -> list[float]:
        times = []
        for sample in _endless(samples):
            start = time.perf_counter()
            run(sample)
            times.append(time.perf_counter() - start)
            if start + times[-1] > end:
                break
        return times

    start = time.perf_counter()
    with ThreadPoolExecutor(len(runners)) as threads:
        times = [spent for found in threads.map(work, runners) for spent in found]
    return Throughput(len(times) / (time.perf_counter() - start), min(times) * 1000)


def _endless(samples: Samples) -> Iterator[Samples]:
    return itertools.cycle(np.split(samples.reshape(-1, *samples.shape[2:]), len(samples)))


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000
