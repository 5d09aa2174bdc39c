"""A damaged model file ends in an edgeq error or a correct model; it never takes the process along.

Each mutant is exported in a driver process, which this file is too when it is run as a script: a
driver that dies or hangs is counted against its mutant and started again behind it.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from mutations import WAYS, Base, bases, mutant

import edgeq
from edgeq.errors import ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import pack, parse, unpack, with_signature
from edgeq.isolation import MEMORY_USED, JobCrashed, JobFailed, Worker
from edgeq.model import FloatModel
from edgeq.runtime.session import Session

MUTANTS = 200
DRIVERS = 2
MUTANT_LIMIT_S = 150.0
MEMORY_LIMIT_MB = 4096
SHORTEST_MESSAGE = 20
GOOD = ("error", "model")

Key = tuple[int, int]
Result = dict[str, Any]


def chosen(count: int, start: int = 0) -> list[Key]:
    """`(base, seed)` of `count` mutants, spread evenly over the bases and the ways."""
    return [(i % len(bases()), start + i) for i in range(count)]


def test_mutants_end_in_an_edgeq_error_or_a_correct_model() -> None:
    results = run_all(chosen(MUTANTS))
    assert sorted((r["base"], r["seed"]) for r in results) == sorted(chosen(MUTANTS))
    assert [r for r in results if r["outcome"] not in GOOD] == []
    errors = [r for r in results if r["outcome"] == "error"]
    assert [r for r in errors if len(r["message"]) < SHORTEST_MESSAGE] == []
    assert [r for r in results if r["memory_mb"] > MEMORY_LIMIT_MB] == []
    # Mutants that are all too broken, or all harmless, would show nothing.
    assert len(errors) > MUTANTS // 2
    assert len(results) - len(errors) > MUTANTS // 20
    assert len({r["kind"] for r in errors}) > 1


@pytest.mark.parametrize("base", bases(), ids=lambda base: base.name)
def test_bases_are_sound(base: Base) -> None:
    model = edgeq.export(base.tflite, list(base.data), progress=False)
    assert _wrong_with(model, base.data) == ""


def test_mutants_depend_on_their_number_only() -> None:
    for seed, way in enumerate(WAYS):
        name, damaged = mutant(1, seed)
        assert name == way.__name__
        assert mutant(1, seed)[1] == damaged


def test_a_missing_signature_is_made_up() -> None:
    tree = unpack(bases()[2].tflite)
    tree.signatureDefs = None
    for tensor in tree.subgraphs[0].tensors:
        tensor.name = b"same"
    found = parse(with_signature(pack(tree)))
    names = [name for name, _ in found.signatures[0].outputs]
    assert len(set(names)) == len(names)
    assert {tensor.name for tensor in found.graphs[0].tensors} == {"same"}
    assert [index for _, index in found.signatures[0].outputs] == [*found.graphs[0].outputs]


def test_files_with_a_signature_stay_as_they_are() -> None:
    for base in bases():
        assert with_signature(base.tflite) is base.tflite


def test_worker_limits_time_and_memory() -> None:
    with Worker() as worker:
        with pytest.raises(JobCrashed, match="longer than 1 s"):
            worker.call("time:sleep", 30, timeout_s=1.0)
        if MEMORY_USED.exists():
            with pytest.raises(JobFailed, match="MemoryError"):
                worker.call("builtins:bytes", 1 << 30, memory_bytes=1 << 28)
        assert worker.call("builtins:len", b"abc") == 3


def run_all(keys: Sequence[Key]) -> list[Result]:
    """Runs mutants in parallel drivers."""
    with concurrent.futures.ThreadPoolExecutor(DRIVERS) as pool:
        shares = pool.map(
            lambda share: list(_run_share(share)), [keys[i::DRIVERS] for i in range(DRIVERS)]
        )
        return [result for share in shares for result in share]


def _run_share(keys: Sequence[Key]) -> Iterator[Result]:
    while keys:
        done = 0
        for result in _drive(keys):
            done += 1
            yield result
        keys = keys[done:]


def _drive(keys: Sequence[Key]) -> Iterator[Result]:
    """Results of one driver, up to its end; the last one tells how it died, if it did."""
    names = [f"{base}:{seed}" for base, seed in keys]
    with subprocess.Popen(
        [sys.executable, __file__, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as driver:
        assert driver.stdout is not None
        for base, seed in keys:
            readable, _, _ = select.select([driver.stdout], [], [], MUTANT_LIMIT_S)
            line = driver.stdout.readline() if readable else b""
            if not line:
                driver.kill()
                how = f"killed by signal {-driver.wait()}" if readable else "no end"
                outcome = "death" if readable else "hang"
                yield {
                    "base": base,
                    "seed": seed,
                    "outcome": outcome,
                    "message": how,
                    "memory_mb": 0,
                }
                return
            yield json.loads(line)


def _report(keys: Sequence[Key]) -> None:
    """The driver: one JSON line for each mutant on what was standard output."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for base, seed in keys:
        way, damaged = mutant(base, seed)
        start = time.monotonic()
        result = {"base": base, "seed": seed, "way": way, **_outcome(base, seed, damaged)}
        seconds = round(time.monotonic() - start, 1)
        print(json.dumps({**result, "seconds": seconds, "memory_mb": _memory_mb()}), file=lines)


