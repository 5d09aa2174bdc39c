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
from typing import Any

import numpy as np
import pytest
from browser import browser, opened
from typer.testing import CliRunner

import edgeq
from edgeq.cli import app
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse

ROW = r"fully_connected\s+int8\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)"
"""The last layer in the table of nodes, with the value of each overlay."""


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, exported: EdgeModel, demo_images: object
) -> list[str]:
    """The arguments of the command: both models and the data."""
    folder = tmp_path_factory.mktemp("explore")
    (folder / "model.tflite").write_bytes(exported.float_model.tflite)
    exported.save(folder / "int8.tflite")
    np.save(folder / "images.npy", demo_images)
    return [str(folder / "model.tflite"), str(folder / "int8.tflite"), "--data",
            str(folder / "images.npy")]  # fmt: skip


@pytest.fixture(scope="module")
def written(files: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """What the command writes: the results by the file's name."""
    folder = Path(files[0]).parent / "overlays"
    found = CliRunner().invoke(app, ["explore", *files, "-o", str(folder)])
    assert found.exit_code == 0, found.output
    return {path.stem: json.loads(path.read_text())["results"] for path in folder.iterdir()}


def test_overlays_name_ops_by_their_place(
    written: dict[str, dict[str, dict[str, Any]]], exported: EdgeModel, demo_images: Any
) -> None:
    assert sorted(written) == [
        "computes_in", "sqnr_added_db", "sqnr_if_alone_rounded_db", "sqnr_so_far_db",
    ]  # fmt: skip
    ops = parse(exported.tflite).graphs[0].operators
    inner = [str(op.index) for op in ops if op.name not in ("QUANTIZE", "DEQUANTIZE")]
    for found in written.values():
        assert sorted(found, key=int) == inner
    assert {entry["value"] for entry in written["computes_in"].values()} == {"int8"}
    whole = edgeq.compare(exported, exported, demo_images[:16]).sqnr_db
    assert written["sqnr_so_far_db"][inner[-1]]["value"] == pytest.approx(whole, abs=0.01)
    moved = next(str(op.index) for op in ops if op.name == "RESHAPE")
    assert written["sqnr_if_alone_rounded_db"][moved]["value"] == 100  # it loses nothing


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
    files: list[str], written: dict[str, dict[str, dict[str, Any]]]
) -> None:
    pytest.importorskip("model_explorer")
    with browser() as running, served(files) as address:
        page = opened(running, address, 1400, 900).page
        page.wait_for_function(f"/{ROW}/.test(document.body.innerText)", timeout=60_000)
        text = page.locator("body").inner_text()
    for name in ("computes in", "SQNR added", "SQNR so far", "SQNR if alone rounded"):
        assert name in text
    assert "int8.tflite" in text
    row = re.search(ROW, text)
    assert row is not None, text
    last = max(written["computes_in"], key=int)
    expected = [
        written[name][last]["value"]
        for name in ("sqnr_added_db", "sqnr_so_far_db", "sqnr_if_alone_rounded_db")
    ]
    assert [float(value) for value in row.groups()] == pytest.approx(expected)
