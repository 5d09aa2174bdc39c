"""Constants stored without their zeros come back whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.flatbuffer import schema
from edgeq.flatbuffer.sparse import dense

Array = npt.NDArray[Any]


def level(size: int = 0, segments: Sequence[int] = (), indices: Sequence[int] = ()) -> Any:
    """A dimension that is stored whole, or one of which `segments` and `indices` tell the rest."""
    made = schema.DimensionMetadataT()
    made.denseSize = size
    if not size:
        made.format = schema.DimensionType.SPARSE_CSR
        made.arraySegments, made.arrayIndices = schema.Int32VectorT(), schema.Uint8VectorT()
        made.arraySegments.values = np.asarray(segments, np.int32)
        made.arrayIndices.values = np.asarray(indices, np.uint8)
    return made


def sparsity(order: Sequence[int], levels: Sequence[Any], blocks: Sequence[int] = ()) -> Any:
    made = schema.SparsityParametersT()
    made.traversalOrder, made.dimMetadata = np.asarray(order, np.int32), list(levels)
    made.blockMap = np.asarray(blocks, np.int32) if blocks else None
    return made


def test_rows_of_few_values() -> None:
    levels = [level(3), level(segments=[0, 2, 2, 3], indices=[0, 2, 1])]
    found = dense(np.float32([1, 2, 3]), sparsity([0, 1], levels), (3, 4))
    np.testing.assert_array_equal(found, [[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 0]])


def test_columns_first() -> None:
    levels = [level(2), level(segments=[0, 1, 3], indices=[2, 0, 1])]
    found = dense(np.float32([1, 2, 3]), sparsity([1, 0], levels), (3, 2))
    np.testing.assert_array_equal(found, [[0, 2], [0, 3], [1, 0]])


def test_blocks_of_values() -> None:
    levels = [level(2), level(segments=[0, 1, 2], indices=[1, 0]), level(2), level(2)]
    values = np.arange(1, 9, dtype=np.float32)
    found = dense(values, sparsity([0, 1, 2, 3], levels, blocks=[0, 1]), (4, 4))
    expected = np.zeros((4, 4))
    expected[:2, 2:], expected[2:, :2] = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("levels", "error"), [
    ([level(3), level(segments=[0, 2, 2, 9], indices=[0, 2, 1])], IndexError),
    ([level(3), level(segments=[0, 2, 1, 3], indices=[0, 2, 1])], ValueError),
    ([level(3), level(segments=[0, 2, 2, 3], indices=[0, 2, 9])], IndexError),
    ([level(3)], ValueError),
    ([level(1 << 20), level(1 << 20)], ValueError),
    ([level(3), level(segments=[0, 1, 1, 1], indices=[0])], ValueError),
])  # fmt: skip
def test_damage(levels: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        dense(np.float32([1, 2, 3]), sparsity([0, 1], levels), (3, 4))
