"""Each stage of an export meets each fault: the old file or the new one whole, the right exit code,
nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from mutations import bases

from edgeq.export.edge_model import EdgeModel
from edgeq.export.pipeline import STAGES
from edgeq.files import write_whole
from edgeq.terminal.progress import Progress

OLD = b"the model of yesterday"
OUTPUT = "model_int8.tflite"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small model, its data and an old output, in which the command runs."""
    base = bases()[1]
    (tmp_path / "model.tflite").write_bytes(base.tflite)
    np.save(tmp_path / "data.npy", np.concatenate([sample for (sample,) in base.data]))
    (tmp_path / OUTPUT).write_bytes(OLD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(recipe: str = "int8") -> Any:
    return run(
        "export", "model.tflite", "--data", "data.npy", "-o", OUTPUT, "--overwrite",
        "--recipe", recipe,
    )  # fmt: skip


Fault = Callable[[pytest.MonkeyPatch, Path], None]


def kill_the_worker(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"edgeq.isolation" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def signalled(number: signal.Signals) -> Fault:
    return lambda patch, folder: os.kill(os.getpid(), number)


def fill_the_disk(patch: pytest.MonkeyPatch, folder: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))


def make_it_read_only(patch: pytest.MonkeyPatch, folder: Path) -> None:
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and Path(os.fspath(path)).parent == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *rest, **named)

    patch.setattr(os, "open", refused)


def take_the_memory(patch: pytest.MonkeyPatch, folder: Path) -> None:
    raise MemoryError


def write_as_another_process(patch: pytest.MonkeyPatch, folder: Path) -> None:
    write_whole(folder / OUTPUT, b"of another process")


FAULTS: dict[str, tuple[Fault, int, str]] = {
    "kill -9 of the worker": (kill_the_worker, 0, ""),
    "SIGINT": (signalled(signal.SIGINT), 130, "interrupted; nothing was written"),
    "SIGTERM": (signalled(signal.SIGTERM), 143, "stopped by SIGTERM; nothing was written"),
    "SIGHUP": (signalled(signal.SIGHUP), 129, "stopped by SIGHUP; nothing was written"),
    "full disk": (fill_the_disk, 2, "error: cannot write model_int8.tflite: File too large"),
    "read-only": (make_it_read_only, 2, "error: cannot write model_int8.tflite: Read-only file"),
    "low memory": (take_the_memory, 2, "error: there is not enough memory"),
    "two writers": (write_as_another_process, 0, ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> dict[str, bytes]:
    """What an undisturbed export writes, by recipe, filled as it is asked for."""
    return {}


@contextlib.contextmanager
def at(stage: str, fault: Fault, folder: Path) -> Iterator[list[str]]:
    """Has a fault strike once, when a stage begins; yields where it struck."""
    struck: list[str] = []
    begun, saved = Progress.stage, EdgeModel.save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def strike(name: str) -> None:
        if name == stage and not struck:
            struck.append(name)
            fault(patch, folder)

    def stage_begun(self: Progress, title: str, total: int | None = None) -> Any:
        strike(title)
        return begun(self, title, total)

    def save_begun(self: EdgeModel, *arguments: Any) -> Path:
        strike("save")
        return saved(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "stage", stage_begun)
        patch.setattr(EdgeModel, "save", save_begun)
        try:
            yield struck
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", [*STAGES, "save"])
def test_a_fault_leaves_the_old_file_or_the_new_one(
    stage: str, fault: str, work: Path, expected: dict[str, bytes]
) -> None:
    recipe = "auto" if stage == "search" else "int8"
    if recipe not in expected:
        assert export(recipe).exit_code == 0
        expected[recipe] = (work / OUTPUT).read_bytes()
        (work / OUTPUT).write_bytes(OLD)
    files = sorted(path.name for path in work.iterdir())
    act, code, said = FAULTS[fault]
    with at(stage, act, work) as struck:
        found = export(recipe)
    assert struck == [stage]
    assert found.exit_code == code, found.stderr
    assert said in found.stderr
    assert (work / OUTPUT).read_bytes() == (expected[recipe] if code == 0 else OLD)
    assert sorted(path.name for path in work.iterdir()) == files
