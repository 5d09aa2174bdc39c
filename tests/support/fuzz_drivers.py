"""Mutants of files through edgeq's functions, each in a driver process that may die of it.

A driver, which this file is when it is run as a script, tells one JSON line for each mutant. One
that dies or hangs is counted against its mutant, and another goes on behind it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import io
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from command_line import run
from document_mutants import read_mutant
from lent_workers import Lender
from mutations import Base, bases, damage
from onnx_mutations import onnx_bases, onnx_mutant
from rich.console import Console

import edgeq
from edgeq.data.held_out import is_held_out
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity.paired_run import without_shared_infinity
from edgeq.fidelity.sqnr import Fidelity
from edgeq.report.bench_report import measure_models
from edgeq.runtime.benchmark import Setting, random_sample
from edgeq.runtime.session import Session

LIMIT_S = 60.0
"""A mutant that takes longer is counted as a hang."""

GOOD = ("error", "model")

STARTERS = (
    "edgeq.converter", "edgeq.runtime.file_check", "edgeq.runtime.benchmark",
    "edgeq.export.frontends.dequantize", "edgeq.compare.load_models", "edgeq.export.frontends.onnx",
)  # fmt: skip
"""Where children are started: the same ones serve one mutant after the other."""

SAMPLES_COMPARED = 3
CLOSE_DB = 15.0
"""Kernels that round otherwise are farther apart in no file here."""


class Key(NamedTuple):
    """A mutant and what it goes through.

    Attributes:
        entry: Name in `ENTRIES`.
        base: Index into `all_bases()`, or of an ONNX model into `onnx_bases()`.
        seed: Chooses the damage.
    """

    entry: str
    base: int
    seed: int

    def __str__(self) -> str:
        return f"{self.entry}:{self.base}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key that `str` gave."""
        entry, base, seed = text.split(":")
        return cls(entry, int(base), int(seed))


Result = dict[str, Any]


@functools.cache
def all_bases(folder: Path) -> tuple[Base, ...]:
    """The float models, and behind them each in int8, which the first who asks for it makes."""
    made = []
    for index, base in enumerate(bases()):
        file = folder / f"{index}.tflite"
        if not file.exists():
            edgeq.export(base.tflite, list(base.data), recipe="int8", progress=False).save(file)
        made.append(Base(f"{base.name} int8", file.read_bytes(), base.data))
    return (*bases(), *made)


def mutant_of(key: Key, folder: Path) -> tuple[str, bytes]:
    """The name of the damage and the damaged file."""
    if key.entry == "onnx":
        return onnx_mutant(key.base, key.seed)
    return damage(all_bases(folder)[key.base].tflite, key.base, key.seed)


def run_all(keys: Sequence[Key], drivers: int, folder: Path) -> list[Result]:
    """Runs mutants in parallel drivers."""
    all_bases(folder)
    with concurrent.futures.ThreadPoolExecutor(drivers) as pool:
        shares = pool.map(
            lambda share: list(run_share(share, folder)), [keys[i::drivers] for i in range(drivers)]
        )
        return [result for share in shares for result in share]


def run_share(keys: Sequence[Key], folder: Path, end: float = float("inf")) -> Iterator[Result]:
    """Runs mutants one after the other, until a time of `time.monotonic` at the latest."""
    while keys and time.monotonic() < end:
        done = 0
        for result in _drive(keys, folder, end):
            done += 1
            yield result
        keys = keys[done:]


