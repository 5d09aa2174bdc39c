"""`Rows`: data that can be read by index and sent to other processes, small if the data itself is.

Knows how items are indexed and pickled, nothing of models or of who runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.as_numpy import has_items, to_numpy
from edgeq.data.labels import Labels
from edgeq.data.mapped import Mapped
from edgeq.errors import DataError


class Rows:
    """The items of an indexable data set; picklable, and small if the data set itself is.

    Args:
        source: An array `(N, ...)`; a dict of such arrays by input name; or anything else with
            `__len__` and `__getitem__`, such as a list or a reader of files.
        labels: Where the labels are, if they are wanted; items are then `Labelled`.

    Raises:
        DataError: `source` can only be read from front to back, or has not as many items as there
            are labels.
    """

    def __init__(self, source: object, labels: Labels | None = None) -> None:
        self._labels = labels
        self._columns: dict[Any, Any] | None = None
        self._items: Any = None
        if isinstance(source, Mapping):
            self._columns = {name: _array(column) for name, column in source.items()}
        elif hasattr(source, "__array__"):
            self._columns = {None: _array(source)}
        else:
            self._items = _indexable(source)
        self._length = _length(self._columns.values() if self._columns else [self._items])
        if labels is not None:
            labels.check(self._length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        item = self._item(index)
        return item if self._labels is None else self._labels.attach(item, index)

    def _item(self, index: int) -> Any:
        if self._columns is None:
            return self._items[index]
        row = {name: column[index : index + 1] for name, column in self._columns.items()}
        return row.get(None, row)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        columns = self._columns and {n: Mapped.of(c) or c for n, c in self._columns.items()}
        return {**vars(self), "_columns": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._columns:
            opened = {n: c.open() if isinstance(c, Mapped) else c for n, c in self._columns.items()}
            self._columns = opened


def _array(value: Any) -> npt.NDArray[Any]:
    """The array that a column is; as it is if it is mapped from a file."""
    try:
        array = value if isinstance(value, np.ndarray) else to_numpy(value)
    except ValueError as error:
        raise DataError(f"{type(value).__name__} is not an array: {error}") from None
    if array.ndim == 0:
        raise DataError("the representative data is a single number; give an array (N, ...)")
    return array


def _indexable(source: object) -> Any:
    if has_items(source):
        return source
    advice = "a list, an array, or an object with __len__ and __getitem__ that reads one item"
    if hasattr(source, "dataset"):
        advice = "the data set that the loader reads from (its .dataset)"
    raise DataError(
        "engine='ray' reads items by index on several machines, which "
        f"{type(source).__name__} cannot give: pass {advice}, or use engine='local'"
    )


def _length(parts: Any) -> int:
    lengths = {len(part) for part in parts}
    if len(lengths) != 1:
        raise DataError(f"the arrays of the representative data differ in length: {lengths}")
    return int(lengths.pop())
