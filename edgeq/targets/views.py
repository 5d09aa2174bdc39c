"""Plain views of one op in one form (float, static int8, dynamic range, int16) for the targets.

A view says all that a constraint may ask, and needs no file: a planner makes it of the float graph
and the parameters it has in mind, `op_view` of a graph that has been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.ops import OPS, Bias, Weight
from edgeq.qtypes import DType, QParams


@dataclass(frozen=True)
class TensorView:
    """One operand or result.

    Attributes:
        shape: Shape; a dynamic dimension is -1.
        dtype: Lower-case type name, for example `"int8"`.
        qparams: Quantization parameters, or None.
        is_constant: Whether its value is known when the model is loaded.
        data: The value, where it is at hand.
    """

    shape: tuple[int, ...]
    dtype: str
    qparams: QParams | None = None
    is_constant: bool = False
    data: npt.NDArray[Any] | None = None

    @property
    def scale(self) -> float | None:
        """Scale of a per-tensor tensor; None without one."""
        return self.qparams.scale[0] if self.qparams and len(self.qparams.scale) == 1 else None


@dataclass(frozen=True)
class OpView:
    """One op in one form.

    Attributes:
        name: Builtin operator name, or `CUSTOM:<code>`.
        inputs: Operands by slot; None for one that is absent.
        outputs: Results.
        version: Op version.
        fused_activation: Name of the activation fused into it.
        options: Fields of the op's builtin options by the schema's names.
    """

    name: str
    inputs: tuple[TensorView | None, ...]
    outputs: tuple[TensorView, ...]
    version: int = 1
    fused_activation: str = "NONE"
    options: Mapping[str, Any] = field(default_factory=dict)

    def operand(self, slot: int) -> TensorView | None:
        """The operand of a slot; None where the op has none."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def option(self, name: str, default: Any = 0) -> Any:
        """A field of the builtin options; `default` where the file leaves it out."""
        value = self.options.get(name)
        return default if value is None else value

    def tensors(self) -> Iterator[TensorView]:
        """Every operand that is present, then every result."""
        yield from (t for t in self.inputs if t is not None)
        yield from self.outputs


def op_view(
    graph: Graph,
    op: Operator,
    tensors: Mapping[int, QParams] | None = None,
    operands: Mapping[tuple[int, int], QParams] | None = None,
) -> OpView:
    """One op as it stands in `graph`, or as a plan would store it.

    Args:
        graph: The graph.
        op: One of its ops.
        tensors: Parameters that computed tensors are to get, by index.
        operands: Parameters that operands are to get, by `(op, operand slot)`; they win.

    Returns:
        The view. A tensor with parameters has their storage type; a float bias between a quantized
        activation and a quantized weight becomes int32.
    """
    planned, read = tensors or {}, operands or {}

    def stored(slot: int, index: int) -> TensorView | None:
        if index < 0:
            return None
        qparams = read.get((op.index, slot), planned.get(index))
        return _tensor_view(graph, graph.tensors[index], qparams)

    inputs = [stored(slot, index) for slot, index in enumerate(op.inputs)]
    row = OPS.get(op.name)
    if row is not None and row.weight and row.bias and row.bias.slot < len(inputs):
        inputs[row.bias.slot] = _bias(inputs, row.weight, row.bias)
    return OpView(
        op.name, tuple(inputs),
        tuple(_tensor_view(graph, graph.tensors[t], planned.get(t)) for t in op.outputs),
        op.version, op.fused_activation, {} if op.options is None else vars(op.options),
    )  # fmt: skip


def _tensor_view(graph: Graph, tensor: Tensor, qparams: QParams | None) -> TensorView:
    dtype = tensor.dtype if qparams is None else qparams.dtype.type_name
    return TensorView(
        tensor.shape, dtype, qparams or tensor.qparams,
        tensor.is_constant or is_unpacked(graph, tensor), tensor.data,
    )  # fmt: skip


UNPACKED = ("int8", "float16")
"""Types of constants that run times turn into floats once, when they load a weight-only file."""


def is_unpacked(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is what DEQUANTIZE makes of a constant when the model is loaded."""
    producer = graph.producers.get(tensor.index)
    if producer is None or producer.name != "DEQUANTIZE":
        return False
    source = graph.tensors[producer.inputs[0]]
    return source.is_constant and source.dtype in UNPACKED


def _bias(inputs: list[TensorView | None], row: Weight, slots: Bias) -> TensorView | None:
    """The bias, as int32 at `input scale * weight scale` where both are planned to be integers."""
    bias, weight, source = inputs[slots.slot], inputs[row.slot], inputs[row.source]
    if bias is None or bias.dtype != "float32" or source is None or source.scale is None:
        return bias
    if weight is None or weight.qparams is None:
        return bias
    scale = tuple(source.scale * s for s in weight.qparams.scale)
    axis = 0 if len(scale) > 1 else None
    qparams = QParams(DType.INT32, scale, (0,) * len(scale), axis)
    return TensorView(bias.shape, "int32", qparams, bias.is_constant)
