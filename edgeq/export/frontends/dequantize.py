"""Back to float: a quantized .tflite file with float32 weights and activations.

Everything that has a scale is a real number and becomes float32; what has none (indices, shapes,
token ids) stays as it is. Pure work on the file: no converter is needed, and the one use of the
runtime is to check the result.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.export.frontends import tflite as frontend
from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, Tensor, completed, pack, parse, schema, unpack
from edgeq.flatbuffer.object_tree import op_code
from edgeq.flatbuffer.tensor_merger import TensorMerger
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.ops import BOUNDARY
from edgeq.versions import float_version

Array = npt.NDArray[Any]

_PACKED_BITS = {"int2": 2, "int4": 4}
"""Width of the types that share bytes."""

_INTEGERS = frozenset({*_PACKED_BITS, "int8", "uint8", "int16", "int32", "int64"})

_FLOAT_OPTIONS = {"asymmetricQuantizeInputs": False, "quantizedBiasType": 0}
"""Options that speak of integers, and their values without any."""


def dequantize(tflite: bytes | bytearray | str | os.PathLike[str]) -> bytes:
    """Turns a quantized .tflite file back into a float32 one.

    Weights and biases become the real numbers that their integers stand for, activations are no
    longer rounded, QUANTIZE and DEQUANTIZE ops go, and integer ports become float32 under the same
    names. Static int8 and int16, dynamic-range and weight-only files are taken, with weights of 16
    to 2 bits or float16. What quantization clipped or rounded away does not come back.

    Args:
        tflite: The file, or its bytes, from any converter.

    Raises:
        ModelError: Not a .tflite file, or damaged; nothing in it is quantized; or there is no float
            form of it.
    """
    with Worker() as worker:
        made = _Dequantizer(completed(frontend.read_file(tflite, worker))).run()
        try:
            worker.call(frontend.KERNEL_CHECK, made, timeout_s=frontend.CHECK_LIMIT_S)
        except (JobCrashed, JobFailed, ModelError) as error:
            reason = getattr(error, "reason", str(error))
            raise ModelError(
                f"the model has no float form: the runtime refuses it ({' '.join(reason.split())})"
            ) from None
    return bytes(made)


def float_form(tflite: Content) -> Content:
    """The float form of a quantized file that was just made here; see `dequantize`."""
    return _Dequantizer(tflite).run()


class _Dequantizer:
    """Changes one file."""

    def __init__(self, tflite: Content) -> None:
        self._model = parse(tflite)
        self._tree = unpack(tflite)
        self._buffers: dict[tuple[object, ...], int] = {}

    def run(self) -> Content:
        changed = [self._change(graph) for graph in self._model.graphs]
        if not any(changed):
            raise ModelError("nothing in the model is quantized: it is a float model already")
        return pack(self._tree)

    def _change(self, graph: Graph) -> bool:
        """Makes one graph float; whether anything in it was not."""
        entry = self._tree.subgraphs[graph.index]
        real = {t.index for t in graph.tensors if _is_quantized(t, entry.tensors[t.index])}
        for index in real:
            self._make_float(graph.tensors[index], entry.tensors[index])
        merger = TensorMerger(self._tree, graph.index)
        for op in graph.operators:
            if op.name in BOUNDARY:
                merger.merge(op.inputs[0], op.outputs[0])
                merger.drop(op.index)
            elif real & {*op.inputs, *op.outputs}:
                self._mend(graph, op)
        merger.apply()
        return bool(real)

    def _make_float(self, tensor: Tensor, entry: Any) -> None:
        if entry.sparsity is not None or getattr(entry.quantization, "details", None) is not None:
            raise ModelError(
                f"tensor {tensor.name!r} is stored sparse or with a scale for each block, which "
                "edgeq does not read; make the file again without"
            )
        if tensor.data is not None:
            entry.buffer = self._float_buffer(tensor, entry)
        entry.type, entry.quantization = schema.TensorType.FLOAT32, None

    def _float_buffer(self, tensor: Tensor, entry: Any) -> int:
        """Index of the buffer with the real numbers of a constant; equal ones are made once."""
        scales, zeros, axis = _parameters(entry.quantization)
        key = (entry.buffer, tensor.dtype, tensor.shape, scales.tobytes(), zeros.tobytes(), axis)
        if key not in self._buffers:
            buffer = schema.BufferT()
            real = _real(tensor, scales, zeros, axis)
            buffer.data = np.frombuffer(real.astype("<f4").tobytes(), np.uint8)
            self._tree.buffers.append(buffer)
            self._buffers[key] = len(self._tree.buffers) - 1
        return self._buffers[key]

    def _mend(self, graph: Graph, op: Operator) -> None:
        """Gives an op whose tensors became float the options and version for that."""
        entry = self._tree.subgraphs[graph.index].operators[op.index]
        tensors, options = self._tree.subgraphs[graph.index].tensors, entry.builtinOptions
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
            entry.opcodeIndex = op_code(self._tree, op.name, float_version(graph, op))


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


def _parameters(quantization: Any) -> tuple[Array, Array, int]:
    """Scales, zero points and channel axis; a scale of 1 for what has none."""
    scale, zero_point = (getattr(quantization, n, None) for n in ("scale", "zeroPoint"))
    scales = np.ones(1) if scale is None or len(scale) == 0 else np.asarray(scale, np.float64)
    zeros = np.zeros(1) if zero_point is None or len(zero_point) == 0 else np.asarray(zero_point)
    return scales, zeros, int(getattr(quantization, "quantizedDimension", 0))


def _real(tensor: Tensor, scales: Array, zeros: Array, axis: int) -> Array:
    """The real numbers of a constant, with its shape."""
    stored = np.asarray(tensor.data)
    if tensor.dtype in _PACKED_BITS:
        stored = _unpacked(stored, _PACKED_BITS[tensor.dtype], math.prod(tensor.shape))
    shape = [1] * len(tensor.shape)
    if len(scales) > 1:
        shape[axis] = len(scales)
    broadcast = [v.reshape(shape if v.size > 1 else ()) for v in (scales, zeros)]
    return (stored.reshape(tensor.shape).astype(np.float64) - broadcast[1]) * broadcast[0]


def _unpacked(raw: Array, bits: int, count: int) -> Array:
    """Signed integers of `bits` bits from the bytes that they share, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (raw[:, None] >> shifts) & ((1 << bits) - 1)
    flat = fields.reshape(-1)[:count].astype(np.int8)
    return np.where(flat >> (bits - 1), flat - (1 << bits), flat)
