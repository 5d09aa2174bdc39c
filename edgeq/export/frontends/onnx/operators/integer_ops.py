"""ONNX ops of quantized models, computed in real numbers.

A value that a node quantizes is kept as the real numbers that its integers stand for, `Gridded`,
with the scale and zero point beside it. So the float model is what the integers mean, and the plan
can use the scales as they were given. Dynamic quantization has no scales to keep: it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # declares the ops that the converter reads scales from
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, op
from edgeq.export.frontends.onnx.operators.network_layers import convolution

_INT8 = (-128, 127)
_LIMITS = {"int8": _INT8, "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
_QUANTIZED_TYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}
"""What ONNX calls the types that an output may be quantized to."""

_NUMBERS = ("int8", "uint8")
_OPS = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Grid:
    """Real numbers of integers: `real = scale * (integer - zero_point)`.

    Attributes:
        scale: One number, or one for each element along `axis`.
        zero_point: Likewise.
        dtype: numpy name of the integers' type.
        axis: Axis of the scales where there are several.
    """

    scale: Known
    zero_point: Known
    dtype: str
    axis: int = 0

    @property
    def is_symmetric(self) -> bool:
        """Whether it is one that int8 weights can have."""
        centre = {"int8": 0, "uint8": 128}.get(self.dtype)
        return centre is not None and bool((self.zero_point == centre).all())

    def along(self, array: Known, rank: int) -> Tensor:
        """A parameter in a form that multiplies a tensor of `rank` axes."""
        shape = [1] * rank
        if array.size > 1:
            shape[self.axis] = -1
        return torch.from_numpy(np.asarray(array, np.float32)).reshape(shape if rank else [])

    def real(self, integers: Tensor) -> Tensor:
        """The numbers that integers stand for."""
        zero, scale = (self.along(a, integers.ndim) for a in (self.zero_point, self.scale))
        return (integers.float() - zero) * scale

    def integers(self, real: Tensor) -> Tensor:
        """The integers of numbers that lie on the grid."""
        zero, scale = (self.along(a, real.ndim) for a in (self.zero_point, self.scale))
        kind = {"uint16": torch.int32, "uint32": torch.int64, "int4": torch.int8}.get(
            self.dtype, getattr(torch, self.dtype)
        )
        return (torch.round(real / scale) + zero).to(kind)

    def rounded(self, real: Tensor) -> Tensor:
        """An activation rounded to the grid in ops that the converter reads the scale from."""
        if self.dtype not in _NUMBERS or self.scale.size > 1:
            return self._within(real)
        # uint8 has the numbers of int8 with another zero point.
        zero = int(self.zero_point.item()) - (128 if self.dtype == "uint8" else 0)
        parameters = (float(self.scale.item()), zero, *_INT8)
        made = _OPS.quantize_per_tensor(real, *parameters, torch.int8)
        return _OPS.dequantize_per_tensor(made, *parameters, torch.int8)

    def _within(self, real: Tensor) -> Tensor:
        """Cut to what the integers reach, such as by a Relu that lies in a zero point at an end.

        16 bits round nothing away, and no activation of the runtime has several scales.
        """
        limits = _LIMITS.get(self.dtype)
        if limits is None:
            return real
        zero, scale = (self.along(a, real.ndim) for a in (self.zero_point, self.scale))
        low, high = ((limit - zero) * scale for limit in limits)
        if self.scale.size > 1:
            return torch.minimum(torch.maximum(real, low), high)
        return torch.clamp(real, float(low), float(high))


@dataclass(frozen=True)
class Gridded:
    """Real numbers that stand for integers of a grid."""

    real: Tensor
    grid: Grid


@dataclass(frozen=True)
class Weights:
    """Real numbers that were stored as integers of a grid."""

    real: Tensor
    grid: Grid


def _as_real(values: Tensor | Gridded, scale: Known, zero: Known | None, axis: int = 0) -> Tensor:
    """The real numbers of an integer operand."""
    grid = _grid(values, scale, zero, axis)
    if not isinstance(values, Gridded):
        return grid.real(values)
    same = np.allclose(values.grid.scale, scale, rtol=1e-6)
    if same and np.array_equal(values.grid.zero_point, grid.zero_point):
        return values.real
    return grid.real(values.grid.integers(values.real))


def _grid(values: Tensor | Gridded, scale: Known, zero: Known | None, axis: int) -> Grid:
    if zero is None:
        zero = np.zeros(scale.shape, np.int64)
    name = values.grid.dtype if isinstance(values, Gridded) else str(values.dtype)[6:]
    return Grid(scale, zero, name, axis)


def _onto(real: Tensor, scale: Known, zero: Known, axis: int = 0) -> Gridded:
    """Real numbers rounded to a grid that is known."""
    name = "uint16" if zero.dtype == np.int32 else zero.dtype.name  # as uint16 is stored here
    grid = Grid(scale, zero, name, axis)
    return Gridded(grid.rounded(real), grid)


@op("QuantizeLinear", known=(1, 2))
@op("QuantizeLinear", known=(1, 2), domain=MICROSOFT)
def quantize(node: Node, values: Tensor, scale: Known, zero: Known | None = None) -> Gridded:
    if node.get("block_size"):
        raise node.refused("has a scale for each block of an activation")
    if zero is None:
        kind = node.get("output_dtype") or 2
        if kind not in _QUANTIZED_TYPES:
            raise node.refused(f"makes values of ONNX's data type {kind} of an activation")
        zero = np.zeros(scale.shape, _QUANTIZED_TYPES[kind])
    return _onto(values, scale, zero, node.get("axis", 1) % max(values.ndim, 1))


@op("DequantizeLinear", known=(1, 2), takes_grid=True)
@op("DequantizeLinear", known=(1, 2), takes_grid=True, domain=MICROSOFT)
def dequantize(
    node: Node, values: Tensor | Gridded, scale: Known, zero: Known | None = None
) -> Tensor | Weights:
    rank = values.real.ndim if isinstance(values, Gridded) else values.ndim
    axis = node.get("axis", 1) % max(rank, 1)
    if node.get("block_size") and not isinstance(values, Gridded):
        size, repeats = node.get("block_size"), values.shape[axis]
        scale = scale.repeat(size, axis).take(range(repeats), axis)
        zero = None if zero is None else zero.repeat(size, axis).take(range(repeats), axis)
        offset = 0.0 if zero is None else torch.from_numpy(zero.astype(np.float32))
        return (values.float() - offset) * torch.from_numpy(scale.astype(np.float32))
    real, grid = _as_real(values, scale, zero, axis), _grid(values, scale, zero, axis)
    return Weights(real, grid) if not isinstance(values, Gridded) and grid.is_symmetric else real


@op("DynamicQuantizeLinear", fixed=(1, 2))
def leave_real(node: Node, values: Tensor) -> tuple[Gridded, Tensor, Tensor]:
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)
    real = Gridded(values, Grid(one, zero, "float32"))
    return real, torch.ones(()), torch.zeros((), dtype=torch.uint8)


def without_offset(values: Tensor | Gridded, zero: Known | None, axis: int) -> Tensor:
    """An integer operand without its zero point, in units of its scale."""
    if isinstance(values, Gridded):
        return values.real / values.grid.along(values.grid.scale, values.real.ndim)
    one = np.ones((), np.float32)
    zero = np.zeros((), np.float32) if zero is None else zero
    return Grid(one, zero, "int32", axis).real(values)


@op("MatMulInteger", known=(2, 3), takes_grid=True)
def integer_product(
    node: Node,
    one: Tensor | Gridded,
    other: Tensor | Gridded,
    one_zero: Known | None = None,
    other_zero: Known | None = None,
) -> Tensor:
    return torch.matmul(without_offset(one, one_zero, -2), without_offset(other, other_zero, -1))


@op("MatMulIntegerToFloat", domain=MICROSOFT, known=(4, 5), takes_grid=True)
def integer_product_in_real(
    node: Node,
    one: Tensor | Gridded,
    other: Tensor | Gridded,
    one_scale: Tensor,
    other_scale: Tensor,
    one_zero: Known | None = None,
    other_zero: Known | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    real = without_offset(other, other_zero, -1) * other_scale
    made = torch.matmul(without_offset(one, one_zero, -2) * one_scale, real)
    return made if bias is None else made + bias


@op("DynamicQuantizeMatMul", domain=MICROSOFT, known=(3,))
def product_with_integers(
    node: Node,
    values: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Known | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    made = torch.matmul(values, without_offset(weight, zero, -1) * scale)
    return made if bias is None else made + bias


@op("MatMulNBits", domain=MICROSOFT, known=(1, 2, 3, 4))
def product_with_packed_integers(
    node: Node,
    values: Tensor,
    packed: Known,
    scales: Known,
    zeros: Known | None = None,
    order: Known | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """With a matrix `(N, K)` of 2, 4 or 8 bits in blocks along K, the lowest bits first."""
    rows, columns, bits = node.get("N"), node.get("K"), node.get("bits", 4)
    size = node.get("block_size")
    blocks = -(-columns // size)
    if order is not None:
        raise node.refused("has its blocks in an order of their own (g_idx)")
    numbers = _unpacked(packed.reshape(rows, blocks, -1), bits).astype(np.float32)
    middle: Known = np.asarray(1 << (bits - 1), np.float32)
    if zeros is not None and zeros.dtype == np.uint8:
        middle = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None]
    elif zeros is not None:
        middle = zeros.reshape(rows, blocks, 1)
    real = (numbers - middle) * scales.reshape(rows, blocks, 1)
    weight = torch.from_numpy(real.reshape(rows, -1)[:, :columns].astype(np.float32))
    return functional.linear(values, weight, bias)


def _unpacked(packed: Known, bits: int) -> Known:
    """Whole numbers of so many bits out of bytes, along the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)


