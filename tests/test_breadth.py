"""Twelve architectures of the breadth bench: exported, and as faithful as the framework says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tables

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.append(str(SCRIPTS))
breadth: Any = pytest.importorskip("benchmarks.breadth")

FAITHFUL_DB = 20.0
"""The default goal of `recipe="auto"`."""


SLOW = ("conformer", "gru", "rotary_decoder", "autoencoder", "segmenter", "generator")
"""Those whose layers others have too, here or among the tests of the front ends."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n.removeprefix("block:") in SLOW else ())
        for n in breadth.IN_CI
    ],
)
def test_auto_exports_it_faithfully(name: str) -> None:
    found = breadth.measure(name, ("auto",))
    assert found["state"] == "built"
    made = found["auto"]
    assert "why" not in made, made
    tables.add_row(
        "breadth, recipe auto",
        {"model": name, "dB": made["dB"], "reported dB": made["reported dB"],
         "float ops": made["float ops"], "time": made["time"]},
    )  # fmt: skip
    assert made["dB"] >= FAITHFUL_DB
