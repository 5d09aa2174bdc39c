"""How commands write files: whole or not at all, never over another without being told."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeq.errors import EdgeqError
from edgeq.files import write_whole
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.report.page import check_packages


def check_page(path: Path | None, overwrite: bool) -> None:
    """`check_writable` for a page, whose packages must be there too."""
    if path is None:
        return
    if path.suffix != ".html":
        raise EdgeqError(f"--report {path}: a page is .html; --json writes the numbers")
    check_writable(path, overwrite)
    check_packages()


def write_page(
    path: Path, edge: Any, comparison: Comparison | None, diagnosis: Diagnosis | None = None
) -> None:
    from edgeq.export.html_report import write_report

    with writing(path):
        write_report(
            path, edge, comparison=comparison, diagnosis=diagnosis, title=f"edgeq: {path.stem}",
            command=shlex.join(["edgeq", *sys.argv[1:]]),
        )  # fmt: skip


def check_writable(path: Path, overwrite: bool) -> None:
    """Raises an `EdgeqError` before the long work for a file that could not be written after it."""
    if path.is_dir():
        raise EdgeqError(f"{path} is a folder; name the file to write")
    if path.exists() and not overwrite:
        raise EdgeqError(f"{path} exists; pass --overwrite to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise EdgeqError(f"cannot write {path}: {folder} is not a folder that may be written to")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeqError(f"cannot write {path}: {error.strerror or error}") from None


def write(path: Path, content: bytes) -> None:
    with writing(path):
        write_whole(path, content)
