"""The road to the Edge TPU: logs of its compiler, as documented, and what is made of them.

No Edge TPU and no compiler were at hand. Which ops a log names how often, with which status, is
taken from the public reports that each `Log` names; `text` writes it as the compiler prints it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import edgeq
from edgeq.errors import ConversionError, DependencyError, ModelError, RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse
from edgeq.targets import TARGETS
from edgeq.targets.edgetpu import RUNTIME
from edgeq.targets.edgetpu_compiler import MAPPED, parse_log

Row = tuple[str, int, str]

ONE_PIECE = "More than one subgraph is not supported"
UNKNOWN = "Operation not supported"
UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
OLD_VERSION = "Operation version not supported"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
DATA_TYPE = "Operation is working on an unsupported data type"


@dataclass(frozen=True)
class Log:
    """One documented compilation.

    Attributes:
        source: Where it is documented.
        version: Of the compiler.
        runtime: The newest Edge TPU run time that this compiler compiles for.
        rows: Operator, count and status.
        sizes: On-chip and off-chip memory for parameters.
    """

    source: str
    version: str
    runtime: int
    rows: tuple[Row, ...]
    sizes: tuple[str, str] = ("0.00B", "0.00B")

    def text(self, model: str = "model", folder: str = ".") -> str:
        """The log as the compiler prints it with `--show_operations`."""
        mapped = sum(count for _, count, status in self.rows if status == MAPPED)
        left = sum(count for _, count, _ in self.rows) - mapped
        lines = [
            f"Edge TPU Compiler version {self.version}",
            "Started a compilation timeout timer of 180 seconds.",
            "",
            "Model compiled successfully in 1242 ms.",
            "",
            f"Input model: {model}.tflite",
            "Input size: 3.95MiB",
            f"Output model: {folder}/{model}_edgetpu.tflite",
            "Output size: 4.50MiB",
            f"On-chip memory used for caching model parameters: {self.sizes[0]}",
            "On-chip memory remaining for caching model parameters: 3.64MiB",
            f"Off-chip memory used for streaming uncached model parameters: {self.sizes[1]}",
            "Number of Edge TPU subgraphs: 1",
            f"Total number of operations: {mapped + left}",
            f"Operation log: {folder}/{model}_edgetpu.log",
            "",
        ]
        if left:
            lines += [
                "Model successfully compiled but not all operations are supported by the Edge "
                "TPU. For details, visit g.co/coral/model-reqs.",
                f"Number of operations that will run on Edge TPU: {mapped}",
                f"Number of operations that will run on CPU: {left}",
                "",
            ]
        lines += [f"{'Operator':<31}{'Count':<11}Status", ""]
        lines += [f"{op:<31}{count:<11}{status}" for op, count, status in self.rows]
        return "\n".join([*lines, "Compilation child process completed within timeout period.", ""])


LOGS = (
    Log("github.com/eehoeskrap/PaperReview/issues/15", "16.0.384591198", 14, (
        ("CONV_2D", 42, MAPPED), ("QUANTIZE", 2, MAPPED), ("ADD", 10, MAPPED),
        ("PRELU", 41, MAPPED), ("CONCATENATION", 3, MAPPED), ("PAD", 21, MAPPED),
        ("DEPTHWISE_CONV_2D", 17, MAPPED),
    ), ("3.99MiB", "309.75KiB")),
    Log("github.com/WongKinYiu/yolov7/pull/1672", "16.0.384591198", 14, (
        ("ADD", 3, MAPPED), ("RESHAPE", 6, MAPPED), ("MAX_POOL_2D", 4, MAPPED),
        ("CONCATENATION", 18, MAPPED), ("PAD", 4, MAPPED), ("LOGISTIC", 64, MAPPED),
        ("RESIZE_NEAREST_NEIGHBOR", 2, MAPPED), ("QUANTIZE", 5, MAPPED),
    ), ("5.90MiB", "41.75KiB")),
    Log("github.com/google-coral/edgetpu/issues/342", "15.0.340273435", 13, (
        ("TRANSPOSE", 70, UNKNOWN), ("FULLY_CONNECTED", 1, ONE_PIECE), ("PAD", 1, MAPPED),
        ("PAD", 17, ONE_PIECE), ("ADD", 10, ONE_PIECE), ("MEAN", 2, ONE_PIECE),
        ("CONV_2D", 35, ONE_PIECE), ("QUANTIZE", 1, MAPPED), ("QUANTIZE", 1, UNSPECIFIED),
        ("DEPTHWISE_CONV_2D", 17, ONE_PIECE),
    )),
    Log("rajansaini691/retinanet-model-tflite, tiny_yolo_edgetpu.log", "14.1.317412892", 13, (
        ("CONCATENATION", 1, ONE_PIECE), ("MAX_POOL_2D", 6, MAPPED),
        ("RESIZE_NEAREST_NEIGHBOR", 1, OLD_VERSION), ("CONV_2D", 11, MAPPED),
        ("CONV_2D", 2, ONE_PIECE), ("QUANTIZE", 1, UNSPECIFIED), ("QUANTIZE", 1, ONE_PIECE),
        ("QUANTIZE", 2, MAPPED),
    )),
    Log("github.com/maxbbraun/thermal-face/issues/2", "14.1.317412892", 14, (
        ("RESHAPE", 12, RANK), ("RESHAPE", 32, ONE_PIECE), ("ADD", 12, MAPPED),
        ("MEAN", 8, MAPPED), ("PACK", 24, RANK), ("CUSTOM", 1, DATA_TYPE),
        ("REDUCE_MAX", 3, MAPPED), ("LOGISTIC", 11, MAPPED), ("MUL", 10, MAPPED),
    )),
)  # fmt: skip


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
def test_a_documented_log_is_read_row_by_row(log: Log) -> None:
    ((stem, compiled),) = parse_log(log.text())
    assert stem == "model"
    assert compiled.version == log.version
    assert compiled.path == Path("model_edgetpu.tflite")
    assert compiled.total_ops == sum(count for _, count, _ in log.rows)
    found = [(row.op, row.mapped, MAPPED) for row in compiled.ops if row.mapped]
    found += [(row.op, n, why) for row in compiled.ops for why, n in row.reasons.items()]
    assert sorted(found) == sorted(log.rows)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
def test_the_table_of_mapped_ops_agrees_with_documented_logs(log: Log) -> None:
    for op, _, status in log.rows:
        if status == MAPPED:
            assert RUNTIME[op] <= log.runtime, op
        if status == UNKNOWN:
            assert RUNTIME.get(op, 99) > log.runtime, op


def test_sizes_are_read_in_their_units() -> None:
    ((_, compiled),) = parse_log(LOGS[0].text())
    assert compiled.on_chip_bytes == round(3.99 * 1024 * 1024)
    assert compiled.off_chip_bytes == round(309.75 * 1024)
    assert compiled.subgraphs == 1


def test_several_models_have_a_block_each() -> None:
    text = LOGS[0].text("one") + LOGS[1].text("two")
    assert [stem for stem, _ in parse_log(text)] == ["one", "two"]


def test_another_text_is_no_log() -> None:
    with pytest.raises(ConversionError, match="names no version or no model"):
        parse_log("hello")


@dataclass(frozen=True)
class FakeCompiler:
    """A program of the compiler's name that prints a given log; its arguments are kept."""

    folder: Path

    def says(self, log: str, code: int = 0) -> None:
        (self.folder / "log").write_text(log)
        program = self.folder / "edgetpu_compiler"
        program.write_text(
            f'#!/bin/sh\necho "$@" > {self.folder}/arguments\ncat {self.folder}/log\nexit {code}\n'
        )
        program.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().split()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return FakeCompiler(folder)


