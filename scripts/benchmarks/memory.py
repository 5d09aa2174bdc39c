"""Memory of an export: a sampler of all its processes, and a float .tflite of any size.

The file has the shapes of a transformer's MLPs, with nothing around them: all it weighs is weights.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parent.parent / "bench"

WIDTH = 2048
HIDDEN = 4 * WIDTH
TOKENS = 4
INTERVAL_S = 0.01
REST = 4
"""The system walks through all pages of a process to tell its memory, which then stands still: so
many times as long it is left alone."""

RECIPES = ("weight_int8", "dynamic_int8", "weight_int4", "float16")


@dataclass(frozen=True)
class Reading:
    """Memory at one moment, in MB.

    Attributes:
        at: When, in seconds since the epoch.
        own: Of the process.
        family: Of it and its children.
        held: Of that, what no file backs, so that the system cannot take it back.
    """

    at: float
    own: float
    family: float
    held: float


def watched(command: Sequence[str]) -> tuple[str, list[Reading]]:
    """What a command prints, and the memory that it and its children take until it ends."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    readings: list[Reading] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, readings, done))
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    return output, readings


def _watch(pid: int, readings: list[Reading], done: threading.Event) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    spent = 0.0
    while not done.wait(max(INTERVAL_S, REST * spent)):
        start = time.perf_counter()
        found = [_memory_mb(pid)]
        with contextlib.suppress(OSError):
            found += [_memory_mb(int(child)) for child in children.read_text().split()]
        family, held = (sum(column) for column in zip(*found, strict=True))
        readings.append(Reading(time.time(), found[0][0], family, held))
        spent = time.perf_counter() - start


def _memory_mb(pid: int) -> tuple[float, float]:
    """Proportional set size, and what of it no file backs.

    Pages that several processes share are counted once in all.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    found = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines}
    return found["Pss"], found["Pss_Anon"] + found["Pss_Shmem"]


@dataclass(frozen=True)
class Peaks:
    """What one export took.

    Attributes:
        float_mb: Size of the float file.
        seconds: Wall time of each stage.
        stages: Peak memory of all processes in each stage, in MB, and of all that is outside them.
        held: The same of what no file backs.
        error: Why there is no exported file; empty where there is one.
    """

    float_mb: float
    seconds: dict[str, float]
    stages: dict[str, float]
    held: dict[str, float]
    error: str

    @property
    def ratio(self) -> float:
        """Peak over the size of the float file."""
        return max(self.stages.values()) / self.float_mb


def measure(path: Path, recipe: str) -> Peaks:
    """Exports a float file in a process of its own."""
    command = [sys.executable, str(BENCH), "exported", str(path), recipe]
    output, readings = watched(command)
    found = json.loads(output.splitlines()[-1])
    return Peaks(
        float_mb=path.stat().st_size / 1e6,
        seconds={name: end - start for name, (start, end) in found["marks"].items()},
        stages=_by_stage([(r.at, r.family) for r in readings], found["marks"]),
        held=_by_stage([(r.at, r.held) for r in readings], found["marks"]),
        error=found["error"],
    )


def _by_stage(
    readings: Sequence[tuple[float, float]], marks: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """Peak of each stage; what is before, between and behind them is "the rest"."""
    peaks = dict.fromkeys([*marks, "the rest"], 0.0)
    names, starts = list(marks), [start for start, _ in marks.values()]
    for at, memory in readings:
        place = bisect.bisect(starts, at) - 1
        inside = place >= 0 and at <= marks[names[place]][1]
        name = names[place] if inside else "the rest"
        peaks[name] = max(peaks[name], memory)
    return peaks


def exported(path: Path, recipe: str) -> dict[str, Any]:
    """Job of that process: when each stage began and ended, and what went wrong."""
    import edgeq
    from edgeq import progress

    marks: dict[str, tuple[float, float]] = {}

    class Marked(progress.Progress):
        @contextlib.contextmanager
        def stage(self, title: str, total: int | None = None) -> Any:
            start = time.time()
            try:
                with super().stage(title, total) as advance:
                    yield advance
            finally:
                marks[title] = start, time.time()

    pipeline: Any = sys.modules["edgeq.export.pipeline"]
    pipeline.Progress = Marked
    samples = np.random.default_rng(0).normal(size=(4, TOKENS, WIDTH)).astype(np.float32)
    error = ""
    try:
        edgeq.export(path, samples, recipe=recipe, min_sqnr_db=None).save(
            path.with_name("exported.tflite")
        )
    except edgeq.EdgeqError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {"marks": marks, "error": error}


def write_float(path: Path, megabytes: int) -> None:
    """Writes a float .tflite of pairs of dense layers, about as large as asked for."""
    from edgeq.flatbuffer import completed
    from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree

    editor, random = GraphEditor(empty_tree()), np.random.default_rng(0)
    first = last = editor.tensor("x", (1, TOKENS, WIDTH))
    widths = itertools.cycle([(WIDTH, HIDDEN), (HIDDEN, WIDTH)])
    layers = 2 * max(1, round(megabytes * 1e6 / (2 * WIDTH * HIDDEN * 4)))
    for number, (read, written) in zip(range(layers), widths, strict=False):
        values = random.standard_normal((written, read), np.float32) / np.float32(np.sqrt(read))
        weight = editor.stored(
            f"layer{number}/weight",
            values.shape,
            "float32",
            values.reshape(-1).view(np.uint8),
            None,
        )
        made = editor.tensor(f"layer{number}", (1, TOKENS, written))
        editor.append(editor.op("FULLY_CONNECTED", [last, weight, -1], [made], keepNumDims=True))
        last = made
    editor.set_ports([first], [last])
    path.write_bytes(completed(editor.finish()))
