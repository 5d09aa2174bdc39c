"""Too little memory, by a limit of the system: a sentence, 2, and the old file alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ENVIRONMENT
from mutations import bases

import edgeq
from edgeq.errors import ProcessKilledError
from edgeq.isolation import MEMORY_USED, JobFailed, Worker

OLD = b"the model of yesterday"

LIMITED = """
import os, resource, sys
from pathlib import Path
from edgeq.cli import main
from edgeq.terminal.progress import Progress

stage, whose = sys.argv.pop(1), sys.argv.pop(1)
begun = Progress.stage

def limited(self, title, total=None):
    if title == stage:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for process in children if whose == "child" else [os.getpid()]:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
            held = pages * os.sysconf("SC_PAGE_SIZE")
            resource.prlimit(int(process), resource.RLIMIT_AS, (held, held))
    return begun(self, title, total)

Progress.stage = limited
main()
"""

pytestmark = pytest.mark.skipif(not MEMORY_USED.exists(), reason="needs limits as Linux has them")


def export(folder: Path, stage: str, whose: str) -> subprocess.CompletedProcess[str]:
    """Exports with no more memory than is held when a stage begins."""
    base = bases()[1]
    (folder / "model.tflite").write_bytes(base.tflite)
    np.save(folder / "data.npy", np.concatenate([sample for (sample,) in base.data]))
    (folder / "made.tflite").write_bytes(OLD)
    (folder / "temporary").mkdir()
    return subprocess.run(
        [sys.executable, "-c", LIMITED, stage, whose, "export", "model.tflite", "--data",
         "data.npy", "-o", "made.tflite", "--overwrite", "--recipe", "int8"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **ENVIRONMENT, "TMPDIR": str(folder / "temporary")},
    )  # fmt: skip


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


FILES = ["data.npy", "made.tflite", "model.tflite", "temporary"]


@pytest.mark.parametrize("stage", ["trace", "calibrate", "verify"])
def test_a_process_without_memory_says_so(stage: str, tmp_path: Path) -> None:
    found = export(tmp_path, stage, "parent")
    assert found.returncode == 2, found.stderr
    assert "error: there is not enough memory for this" in found.stderr
    assert "Traceback" not in found.stderr
    assert (tmp_path / "made.tflite").read_bytes() == OLD
    assert left(tmp_path) == FILES


def test_a_child_without_memory_is_replaced(tmp_path: Path) -> None:
    found = export(tmp_path, "calibrate", "child")
    if "killed by SIGSEGV" in found.stderr:
        pytest.skip("native code met the limit first, and dies of it")
    assert found.returncode == 0, found.stderr
    base = bases()[1]
    expected = edgeq.export(base.tflite, list(base.data), recipe="int8", progress=False)
    assert (tmp_path / "made.tflite").read_bytes() == expected.tflite
    assert left(tmp_path) == FILES


@pytest.mark.parametrize(
    "source",
    [
        "raise MemoryError",
        "import os; os.write(2, b'OpenBLAS error: Memory allocation still failed'); os._exit(1)",
    ],
    ids=["told", "ended"],
)
def test_a_child_without_memory_says_nothing_of_its_job(source: str) -> None:
    with Worker() as worker:
        with pytest.raises(ProcessKilledError, match="had not enough memory, twice"):
            worker.call("builtins:exec", source)
        assert worker.call("operator:add", 2, 3) == 5


def test_a_job_that_takes_more_than_it_may_has_failed() -> None:
    with Worker() as worker, pytest.raises(JobFailed, match="MemoryError"):
        worker.call("builtins:bytes", 1 << 30, memory_bytes=1 << 28)
