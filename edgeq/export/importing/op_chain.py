"""`OpChain`: a few builtin ops, one behind the other, that take the place of one op.

Knows the shapes that ops make, nothing of which op they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer.graph_editor import GraphEditor

Array = npt.NDArray[Any]

_FUSING = ("ADD", "SUB", "MUL", "DIV")
"""Ops that the converter only reads with options, since they may have a fused activation."""


class OpChain:
    """Builds ops; each method adds one and returns the index of the tensor that it writes.

    Args:
        editor: What the ops are made with.
        name: What their tensors are named by.
        shapes: Shape of each tensor that was there before, by index.

    Attributes:
        ops: The ops so far.
    """

    def __init__(self, editor: GraphEditor, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
        self._editor = editor
        self._name = name
        self._shapes = dict(enumerate(shapes))
        self._dtypes: dict[int, str] = {}
        self.ops: list[Any] = []

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self._shapes[tensor]

    def know(self, tensor: int, shape: Sequence[int]) -> None:
        """Tells the shape of a float32 tensor that something else made."""
        self._shapes[tensor] = tuple(shape)

    def constant(self, values: object, dtype: Any = np.float32) -> int:
        array = np.ascontiguousarray(np.asarray(values, dtype))
        tensor = self._editor.constant(f"{self._name}/constant", array)
        self._shapes[tensor], self._dtypes[tensor] = array.shape, array.dtype.name
        return tensor

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        dtype: str = "",
        **options: Any,
    ) -> int:
        """An op of any kind; `dtype` is that of its first input where nothing is said."""
        dtype = dtype or self._dtypes.get(inputs[0], "float32")
        tensor = self._editor.typed(self._name, shape, dtype)
        self._shapes[tensor], self._dtypes[tensor] = tuple(shape), dtype
        version = options.pop("version", 1)
        self.ops.append(self._editor.op(kind, inputs, [tensor], version, **options))
        return tensor

    def binary(self, kind: str, one: int, other: int, dtype: str = "") -> int:
        """An op on two tensors that are broadcast."""
        shape = np.broadcast_shapes(self.shape(one), self.shape(other))
        options = {"fusedActivationFunction": 0} if kind in _FUSING else {}
        return self.op(kind, [one, other], shape, dtype, **options)

    def add(self, one: int, other: int) -> int:
        return self.binary("ADD", one, other)

    def sub(self, one: int, other: int) -> int:
        return self.binary("SUB", one, other)

    def mul(self, one: int, other: int) -> int:
        return self.binary("MUL", one, other)

    def cast(self, tensor: int, dtype: str) -> int:
        return self.op("CAST", [tensor], self.shape(tensor), dtype)

    def reshape(self, tensor: int, shape: Sequence[int]) -> int:
        return self.op("RESHAPE", [tensor, self.constant(shape, np.int32)], shape)

    def slice(self, tensor: int, begin: Sequence[int], size: Sequence[int]) -> int:
        """A SLICE; a size of -1 is all that is left."""
        whole = self.shape(tensor)
        shape = [n - b if s == -1 else s for n, b, s in zip(whole, begin, size, strict=True)]
        places = [self.constant(begin, np.int32), self.constant(shape, np.int32)]
        return self.op("SLICE", [tensor, *places], shape)

    def concat(self, tensors: Sequence[int], axis: int) -> int:
        shape = list(self.shape(tensors[0]))
        shape[axis] = sum(self.shape(t)[axis] for t in tensors)
        return self.op("CONCATENATION", tensors, shape, axis=axis)

    def reduce(self, kind: str, tensor: int, axis: int) -> int:
        """A reduction along one axis, which stays with size 1."""
        shape = [1 if i == axis else n for i, n in enumerate(self.shape(tensor))]
        axes = self.constant([axis], np.int32)
        return self.op(kind, [tensor, axes], shape, keepDims=True)

    def matmul(self, one: int, other: int, transposed: bool = False) -> int:
        """`one @ other` over the last two axes; of `other` transposed where that is said."""
        width = self.shape(other)[-2 if transposed else -1]
        shape = (*self.shape(one)[:-1], width)
        return self.op("BATCH_MATMUL", [one, other], shape, adjY=transposed)

    def gather(self, tensor: int, indices: int, axis: int) -> int:
        whole = self.shape(tensor)
        shape = (*whole[:axis], *self.shape(indices), *whole[axis + 1 :])
        return self.op("GATHER", [tensor, indices], shape, axis=axis)

    def into(self, output: int, tensor: int) -> list[Any]:
        """The ops, the last one of which writes `output` instead of `tensor`."""
        last = self.ops[-1]
        assert list(last.outputs) == [tensor]
        last.outputs = np.asarray([output], np.int32)
        return self.ops
