"""What many exports and requests leave behind in one process: memory, descriptors, children."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.runtime import SessionPool

MARKS = (10, 100, 500, 1000)
"""After how many exports, or requests of each thread, is looked."""

WARM_MARK = 100
"""From here on everything that is loaded once is loaded."""

GROWTH_MB = 64.0
"""Resident memory that the allocator and the frameworks' caches may take after the warm-up."""


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment.

    Attributes:
        count: Exports, or requests of each thread, so far.
        memory_mb: Resident memory.
        descriptors: Open files, pipes and sockets.
        children: Processes that it started and that are there still, zombies included.
        threads: Its threads.
        files: Entries of the temporary folder.
    """

    count: int
    memory_mb: float
    descriptors: int
    children: int
    threads: int
    files: int

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:.0f} MB, {self.descriptors} descriptors, {self.children} children, "
            f"{self.threads} threads, {self.files} temporary files"
        )


def held(count: int) -> Held:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        count,
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(os.listdir("/proc/self/fd")),
        sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children")),
        len(os.listdir("/proc/self/task")),
        sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
    )


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Temporary files of this process and its children go where nobody else puts any."""
    before, at_start = tempfile.gettempdir(), os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR")
            if at_start is not None:
                os.environ["TMPDIR"] = at_start


def grew(seen: Sequence[Held]) -> list[str]:
    """What is more at the end than after the warm-up, in words; empty if nothing is."""
    first = next(h for h in seen if h.count >= min(WARM_MARK, seen[-1].count))
    last = seen[-1]
    found = [
        f"{name}: {getattr(first, name)} -> {getattr(last, name)}"
        for name in ("descriptors", "children", "threads", "files")
        if getattr(last, name) > getattr(first, name)
    ]
    if last.memory_mb > first.memory_mb + GROWTH_MB:
        found.append(f"memory_mb: {first.memory_mb:.0f} -> {last.memory_mb:.0f}")
    return found


def exports(count: int) -> Iterator[Held]:
    """Exports small models of several kinds in turn; yields what is held at each mark."""
    kinds = itertools.cycle(_kinds())
    for number, (model, data) in zip(range(1, count + 1), kinds, strict=False):
        edgeq.export(model(), data, recipe="int8", min_sqnr_db=None, progress=False)
        if number in MARKS or number == count:
            yield held(number)


def _kinds() -> list[tuple[Callable[[], Any], Any]]:
    """Makers of models, each with its data; a PyTorch module is a new one each time.

    Files come more often: they take a second, and a module takes some.
    """
    import torch
    from mutations import bases

    draw = np.random.default_rng(0)

    def convolution() -> Any:
        layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())
        return torch.nn.Sequential(*layers, torch.nn.Linear(288, 4)).eval()

    def dense() -> Any:
        layers = (torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
        return torch.nn.Sequential(*layers).eval()

    files = [(lambda base=base: base.tflite, list(base.data)) for base in bases()[1:]]
    return [
        (convolution, draw.normal(size=(12, 3, 8, 8)).astype(np.float32)),
        (dense, draw.normal(size=(12, 16)).astype(np.float32)),
        *files * 4,
    ]


def requests(threads: int, count: int) -> Iterator[Held]:
    """Has threads send `count` requests each to one pool; yields what is held at each mark."""
    from mutations import bases

    base = bases()[1]
    with SessionPool(base.tflite) as pool, ThreadPoolExecutor(threads) as clients:
        before = 0
        for mark in sorted({*(m for m in MARKS if m < count), count}):
            together = threading.Barrier(threads)

            def client(number: int, turns: int = mark - before, gate: Any = together) -> None:
                gate.wait()
                for turn in range(turns):
                    pool.run(base.data[(number + turn) % len(base.data)])

            list(clients.map(client, range(threads)))
            before = mark
            yield held(mark)
