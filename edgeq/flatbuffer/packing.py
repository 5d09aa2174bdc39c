"""Writes an object tree as a .tflite file, large constants without copying them.

Knows nothing of what the file says.
"""

from __future__ import annotations

import copy
import itertools
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from edgeq.files import Content, joined
from edgeq.flatbuffer.generated_schema import IDENTIFIER


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no annotations
    """Writes equal small vectors once, and constants at the alignment that kernels rely on.

    Half of a small int8 file can be the zero points of its channels, which are all 0.

    For large constants room is left, but they are not copied into it: `pieces` gives them as they
    are, between what was built. Room that nothing is written to takes no memory, so there is plenty
    of it: making more would copy all.
    """

    TABLE_BYTES = 1 << 26
    ALIGNMENT = 16
    SHARED_BYTES = 1 << 16

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self.Bytes = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANON)
        self.head = size
        self._written: dict[tuple[str, bytes], int] = {}
        self._left_out: list[tuple[int, npt.NDArray[np.uint8]]] = []

    def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802  # flatbuffers' name
        is_large = x.nbytes > self.SHARED_BYTES
        key = (str(id(x)), b"") if is_large else (x.dtype.str, x.tobytes())
        if key not in self._written:
            if x.dtype == np.uint8:
                self.Prep(4, x.nbytes)
                self.Prep(self.ALIGNMENT, x.nbytes)
            leave_out = is_large and x.dtype == np.uint8
            made = self._leave_out(x) if leave_out else super().CreateNumpyVector(x)
            self._written[key] = made
        return self._written[key]

    def _leave_out(self, x: npt.NDArray[np.uint8]) -> int:
        self.StartVector(1, x.size, 1)
        self.head -= x.size
        self._left_out.append((self.Offset(), x))
        return int(self.EndVector())

    def pieces(self) -> Iterator[Any]:
        """The file from its beginning to its end."""
        built = memoryview(self.Bytes)
        place = self.head
        for distance, constant in reversed(self._left_out):
            start = len(built) - distance
            yield built[place:start]
            yield np.ascontiguousarray(constant)
            place = start + constant.size
        yield built[place:]


OUTSIDE_BYTES = 2**31 - 2 * _Builder.TABLE_BYTES
"""Constants of more bytes do not fit a flatbuffer beside its tables, and lie behind it."""


def pack(model: Any, outside_bytes: int = OUTSIDE_BYTES) -> Content:
    """Writes an object tree as a .tflite file; the same tree always gives the same bytes.

    Args:
        model: The tree.
        outside_bytes: Large constants of more bytes in all lie behind the tables, where old run
            times do not look for them.

    Raises:
        ModelError: The temporary folder, to which a large file is written, is full.
    """
    large = [b for b in model.buffers if b.data is not None and _is_left_out(b.data)]
    if sum(len(b.data) for b in large) <= outside_bytes:
        builder = _built(model)
        return joined(builder.pieces(), builder.Offset())
    return _packed_outside(model, large)


def _is_left_out(data: Any) -> bool:
    return len(data) > _Builder.SHARED_BYTES


def _built(model: Any) -> _Builder:
    weights = sum(len(b.data) for b in model.buffers if b.data is not None)
    builder = _Builder(weights + _Builder.TABLE_BYTES)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return builder


def _packed_outside(model: Any, large: Sequence[Any]) -> Content:
    """A file with these buffers behind its tables, which say where each of them lies."""
    tree = copy.copy(model)
    places = {id(buffer): index for index, buffer in enumerate(model.buffers)}
    tree.buffers = list(model.buffers)
    stubs = []
    for buffer in large:
        stub = tree.buffers[places[id(buffer)]] = copy.copy(buffer)
        stub.data, stub.offset, stub.size = None, _Builder.ALIGNMENT, len(buffer.data)
        stubs.append(stub)
    tables = _built(tree).Offset()  # as large as they will be: no field of theirs is 0
    end, behind = tables, list[Any]()
    for buffer, stub in zip(large, stubs, strict=True):
        gap = -end % _Builder.ALIGNMENT
        stub.offset = end + gap
        behind += [bytes(gap), np.ascontiguousarray(buffer.data, np.uint8)]
        end = stub.offset + stub.size
    return joined(itertools.chain(_built(tree).pieces(), behind), end)
