"""`FileData`: samples in files, read one at a time, and what every kind of them shares.

Knows no file format.
"""

from __future__ import annotations

import contextlib
import importlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy.typing as npt

from edgeq.errors import DataError, DependencyError, EdgeqError

Array = npt.NDArray[Any]
Item = Array | dict[str, Array]


class FileData(ABC):
    """Samples in files; `RepDataset` takes it as it is.

    `data[3]` reads one sample, `data[10:20]` or `data[1::4]` is the same kind of data with fewer
    samples and reads nothing. It can be pickled, so that other processes read their own part.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def _read(self, index: int) -> Item:
        """Reads one sample; `index` is in `range(len(self))`."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> FileData: ...
    def __getitem__(self, index: int | slice) -> Item | FileData:
        if isinstance(index, slice):
            return _Part(self, range(len(self))[index])
        return self._read(range(len(self))[operator.index(index)])

    def __iter__(self) -> Iterator[Item]:
        return (self._read(index) for index in range(len(self)))


class _Part(FileData):
    """Some samples of other data."""

    def __init__(self, whole: FileData, indices: range) -> None:
        self._whole = whole
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def _read(self, index: int) -> Item:
        return self._whole[self._indices[index]]


@contextlib.contextmanager
def reading(path: Path, what: str = "the data") -> Iterator[None]:
    """Any failure inside becomes a `DataError` that names the file."""
    try:
        yield
    except EdgeqError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror or error}") from None
    except Exception as error:  # decoders of damaged files raise whatever they run into
        raise DataError(f"cannot read {what} {path}: {error or type(error).__name__}") from None


def optional_package(module: str, what: str, name: str) -> Any:
    """An optional module; `OSError` is what soundfile raises without its library."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError):
        raise DependencyError(f"reading {what} needs {name}: pip install 'edgeq[data]'") from None
