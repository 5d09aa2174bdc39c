"""`Labels`: where the labels of items are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edgeq.data.as_numpy import array_of, has_items, is_tensor, kind_of
from edgeq.errors import DataError


class Labelled(NamedTuple):
    """An item, and the label of its row or the labels of its rows."""

    inputs: Any
    label: Any


class Labels:
    """Where the labels of items are.

    Args:
        given: An array or list with a label for each item, or the labels of its rows for each
            batch; the name of the column that holds them in items that are dicts; or None, where
            they are the last value of items that are tuples, as `(inputs, label)`.

    Raises:
        DataError: `given` is none of these.
    """

    def __init__(self, given: object = None) -> None:
        if is_tensor(given):
            given = array_of(given, "labels")
        if not (given is None or isinstance(given, str) or has_items(given)):
            raise DataError(
                "labels must be an array or a list with one for each item of the data, the name of "
                "a column of dicts, or None where items are (inputs, label). "
                f"Received: {type(given).__name__}"
            )
        self._given: Any = given

    def check(self, count: int) -> None:
        """Raises a `DataError` unless there is a label for each of `count` items."""
        if isinstance(self._given, str) or self._given is None or len(self._given) == count:
            return
        raise DataError(
            f"there are {len(self._given)} labels for {count} items of the data; give one for each "
            "item, and for a batch the array of its labels"
        )

    def attach(self, item: Any, index: int) -> Labelled:
        """An item with its label.

        Raises:
            DataError: There is none.
        """
        if isinstance(self._given, str):
            if not isinstance(item, Mapping) or self._given not in item:
                found = ", ".join(map(str, item)) if isinstance(item, Mapping) else kind_of(item)
                raise DataError(
                    f"sample {index} has no column {self._given!r} for its label. Received: {found}"
                )
            inputs = {name: value for name, value in item.items() if name != self._given}
            return Labelled(inputs, item[self._given])
        if self._given is not None:
            if index >= len(self._given):
                self.check(index + 1)
            return Labelled(item, self._given[index])
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise DataError(
                f"sample {index} has no label: pass labels=, or items of (inputs, label). "
                f"Received: {kind_of(item)}"
            )
        return Labelled(item[0] if len(item) == 2 else tuple(item[:-1]), item[-1])
