"""A search whose process is killed and started again gives what one gives that never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SEARCH = """
import hashlib, json, sys
import edgeq
from edgeq import demo
from edgeq.export import verify
from edgeq.goal import variants
from edgeq.runtime.benchmark import Latency

def same(runs, *_, **__):
    # Times of a machine differ from run to run, and with them which plan is changed further.
    return {name: Latency.of([1.0]) for name in runs}

verify.interleaved_latency = same
variants.CHANGED = 1
data = demo.load_data()
found = edgeq.search(
    demo.float_model_path(), data.calibration[:60], eval_data=data.test[:200],
    labels=data.labels[:200], max_drop=0.0, folder=sys.argv[1], progress=False,
)
print(json.dumps({
    "trials": [[t.name, t.value, t.size_bytes, t.sqnr_db, t.error] for t in found.report.trials],
    "best": found.report.best.name,
    "recipe": found.recipe.to_json(),
    "file": hashlib.sha256(found.edge_model.tflite).hexdigest(),
}))
"""
"""Of the trained demo model, with times that are the same in each run."""

BEFORE = 3
"""Trials that are finished when it is killed."""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(folder)], stdout=subprocess.PIPE, text=True
    )


def result(folder: Path) -> dict[str, Any]:
    running = start(folder)
    written, _ = running.communicate(timeout=600)
    assert running.returncode == 0
    found: dict[str, Any] = json.loads(written.splitlines()[-1])
    return found


def kill_after(folder: Path, count: int) -> dict[Path, int]:
    """Kills a search once so many trials are kept; returns these with when they were written."""
    running = start(folder)
    while len(list(folder.glob("trial-*.json"))) < count:
        assert running.poll() is None, "it ended before it was to be killed"
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    return {path: path.stat().st_mtime_ns for path in folder.glob("trial-*.json")}


@pytest.mark.slow
def test_a_killed_search_ends_as_one_that_was_never_killed(tmp_path: Path) -> None:
    kept = kill_after(tmp_path / "killed", BEFORE)
    resumed, whole = result(tmp_path / "killed"), result(tmp_path / "whole")
    assert resumed == whole
    assert len(whole["trials"]) > BEFORE
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
