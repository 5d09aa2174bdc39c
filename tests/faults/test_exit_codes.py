"""Only a judged gate ends with 0 or 1; whatever keeps a command from its work is 2."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import EDGEQ, ENVIRONMENT, run

from edgeq.export.edge_model import EdgeModel

CODE = {
    "exits with 0": "import sys; sys.exit(0)",
    "exits with 1": "import sys; sys.exit(1)",
    "raises": "raise ValueError('a fault of its own')",
    "takes memory": "raise MemoryError",
    "recurses": "def samples(): yield samples()\ndef f(): f()\nf()",
}
SAID = {
    "exits with 0": r"ended the program with sys.exit(0) (",
    "exits with 1": r"ended the program with sys.exit(1) (",
    "raises": "error: ValueError: a fault of its own (",
    "takes memory": "there is not enough memory",
    "recurses": "error: RecursionError: ",
}


@pytest.fixture
def files(demo_files: Path, exported: EdgeModel) -> Path:
    """The demo's files, with `int8.tflite` beside them."""
    exported.save(demo_files / "int8.tflite")
    return demo_files


@pytest.mark.parametrize("when", ["imported", "called"])
@pytest.mark.parametrize("code", CODE)
def test_code_of_the_user_does_not_decide_the_verdict(
    files: Path, monkeypatch: pytest.MonkeyPatch, code: str, when: str
) -> None:
    module = f"own_{code.replace(' ', '_')}_{when}"
    source = CODE[code]
    if when == "called":
        source = "def samples():\n    " + source.replace("\n", "\n    ") + "\n    yield 0\n"
    (files / f"{module}.py").write_text(source)
    monkeypatch.chdir(files)
    found = run(
        "check", "model.tflite", "int8.tflite", "--data", f"{module}:samples",
        "--min-sqnr-db", "1",
    )  # fmt: skip
    assert found.exit_code == 2
    assert SAID[code] in found.stderr
    assert "Traceback" not in found.stderr


def descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))


NO_TEMPORARY_FOLDER = """
import sys, tempfile
def none(): raise FileNotFoundError(2, "No usable temporary directory found in [...]")
tempfile.gettempdir = tempfile._get_default_tempdir = none
from edgeq.cli import main
main()
"""
SURROUNDINGS: dict[str, tuple[list[str], Callable[[], None] | None]] = {
    "few descriptors": ([EDGEQ], descriptors),
    "no temporary folder": ([sys.executable, "-c", NO_TEMPORARY_FOLDER], None),
}


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_a_poor_surrounding_is_a_sentence(files: Path, surrounding: str) -> None:
    command, limit = SURROUNDINGS[surrounding]
    judged = ["check", "model.tflite", "int8.tflite", "--data", "images.npy", "--min-sqnr-db", "1"]
    found = subprocess.run(
        [*command, *judged], cwd=files, env={**os.environ, **ENVIRONMENT}, capture_output=True,
        text=True, timeout=120, check=False, preexec_fn=limit,
    )  # fmt: skip
    assert (found.returncode, "Traceback" in found.stderr) == (2, False), found.stderr
    assert found.stderr.startswith("error: ")


def test_a_removed_working_folder_is_a_sentence(files: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {EDGEQ} dequantize {files / 'int8.tflite'} -o made.tflite"
    found = subprocess.run(
        ["sh", "-c", script], cwd=gone, capture_output=True, text=True, check=False,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert (found.returncode, "Traceback" in found.stderr) == (2, False), found.stderr
    assert "error: cannot write made.tflite" in found.stderr


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_do_no_harm(files: Path, closed: str) -> None:
    made = files / "made.tflite"
    script = f"exec {EDGEQ} dequantize int8.tflite -o made.tflite {CLOSED[closed]}"
    found = subprocess.run(["sh", "-c", script], cwd=files, capture_output=True, check=False)
    assert found.returncode == 0
    assert made.read_bytes()[4:8] == b"TFL3"


def test_a_pipe_that_nobody_reads_is_2(files: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [EDGEQ, "inspect", "int8.tflite"], cwd=files, stdout=write, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert found.returncode == 2
    assert "nobody reads the output any more" in found.stderr
    assert "Exception ignored" not in found.stderr


def test_output_on_a_full_device_is_2(files: Path) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [EDGEQ, "inspect", "int8.tflite"], cwd=files, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert found.returncode == 2
    assert "No space left on device" in found.stderr


def test_a_service_without_streams_may_export(
    exported: EdgeModel, demo_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgeq

    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.stdout", None)
    made = edgeq.export(exported.float_model.tflite, demo_images, recipe="int8")
    made.report.print()
    assert made.tflite == exported.tflite


def test_explore_asks_before_it_serves_to_others(files: Path) -> None:
    found = run(
        "explore", files / "model.tflite", files / "int8.tflite", "--data", files / "images.npy",
        "--host", "0.0.0.0",
    )  # fmt: skip
    assert found.exit_code == 2
    assert "could read files of this machine" in found.stderr
    assert "pass --expose" in found.stderr
