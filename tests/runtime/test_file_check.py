"""Files of unknown origin: what would end the process ends in a sentence, and what passes is quick.

The damaged files are made here, of the exported demo: each would end this very process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import empty_blocks

import edgeq
from edgeq.errors import DependencyError, ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, parse, schema, unpack
from edgeq.linter import WHOLE_FILE
from edgeq.model import LiteModel
from edgeq.report.bench_report import measure_models
from edgeq.runtime import Session, SessionPool
from edgeq.runtime.benchmark import Setting
from edgeq.runtime.profile import op_times

Damage = Callable[[Any], None]


def ops(tree: Any, name: str) -> list[Any]:
    """The ops of a kind."""
    code = getattr(schema.BuiltinOperator, name)
    kinds = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in tree.operatorCodes]
    return [op for op in tree.subgraphs[0].operators if kinds[op.opcodeIndex] == code]


def operand(tree: Any, name: str, slot: int) -> Any:
    return tree.subgraphs[0].tensors[ops(tree, name)[0].inputs[slot]]


def no_graphs(tree: Any) -> None:
    tree.subgraphs = []


def scale_of_zero(tree: Any) -> None:
    operand(tree, "CONV_2D", 0).quantization.scale = np.zeros(1, np.float32)


def other_bias(tree: Any) -> None:
    op, other = ops(tree, "FULLY_CONNECTED")[0], ops(tree, "CONV_2D")[0]
    op.inputs = np.asarray([*op.inputs[:2], other.inputs[2]], np.int32)


def names_in_no_encoding(tree: Any) -> None:
    for entry in tree.signatureDefs[0].inputs:
        entry.name = b"\xff\xfe"


def operand_far_away(tree: Any) -> None:
    op = ops(tree, "CONV_2D")[0]
    op.inputs = np.asarray([op.inputs[0], 2**31 - 1, op.inputs[2]], np.int32)


DAMAGES: tuple[tuple[Damage, str], ...] = (
    (no_graphs, "it has no graph"),
    (scale_of_zero, "scales must be finite and > 0"),
    (other_bias, "cannot load the model"),
    (names_in_no_encoding, "is not UTF-8"),
    (operand_far_away, "names tensor 2147483647"),
)
FATAL = "a child process that tried it was killed by SIG"


def damaged(model: EdgeModel, damage: Damage) -> bytes:
    tree = unpack(model.tflite)
    damage(tree)
    return bytes(pack(tree))


@pytest.mark.parametrize(("damage", "what"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_a_session_of_a_damaged_file_is_an_error(
    exported: EdgeModel, damage: Damage, what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        Session(damaged(exported, damage))
    with pytest.raises(ModelError, match=what):
        SessionPool(damaged(exported, damage), sessions=1)


def test_a_file_that_would_end_the_process_is_an_error_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "hostile.tflite"
    file.write_bytes(empty_blocks())
    with pytest.raises(ModelError, match=FATAL):
        Session(file)
    with pytest.raises(ModelError, match=FATAL):
        measure_models([file], Setting(), seconds=0.1)
    with pytest.raises(ModelError, match=FATAL):
        op_times(empty_blocks(), Setting())
    (found,) = edgeq.lint(file).errors
    assert (found.op, found.rule) == (WHOLE_FILE, "loads")
    assert "killed by SIG" in found.message
    assert not edgeq.lint(empty_blocks(is_hostile=False)).errors


def test_an_isolated_session_outlives_its_process(
    exported: EdgeModel, demo_images: np.ndarray
) -> None:
    with Session(exported.tflite, trusted=True) as plain:
        expected = plain.run(demo_images[:3])
        said = plain.describe()
    with Session(exported.tflite, isolated=True) as apart:
        assert apart.describe() == said
        for _ in range(2):
            found = apart.run(demo_images[:3])
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
            os.kill(apart._entry._worker.call("os:getpid"), signal.SIGKILL)
        with pytest.raises(ModelError, match="lies in its process: pass arrays"):
            apart.input_view(apart.input_names[0])


def test_an_isolated_session_tells_how_a_file_ended_it() -> None:
    with pytest.raises(ModelError, match="the isolated session's process was killed by SIG"):
        Session(empty_blocks(), isolated=True)


def no_child(*_: object) -> None:
    raise AssertionError("a child process was started")


def test_what_was_made_or_tried_here_needs_no_child(
    exported: EdgeModel, demo_model: LiteModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Session(demo_model.tflite).close()
    monkeypatch.setattr("edgeq.runtime.file_check.Worker", no_child)
    Session(demo_model.tflite).close()
    Session(exported.save(tmp_path / "made.tflite")).close()
    Session(damaged(exported, lambda tree: tree.metadata.clear()), trusted=True).close()
    with pytest.raises(AssertionError, match="a child process was started"):
        Session(demo_model.tflite, "none")


def test_without_the_schema_the_runtime_alone_decides(
    exported: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeq.runtime import file_check

    monkeypatch.setattr(file_check, "schema", None)
    file_check.try_file(exported.tflite, "xnnpack", None, None)
    assert parse(exported.tflite).graphs


def test_a_program_that_embeds_python_is_told_what_is_missing(
    demo_model: LiteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeq.isolation import Worker

    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(DependencyError, match=r"sys\.executable does not say which Python"):
        Worker()
