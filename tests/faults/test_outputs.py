"""Outputs: devices and pipes are written to, links followed, modes kept, and wrong ones refused."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import process, run

from edgeq.errors import EdgeqError
from edgeq.export.edge_model import EdgeModel
from edgeq.files import write_whole
from edgeq.report.verdict import CheckResult


@pytest.fixture
def files(demo_files: Path, exported: EdgeModel) -> Path:
    """The demo's files, with `int8.tflite` beside them."""
    exported.save(demo_files / "int8.tflite")
    return demo_files


def test_a_device_stays_a_device(tmp_path: Path, exported: EdgeModel) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device takes the rights of root")
    exported.save(device)
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_pipe_gets_what_is_written(files: Path, exported: EdgeModel) -> None:
    pipe, got = files / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    found = run("lint", files / "int8.tflite", "--json", pipe)
    reader.join(20)
    assert found.exit_code == 0
    assert b'"errors": 0' in got[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_may_be_named(files: Path) -> None:
    found = process("lint", files / "int8.tflite", "--json", "/dev/stdout")
    assert found.returncode == 0
    assert found.stdout.lstrip().startswith("{")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, is_there: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    if is_there:
        real.write_bytes(b"old")
    link.symlink_to("real")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_what_is_replaced_hands_on_its_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    write_whole(path, b"new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip


def test_a_new_file_obeys_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))


REFUSED: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "the same file twice": (
        lambda f: ["compare", f / "model.tflite", f / "int8.tflite", "--data", f / "images.npy",
                   "--json", f / "z", "--report", f / "z"],
        "--report",
    ),
    "the same file by two names": (
        lambda f: ["check", f / "model.tflite", f / "int8.tflite", "--data", f / "images.npy",
                   "--min-sqnr-db", "1", "--json", f / "z", "--junit", f / "." / "a" / ".." / "z"],
        "--json and --junit are the same file",
    ),
    "the model and its report": (
        lambda f: ["export", f / "model.tflite", "--data", f / "images.npy", "-o", f / "z.tflite",
                   "--report", f / "z.tflite"],
        "--report",
    ),
    "a page with another ending": (
        lambda f: ["export", f / "model.tflite", "--data", f / "images.npy", "-o", f / "z.tflite",
                   "--report", f / "r.pdf"],
        "r.pdf: a page is .html",
    ),
    "a model with another ending": (
        lambda f: ["dequantize", f / "int8.tflite", "-o", f / "x.onnx"],
        "x.onnx: a model is .tflite",
    ),
    "a name that is too long": (
        lambda f: ["dequantize", f / "int8.tflite", "-o", f / ("x" * 300)],
        "File name too long",
    ),
    "lint over a file": (
        lambda f: ["lint", f / "int8.tflite", "--json", f / "images.npy"],
        "exists; pass --overwrite to replace it",
    ),
    "a link to a file that is there": (
        lambda f: ["dequantize", f / "int8.tflite", "-o", f / "link.tflite"],
        "exists; pass --overwrite to replace it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_before_the_work(files: Path, case: str) -> None:
    (files / "link.tflite").symlink_to("int8.tflite")
    arguments, what = REFUSED[case]
    before = written(files)
    found = run(*arguments(files))
    assert found.exit_code == 2
    assert what in found.stderr
    assert written(files) == before


def written(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What would change where a file was written or replaced."""
    found = {path: path.lstat() for path in folder.iterdir()}
    return {path: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for path, s in found.items()}


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    name = "x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 7) + ".tflite"
    assert write_whole(tmp_path / name, b"content").read_bytes() == b"content"


@pytest.mark.parametrize("path", ["a\0b", "/dev/null/below", "/proc/none/of/it"])
def test_save_raises_an_edgeq_error(exported: EdgeModel, path: str) -> None:
    with pytest.raises(EdgeqError, match=r"cannot write .*: "):
        exported.save(path)


def test_a_full_disk_leaves_the_old_file_and_no_part(files: Path) -> None:
    old = (files / "int8.tflite").read_bytes()
    found = process(
        "dequantize", "int8.tflite", "-o", "int8.tflite", "--overwrite",
        cwd=files, preexec_fn=full_disk,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert (files / "int8.tflite").read_bytes() == old
    assert sorted(p.name for p in files.iterdir()) == ["images.npy", "int8.tflite", "model.tflite"]


def test_junit_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: CheckResult
) -> None:
    path = tmp_path / "junit.xml"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeq.files.os.fchmod", full)
    with pytest.raises(EdgeqError, match="No space left on device"):
        judged.write_junit(path)
    assert [p.name for p in tmp_path.iterdir()] == ["junit.xml"]
    assert path.read_text() == "old"
