"""`Mapped`: where an array lies in a file; small when it is sent, opened where it arrives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Mapped:
    """An array in a file.

    Attributes:
        path: The file.
        offset: Its first byte there.
        dtype: Type of its elements.
        shape: Its shape.
        order: Whether rows (C) or columns (F) lie together.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    @classmethod
    def of(cls, array: Array) -> Mapped | None:
        """None if the array is not a file's content from end to end, without private changes."""
        if not isinstance(array, np.memmap) or isinstance(array.base, np.ndarray):
            return None
        if array.filename is None or array.mode == "c":
            return None
        order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
        return cls(Path(array.filename), array.offset, array.dtype, array.shape, order)

    def open(self) -> Array:
        """The array, of which nothing is read yet.

        Raises:
            DataError: The file is not there, or too small.
        """
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read the data {self.path}: {error}. Data that other machines work on must "
                "lie where all of them see it, or be read into memory first"
            ) from None

    def __getitem__(self, rows: slice) -> Array:
        return np.array(self.open()[rows])
