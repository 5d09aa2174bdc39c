"""Files in the working folder that are named like modules change nothing and run nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import process

import edgeq
from edgeq.export.edge_model import EdgeModel

LURES = ("edgeq", "struct", "numpy", "typing", "sitecustomize", "litert_converter", "json")


@pytest.fixture
def lured(demo_files: Path, exported: EdgeModel) -> Path:
    """The demo's files beside modules that tell when they run."""
    for name in LURES:
        (demo_files / f"{name}.py").write_text(
            f"open({str(demo_files / 'ran')!r}, 'a').write('{name} ')\nraise SystemExit(7)\n"
        )
    exported.save(demo_files / "int8.tflite")
    return demo_files


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "model.tflite", "--data", "images.npy", "-o", "a.tflite", "--recipe", "int8"],
        ["compare", "model.tflite", "int8.tflite", "--data", "images.npy"],
        ["dequantize", "int8.tflite", "-o", "a.tflite"],
        ["compare", "model.tflite", "model.tflite", "--data", "own:samples"],
    ],
    ids=["export", "compare", "dequantize", "a function"],
)
def test_modules_of_the_working_folder_do_not_run(lured: Path, arguments: list[str]) -> None:
    np.save(lured / "few.npy", np.load(lured / "images.npy")[:12])
    (lured / "own.py").write_text("import numpy\nimport struct\nsamples = numpy.load('few.npy')\n")
    shutil.copy(lured / "few.npy", lured / "images.npy")
    found = process(*arguments, cwd=lured)
    assert (found.returncode, (lured / "ran").exists()) == (0, False), found.stderr
    if arguments[0] == "dequantize":
        made = (lured / "a.tflite").read_bytes()
        assert made == edgeq.dequantize(lured / "int8.tflite")
