"""`.npy` and `.npz` files, and folders of `.npy` files."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from edgeq.data.mapped import Mapped
from edgeq.data.readers.file_data import Array, FileData, Item, reading
from edgeq.errors import DataError


class ArrayRows(FileData):
    """The rows of arrays in a `.npy` or `.npz` file, each with a batch dimension of 1.

    Args:
        path: The file.
        columns: The arrays by input name, the same number of rows in each.
        named: Whether samples are dicts by input name.
    """

    def __init__(self, path: Path, columns: Mapping[str, Mapped | Array], named: bool) -> None:
        if not columns:
            raise DataError(f"{path} holds no arrays")
        for name, column in columns.items():
            if not column.shape:
                which = f"{name!r} in {path}" if named else str(path)
                raise DataError(f"{which} is a single number; give an array (N, ...)")
        counts = {name: column.shape[0] for name, column in columns.items()}
        if len(set(counts.values())) != 1:
            raise DataError(f"the arrays in {path} differ in length: {counts}")
        self._columns = columns
        self._named = named
        self._count = next(iter(counts.values()))

    @classmethod
    def of_npy(cls, path: Path) -> ArrayRows:
        """Opens a `.npy` file `(N, ...)`."""
        with reading(path):
            mapped = np.lib.format.open_memmap(path, mode="r")
        return cls(path, {"": Mapped.of(mapped) or mapped}, named=False)

    @classmethod
    def of_npz(cls, path: Path) -> ArrayRows:
        """Opens a `.npz` file; what is stored compressed in it is unpacked whole."""
        with reading(path), zipfile.ZipFile(path) as archive:
            columns = {
                entry.filename.removesuffix(".npy"): _member(path, archive, entry)
                for entry in archive.infolist()
            }
        return cls(path, columns, named=True)

    def __len__(self) -> int:
        return self._count

    def _read(self, index: int) -> Item:
        rows = {name: column[index : index + 1] for name, column in self._columns.items()}
        return rows if self._named else next(iter(rows.values()))


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Mapped | Array:
    """An array of a zip file; left where it is if it is stored there as it is."""
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{entry.filename!r} in it is not an array")
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            # The last two fields of the zip format's local header, whose length is 30 bytes.
            skipped = sum(struct.unpack("<26x2H", file.read(30)))
            file.seek(skipped, os.SEEK_CUR)
            mapped = _mapped_at(path, file)
        if mapped is not None:
            return mapped
    with archive.open(entry) as unpacked:
        return np.asarray(np.lib.format.read_array(unpacked, allow_pickle=False))


def _mapped_at(path: Path, file: IO[bytes]) -> Mapped | None:
    """The array that starts where `file` stands, or `None` if it cannot be mapped."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    reader = readers.get(np.lib.format.read_magic(file))
    if reader is None:
        return None
    shape, fortran, dtype = reader(file)
    if dtype.hasobject or 0 in shape or not shape:
        return None
    return Mapped(path, file.tell(), dtype, shape, "F" if fortran else "C")


class ArrayFiles(FileData):
    """A folder of `.npy` files, each a sample or a batch of them.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._first: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def _load(self, path: Path) -> Array:
        with reading(path), path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    def _read(self, index: int) -> Array:
        path = self._files[index]
        array = self._load(path)
        if self._first is None:
            self._first = array.shape if index == 0 else self._load(self._files[0]).shape
        # The first dimension may be a batch, and the last batch a smaller one.
        if len(array.shape) != len(self._first) or array.shape[1:] != self._first[1:]:
            raise DataError(
                f"{path} has shape {array.shape}, {self._files[0].name} has {self._first}; "
                "the arrays of a folder may differ in their first dimension alone"
            )
        return array
