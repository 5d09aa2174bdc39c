"""ONNX ops that compute each element for itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, op

# ONNX's data types by number, as PyTorch's. What is wider or narrower than float32 is computed in
# float32, and uint16 to uint64 in the next wider type that the runtime computes in.
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.int32, 5: torch.int16,
    6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float32,
    12: torch.int64, 13: torch.int64, 16: torch.float32,
}  # fmt: skip


def torch_dtype(node: Node, number: int) -> torch.dtype:
    """PyTorch's type for ONNX's number of it."""
    if number not in DTYPES:
        raise node.refused(f"makes values of ONNX's data type {number}, which edgeq does not have")
    return DTYPES[number]


_UNARY = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin,
    "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log, "Mish": functional.mish,
    "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": functional.softplus, "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh, "HardSwish": functional.hardswish,
}  # fmt: skip

_BINARY = {
    "Add": torch.add, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "Mul": torch.mul,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Sub": torch.sub,
}  # fmt: skip


_NARROW = (torch.int8, torch.uint8, torch.int16)


def widened(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that computes whole numbers of 8 or 16 bits in 32, as the runtime does."""

    @wraps(compute)
    def wide(node: Node, first: Tensor, *others: Any, **options: Any) -> Tensor:
        if first.dtype not in _NARROW:
            return compute(node, first, *others, **options)
        more = [o.int() if isinstance(o, Tensor) and o.dtype in _NARROW else o for o in others]
        made = compute(node, first.int(), *more, **options)
        return made.to(first.dtype) if made.dtype is torch.int32 else made

    return wide


def _declare(names: dict[str, Any], arguments: int) -> None:
    for name, function in names.items():

        @widened
        def compute(node: Node, *values: Tensor, function: Any = function) -> Tensor:
            result: Tensor = function(*_aligned(node, *values[:arguments]))
            return result

        op(name)(compute)


