"""Min-max measured inside the graph: reductions are appended to a float .tflite as extra outputs.

Only scalars leave the graph, and the delegate runs the reductions on its own threads. Knows the
file format, nothing of observers or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.flatbuffer import Graph, pack, schema, unpack


@dataclass(frozen=True)
class Probe:
    """What to measure of one tensor.

    Attributes:
        tensor: Index in the graph.
        minimum: Whether the lowest value is wanted; False where it cannot be below 0.
    """

    tensor: int
    minimum: bool


@dataclass(frozen=True)
class Instrumented:
    """A graph with reductions.

    Attributes:
        tflite: The file; its first outputs are the original ones.
        minima: Tensor index of each probe's minimum, None where it is not measured.
        maxima: Tensor index of each probe's maximum.
    """

    tflite: bytes
    minima: tuple[int | None, ...]
    maxima: tuple[int, ...]


def instrument(tflite: bytes, graph: Graph, probes: Sequence[Probe]) -> Instrumented:
    """Appends REDUCE_MIN and REDUCE_MAX of each probed tensor to a float model.

    Args:
        tflite: The float file.
        graph: Its main graph.
        probes: What to measure; tensors of any rank, scalars are passed out as they are.
    """
    editor = _Editor(unpack(tflite))
    minima: list[int | None] = []
    maxima: list[int] = []
    for probe in probes:
        rank = len(graph.tensors[probe.tensor].shape)
        minima.append(editor.reduce("REDUCE_MIN", probe.tensor, rank) if probe.minimum else None)
        maxima.append(editor.reduce("REDUCE_MAX", probe.tensor, rank))
    return Instrumented(editor.finish(), tuple(minima), tuple(maxima))


class _Editor:
    """Appends reductions to the main graph of a schema object tree."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._codes: dict[str, int] = {}
        self._axes: dict[int, int] = {}
        self._added: list[int] = []

    def reduce(self, name: str, tensor: int, rank: int) -> int:
        """Index of a new scalar: the reduction of `tensor` over all its axes."""
        if rank == 0:
            self._added.append(tensor)
            return tensor
        axes = self._axes_constant(rank)
        result = self._tensor(f"edgeq/{name}/{tensor}", schema.TensorType.FLOAT32, [], 0)
        op = schema.OperatorT()
        op.opcodeIndex = self._code(name)
        op.inputs = np.asarray([tensor, axes], np.int32)
        op.outputs = np.asarray([result], np.int32)
        op.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
        op.builtinOptions = schema.ReducerOptionsT()
        op.builtinOptions.keepDims = False
        self._graph.operators.append(op)
        self._added.append(result)
        return result

    def finish(self) -> bytes:
        """The file; a model's signatures go, since they do not name the new outputs."""
        known = set(self._graph.outputs.tolist())
        extra = [t for t in dict.fromkeys(self._added) if t not in known]
        self._graph.outputs = np.concatenate([self._graph.outputs, np.asarray(extra, np.int32)])
        self._tree.signatureDefs = None
        return pack(self._tree)

    def _tensor(self, name: str, dtype: int, shape: Sequence[int], buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.type = dtype
        tensor.shape = np.asarray(shape, np.int32)
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _axes_constant(self, rank: int) -> int:
        if rank not in self._axes:
            buffer = schema.BufferT()
            buffer.data = np.arange(rank, dtype=np.int32).view(np.uint8)
            self._tree.buffers.append(buffer)
            self._axes[rank] = self._tensor(
                f"edgeq/axes/{rank}", schema.TensorType.INT32, [rank], len(self._tree.buffers) - 1
            )
        return self._axes[rank]

    def _code(self, name: str) -> int:
        if name not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = code.builtinCode
            code.version = 1
            self._tree.operatorCodes.append(code)
            self._codes[name] = len(self._tree.operatorCodes) - 1
        return self._codes[name]