@op("ConvInteger", known=(2, 3), takes_grid=True)
def integer_convolution(
    node: Node,
    values: Tensor | Gridded,
    weight: Tensor | Gridded,
    zero: Known | None = None,
    weight_zero: Known | None = None,
) -> Tensor:
    return convolution(
        node, without_offset(values, zero, 1), without_offset(weight, weight_zero, 0)
    )


def taken_apart(node: Node) -> list[Node] | None:
    """A node that computes with integers as nodes that leave, compute and enter real numbers."""
    form = _FORMS.get(node.op)
    if form is None:
        return None
    if node.get("channels_last"):
        raise node.refused("has its channels last")
    parts = _Parts(node)
    reals = [node.inputs[slot] for slot in form.plain]
    reals += [parts.real(*operand) for operand in form.operands]
    if form.every:
        reals = [parts.real(slot, 1) for slot in range(form.every, len(node.inputs), 3)]
    if form.bias and parts.given(form.bias):
        reals.append(parts.bias(form))
    parts.finish(form, reals)
    return parts.nodes


@dataclass(frozen=True)
class _Form:
    """Where a node has what.

    Attributes:
        op: The op that computes the same of real numbers.
        out: Where its output's scale is; the zero point follows.
        operands: Where integers are, followed by scale and zero point, and the axis of several.
        bias: Where an int32 bias is, in the product of the operands' scales; 0 for none.
        every: From where on each three inputs are integers, scale and zero point.
        plain: Inputs ahead of these that are no quantized numbers.
    """

    op: str
    out: int
    operands: tuple[tuple[int, int], ...] = ()
    bias: int = 0
    every: int = 0
    plain: tuple[int, ...] = ()