def _aligned(node: Node, first: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Operands as they are broadcast; before opset 7, from an axis on."""
    axis = node.get("axis")
    if node.version >= 7 or axis is None or not others:
        return first, *others
    behind = first.ndim - axis % first.ndim - others[0].ndim
    return first, others[0].reshape(*others[0].shape, *[1] * behind)


_declare(_UNARY, 1)
_declare(_BINARY, 2)


@op("Div")
@widened
def div(node: Node, one: Tensor, other: Tensor) -> Tensor:
    one, other = _aligned(node, one, other)
    if one.is_floating_point():
        return one / other
    return torch.div(one, other, rounding_mode="trunc")


@op("Mod")
@widened
def mod(node: Node, one: Tensor, other: Tensor) -> Tensor:
    return torch.fmod(one, other) if node.get("fmod") else torch.remainder(one, other)


@op("Pow", either=(1,))
@widened
def power(node: Node, base: Tensor, exponent: Known | Tensor) -> Tensor:
    if isinstance(exponent, Tensor):
        made = torch.pow(*_aligned(node, base, exponent))
    elif exponent.size == 1 and exponent.ndim <= base.ndim:
        number = exponent.item()
        whole = base.is_floating_point() and float(number).is_integer()
        made = torch.pow(base, int(number) if whole else number)
    else:
        made = torch.pow(*_aligned(node, base, torch.from_numpy(exponent)))
    return made.to(base.dtype)


@op("Sum")
@widened
def add_all(node: Node, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = first + other
    return first


@op("Mean")
def mean_of_all(node: Node, *values: Tensor) -> Tensor:
    return add_all(node, *values) / len(values)


@op("Max")
@widened
def maximum(node: Node, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.maximum(first, other)
    return first


@op("Min")
@widened
def minimum(node: Node, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.minimum(first, other)
    return first


@op("Clip", known=(1, 2))
@widened
def clip(node: Node, values: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = node.get("min") if low is None else low.item()
    high = node.get("max") if high is None else high.item()
    if low is None and high is None:
        return values.clone()
    if low == 0 and high == 6 and values.is_floating_point():
        return functional.relu6(values)
    return torch.clamp(values, low, high)


@op("Where")
def where(node: Node, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition, one, other)


@op("Cast")
def cast(node: Node, values: Tensor) -> Tensor:
    return converted(values, torch_dtype(node, int(node.get("to"))))


@op("CastLike", typed=(1,))
def cast_like(node: Node, values: Tensor, like: Tensor) -> Tensor:
    return converted(values, like.dtype)


def converted(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in another type; a number that is not 0 is true."""
    return (
        values != 0 if dtype is torch.bool and values.dtype is not torch.bool else values.to(dtype)
    )


@op("IsInf")
def is_inf(node: Node, values: Tensor) -> Tensor:
    found = torch.zeros_like(values, dtype=torch.bool)
    if node.get("detect_positive", 1):
        found = found | (values == float("inf"))
    if node.get("detect_negative", 1):
        found = found | (values == float("-inf"))
    return found


@op("BitShift")
def bit_shift(node: Node, values: Tensor, by: Tensor) -> Tensor:
    left = node.get("direction") == "LEFT"
    return torch.bitwise_left_shift(values, by) if left else torch.bitwise_right_shift(values, by)


@op("Identity", keeps_grid=True)
def identity(node: Node, values: Tensor) -> Tensor:
    return values.clone()


@op("Dropout", fixed=(1,), known=(1, 2))
def dropout(
    node: Node, values: Tensor, ratio: Known | None = None, training: Known | None = None
) -> tuple[Tensor, Tensor]:
    drops = training is not None and bool(training.item())
    if drops and (0.5 if ratio is None else float(ratio.item())):
        raise node.refused("drops values at random, as in training; export the model for inference")
    return values.clone(), torch.ones_like(values, dtype=torch.bool)


@op("Elu")
def elu(node: Node, values: Tensor) -> Tensor:
    return functional.elu(values, node.get("alpha", 1.0))


@op("Celu")
def celu(node: Node, values: Tensor) -> Tensor:
    return functional.celu(values, node.get("alpha", 1.0))


@op("Selu")
def selu(node: Node, values: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.67326319), node.get("gamma", 1.05070102)
    return gamma * torch.where(values > 0, values, alpha * (torch.exp(values) - 1))


@op("LeakyRelu")
def leaky_relu(node: Node, values: Tensor) -> Tensor:
    return functional.leaky_relu(values, node.get("alpha", 0.01))


@op("ThresholdedRelu")
def thresholded_relu(node: Node, values: Tensor) -> Tensor:
    return torch.where(values > node.get("alpha", 1.0), values, torch.zeros_like(values))


@op("PRelu")
def prelu(node: Node, values: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() in (1, values.shape[1] if values.ndim > 1 else 1) and _is_per_channel(
        values, slope
    ):
        return functional.prelu(values, slope.reshape(-1))
    return torch.relu(values) - slope * torch.relu(-values)


def _is_per_channel(values: Tensor, slope: Tensor) -> bool:
    """Whether a slope has a number for each channel, and the channels are the second axis."""
    if slope.numel() == 1:
        return True
    shape = [1] * (values.ndim - slope.ndim) + list(slope.shape)
    return shape == [1, slope.numel(), *([1] * (values.ndim - 2))]


@op("HardSigmoid")
def hard_sigmoid(node: Node, values: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return functional.hardsigmoid(values)
    return torch.clamp(values * alpha + beta, 0.0, 1.0)


@op("Gelu")
@op("Gelu", domain=MICROSOFT)
def gelu(node: Node, values: Tensor) -> Tensor:
    return functional.gelu(values, approximate=node.get("approximate", "none"))


@op("Swish")
def swish(node: Node, values: Tensor) -> Tensor:
    return values * torch.sigmoid(values * node.get("alpha", 1.0))


@op("Shrink")
def shrink(node: Node, values: Tensor) -> Tensor:
    bias, threshold = node.get("bias", 0.0), node.get("lambd", 0.5)
    zero = torch.zeros_like(values)
    high = torch.where(values > threshold, values - bias, zero)
    return torch.where(values < -threshold, values + bias, high)


@op("CumSum", "CumProd", known=(1,))
def cumulated(node: Node, values: Tensor, axis: Known) -> Tensor:
    dim, sums = int(axis.item()), node.op == "CumSum"
    if node.get("reverse"):
        values = values.flip(dim)
    if node.get("exclusive"):
        first = torch.full_like(values.narrow(dim, 0, 1), 0 if sums else 1)
        values = torch.cat([first, values.narrow(dim, 0, values.shape[dim] - 1)], dim)
    function = torch.cumsum if sums else torch.cumprod
    made: Tensor = function(values, dim, dtype=values.dtype)
    return made.flip(dim) if node.get("reverse") else made
