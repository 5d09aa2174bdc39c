"""How commands write files: whole or not at all, never over another without being told."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from edgeq.errors import EdgeqError
from edgeq.files import write_whole
from edgeq.foreign.shown import lines
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.report.page import check_packages
from edgeq.report.search_result import SearchReport


def write_page(
    path: Path,
    edge: Any,
    comparison: Comparison | None,
    diagnosis: Diagnosis | None = None,
    search: SearchReport | None = None,
) -> None:
    from edgeq.export.html_report import write_report

    write_report(
        path, edge, comparison=comparison, diagnosis=diagnosis, search=search,
        title=f"edgeq: {path.stem}",
        command=shlex.join(["edgeq", *sys.argv[1:]]),
    )  # fmt: skip


MODEL, JSON, PAGE, XML = (
    (".tflite", ""), (".json", ""), (".html",), (".xml", ""),
)  # fmt: skip
"""Endings that files of each kind may have."""

_KINDS = {
    MODEL: "a model is .tflite",
    JSON: "what is written is .json",
    PAGE: "a page is .html; --json writes the numbers",
    XML: "JUnit's form is .xml",
}

Output = tuple[str, Path | None, tuple[str, ...]]
"""What a file is called in errors, its path and its kind."""


def check_outputs(overwrite: bool, *outputs: Output) -> None:
    """Raises an `EdgeqError` before the long work for a file that could not be written after it."""
    seen: dict[str, str] = {}
    for name, path, endings in outputs:
        if path is None:
            continue
        with _reaching(path):
            _check_output(name, path, endings, overwrite)
            place = os.path.realpath(path)
        if place in seen:
            raise EdgeqError(f"{seen[place]} and {name} are the same file, {path}")
        seen[place] = name
        if path.suffix == ".html":
            check_packages()


def _check_output(name: str, path: Path, endings: tuple[str, ...], overwrite: bool) -> None:
    if path.is_dir():
        raise EdgeqError(f"{path} is a folder; name the file to write")
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return  # a device or a pipe takes whatever comes, and is not replaced
    if status is not None and not overwrite:
        raise EdgeqError(f"{path} exists; pass --overwrite to replace it")
    if path.suffix.lower() not in endings:
        raise EdgeqError(f"{name} {path}: {_KINDS[endings]}")
    folders = Path(os.path.realpath(path)).parents
    folder = next(parent for parent in folders if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise EdgeqError(f"cannot write {path}: {folder} is not a folder that may be written to")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def _reaching(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise EdgeqError(f"cannot write {path}: {reason}") from None


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a table in a file."""
    return Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 250)


def say(text: str) -> None:
    """Prints a sentence, which may hold paths and names of files."""
    Console().print(lines(text), highlight=False, markup=False, soft_wrap=True)


def write(path: Path, content: bytes) -> None:
    write_whole(path, content)
