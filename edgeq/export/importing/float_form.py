"""The float32 form of a file that stores real numbers otherwise: as integers, float16, or sparse.

What quantization clipped or rounded away does not come back. Pure work on the object tree.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, Tensor, pack, parse_tree, schema, unpack
from edgeq.flatbuffer.object_tree import op_code
from edgeq.flatbuffer.tensor_merger import TensorMerger
from edgeq.ops import BOUNDARY
from edgeq.versions import float_version

Array = npt.NDArray[Any]

_PACKED_BITS = {"int2": 2, "int4": 4}
"""Width of the types that share bytes."""

_INTEGERS = frozenset({*_PACKED_BITS, "int8", "uint8", "int16", "int32", "int64"})

_FLOAT_OPTIONS = {"asymmetricQuantizeInputs": False, "quantizedBiasType": 0}
"""Options that speak of integers, and their values without any."""

_STORED = (*BOUNDARY, "DENSIFY")
"""Ops that only change how numbers are stored."""


def float_form(tflite: Content) -> Content:
    """The file with float32 weights and activations.

    Raises:
        ModelError: Nothing in it is quantized, or it stores numbers as edgeq cannot read them.
    """
    tree = unpack(tflite)
    if not make_float(tree):
        raise ModelError("nothing in the model is quantized: it is a float model already")
    return pack(tree)


def quantized_activation(tree: Any) -> Tensor | None:
    """A tensor that is quantized while the model runs, if there is one."""
    for graph in parse_tree(tree).graphs:
        entries = tree.subgraphs[graph.index].tensors
        made = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name == "QUANTIZE"}
        running = [t for t, source in made.items() if not graph.tensors[source].is_constant]
        for index in (*graph.inputs, *running):
            tensor = graph.tensors[index]
            if tensor.dtype != "float16" and _is_quantized(tensor, entries[index]):
                return tensor
    return None


def make_float(tree: Any) -> Counter[str]:
    """Makes all real numbers of an object tree float32.

    Returns:
        Number of constants by how they were stored; of other tensors under `"computed"`.

    Raises:
        ModelError: Something is stored in a way that edgeq cannot read.
    """
    found = Counter[str]()
    for graph in parse_tree(tree).graphs:
        found += _Floats(tree, graph).change()
    return found


class _Floats:
    """Makes one graph of a tree float."""

    def __init__(self, tree: Any, graph: Graph) -> None:
        self._tree = tree
        self._graph = graph
        self._entry = tree.subgraphs[graph.index]
        self._buffers: dict[tuple[object, ...], int] = {}

    def change(self) -> Counter[str]:
        kinds = {t.index: self._kind(t) for t in self._graph.tensors}
        real = {index for index, kind in kinds.items() if kind}
        if not real:
            return Counter()
        for index in real:
            self._make_float(self._graph.tensors[index])
        merger = TensorMerger(self._tree, self._graph.index)
        for op in self._graph.operators:
            if op.name in _STORED:
                merger.merge(op.inputs[0], op.outputs[0])
                merger.drop(op.index)
            elif real & {*op.inputs, *op.outputs}:
                self._repair(op)
        merger.apply()
        return Counter(kind for kind in kinds.values() if kind)

    def _kind(self, tensor: Tensor) -> str:
        """How a tensor stores real numbers; empty for float32, and for what is none."""
        entry = self._entry.tensors[tensor.index]
        quantized = _is_quantized(tensor, entry)
        if not tensor.is_constant:
            return "computed" if quantized else ""
        return f"sparse {tensor.dtype}" if entry.sparsity else tensor.dtype if quantized else ""

    def _make_float(self, tensor: Tensor) -> None:
        entry = self._entry.tensors[tensor.index]
        if tensor.data is not None:
            entry.buffer = self._float_buffer(tensor, entry)
        entry.type, entry.quantization = schema.TensorType.FLOAT32, None
        entry.sparsity = None

    def _float_buffer(self, tensor: Tensor, entry: Any) -> int:
        """Index of the buffer with the real numbers of a constant; equal ones are made once."""
        scales, zeros = self._parameters(tensor, entry.quantization)
        key = (entry.buffer, tensor.dtype, tensor.shape, scales.tobytes(), zeros.tobytes())
        if key not in self._buffers:
            buffer = schema.BufferT()
            real = ((_stored(tensor) - zeros) * scales).reshape(tensor.shape)
            buffer.data = np.frombuffer(real.astype("<f4").tobytes(), np.uint8)
            self._tree.buffers.append(buffer)
            self._buffers[key] = len(self._tree.buffers) - 1
        return self._buffers[key]

    def _parameters(self, tensor: Tensor, quantization: Any) -> tuple[Array, Array]:
        """Scales and zero points, in a shape that goes with the tensor's; 1 and 0 without any."""
        details = getattr(quantization, "details", None)
        if details is not None:
            return self._of_blocks(tensor, details)
        scale, zero_point = (getattr(quantization, n, None) for n in ("scale", "zeroPoint"))
        scales = np.ones(1) if scale is None or len(scale) == 0 else np.asarray(scale, np.float64)
        fits = zero_point is not None and len(zero_point) == scales.size
        zeros = np.asarray(zero_point, np.float64) if fits else np.zeros(scales.size)
        shape = [1] * len(tensor.shape)
        if scales.size > 1:
            shape[int(quantization.quantizedDimension)] = scales.size
        return scales.reshape(shape), zeros.reshape(shape)

    def _of_blocks(self, tensor: Tensor, details: Any) -> tuple[Array, Array]:
        """Scales and zero points of which each holds for a block of columns."""
        size, columns = int(details.blockSize or 0), tensor.shape[-1] if tensor.shape else 0
        scales = self._value(int(details.scales))
        if scales is None or size < 1 or columns % size:
            raise ModelError(
                f"tensor {tensor.name!r} of shape {tensor.shape} has blocks of {size} columns "
                "without a scale for each, which edgeq does not read"
            )
        shape = (*tensor.shape[:-1], columns // size)
        zeros = self._value(int(details.zeroPoints or -1))
        zeros = np.zeros(shape) if zeros is None else zeros.astype(np.float64).reshape(shape)
        spread = scales.astype(np.float64).reshape(shape), zeros
        return spread[0].repeat(size, axis=-1), spread[1].repeat(size, axis=-1)

    def _value(self, tensor: int) -> Array | None:
        known = 0 <= tensor < len(self._graph.tensors)
        return self._graph.tensors[tensor].data if known else None

    def _repair(self, op: Operator) -> None:
        """Gives an op whose tensors became float the options and version for that."""
        entry = self._entry.operators[op.index]
        tensors, options = self._entry.tensors, entry.builtinOptions
        if getattr(options, "weightsFormat", 0):
            raise ModelError(
                f"{op.name} (op {op.index}) has shuffled weights; edgeq cannot read them"
            )
        for name, value in _FLOAT_OPTIONS.items():
            if hasattr(options, name):
                setattr(options, name, value)
        if op.name == "CAST" and options is not None:
            options.inDataType = tensors[op.inputs[0]].type
            options.outDataType = tensors[op.outputs[0]].type
        if not op.name.startswith("CUSTOM:"):
            entry.opcodeIndex = op_code(self._tree, op.name, float_version(self._graph, op))


def _is_quantized(tensor: Tensor, entry: Any) -> bool:
    """Whether a tensor holds real numbers in another form than float32."""
    if tensor.dtype == "float16":
        return True
    scale = getattr(entry.quantization, "scale", None)
    details = getattr(entry.quantization, "details", None)
    if tensor.dtype == "float32" or (details is None and (scale is None or len(scale) == 0)):
        return False
    if tensor.dtype not in _INTEGERS:
        raise ModelError(f"tensor {tensor.name!r} is {tensor.dtype}, which edgeq does not read")
    return True


def _stored(tensor: Tensor) -> Array:
    """The numbers that the file holds of a constant, with its shape."""
    stored = np.asarray(tensor.data)
    if tensor.dtype in _PACKED_BITS:
        stored = _unpacked(stored, _PACKED_BITS[tensor.dtype], math.prod(tensor.shape))
    return stored.reshape(tensor.shape).astype(np.float64)


def _unpacked(raw: Array, bits: int, count: int) -> Array:
    """Signed integers of `bits` bits from the bytes that they share, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (raw[:, None] >> shifts) & ((1 << bits) - 1)
    flat = fields.reshape(-1)[:count].astype(np.int8)
    return np.where(flat >> (bits - 1), flat - (1 << bits), flat)