@pytest.fixture
def path(tmp_path: Path, for_edgetpu: EdgeModel) -> Path:
    return for_edgetpu.save(tmp_path / "demo.tflite")


def rows_of(edge: EdgeModel, **changed: str) -> tuple[Row, ...]:
    """All ops of a model as mapped, but those that `changed` gives another status."""
    names = [op.name for op in parse(edge.tflite).graphs[0].operators]
    return tuple((n, names.count(n), changed.get(n, MAPPED)) for n in dict.fromkeys(names))


def test_an_export_for_the_edge_tpu_has_nothing_that_it_cannot_map(for_edgetpu: EdgeModel) -> None:
    graph = parse(for_edgetpu.tflite).graphs[0]
    assert not any(TARGETS["edgetpu"].placement(graph).values())
    assert {p.dtype for p in (*for_edgetpu.io.inputs, *for_edgetpu.io.outputs)} == {"int8"}
    assert for_edgetpu.io.inputs[0].shape == (1, 28, 28, 1)
    assert any("edgeq compile" in note for note in for_edgetpu.report.notes)
    with for_edgetpu.session() as session:
        assert session.run(np.zeros((1, 28, 28, 1), np.float32), real=True)["output_0"].shape


def test_what_is_compiled_stands_beside_the_prediction(
    compiler: FakeCompiler, path: Path, for_edgetpu: EdgeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(for_edgetpu)
    compiler.says(Log("", "16.0.384591198", 14, rows).text("demo", str(path.parent / "out")))
    (compiled,) = edgeq.compile_edgetpu(path, path.parent / "out")
    assert compiled.surprises == ()
    assert compiled.mapped_ops == compiled.total_ops == sum(count for _, count, _ in rows)
    assert compiled.path == path.parent / "out" / "demo_edgetpu.tflite"
    assert compiler.arguments == ["-s", "-o", str(path.parent / "out"), "-t", "180", str(path)]
    rows = rows_of(for_edgetpu, MEAN=UNSPECIFIED)
    compiler.says(Log("", "16.0.384591198", 14, rows).text("demo"))
    (compiled,) = edgeq.compile_edgetpu(path, path.parent / "out")
    (surprise,) = compiled.surprises
    assert (surprise.op, surprise.predicted, surprise.mapped) == ("MEAN", 1, 0)
    assert json.loads(compiled.to_json())["ops"][0]["reasons"] == {UNSPECIFIED: 1}
    compiled.print()
    assert "run on the Edge TPU in 1 piece(s)" in capsys.readouterr().out


def test_an_op_that_does_not_map_ends_the_predicted_part(
    compiler: FakeCompiler, tmp_path: Path, exported: EdgeModel
) -> None:
    path = exported.save(tmp_path / "float_ports.tflite")
    rows = rows_of(exported, QUANTIZE=DATA_TYPE, DEQUANTIZE=DATA_TYPE)
    compiler.says(Log("", "16.0.384591198", 14, rows).text("float_ports"))
    (compiled,) = edgeq.compile_edgetpu(path, tmp_path)
    assert compiled.surprises == ()
    quantize = next(row for row in compiled.ops if row.op == "QUANTIZE")
    assert quantize.predicted == 0
    assert "8-bit tensors" in next(iter(quantize.obstacles))


def test_options_become_those_of_the_compiler(compiler: FakeCompiler, path: Path) -> None:
    compiler.says(LOGS[0].text("demo_segment_0_of_2") + LOGS[1].text("demo_segment_1_of_2"))
    made = edgeq.compile_edgetpu(path, path.parent, segments=2, min_edgetpu_runtime=13)
    assert [c.path.name for c in made] == [f"demo_segment_{i}_of_2_edgetpu.tflite" for i in (0, 1)]
    assert all(row.predicted is None for c in made for row in c.ops)
    assert " ".join(compiler.arguments).endswith(f"-n 2 -m 13 {path}")
    compiler.says(LOGS[0].text("demo") + LOGS[1].text("other"))
    other = path.with_name("other.tflite")
    other.write_bytes(path.read_bytes())
    edgeq.compile_edgetpu([path, other], path.parent, several_pieces=True, search=True)
    assert " ".join(compiler.arguments).endswith(f"-a -d {path} {other}")
    edgeq.compile_edgetpu(path, path.parent, intermediate_tensors=("a", "b"))
    assert " ".join(compiler.arguments).endswith(f"-i a,b {path}")
    with pytest.raises(RecipeError, match="segments excludes several_pieces"):
        edgeq.compile_edgetpu(path, path.parent, segments=2, search=True)


START = "Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 s.\n"


@pytest.mark.parametrize(
    ("log", "kind", "text"),
    [
        ("ERROR: Op builtin_code out of range: 150. Are you using an old binary?\n", ModelError,
         r"cannot parse the model \(Op builtin_code out of range: 150\): make the file with"),
        ("ERROR: Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'\n", ModelError,
         "'TRANSPOSE_CONV' version '4'"),
        ("Compilation failed: Compilation failed due to large activation tensors in model.\n",
         ConversionError, "give the model smaller inputs"),
        ("Internal compiler error. Aborting!\n", ConversionError, "it crashed, mostly on large"),
        ("Compilation timeout.\n", ConversionError, "gave up after 180 s"),
        ("Compilation child process completed within timeout period.\nCompilation failed!\n",
         ConversionError, "failed with exit code 1: .*Compilation failed!"),
    ],
)  # fmt: skip
def test_each_failure_of_the_compiler_has_its_sentence(
    compiler: FakeCompiler, path: Path, log: str, kind: type[Exception], text: str
) -> None:
    compiler.says(START + log, code=1)
    with pytest.raises(kind, match=text):
        edgeq.compile_edgetpu(path, path.parent)


def test_without_a_compiler_it_says_how_to_get_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="apt-get install edgetpu-compiler"):
        edgeq.compile_edgetpu(path, path.parent)
    with pytest.raises(ModelError, match=r"cannot read the model .*missing\.tflite"):
        edgeq.compile_edgetpu(tmp_path / "missing.tflite", path.parent)
