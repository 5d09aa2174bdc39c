"""A damaged file ends in an edgeq error or a correct result; it never takes the process along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzz_drivers import ENTRIES, GOOD, Key, run_all, wrong_with
from mutations import WAYS, Base, bases, mutant

import edgeq
from edgeq.errors import ModelError
from edgeq.flatbuffer import pack, parse, unpack, with_signature
from edgeq.isolation import MEMORY_USED, JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel

MUTANTS = 60
DRIVERS = 2
OTHER_MUTANTS = 96
MEMORY_LIMIT_MB = 4096
SHORTEST_MESSAGE = 20


def chosen(count: int, start: int = 0) -> list[Key]:
    """`count` mutants of float files, spread evenly over the bases and the ways."""
    return [Key("export", i % len(bases()), start + i) for i in range(count)]


def test_mutants_end_in_an_edgeq_error_or_a_correct_model(tmp_path: Path) -> None:
    results = run_all(chosen(MUTANTS), DRIVERS, tmp_path)
    assert sorted((r["base"], r["seed"]) for r in results) == sorted(k[1:] for k in chosen(MUTANTS))
    assert [r for r in results if r["outcome"] not in GOOD] == []
    errors = [r for r in results if r["outcome"] == "error"]
    assert [r for r in errors if len(r["message"]) < SHORTEST_MESSAGE] == []
    assert [r for r in results if r["memory_mb"] > MEMORY_LIMIT_MB] == []
    # Mutants that are all too broken, or all harmless, would show nothing.
    assert len(errors) > MUTANTS // 2
    assert len(results) - len(errors) > MUTANTS // 20
    assert len({r["message"] for r in errors}) > MUTANTS // 10


def test_mutants_of_every_kind_end_in_an_error_or_a_result(tmp_path: Path) -> None:
    """A sample of what scripts/fuzz runs for as long as it is told."""
    results = run_all(sampled(OTHER_MUTANTS), DRIVERS, tmp_path)
    assert len(results) == OTHER_MUTANTS
    assert [r for r in results if r["outcome"] not in GOOD] == []
    assert {r["entry"] for r in results} == {*ENTRIES, "documents"} - {"export", "onnx"}


def sampled(count: int) -> list[Key]:
    """Mutants of .tflite files through everything but an export, of float files and int8 ones."""
    entries = [name for name in (*ENTRIES, "documents") if name not in ("export", "onnx")]
    return [Key(entries[i % len(entries)], i % (2 * len(bases())), i) for i in range(count)]


@pytest.mark.parametrize("base", bases(), ids=lambda base: base.name)
def test_bases_are_sound(base: Base) -> None:
    model = edgeq.export(base.tflite, list(base.data), progress=False)
    assert wrong_with(model, base.data) == ""


def test_mutants_depend_on_their_number_only() -> None:
    made = [mutant(1, seed) for seed in range(len(WAYS))]
    assert made == [mutant(1, seed) for seed in range(len(WAYS))]
    # A float file has no scales to be changed; the next way takes their turn.
    ways = {way.__name__ for way in WAYS}
    assert ways - {name for name, _ in made} == {"change_scales", "change_scale_tables"}


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


def behind_the_tables(tflite: bytes, missing: int = 0) -> bytes:
    """The file with its largest constant behind the tables, less `missing` bytes at its end."""
    tree = unpack(tflite)
    buffer = max(tree.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    content = bytes(buffer.data)
    buffer.data, buffer.offset, buffer.size = None, 1 << 30, len(content)
    buffer.offset = len(pack(tree))
    return pack(tree) + content[: len(content) - missing]


def test_constants_behind_the_tables_are_read(demo_model: LiteModel) -> None:
    moved = parse(behind_the_tables(demo_model.tflite)).graphs[0]
    for tensor, expected in zip(moved.tensors, demo_model.graph.tensors, strict=True):
        assert np.array_equal(tensor.data, expected.data)
    with pytest.raises(ModelError, match=r"buffer \d+ lies outside the file"):
        parse(behind_the_tables(demo_model.tflite, missing=1))
