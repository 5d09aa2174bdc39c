"""The command line: help by example, one sentence for every failure, and whole files or none."""

from __future__ import annotations

import inspect
import json
import re
import resource
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from command_line import process, run

import edgeq
from edgeq.cli import app
from edgeq.errors import EdgeqError
from edgeq.export.edge_model import EdgeModel
from edgeq.files import write_whole
from edgeq.flatbuffer import pack, parse, unpack
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe, Rule

COMMANDS = [
    "plan", "calibrate", "compare", "compile", "debug", "check", "explore", "export", "dequantize",
    "inspect", "lint", "bench", "demo",
]  # fmt: skip
Files = Path


def commands() -> dict[str, Any]:
    found: Any = typer.main.get_command(app)
    return dict(found.commands)


def examples(name: str) -> list[str]:
    """The command lines in a command's help."""
    found = run(name, "--help")
    assert found.exit_code == 0
    return re.findall(rf"^\s*(edgeq {name} .*?)\s*$", found.stdout, re.MULTILINE)


def test_the_commands_are_these() -> None:
    assert sorted(commands()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", ["search", "convert", "quantize"])
def test_what_has_another_name_here_is_named(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 2
    assert f"No such command '{name}': edgeq export " in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_that_it_accepts(name: str) -> None:
    found = examples(name)
    assert found
    for line in found:
        commands()[name].make_context(name, shlex.split(line)[2:])


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeq", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == run("--version").stdout


def test_the_help_of_the_app_shows_an_example_and_every_command() -> None:
    for arguments in (["--help"], []):
        text = run(*arguments).output
        assert re.search(r"Example: edgeq export \S+\.tflite --data", text)
        assert all(re.search(rf"\b{name}\b", text) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    unexplained = [
        parameter.name
        for parameter in commands()[name].params
        if not getattr(parameter, "help", None)
    ]
    assert unexplained == []


LEFT_TO_PYTHON = {"params", "sample", "progress", "start", "checkpoint", "on_advice", "engine"}
"""Arguments of functions that are objects of Python, or that a terminal decides."""


@pytest.mark.parametrize("name", ["export", "plan", "calibrate"])
def test_options_are_named_as_the_arguments_of_the_function(name: str) -> None:
    function = inspect.signature(getattr(edgeq, name)).parameters
    options = {option for parameter in commands()[name].params for option in parameter.opts}
    wanted = set(function) - {"model", "rep_dataset"} - LEFT_TO_PYTHON
    assert {f"--{argument.replace('_', '-')}" for argument in wanted} <= options


def test_a_diagnosis_exports_by_the_options_of_an_export() -> None:
    taken = [{p.name for p in commands()[name].params} for name in ("plan", "debug")]
    assert taken[0] <= taken[1]


def test_export_writes_what_the_function_makes(demo_files: Files, exported: EdgeModel) -> None:
    output, report = demo_files / "made" / "int8.tflite", demo_files / "report.json"
    found = run(
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npy",
        "--output", output, "--json", report, "--recipe", "int8",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert output.read_bytes() == exported.tflite
    assert [path.name for path in output.parent.iterdir()] == ["int8.tflite"]
    assert json.loads(report.read_text())["edge_bytes"] == len(exported.tflite)
    assert "SQNR of" in found.stdout
    assert f"wrote {output}" in found.stdout


def test_export_takes_npz_a_recipe_file_and_any_sqnr(
    demo_files: Files, demo_model: LiteModel
) -> None:
    name = demo_model.signature.inputs[0][0]
    np.savez(demo_files / "images.npz", **{name: np.load(demo_files / "images.npy")})
    rule = Rule(op="FULLY_CONNECTED", mode=Mode.FLOAT, reason="a reason of mine")
    (demo_files / "recipe.json").write_text(Recipe("mine", (rule,)).to_json())
    output = demo_files / "int8.tflite"
    found = run(
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npz", "-o", output,
        "--recipe", demo_files / "recipe.json", "--min-sqnr-db", "-inf", "--threads", "1",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert "a reason of mine" in found.stdout
    assert "recipe mine" in found.stdout
    operators = parse(output.read_bytes()).graphs[0].operators
    assert "FULLY_CONNECTED" in {op.name for op in operators}


def test_export_takes_functions_of_the_working_directory(
    demo_files: Files, exported: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (demo_files / "cli_functions.py").write_text(
        "import numpy as np\n"
        "def build():\n    return open('model.tflite', 'rb').read()\n"
        "def samples():\n    yield from np.load('images.npy')\n"
    )
    monkeypatch.chdir(demo_files)
    found = run(
        "export", "cli_functions:build", "--data", "cli_functions:samples", "-o", "int8.tflite",
        "--recipe", "int8",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert Path("int8.tflite").read_bytes() == exported.tflite


def test_overwrite_replaces(demo_files: Files, exported: EdgeModel) -> None:
    output = demo_files / "int8.tflite"
    output.write_bytes(b"old")
    arguments = (
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npy", "-o", output,
        "--recipe", "int8",
    )  # fmt: skip
    refused = run(*arguments)
    assert (refused.exit_code, output.read_bytes()) == (2, b"old")
    assert refused.stderr == f"error: {output} exists; pass --overwrite to replace it\n"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert output.read_bytes() == exported.tflite


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bad_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")


def nothing(folder: Path) -> None:
    """Needs no file of its own."""


Prepare = Callable[[Path], object]

FAILURES: dict[str, tuple[Prepare, dict[str, str], str]] = {
    "no model": (nothing, {"MODEL": "no.tflite"}, "cannot read the model no.tflite: No such file"),
    "a folder as model": (nothing, {"MODEL": "."}, ". is a folder without a saved_model.pb"),
    "a model that is none": (
        lambda d: (d / "model.tflite").write_text("hello"), {}, "not a .tflite file: bytes 4..8",
    ),
    "half a model": (lambda d: truncate(d / "model.tflite"), {}, "the .tflite file is damaged"),
    "no module": (
        nothing, {"MODEL": "no_such_module:build"},
        "cannot load 'no_such_module:build': No module named 'no_such_module'",
    ),
    "a function that is none": (
        nothing, {"MODEL": "math:pi"}, "'math:pi' must be a function that returns the model",
    ),
    "no function": (
        nothing, {"--data": "math:sines"}, "cannot load 'math:sines': module 'math' has no",
    ),
    "a path as module": (
        nothing, {"MODEL": "./net.py:build"}, "'./net.py:build' must be module:function",
    ),
    "no name": (nothing, {"--data": "math:"}, "'math:' must be module:function"),
    "a model of another kind": (
        nothing, {"MODEL": "builtins:dict"}, "the model must be a PyTorch nn.Module or",
    ),
    "no data": (
        nothing, {"--data": "no.npy"}, "cannot read the data no.npy: No such file or directory",
    ),
    "data of another kind": (
        nothing, {"--data": "images.png"},
        "cannot read the data images.png: No such file or directory",
    ),
    "half the data": (
        lambda d: truncate(d / "images.npy"), {}, "cannot read the data images.npy: mmap length",
    ),
    "data that is no array": (
        lambda d: (d / "images.npy").write_text("hello there"), {},
        "cannot read the data images.npy: the magic string is not correct",
    ),
    "objects as data": (
        lambda d: np.save(d / "images.npy", np.asarray([None])), {},
        "cannot read the data images.npy: ",
    ),
    "empty data": (
        lambda d: np.save(d / "images.npy", np.zeros((0, 1, 28, 28), np.float32)), {},
        "the representative data is empty: give at least one sample",
    ),
    "data that is no zip": (
        lambda d: (d / "bad.npz").write_text("hello"), {"--data": "bad.npz"},
        "cannot read the data bad.npz: File is not a zip file",
    ),
    "a zip of no arrays": (bad_zip, {"--data": "bad.npz"}, "cannot read the data bad.npz: "),
    "data of a wrong shape": (
        lambda d: np.save(d / "images.npy", np.zeros((3, 1, 5, 5), np.float32)), {},
        "sample 0, input ",
    ),
    "data of a wrong dtype": (
        lambda d: np.save(d / "images.npy", np.load(d / "images.npy").astype(np.uint8)), {},
        "normalise it as for training",
    ),
    "an unknown recipe": (
        nothing, {"--recipe": "int9"}, "recipe 'int9' is neither a preset (auto, int8, int16x8,",
    ),
    "a recipe that is none": (
        lambda d: (d / "r.json").write_text("{"), {"--recipe": "r.json"}, "it is not JSON",
    ),
    "a rule that matches nothing": (
        lambda d: (d / "r.json").write_text('{"rules": [{"op": "CONV_3D"}]}'),
        {"--recipe": "r.json"}, "Near misses: CONV_2D",
    ),
    "an unknown target": (
        nothing, {"--target": "moon"},
        "target must be one of xnnpack, edgetpu, portable. Received: 'moon'",
    ),
    "a folder as output": (nothing, {"--output": "."}, ". is a folder; name the file to write"),
    "an output below a file": (
        nothing, {"--output": "model.tflite/x/y.tflite"},
        "cannot write model.tflite/x/y.tflite: ",
    ),
    "a report that exists": (
        nothing, {"--json": "images.npy"}, "images.npy exists; pass --overwrite to replace it",
    ),
    "a report that is no page": (
        nothing, {"--report": "report.pdf"},
        "--report report.pdf: a page is .html; --json writes the numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_sentence_and_leaves_nothing(
    case: str, demo_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, changes, message = FAILURES[case]
    prepare(demo_files)
    monkeypatch.chdir(demo_files)
    before = sorted(demo_files.rglob("*"))
    options = {"--data": "images.npy", "--output": "int8.tflite", **changes}
    model = options.pop("MODEL", "model.tflite")
    found = run("export", model, *(part for option in options.items() for part in option))
    assert found.exit_code == 2, found.output
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert "Traceback" not in found.output
    assert sorted(demo_files.rglob("*")) == before


def test_a_broken_promise_has_an_exit_code_of_its_own(demo_files: Files) -> None:
    output = demo_files / "int8.tflite"
    found = run(
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npy", "-o", output,
        "--min-sqnr-db", "200", "--recipe", "int8",
    )  # fmt: skip
    assert found.exit_code == 1
    assert "below min_sqnr_db=200" in found.stderr
    assert not output.exists()


def test_an_interrupted_export_says_so(demo_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    (demo_files / "cli_interrupted.py").write_text(
        "import numpy as np\n"
        "def samples():\n    yield np.load('images.npy')[0]\n    raise KeyboardInterrupt\n"
    )
    monkeypatch.chdir(demo_files)
    found = run("export", "model.tflite", "--data", "cli_interrupted:samples", "-o", "int8.tflite")
    assert found.exit_code == 130
    assert "interrupted; nothing was written" in found.stderr
    assert not Path("int8.tflite").exists()


@pytest.fixture
def compared_files(demo_files: Files, exported: EdgeModel) -> Files:
    """With the exported model as `int8.tflite`, and the class of each image as `labels.npy`."""
    exported.save(demo_files / "int8.tflite")
    np.save(demo_files / "labels.npy", np.arange(20) % 10)
    return demo_files


def test_compare_prints_and_writes_what_the_function_finds(
    compared_files: Files, exported: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(compared_files)
    images, labels = np.load("images.npy"), np.load("labels.npy")
    expected = edgeq.compare(exported, exported, images, labels=labels)
    found = run(
        "compare", "model.tflite", "int8.tflite", "--data", "images.npy",
        "--labels", "labels.npy", "--json", "found.json",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert json.loads(Path("found.json").read_text()) == json.loads(expected.to_json())
    change = expected.metrics["accuracy"]
    for text in (
        f"{expected.sqnr_db:.1f} dB", "20 samples", "accuracy",
        f"{change.float_value:.4f}", f"{change.edge_value:.4f}", f"{change.difference:+.4f}",
    ):  # fmt: skip
        assert text in found.stdout


def test_compare_without_labels_shows_the_outputs_alone(
    compared_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(compared_files)
    found = run("compare", "model.tflite", "int8.tflite", "--data", "images.npy", "--threads", "1")
    assert found.exit_code == 0, found.stderr
    assert "cosine" in found.stdout
    assert "accuracy" not in found.stdout


COMPARE_FAILURES: dict[str, tuple[Prepare, dict[str, str], str]] = {
    "no edge model": (
        nothing, {"EDGE": "no.tflite"}, "the edge model: cannot read the model no.tflite: No such",
    ),
    "half a float model": (
        lambda d: truncate(d / "model.tflite"), {}, "the float model: the .tflite file is damaged",
    ),
    "no labels": (
        nothing, {"--labels": "no.npy"}, "cannot read the data no.npy: No such file or directory",
    ),
    "too few labels": (
        lambda d: np.save(d / "labels.npy", np.arange(19)), {"--labels": "labels.npy"},
        "there are 19 labels for 20 items",
    ),
    "no such output": (
        nothing, {"--labels": "labels.npy", "--output-name": "boxes"}, "Received: 'boxes'",
    ),
    "a file that exists": (
        nothing, {"--json": "images.npy"}, "images.npy exists; pass --overwrite to replace it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPARE_FAILURES)
def test_a_comparison_that_fails_is_one_sentence(
    case: str, compared_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, changes, message = COMPARE_FAILURES[case]
    prepare(compared_files)
    monkeypatch.chdir(compared_files)
    options = {"--data": "images.npy", **changes}
    edge = options.pop("EDGE", "int8.tflite")
    arguments = (part for option in options.items() for part in option)
    found = run("compare", "model.tflite", edge, *arguments)
    assert found.exit_code == 2, found.output
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_inspect_lists_every_op(tmp_path: Path, exported: EdgeModel) -> None:
    path = exported.save(tmp_path / "int8.tflite")
    found = run("inspect", path)
    assert found.exit_code == 0
    graph = parse(exported.tflite).graphs[0]
    assert f"{len(graph.operators)} ops" in found.stdout
    rows = re.findall(r"^│ *(\d+) *│ *(\w+) *│.*?│ *(\S+) *│ *(\w+) scale", found.stdout, re.M)
    expected = [
        (str(op.index), op.name, "x".join(map(str, t.shape)), t.dtype)
        for op in graph.operators
        for t in (graph.tensors[i] for i in op.outputs)
        if t.qparams is not None
    ]
    assert rows == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the model"), (b"", "not a .tflite file"), (b"\0" * 64, "not a .tflite")],
)
def test_inspect_refuses_what_is_no_model(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    found = run("inspect", path)
    assert found.exit_code == 2
    assert found.stderr.startswith(f"error: {message}")


def test_demo_refuses_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = run("demo", "--output", tmp_path / "file")
    assert found.exit_code == 2
    assert "is not a folder that may be written to" in found.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_the_installed_command_reports_a_missing_model(demo_files: Files) -> None:
    found = process(
        "export", "no.tflite", "--data", "images.npy", "-o", "int8.tflite", cwd=demo_files
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "error: cannot read the model no.tflite: No such file or directory" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_installed_command_inspects(demo_files: Files, demo_model: LiteModel) -> None:
    found = process("inspect", "model.tflite", cwd=demo_files)
    assert (found.returncode, found.stderr) == (0, "")
    assert f"{len(demo_model.graph.operators)} ops" in found.stdout


TALKATIVE = """
import os
os.write(2, b"I0000 00:00:1795883934.438464   19650 port.cc:153] oneDNN is on.\\n")
from edgeq import demo

def images():
    return demo.load_data().calibration[:4]
"""


def test_nothing_but_the_command_speaks(demo_files: Files) -> None:
    (demo_files / "mine.py").write_text(TALKATIVE)
    found = process(
        "calibrate", "model.tflite", "--data", "mine:images", "-o", "ranges.json", cwd=demo_files
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_a_full_disk_leaves_no_part_of_a_file(demo_files: Files) -> None:
    """A limit on the size of files stands for the full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))

    before = sorted(demo_files.rglob("*"))
    found = process(
        "export", "model.tflite", "--data", "images.npy", "-o", "int8.tflite",
        cwd=demo_files, preexec_fn=limit,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "error: cannot write int8.tflite: File too large" in found.stderr
    assert "Traceback" not in found.stderr
    assert sorted(demo_files.rglob("*")) == before


def test_a_file_that_cannot_be_put_in_place_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(EdgeqError, match=r"cannot write .*taken: Is a directory"):
        write_whole(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_is_written_into_folders_that_are_made(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a" / "b" / "model.tflite", b"content")
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


def test_lint_ends_with_0_1_or_2_and_writes_json(demo_files: Files, exported: EdgeModel) -> None:
    good, bad, found = (demo_files / name for name in ("good.tflite", "bad.tflite", "lint.json"))
    good.write_bytes(exported.tflite)
    tree = unpack(exported.tflite)
    names = [op.name for op in parse(exported.tflite).graphs[0].operators]
    op = tree.subgraphs[0].operators[names.index("CONV_2D")]
    bias = tree.subgraphs[0].tensors[op.inputs[2]].quantization
    bias.scale = bias.scale * 2
    bad.write_bytes(pack(tree))
    clean = run("lint", good)
    assert (clean.exit_code, clean.stdout.splitlines()[-1][:8]) == (0, "0 errors")
    wrong = run("lint", bad, "--json", found)
    assert wrong.exit_code == 1
    assert "bias-scale" in wrong.stdout
    assert json.loads(found.read_text())["errors"] == 1
    assert run("lint", bad, "--target", "phone").exit_code == 2
    missing = run("lint", demo_files / "none.tflite")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
