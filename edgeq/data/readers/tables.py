"""`.csv` files of numbers."""

from __future__ import annotations

import csv
from array import array as packed
from pathlib import Path

import numpy as np

from edgeq.data.readers.file_data import Array, FileData, reading
from edgeq.errors import DataError

_BLANK = b" \t\r\n\xef\xbb\xbf"
"""Characters that an empty line of a .csv file may have, a byte order mark included."""


class TableRows(FileData):
    """The rows of a `.csv` file of numbers, each `(1, columns)` float32.

    A first line without any number in it is a header. Empty lines are skipped.

    Args:
        path: The file, UTF-8 and separated by commas.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = packed("Q")
        with reading(path), path.open("rb") as file:
            start = 0
            for line in file:
                if line.strip(_BLANK):
                    self._starts.append(start)
                start += len(line)
        if self._starts and not any(map(_is_number, self._cells(0))):
            self._starts.pop(0)
        if not self._starts:
            raise DataError(f"{path} holds no rows of numbers")
        self._width = len(self._cells(0))

    def __len__(self) -> int:
        return len(self._starts)

    def _cells(self, index: int) -> list[str]:
        with reading(self._path), self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline().decode("utf-8-sig").strip()
            return next(csv.reader([line], strict=True))

    def _read(self, index: int) -> Array:
        cells = self._cells(index)
        if len(cells) != self._width:
            raise DataError(
                f"{self._where(index)} has {len(cells)} columns, the first row {self._width}"
            )
        for column, cell in enumerate(cells):
            if not _is_number(cell):
                raise DataError(
                    f"{self._where(index)}, column {column + 1}: {cell!r} is not a number"
                )
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            return np.asarray([[float(cell) for cell in cells]], np.float64).astype(np.float32)

    def _where(self, index: int) -> str:
        with reading(self._path), self._path.open("rb") as file:
            number = file.read(self._starts[index]).count(b"\n") + 1
        return f"{self._path}, line {number}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
