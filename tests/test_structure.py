"""The package's shape: small files in small folders, names that say which module is meant."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeq

PACKAGE = Path(edgeq.__file__).parent
PROJECT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES})

LINES_MAX = 400
MODULES_MAX = 14

TABLES = {
    "ops.py": "a row for each op, read as one table",
    "targets/xnnpack.py": "a constraint for each op that the delegate takes, read as one table",
}
"""Longer files, and why they are not cut."""

JOB = re.compile(r"edgeq(?:\.\w+)+:\w+")
"""A function by name, as a child process is told it."""

MENTIONED = re.compile(r"`((?:edgeq|tests)/[\w/.]+)`")
"""A file or folder as documents write it."""


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def jobs() -> Iterator[str]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from [node.value] if JOB.fullmatch(node.value) else []


def test_no_file_is_long() -> None:
    long = {name(file): lines(file) for file in FILES if lines(file) > LINES_MAX}
    assert {file: n for file, n in long.items() if file not in TABLES} == {}
    assert sorted(long) == sorted(TABLES), "a table that became short needs no exception"


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_can_be_seen_at_a_glance(folder: Path) -> None:
    modules = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    assert len(modules) <= MODULES_MAX, modules


def test_no_two_modules_have_one_name() -> None:
    modules = [file.stem for file in FILES if file.stem != "__init__"]
    packages = [folder.name for folder in FOLDERS]
    assert {n: count for n, count in Counter(modules + packages).items() if count > 1} == {}


def test_every_module_says_what_it_owns() -> None:
    trees = {name(file): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    assert [file for file, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("job", sorted(set(jobs())))
def test_a_job_is_a_function_that_there_is(job: str) -> None:
    module, _, function = job.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_architecture_page_lists_every_folder() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = page.partition("## Folders")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([\w/]+)` \|", folders, re.MULTILINE)
    assert listed == [folder.relative_to(PROJECT).as_posix() for folder in FOLDERS]


DOCUMENTS = (
    PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(PROJECT.glob("docs/**/*.md")),
)  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_documents_name_files_that_there_are(document: Path) -> None:
    mentioned = MENTIONED.findall(document.read_text(encoding="utf-8"))
    assert [path for path in mentioned if not (PROJECT / path).exists()] == []
