"""`edgeq calibrate` killed in the middle and resumed ends with the file of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeq import demo
from edgeq.calibrate.calibration import Calibration

SLOW_DATA = """
import time
import numpy as np

def samples():
    for image in np.load("images.npy"):
        time.sleep(0.02)
        yield image[None]
"""


def command(output: str, observer: str, *more: str) -> list[str]:
    model = str(demo.float_model_path())
    start = [sys.executable, "-c", "from edgeq.cli import main; main()", "calibrate", model]
    options = ["--data", "slow:samples", "-o", output, "--observer", observer]
    return [*start, *options, "--save-every", "0.1", *more]


@pytest.mark.parametrize(
    "observer",
    ["moving_average", *(pytest.param(name, marks=pytest.mark.slow) for name in ("minmax", "mse"))],
)
def test_a_killed_run_resumes_to_the_same_file(tmp_path: Path, observer: str) -> None:
    np.save(tmp_path / "images.npy", demo.load_data().calibration[:60])
    (tmp_path / "slow.py").write_text(SLOW_DATA)
    subprocess.run(command("whole.json", observer), cwd=tmp_path, check=True, capture_output=True)

    killed = subprocess.Popen(
        command("killed.json", observer), cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    partial = tmp_path / "killed.json.partial"
    while not partial.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 0 < Calibration.load(partial).samples < 60
    assert not (tmp_path / "killed.json").exists()

    subprocess.run(
        command("killed.json", observer, "--resume"), cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not partial.exists()
