"""`GraphEditor`: adds tensors, constants, ops and outputs to the main graph of a .tflite file.

The only way edgeq changes a float file. Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import pack, schema


class GraphEditor:
    """A float .tflite file opened for changes; `finish()` writes the changed one.

    Args:
        tree: The file's object tree, which is not changed: what this adds to is copied, and nothing
            that was there before is touched.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = copy.copy(tree)
        self._tree.buffers = list(tree.buffers)
        self._tree.operatorCodes = list(tree.operatorCodes)
        self._graph = copy.copy(tree.subgraphs[0])
        self._graph.tensors = list(self._graph.tensors)
        self._graph.operators = list(self._graph.operators)
        self._tree.subgraphs = [self._graph, *tree.subgraphs[1:]]
        self._names = {tensor.name for tensor in self._graph.tensors}
        self._codes: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def tensor(self, name: str, shape: Sequence[int]) -> int:
        """Index of a new float32 tensor; a name in use gets the next free `#n`."""
        return self._append(name, np.dtype(np.float32), shape, 0)

    def constant(self, name: str, values: npt.NDArray[Any]) -> int:
        """Index of a constant; equal ones are made once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self._tree.buffers.append(buffer)
            place = len(self._tree.buffers) - 1
            self._constants[key] = self._append(name, values.dtype, values.shape, place)
        return self._constants[key]

    def op(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: object
    ) -> Any:
        """A new op that is not in the graph yet.

        Args:
            name: Builtin operator name.
            inputs: Tensor indices.
            outputs: Tensor indices.
            **options: Fields of the op's options object, which is found by the op's name.
        """
        op = schema.OperatorT()
        op.opcodeIndex = self._code(name)
        op.inputs = np.asarray(inputs, np.int32)
        op.outputs = np.asarray(outputs, np.int32)
        if options:
            kind = _OPTIONS[name]
            op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            op.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                setattr(op.builtinOptions, field, value)
        return op

    def append(self, op: Any) -> None:
        """Puts an op behind all others."""
        self._graph.operators.append(op)

    def insert(self, behind: Mapping[int, Sequence[Any]]) -> None:
        """Puts ops behind those with the given indices; -1 puts them in front of all."""
        present = self._graph.operators
        operators = list(behind.get(-1, ()))
        for index, op in enumerate(present):
            operators += [op, *behind.get(index, ())]
        self._graph.operators = operators

    def replace(self, replacement: Callable[[int], Sequence[Any] | None]) -> None:
        """Puts the ops that `replacement(index)` gives in place of each op; None leaves it."""
        operators: list[Any] = []
        for index, op in enumerate(self._graph.operators):
            new = replacement(index)
            operators.extend([op] if new is None else new)
        self._graph.operators = operators

    def add_outputs(self, tensors: Sequence[int]) -> None:
        """Makes tensors outputs of the graph; signatures go, since they do not name them."""
        known = set(self._graph.outputs.tolist())
        extra = [t for t in dict.fromkeys(tensors) if t not in known]
        self._graph.outputs = np.concatenate([self._graph.outputs, np.asarray(extra, np.int32)])
        self._tree.signatureDefs = None

    def finish(self) -> bytes:
        """The changed file."""
        return pack(self._tree)

    def _append(self, name: str, dtype: np.dtype[Any], shape: Sequence[int], buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = self._unique(name)
        tensor.type = getattr(schema.TensorType, dtype.name.upper())
        tensor.shape = np.asarray(shape, np.int32)
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _unique(self, name: str) -> bytes:
        candidate, number = name.encode(), 0
        while candidate in self._names:
            number += 1
            candidate = f"{name}#{number}".encode()
        self._names.add(candidate)
        return candidate

    def _code(self, name: str) -> int:
        if name not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = 1
            self._tree.operatorCodes.append(code)
            self._codes[name] = len(self._tree.operatorCodes) - 1
        return self._codes[name]


_OPTIONS = {
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "PACK": "PackOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "SUM": "ReducerOptions",
}
"""Name of the options table of each op that edgeq adds."""
