"""Puts what the tests here measured into the summary of the run, whether they pass or fail."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

TABLES = pytest.StashKey[list[str]]()


@pytest.fixture
def show(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """A function that shows a text in the test's output and in the summary of the run."""

    def add(text: str) -> None:
        print(text)
        pytestconfig.stash.setdefault(TABLES, []).append(text)

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Writes the tables of this process."""
    tables = config.stash.get(TABLES, [])
    if tables:
        terminalreporter.section("trained models")
        for table in tables:
            terminalreporter.write_line(table)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the tables of a worker of pytest-xdist, which has no summary of its own."""
    if hasattr(session.config, "workerinput"):
        for table in session.config.stash.get(TABLES, []):
            print(f"\n{table}", file=sys.__stderr__, flush=True)
