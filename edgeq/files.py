"""Files that appear whole or not at all, and large ones that are looked at where they lie."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import mmap
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from edgeq.errors import EdgeqError, ModelError

try:
    import fcntl
except ImportError:  # not on Windows, where models only run
    fcntl = None  # type: ignore[assignment]

LARGE_BYTES = 64 << 20
"""From this size on, the content of a file is not held in memory but mapped."""


def is_large(size: int) -> bool:
    """Whether so many bytes are better left in a file."""
    return size >= LARGE_BYTES


class MappedFile(mmap.mmap):
    """The content of a file that is not empty, of which only what is looked at is read.

    Equal to the same bytes, and pickled as such. The file may be moved or replaced by another one
    while it is mapped, but must not be written to.

    Args:
        path: The file.
        owned: Whether the file is to be deleted when nothing refers to the content any more.
    """

    path: Path
    _identity: tuple[int, ...]

    def __new__(cls, path: str | os.PathLike[str], owned: bool = False) -> MappedFile:
        with open(path, "rb") as file:
            found = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
            found._identity = _identity(os.fstat(file.fileno()))
        found.path = Path(path).absolute()
        if owned:
            weakref.finalize(found, found.path.unlink, missing_ok=True)
        return found

    def __init__(self, path: str | os.PathLike[str], owned: bool = False) -> None:
        """See `__new__`, which maps."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, bytes | mmap.mmap):
            return NotImplemented
        return len(self) == len(other) and memoryview(self) == memoryview(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to this content."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False


Content: TypeAlias = bytes | MappedFile
"""Content of a file: in memory, or mapped where it is large."""


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_content(path: str | os.PathLike[str]) -> Content:
    """Reads the content of a file.

    Raises:
        OSError: It cannot be read, or is a device.
    """
    return MappedFile(path) if is_large(size_of_file(path)) else Path(path).read_bytes()


def size_of_file(path: str | os.PathLike[str]) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: It is not there, or a device, some of which can be read without end.
    """
    status = os.stat(path)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        raise OSError(errno.EINVAL, "It is a device and no file", os.fspath(path))
    return status.st_size


def joined(pieces: Iterable[Any], size: int) -> Content:
    """Pieces of `size` bytes in all as one content; large ones go to a temporary file.

    Raises:
        ModelError: The temporary folder is full.
    """
    return MappedFile(written(pieces, size), owned=True) if is_large(size) else b"".join(pieces)


def written(pieces: Iterable[Any], size: int) -> Path:
    """A temporary file of pieces, which are `size` bytes in all; who asks for it has to delete it.

    Raises:
        ModelError: The temporary folder is full.
    """
    try:
        descriptor, name = tempfile.mkstemp(suffix=".tflite", dir=_scratch())
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            return Path(name)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ModelError(
            f"cannot write {size / 1e6:.0f} MB of the model to a temporary folder: "
            f"{error.strerror or error} ({tempfile.tempdir or 'there is none'}). Make room there, "
            "or set TMPDIR to a folder that has it"
        ) from None


def new_scratch_folder() -> Path:
    """A new folder for temporary files, which is removed with this process at the latest.

    Raises:
        OSError: There is no temporary folder.
    """
    return Path(tempfile.mkdtemp(dir=_scratch()))


def taken_over(path: Path) -> MappedFile:
    """A temporary file of another process, which from now on is this one's to delete."""
    descriptor, name = tempfile.mkstemp(suffix=path.suffix, dir=_scratch())
    os.close(descriptor)
    return MappedFile(path.replace(name), owned=True)


STALE_SECONDS = 60.0
"""A folder that is younger may belong to a process that is about to lock it."""


def _scratch() -> Path:
    return _scratch_of(os.getpid(), tempfile.gettempdir())


@functools.cache
def _scratch_of(process: int, parent: str) -> Path:
    """A folder of this process, which is removed with it, whatever ends it.

    It is locked as long as the process lives; what is left unlocked is removed by the next one.
    """
    _remove_stale(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix="edgeq-", dir=parent))
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    atexit.register(_remove_own, folder, process)
    _remove_after_this_process(folder)
    return folder


_WATCHER = 'exec 3<&0; { read _ <&3; rm -rf -- "$0"; } &'
"""Removes its argument once nothing holds the other end of its standard input."""


def _remove_after_this_process(folder: Path) -> None:
    """Has a shell remove the folder when this process is gone: most signals skip `atexit`."""
    with contextlib.suppress(OSError):  # there is no shell, or no process to be had
        watched, _ = os.pipe()  # the system closes the other end with this process
        try:
            subprocess.run(
                ["/bin/sh", "-c", _WATCHER, str(folder)],
                cwd="/", stdin=watched, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, check=False,
            )  # fmt: skip
        finally:
            os.close(watched)


def _remove_own(folder: Path, process: int) -> None:
    """Removes the folder of a process, unless this is a fork of it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    """Removes the folders of processes that are gone, which hold no lock any more."""
    if fcntl is None:
        return
    for folder in parent.glob("edgeq-*/"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            young = time.time() - status.st_mtime < STALE_SECONDS
            if young or status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def on_disk(content: Content) -> MappedFile:
    """The content in a file that other processes can open by its path."""
    if isinstance(content, MappedFile) and content.is_there:
        return content
    return MappedFile(written([content], len(content)), owned=True)


def release(content: Content) -> None:
    """Lets the system take back what it has read of a mapped file; it is read again if need be."""
    if isinstance(content, MappedFile) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def write_whole(path: str | os.PathLike[str], content: Content) -> Path:
    """Writes a file under a temporary name beside it and renames it, so that it appears whole.

    A link is followed. A file that is replaced hands on its mode and, where that is allowed, its
    owner. A device or a pipe is written to, not replaced.

    Raises:
        EdgeqError: It cannot be written; what was there is as it was.
    """
    try:
        status = Path(path).stat() if Path(path).exists() else None
        if status is not None and not stat.S_ISREG(status.st_mode):
            with open(path, "wb") as stream:
                stream.write(content)
        else:
            found = Path(os.path.realpath(path))
            found.parent.mkdir(parents=True, exist_ok=True)
            _replace(found, content, status)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise EdgeqError(f"cannot write {path}: {_reason(error)}") from None
    return Path(path)


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)


def _replace(path: Path, content: Content, replaced: os.stat_result | None) -> None:
    """Puts a file in the place of another or of none; a new one gets the mode that umask leaves."""
    temporary = path.with_name(f".edgeq-{secrets.token_hex(8)}")  # any name fits where path's does
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if replaced is not None:
                _inherit(file.fileno(), replaced)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _inherit(descriptor: int, replaced: os.stat_result) -> None:
    """Gives a file another one's owner and mode; the owner first, which takes bits of the mode."""
    if hasattr(os, "fchown"):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
