"""Several .tflite files with one graph become one with a signature for each, and the other way.

Works on the object trees alone; knows nothing of what the ops mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.files import Content
from edgeq.flatbuffer import op_name, pack, parse, schema, unpack
from edgeq.flatbuffer.object_tree import prune, renumber
from edgeq.flatbuffer.subgraphs import reached, renumbered
from edgeq.ports import STATES_ENTRY

_MIN_RUNTIME = b"min_runtime_version"
"""Metadata of which a merged file has the greatest; of all others it has the first."""

_EMPTY = 0
"""The buffer that holds nothing, in every file."""


def merge(files: Mapping[str, Content]) -> Content:
    """One file that holds a signature for each of several, and the graphs that it runs.

    Constants of equal bytes, and op codes, are there once. Names of tensors, inputs and outputs
    stay.

    Args:
        files: Files with one graph and one signature each, by the key that the signature gets.

    Raises:
        ModelError: A file is damaged.
    """
    merger = _Merger()
    for key, tflite in files.items():
        merger.add(key, unpack(tflite))
    return pack(merger.tree)


class _Merger:
    """An object tree that others are added to.

    Attributes:
        tree: The tree as it stands.
    """

    def __init__(self) -> None:
        self.tree = schema.ModelT()
        self.tree.version, self.tree.description = 3, b"merged by edgeq"
        self.tree.subgraphs, self.tree.signatureDefs = [], []
        self.tree.operatorCodes, self.tree.buffers = [], [schema.BufferT()]
        self.tree.metadata = []
        self._codes: dict[tuple[object, ...], int] = {}
        self._places: dict[bytes, int] = {}

    def add(self, key: str, tree: Any) -> None:
        """Adds the graphs and the signature of a tree, which is changed."""
        (signature,), first = tree.signatureDefs, len(self.tree.subgraphs)
        _number_inputs(tree)
        place = {old: first + old for old in range(len(tree.subgraphs))}
        for graph in tree.subgraphs:
            graph.operators = [renumbered(op, place) for op in graph.operators or ()]
            for op in graph.operators:
                op.opcodeIndex = self._code(tree.operatorCodes[op.opcodeIndex])
            for tensor in graph.tensors:
                tensor.buffer = self._buffer(tree.buffers[tensor.buffer].data)
        states = STATES_ENTRY + bytes(signature.signatureKey)
        tree.subgraphs[0].name = signature.signatureKey = key.encode()
        signature.subgraphIndex = first
        self.tree.subgraphs += tree.subgraphs
        self.tree.signatureDefs.append(signature)
        for entry in tree.metadata or ():
            if entry.name == states:
                entry.name = STATES_ENTRY + key.encode()
            self._note(entry, tree.buffers[entry.buffer].data)

    def _code(self, code: Any) -> int:
        """Index of an op code, which is added where there is none like it."""
        key = op_name(code)
        if key not in self._codes:
            self._codes[key] = len(self.tree.operatorCodes)
            self.tree.operatorCodes.append(code)
        return self._codes[key]

    def _buffer(self, content: Any) -> int:
        """Index of the buffer with that content, which is added where there is none."""
        if content is None or len(content) == 0:
            return _EMPTY
        content = np.ascontiguousarray(content, np.uint8)
        digest = hashlib.sha256(content).digest()
        if digest not in self._places:
            self._places[digest] = len(self.tree.buffers)
            buffer = schema.BufferT()
            buffer.data = content
            self.tree.buffers.append(buffer)
        return self._places[digest]

    def _note(self, entry: Any, content: Any) -> None:
        """Adds an entry of the metadata; what is there already stays, or what is greater."""
        known = next((e for e in self.tree.metadata if e.name == entry.name), None)
        place = self._buffer(content)
        if known is None:
            entry.buffer = place
            self.tree.metadata.append(entry)
        elif entry.name == _MIN_RUNTIME:
            known.buffer = max(known.buffer, place, key=self._version)

    def _version(self, place: int) -> list[int]:
        """The numbers in a buffer that holds a version as text."""
        content = self.tree.buffers[place].data
        return [] if content is None else [int(n) for n in re.findall(rb"\d+", bytes(content))]


def _number_inputs(tree: Any) -> None:
    """Numbers the tensors that are fed in the order of feeding.

    That order is lost to who runs another graph than the first: interpreters do not tell it.
    """
    graph = tree.subgraphs[0]
    inputs = [int(t) for t in graph.inputs]
    place = dict(zip(inputs, sorted(inputs), strict=True))
    before = list(graph.tensors)
    for old, new in place.items():
        graph.tensors[new] = before[old]
    renumber(tree, 0, lambda tensor: place.get(tensor, tensor))


def signature_keys(tflite: Content) -> tuple[str, ...]:
    """The keys of a file's signatures, in order.

    Raises:
        ModelError: Not a .tflite file, or damaged.
    """
    return tuple(signature.key for signature in parse(tflite).signatures)


def split(tflite: Content) -> dict[str, Content]:
    """A file of its own, with one graph, for each signature of a file, by key.

    Raises:
        ModelError: Not a .tflite file, or damaged.
    """
    return {key: _single(tflite, place) for place, key in enumerate(signature_keys(tflite))}


def _single(tflite: Content, place: int) -> Content:
    """The file with one signature, the graphs that it runs, and the constants that they read."""
    tree = unpack(tflite)
    signature = tree.signatureDefs[place]
    main = signature.subgraphIndex
    # The main graph comes first, whatever comes before it in the file.
    order = [main, *sorted(reached(tree, {main}) - {main})]
    numbers = {old: new for new, old in enumerate(order)}
    tree.subgraphs, tree.signatureDefs = [tree.subgraphs[old] for old in order], [signature]
    for graph in tree.subgraphs:
        graph.operators = [renumbered(op, numbers) for op in graph.operators or ()]
    signature.subgraphIndex = 0
    prune(tree)
    return pack(tree)