def _memory_mb() -> int:
    """The most memory that this process or a child of it has held so far."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) // 1024


def _outcome(base: int, seed: int, damaged: bytes) -> Result:
    recipe = "int8" if seed % 16 else "auto"  # whose search is slow
    try:
        model = edgeq.export(damaged, list(bases()[base].data), recipe=recipe, progress=False)
    except edgeq.EdgeqError as error:
        return {"outcome": "error", "kind": type(error).__name__, "message": str(error)}
    except Exception as error:  # the very thing that is looked for
        return {"outcome": "escaped", "kind": type(error).__name__, "message": str(error)}
    wrong = _wrong_with(model, bases()[base].data)
    return {"outcome": "wrong" if wrong else "model", "kind": "EdgeModel", "message": wrong}


def _wrong_with(model: EdgeModel, data: Sequence[Sequence[np.ndarray]]) -> str:
    """What a second run of the two models finds at odds with the report; empty if nothing."""
    held = data[9]
    with Session(model.float_model.tflite) as reference, model.session() as edge:
        names = reference.output_names
        expected = reference.run(held)
        actual = edge.run(dict(zip(reference.input_names, held, strict=True)))
    if tuple(o.name for o in model.report.outputs) != names:
        return f"reported outputs {model.report.outputs}, the float model has {names}"
    for output in model.report.outputs:
        found = Fidelity().observe(expected[output.name], actual[output.name]).sqnr_db
        if not found >= 3.0 or not np.isclose(found, output.sqnr_db, rtol=0.02, atol=0.5):
            return f"output {output.name!r} has {found} dB, reported {output.sqnr_db}"
    return ""


if __name__ == "__main__":
    _report([(int(b), int(s)) for b, s in (name.split(":") for name in sys.argv[1:])])


def behind_the_tables(tflite: bytes, missing: int = 0) -> bytes:
    """The file with its largest constant behind the tables, less `missing` bytes at its end."""
    tree = unpack(tflite)
    buffer = max(tree.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    content = bytes(buffer.data)
    buffer.data, buffer.offset, buffer.size = None, 1 << 30, len(content)
    buffer.offset = len(pack(tree))
    return pack(tree) + content[: len(content) - missing]


def test_constants_behind_the_tables_are_read(demo_model: FloatModel) -> None:
    moved = parse(behind_the_tables(demo_model.tflite)).graphs[0]
    for tensor, expected in zip(moved.tensors, demo_model.graph.tensors, strict=True):
        assert np.array_equal(tensor.data, expected.data)
    with pytest.raises(ModelError, match=r"buffer \d+ lies outside the file"):
        parse(behind_the_tables(demo_model.tflite, missing=1))
