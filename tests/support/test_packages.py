"""Archives are used only if they are the files that are meant; nothing here needs a network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from packages import Archive, Unavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory, empty."""
    monkeypatch.setenv("EDGEQ_TEST_CACHE", str(tmp_path))
    return tmp_path


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("package/one.txt", "package/two.bin"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def _archive(content: bytes, command: str = "npm pack nothing") -> Archive:
    return Archive("a.tgz", hashlib.sha256(content).hexdigest(), command)


def test_a_cached_archive_is_read_by_name(cache: Path) -> None:
    (cache / "a.tgz").write_bytes(_tar())
    archive = _archive((cache / "a.tgz").read_bytes())
    assert archive.read(lambda name: name.endswith(".txt")) == {"package/one.txt": b"abc"}
    assert archive.read_one("two.bin") == b"abc"


def test_another_file_of_that_name_is_refused(cache: Path) -> None:
    (cache / "a.tgz").write_bytes(b"something else")
    with pytest.raises(Unavailable, match="is not the file that is meant"):
        _archive(_tar()).path()


def test_a_tool_that_leaves_nothing_leaves_the_cache_empty(cache: Path) -> None:
    archive = _archive(b"", "python -m platform --version")
    with pytest.raises(Unavailable, match=r"^python fetched nothing instead of a\.tgz"):
        archive.path()
    assert list(cache.iterdir()) == []


def test_a_missing_tool_is_named(cache: Path) -> None:
    with pytest.raises(Unavailable, match=r"no-such-tool is missing; a\.tgz is fetched with it"):
        _archive(b"", "no-such-tool fetch").path()
    assert list(cache.iterdir()) == []
