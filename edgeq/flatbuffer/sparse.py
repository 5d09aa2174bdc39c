"""Constants that a file stores without their zeros, as whole arrays.

Knows the format's dimension metadata alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer.generated_schema import schema


def dense(values: npt.NDArray[Any], sparsity: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The whole array of stored values, with zeros everywhere else.

    Args:
        values: What is stored, in the order of traversal.
        sparsity: The schema's `SparsityParametersT`: levels are visited in `traversalOrder`; those
            from the rank on are the insides of blocks, of the dimensions in `blockMap`.
        shape: Of the array.

    Raises:
        ValueError: The metadata do not fit the values and the shape.
        IndexError: Likewise.
    """
    rank, order = len(shape), [int(level) for level in sparsity.traversalOrder]
    blocks = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    if sorted(order) != list(range(rank + len(blocks))) or len(sparsity.dimMetadata) != len(order):
        raise ValueError(f"levels {order} of a sparse tensor of shape {shape}")
    node = np.zeros(1, np.int64)
    places: dict[int, npt.NDArray[np.int64]] = {}
    sizes = dict(zip(order, (int(level.denseSize) for level in sparsity.dimMetadata), strict=True))
    for axis, level in zip(order, sparsity.dimMetadata, strict=True):
        counts, node, own = _descend(level, node)
        if len(node) > math.prod(shape):
            raise ValueError(f"a sparse tensor of shape {shape} with {len(node)} values")
        places = {axis: np.repeat(place, counts) for axis, place in places.items()}
        places[axis] = own
    if len(node) != len(values):
        raise ValueError(f"{len(values)} values of a sparse tensor that has {len(node)}")
    found = np.zeros(shape, values.dtype)
    if len(values):
        for inner, axis in enumerate(blocks, rank):
            places[axis] = places[axis] * sizes[inner] + places[inner]
        found[tuple(places[axis] for axis in range(rank))] = values[node]
    return found


def _descend(
    level: Any, node: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One level down: how many children each node has, which, and their place along the axis."""
    if level.format == schema.DimensionType.DENSE:
        size = int(level.denseSize)
        places = np.tile(np.arange(size), len(node))
        return np.full(len(node), size), np.repeat(node * size, size) + places, places
    segments = np.asarray(level.arraySegments.values, np.int64)
    indices = np.asarray(level.arrayIndices.values, np.int64)
    counts = segments[node + 1] - segments[node]
    if (counts < 0).any() or (indices < 0).any():
        raise ValueError("the segments of a sparse tensor run backwards")
    starts = np.cumsum(counts) - counts
    children = np.arange(counts.sum()) - np.repeat(starts - segments[node], counts)
    return counts, children, indices[children]
