"""`edgeq explore`: overlays that Model Explorer itself loads and shows beside the nodes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser, opened
from typer.testing import CliRunner

import edgeq
from edgeq import Diagnosis
from edgeq.cli import app
from edgeq.export.edgemodel import EdgeModel
from edgeq.flatbuffer import parse
from edgeq.report.overlay import overlays

ROW = r"fully_connected\s+int8\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)"
"""The last layer in the table of nodes, with the value of each overlay."""


@pytest.fixture
def files(demo_files: Path, exported: EdgeModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    exported.save(demo_files / "int8.tflite")
    monkeypatch.chdir(demo_files)
    return ["model.tflite", "int8.tflite", "--data", "images.npy"]


@pytest.fixture(scope="module")
def diagnosis(exported: EdgeModel, demo_images: object) -> Diagnosis:
    return edgeq.debug(exported, exported, demo_images)


def test_overlays_name_ops_by_their_place(diagnosis: Diagnosis, exported: EdgeModel) -> None:
    made = {name: json.loads(text) for name, text in overlays(diagnosis).items()}
    ops = parse(exported.tflite).graphs[0].operators
    for content in made.values():
        assert {ops[int(key)].name for key in content["results"]} >= {"CONV_2D", "ADD"}
    lines = {line.index: line for line in diagnosis.layers if line.index is not None}
    so_far, kinds = made["SQNR so far (dB)"]["results"], made["computes in"]["results"]
    assert len(so_far) == len(kinds) == len(lines) >= len(ops) - 2
    for index, line in lines.items():
        assert so_far[str(index)]["value"] == pytest.approx(line.accumulated_db, abs=0.01)
        assert kinds[str(index)]["value"] == "int8"
    assert max(entry["value"] for entry in list(made.values())[-1]["results"].values()) == 100


def test_the_command_writes_them(files: list[str]) -> None:
    found = CliRunner().invoke(app, ["explore", *files, "-o", "overlays"])
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in Path("overlays").iterdir()) == [
        "computes_in.json", "sqnr_added_db.json", "sqnr_if_alone_rounded_db.json",
        "sqnr_so_far_db.json",
    ]  # fmt: skip
    assert json.loads(Path("overlays/computes_in.json").read_text())["results"]


def test_a_missing_package_is_told_first(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_explorer", None)
    found = CliRunner().invoke(app, ["explore", *files])
    assert found.exit_code == 2
    assert "pip install 'edgeq[explore]'" in found.stderr


@contextlib.contextmanager
def served(files: list[str]) -> Iterator[str]:
    """The address that the running command prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-u", "-c", "from edgeq.cli import main; main()", "explore", *files]
    process = subprocess.Popen(
        [*start, "--no-browser", "--port", str(port)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("http://"):
                break
        assert lines, "the command printed nothing"
        assert lines[-1].startswith(f"http://localhost:{port}"), "".join(lines)
        yield lines[-1].strip()
    finally:
        process.kill()
        process.wait()


def test_model_explorer_shows_the_nodes_with_the_overlay(
    files: list[str], diagnosis: Diagnosis
) -> None:
    pytest.importorskip("model_explorer")
    with browser() as running, served(files) as address:
        page = opened(running, address, 1400, 900).page
        page.wait_for_function(f"/{ROW}/.test(document.body.innerText)", timeout=60_000)
        text = page.locator("body").inner_text()
    for name in overlays(diagnosis):
        assert name in text
    assert "int8.tflite" in text
    (last,) = (line for line in diagnosis.layers if line.op == "FULLY_CONNECTED")
    row = re.search(ROW, text)
    assert row is not None, text
    expected = (last.added_db, last.accumulated_db, last.cost_db)
    assert [float(value) for value in row.groups()] == pytest.approx(expected, abs=0.02)
