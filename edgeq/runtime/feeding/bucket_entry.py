"""`BucketEntry`: a file with a signature for each of several lengths, run by what fits an input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.files import Content
from edgeq.ports import Port, read_pads
from edgeq.runtime.entry import Array, Entry, OtherGraph, entry

Shape = tuple[int, ...]


class BucketEntry:
    """The entry points of one model for several lengths, as one.

    A sample runs in the first one that holds it, filled up behind its end.

    Args:
        entries: Entry points by key, the shortest first.
        pads: What fills up each input, in real numbers by name.

    Attributes:
        io: That of the entry point which the last run took, of the shortest before.
        fed: Likewise.
        dynamic: Shape of each input, with -1 where its length differs.
        key: Key of that entry point.
    """

    def __init__(self, entries: Mapping[str, Entry], pads: Mapping[str, float]) -> None:
        self._entries = dict(entries)
        self._pads = pads
        shapes = [[port.shape for port in each.io.inputs] for each in entries.values()]
        self.dynamic = tuple(map(_open, *shapes))
        self._take(next(iter(entries)))

    def _take(self, key: str) -> None:
        self.key, self._entry = key, self._entries[key]
        self.io, self.fed = self._entry.io, self._entry.fed

    def resize(self, shapes: Sequence[Shape]) -> None:
        """Takes the shortest entry point that holds inputs of these shapes.

        Raises:
            DataError: None does.
        """
        for key, each in self._entries.items():
            if all(map(_holds, (port.shape for port in each.io.inputs), shapes)):
                if key != self.key:
                    self._take(key)
                return
        longest = list(self._entries)[-1]
        for port, shape in zip(self._entries[longest].io.inputs, shapes, strict=True):
            if not _holds(port.shape, shape):
                raise DataError(
                    f"input {port.name!r} is longer than the longest bucket, {longest!r}, which "
                    f"takes {port.shape}: cut it, or feed it in pieces. Received: {shape}"
                )

    def invoke(self, sample: Sequence[Array] | None) -> None:
        """Runs a sample, filled up to the length of the entry point that holds it."""
        if sample is not None:
            self.resize([array.shape for array in sample])
            sample = [self._filled(*pair) for pair in zip(self.io.inputs, sample, strict=True)]
        self._entry.invoke(sample)

    def _filled(self, port: Port, array: Array) -> Array:
        if array.shape == port.shape:
            return array
        value = port.quantize(np.asarray(self._pads.get(port.name, 0.0), np.float32))
        made = np.full(port.shape, value, array.dtype)
        made[tuple(slice(size) for size in array.shape)] = array
        return made

    def input(self, place: int) -> Array:
        """The memory of an input."""
        return self._entry.input(place)

    def output(self, place: int) -> Array:
        """An output of the last run."""
        return self._entry.output(place)

    def outputs(self) -> list[Array]:
        """Copies of all outputs of the last run."""
        return self._entry.outputs()


def first_entry(tflite: Content, interpreter: Any, key: str | None) -> Entry:
    """The entry point with a key; without one all of them where they are buckets, or the first.

    Raises:
        DataError: There is no such signature.
        ModelError: Buckets differ in more than lengths.
    """
    signatures = interpreter._get_full_signature_list()
    pads = read_pads(tflite) if key is None and len(signatures) > 1 else None
    if pads is None:
        return entry(interpreter, key)
    # The main graph does not run by itself where a runner of some signature is alive.
    entries = {
        name: OtherGraph(interpreter.get_signature_runner(name), signature)
        for name, signature in signatures.items()
    }
    if len({tuple(port.name for port in e.io.inputs) for e in entries.values()}) > 1:
        raise ModelError("the file's buckets have inputs of other names: export the model again")
    by_size = sorted(entries, key=lambda name: _size(entries[name]))
    return BucketEntry({name: entries[name] for name in by_size}, pads)


def _size(one: Entry) -> int:
    """Numbers that an entry point takes."""
    return sum(math.prod(port.shape) for port in one.io.inputs)


def _open(*shapes: Shape) -> Shape:
    """A shape of which sizes that differ are -1."""
    return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))


def _holds(shape: Shape, given: Shape) -> bool:
    return len(shape) == len(given) and all(
        size >= wanted for size, wanted in zip(shape, given, strict=True)
    )
