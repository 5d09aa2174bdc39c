"""A pytest plugin: tests add rows to named tables, which are printed below the results.

Rows travel in the tests' reports, so that they reach the summary from pytest-xdist's workers too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest

Cell = str | int | float
Row = Mapping[str, Cell]

_MARK = "edgeq table "
_running: list[pytest.Item] = []


def add_row(table: str, row: Row) -> None:
    """Adds a row to a table, from inside a running test.

    Args:
        table: The table's title; rows of equal titles go together.
        row: Cell by column heading. Floats are printed with two decimals.
    """
    if not _running:
        raise RuntimeError("tables.add_row works only while a test runs with this plugin")
    _running[-1].user_properties.append((_MARK + table, dict(row)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Remembers which test runs."""
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints every table that has rows."""
    for title, rows in _tables(terminalreporter).items():
        terminalreporter.section(title)
        for line in _lines(sorted(rows, key=lambda row: str(next(iter(row.values()))))):
            terminalreporter.write_line(line)


def _tables(terminalreporter: pytest.TerminalReporter) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            # The teardown's report repeats what the call's report has.
            if getattr(report, "when", None) == "call":
                for name, row in report.user_properties:
                    if name.startswith(_MARK) and isinstance(row, Mapping):
                        tables.setdefault(name.removeprefix(_MARK), []).append(row)
    return tables


def _lines(rows: list[Row]) -> Iterator[str]:
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    cells = [headings, *([_text(row.get(heading, "")) for heading in headings] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(headings))]
    numeric = [not isinstance(rows[0].get(heading, ""), str) for heading in headings]
    for line in cells:
        yield "  ".join(_padded(zip(line, widths, numeric, strict=True))).rstrip()


def _padded(cells: Iterable[tuple[str, int, bool]]) -> Iterator[str]:
    for text, width, is_number in cells:
        yield text.rjust(width) if is_number else text.ljust(width)


def _text(cell: Cell) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
