"""Edits that any part of an object tree may need: op codes, parameters, pruning, numbering.

Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeq.flatbuffer.generated_schema import schema
from edgeq.qtypes import QParams

SHARED_BYTES = 1024
"""Smaller constants are not looked for: storing them twice costs nothing."""


def quantization(qparams: QParams) -> Any:
    """The schema's form of quantization parameters."""
    entry = schema.QuantizationParametersT()
    entry.scale = np.asarray(qparams.scale, np.float32)
    entry.zeroPoint = np.asarray(qparams.zero_point, np.int64)
    entry.quantizedDimension = qparams.axis or 0
    return entry


def op_code(tree: Any, name: str, version: int) -> int:
    """Index of a builtin op's code with that version, which is added where there is none."""
    wanted = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(tree.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted and code.version == version:
            return index
    return add_op_code(tree, name, version)


def add_op_code(tree: Any, name: str, version: int) -> int:
    """Index of a new code of a builtin op with that version."""
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1


def excerpt(tree: Any, ops: range) -> tuple[Any, dict[int, int]]:
    """Some ops of the first graph as a tree without ports, and its tensors by what they were.

    Nothing of the tree is changed. What it takes follows from these ops, however many others there
    are.
    """
    part, graph = copy.copy(tree), copy.copy(tree.subgraphs[0])
    graph.operators = [copy.copy(op) for op in graph.operators[ops.start : ops.stop]]
    sides = [
        side
        for op in graph.operators
        for side in (op.inputs, op.outputs, op.intermediates)
        if side is not None
    ]
    named = sorted({int(tensor) for side in sides for tensor in side} - {-1})
    place = {-1: -1, **{old: new for new, old in enumerate(named)}}
    graph.tensors = [graph.tensors[old] for old in named]
    graph.inputs = graph.outputs = np.zeros(0, np.int32)
    part.signatureDefs = part.metadata = part.metadataBuffer = None
    part.subgraphs = [graph]
    renumber(part, 0, place.__getitem__)
    part.subgraphs += map(copy.copy, tree.subgraphs[1:])
    buffers, codes = {0: 0}, dict[int, int]()
    for each in part.subgraphs:
        each.tensors = [copy.copy(tensor) for tensor in each.tensors]
        each.operators = [copy.copy(op) for op in each.operators or ()]
        for tensor in each.tensors:
            tensor.buffer = buffers.setdefault(tensor.buffer, len(buffers))
        for op in each.operators:
            op.opcodeIndex = codes.setdefault(op.opcodeIndex, len(codes))
    part.buffers = [tree.buffers[old] for old in buffers]
    part.operatorCodes = [tree.operatorCodes[old] for old in codes]
    return part, place


def prune(tree: Any) -> None:
    """Takes tensors, op codes and constants out of an object tree that nothing mentions."""
    for index, graph in enumerate(tree.subgraphs):
        named = sorted(_named(tree, index) - {-1})
        graph.tensors = [graph.tensors[old] for old in named]
        place = {-1: -1, **{old: new for new, old in enumerate(named)}}
        renumber(tree, index, place.__getitem__)
    operators = [op for graph in tree.subgraphs for op in graph.operators or ()]
    codes = {old: new for new, old in enumerate(sorted({op.opcodeIndex for op in operators}))}
    tree.operatorCodes = [tree.operatorCodes[old] for old in codes]
    for op in operators:
        op.opcodeIndex = codes[op.opcodeIndex]
    kept = {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}
    kept |= {entry.buffer for entry in tree.metadata or ()}
    kept |= {int(b) for b in (() if tree.metadataBuffer is None else tree.metadataBuffer)}
    for index, buffer in enumerate(tree.buffers):
        if index not in kept:
            buffer.data = None


def with_shared_buffers(tree: Any) -> Any:
    """A copy of a tree in which constants of equal bytes, from a kilobyte on, are one buffer."""
    first: dict[bytes, int] = {}
    place: dict[int, int] = {}
    for index in sorted({tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}):
        data = tree.buffers[index].data
        if data is not None and len(data) >= SHARED_BYTES:
            content = np.ascontiguousarray(data, np.uint8)
            place[index] = first.setdefault(hashlib.sha256(content.data).digest(), index)
    made = copy.copy(tree)
    made.buffers = [
        schema.BufferT() if place.get(index, index) != index else buffer
        for index, buffer in enumerate(tree.buffers)
    ]
    made.subgraphs = [copy.copy(graph) for graph in tree.subgraphs]
    for graph in made.subgraphs:
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        for tensor in graph.tensors:
            tensor.buffer = place.get(tensor.buffer, tensor.buffer)
    return made


def _named(tree: Any, index: int) -> set[int]:
    """Every tensor of a graph that something mentions."""
    found = set[int]()

    def note(tensor: int) -> int:
        found.add(tensor)
        return tensor

    renumber(tree, index, note)
    return found


def renumber(tree: Any, index: int, number: Callable[[int], int]) -> None:
    """Calls `number` on every mention of a tensor of a graph, and puts its result there."""

    def renumbered(tensors: Any) -> Any:
        return tensors if tensors is None else np.asarray([number(int(t)) for t in tensors], "i4")

    graph = tree.subgraphs[index]
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for op in graph.operators or ():
        op.inputs, op.outputs = renumbered(op.inputs), renumbered(op.outputs)
        op.intermediates = renumbered(op.intermediates)
    for tensor in graph.tensors:
        details = getattr(tensor.quantization, "details", None)
        if isinstance(details, schema.BlockwiseQuantizationT):
            details.scales, details.zeroPoints = number(details.scales), number(details.zeroPoints)
    for signature in tree.signatureDefs or ():
        if signature.subgraphIndex == index:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                entry.tensorIndex = number(entry.tensorIndex)
