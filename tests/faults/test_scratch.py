"""Large temporary files go with their process, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = """
import os, signal, sys, time
from edgeq.cli.failing import errors_as_sentences
from edgeq.files import MappedFile, written
from edgeq.isolation import Worker
with errors_as_sentences():
    kept = MappedFile(written([b"x"], 1), owned=True)
    left = written([b"y"], 1)
    worker = Worker()
    print(worker.call("edgeq.files:written", [b"z"], 1), flush=True)
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(60)
"""


def ended_by(number: signal.Signals, folder: Path, source: str = SOURCE) -> int:
    """How a process with temporary files ends by a signal."""
    return subprocess.run(
        [sys.executable, "-c", source, str(int(number))], check=False, capture_output=True,
        env={**os.environ, "TMPDIR": str(folder)}, timeout=60,
    ).returncode  # fmt: skip


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_process_that_is_asked_to_end_leaves_nothing(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    assert ended_by(number, tmp_path) != 0
    wait_until(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_process_that_does_not_hear_it_leaves_nothing(name: str, tmp_path: Path) -> None:
    """As a script that calls edgeq, whose signals are not edgeq's to handle."""
    number = signal.Signals[name]
    unheard = SOURCE.replace("with errors_as_sentences():", "if True:")
    assert ended_by(number, tmp_path, unheard) == -number
    wait_until(lambda: not list(tmp_path.iterdir()))


def wait_until(holds: Callable[[], bool]) -> None:
    """What another process does takes a moment."""
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def test_what_was_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left, young, other = (tmp_path / name for name in ("edgeq-left", "edgeq-young", "not-edgeqs"))
    for folder in (left, young, other):
        folder.mkdir()
        (folder / "part.tflite").write_bytes(b"x")
    old = time.time() - 1000
    for folder in (left, other):
        os.utime(folder, (old, old))
    assert ended_by(signal.SIGTERM, tmp_path) != 0
    wait_until(lambda: sorted(tmp_path.iterdir()) == [young, other])


def test_a_folder_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    source = "import edgeq.files as f; print(f._scratch(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as living:  # fmt: skip
        assert living.stdout is not None
        folder = Path(living.stdout.readline().strip())
        os.utime(folder, (0, 0))
        ended_by(signal.SIGTERM, tmp_path)
        wait_until(lambda: list(tmp_path.iterdir()) == [folder])
        living.communicate("\n")
    wait_until(lambda: not list(tmp_path.iterdir()))