def _drive(keys: Sequence[Key], folder: Path, end: float) -> Iterator[Result]:
    """Results of one driver, up to its end; the last one tells how it died, if it did."""
    with subprocess.Popen(
        [sys.executable, __file__, str(folder), *map(str, keys)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        for place, key in enumerate(keys):
            start_up = LIMIT_S if place == 0 else 0.0  # frameworks are imported before the first
            readable, _, _ = select.select([driver.stdout], [], [], LIMIT_S + start_up)
            line = driver.stdout.readline() if readable else b""
            if not line:
                driver.kill()
                signal = -driver.wait()
                outcome = "death" if readable else "hang"
                how = f"killed by signal {signal}" if readable else f"no end in {LIMIT_S:.0f} s"
                found = {"outcome": outcome, "message": how, "seconds": LIMIT_S, "memory_mb": 0}
                yield {**key._asdict(), **found}
                return
            yield json.loads(line)
            if time.monotonic() > end:
                driver.kill()
                return


def _report(keys: Sequence[Key], folder: Path) -> None:
    """The driver: one JSON line for each mutant on what was standard output."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lender = Lender()
    with pytest.MonkeyPatch.context() as patch:
        for starter in STARTERS:
            patch.setattr(importlib.import_module(starter), "Worker", lender)
        for key in keys:
            start = time.monotonic()
            result = {**key._asdict(), **_outcome(key, folder)}
            seconds = round(time.monotonic() - start, 1)
            print(json.dumps({**result, "seconds": seconds, "memory_mb": _memory_mb()}), file=lines)
    lender.close()


def _memory_mb() -> int:
    """The most memory that this process or a child of it has held so far."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) // 1024


def _outcome(key: Key, folder: Path) -> Result:
    way = ""
    try:
        if key.entry == "documents":
            way = read_mutant(key.seed)
            return {"way": way, "outcome": "model", "kind": "", "message": ""}
        way, damaged = mutant_of(key, folder)
        base = (onnx_bases() if key.entry == "onnx" else all_bases(folder))[key.base]
        wrong = ENTRIES[key.entry](damaged, base, key.seed)
    except edgeq.EdgeqError as error:
        kind = type(error).__name__
        return {"way": way, "outcome": "error", "kind": kind, "message": str(error)}
    except Exception as error:  # the very thing that is looked for
        kind = type(error).__name__
        return {"way": way, "outcome": "escaped", "kind": kind, "message": str(error)}
    outcome = "wrong" if wrong else "model"
    return {"way": way, "outcome": outcome, "kind": "EdgeModel", "message": wrong}


def _export(damaged: bytes, base: Base, seed: int) -> str:
    recipe = "int8" if seed % 16 else "auto"  # whose search is slow
    model = edgeq.export(damaged, list(base.data), recipe=recipe, progress=False)
    return wrong_with(model, base.data)


def wrong_with(model: EdgeModel, data: Sequence[Sequence[np.ndarray]]) -> str:
    """What a second run of the two models finds at odds with the report; empty if nothing."""
    held = [sample for i, sample in enumerate(data) if is_held_out(i, len(data))]
    with Session(model.float_model.tflite) as reference, model.session() as edge:
        names = reference.output_names
        expected = [reference.run(sample) for sample in held]
        named = [dict(zip(reference.input_names, sample, strict=True)) for sample in held]
        actual = [edge.run(sample) for sample in named]
    if tuple(o.name for o in model.report.outputs) != names:
        return f"reported outputs {model.report.outputs}, the float model has {names}"
    for output in model.report.outputs:
        fidelity = Fidelity()
        for one, other in zip(expected, actual, strict=True):
            both = without_shared_infinity((one[output.name], other[output.name]))
            fidelity = fidelity.observe(*both)
        found = fidelity.sqnr_db
        if not found >= 3.0 or not np.isclose(found, output.sqnr_db, rtol=0.02, atol=0.5):
            return f"output {output.name!r} has {found} dB, reported {output.sqnr_db}"
    return ""


def _session(damaged: bytes, base: Base, seed: int) -> str:
    """The file on XNNPACK and on the kernels that define the results."""
    with Session(damaged, threads=1) as session:
        sample = random_sample(session.io)
        session.invoke(sample)
        found = [np.array(o) for o in session.outputs()]
    with Session(damaged, "reference", threads=1) as reference:
        reference.invoke(sample)
        expected = [np.array(o) for o in reference.outputs()]
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.dtype.kind not in "iuf" or not (np.isfinite(one).all() and np.isfinite(other).all()):
            continue
        apart = Fidelity().observe(other.astype(np.float32), one.astype(np.float32)).sqnr_db
        if apart < CLOSE_DB and np.abs(one.astype(np.float64) - other).max() > 2:
            return f"output {index} is {apart:.1f} dB from the reference kernels"
    return ""


def _lint(damaged: bytes, base: Base, seed: int) -> str:
    found = edgeq.lint(damaged, ("xnnpack", "edgetpu")[seed % 2])
    found.print(Console(file=io.StringIO()))
    json.loads(found.to_json())
    return ""


def _compare(damaged: bytes, base: Base, seed: int) -> str:
    data = list(base.data[:SAMPLES_COMPARED])
    float_model = bases()[[b.data is base.data for b in bases()].index(True)].tflite
    edgeq.compare(float_model, damaged, data, progress=False).text()
    return ""


def _dequantize(damaged: bytes, base: Base, seed: int) -> str:
    edgeq.dequantize(damaged)
    return ""


def _inspect(damaged: bytes, base: Base, seed: int) -> str:
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(damaged)
        file.flush()
        found = run("inspect", file.name)
    text = found.output
    if found.exit_code == 0 or (found.exit_code == 2 and text.startswith("error: the .tflite")):
        return ""
    if found.exit_code == 2 and text.startswith("error: not a .tflite"):
        return ""
    return f"exit code {found.exit_code}: {text[-300:]}"


def _bench(damaged: bytes, base: Base, seed: int) -> str:
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(damaged)
        file.flush()
        measure_models([file.name], Setting(threads=1), seconds=0.01, warm_up=1).to_json()
    return ""


def _onnx(damaged: bytes, base: Base, seed: int) -> str:
    """An ONNX file through an export or a comparison, which read it alike, and what takes none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(damaged)
        for command in ("inspect", "lint"):
            found = run(command, path)
            if found.exit_code != 2 or not found.output.startswith("error: "):
                return f"{command} ends with {found.exit_code}: {found.output[-300:]}"
        model = damaged if seed % 3 == 0 else path
        if seed % 5 == 0:
            edgeq.compare(model, base.tflite, list(base.data[:3]), progress=False).text()
            return ""
        made = edgeq.export(model, list(base.data), recipe="int8", min_sqnr_db=None, progress=False)
    return wrong_with(made, base.data)


ENTRIES: dict[str, Callable[[bytes, Base, int], str]] = {
    "export": _export, "lint": _lint, "compare": _compare, "session": _session,
    "inspect": _inspect, "dequantize": _dequantize, "bench": _bench,
    "onnx": _onnx,
}  # fmt: skip


if __name__ == "__main__":
    _report([Key.parse(name) for name in sys.argv[2:]], Path(sys.argv[1]))