_FORMS = {
    "QLinearConv": _Form("Conv", 6, ((0, 1), (3, 0)), bias=8),
    "QLinearMatMul": _Form("MatMul", 6, ((0, -2), (3, -1))),
    "QGemm": _Form("Gemm", 7, ((0, 1), (3, 1)), bias=6),
    "QLinearAdd": _Form("Add", 6, ((0, 1), (3, 1))),
    "QLinearMul": _Form("Mul", 6, ((0, 1), (3, 1))),
    "QLinearSigmoid": _Form("Sigmoid", 3, ((0, 1),)),
    "QLinearLeakyRelu": _Form("LeakyRelu", 3, ((0, 1),)),
    "QLinearSoftmax": _Form("Softmax", 3, ((0, 1),)),
    "QLinearAveragePool": _Form("AveragePool", 3, ((0, 1),)),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", 3, ((0, 1),)),
    "QLinearReduceMean": _Form("ReduceMean", 3, ((0, 1),)),
    "QLinearWhere": _Form("Where", 7, ((1, 1), (4, 1)), plain=(0,)),
    "QLinearConcat": _Form("Concat", 0, every=2),
}


class _Parts:
    """The nodes that an integer node is taken apart into."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.nodes: list[Node] = []

    def given(self, slot: int) -> bool:
        """Whether the node has an input."""
        return slot < len(self._node.inputs) and bool(self._node.inputs[slot])

    def real(self, slot: int, axis: int) -> str:
        """The real numbers of an operand."""
        if self._node.op == "QGemm" and slot == 3 and self._node.get("transB"):
            axis = 0
        return self._add("DequantizeLinear", self._node.inputs[slot : slot + 3], {"axis": axis})

    def bias(self, form: _Form) -> str:
        """The real numbers of a bias."""
        scales = [self._node.inputs[slot + 1] for slot, _ in form.operands]
        scale = self._add("Mul", scales, {})
        return self._add("DequantizeLinear", (self._node.inputs[form.bias], scale), {"axis": 0})

    def finish(self, form: _Form, reals: list[str]) -> None:
        """Computes the output, and rounds it where it has a scale."""
        made = self._add(form.op, reals, self._node.attributes)
        grid = self._node.inputs[form.out : form.out + 2]
        how = "QuantizeLinear" if self.given(form.out) else "Identity"
        self._add(how, (made, *grid), {}, self._node.outputs[0])

    def _add(self, op: str, inputs: Any, attributes: Any, output: str = "") -> str:
        node = self._node
        output = output or f"{node.outputs[0]}:{len(self.nodes)}"
        version = max(node.version, 13) if node.domain else node.version
        self.nodes.append(Node(node.name, op, "", version, attributes, tuple(inputs), (output,)))
        return output
