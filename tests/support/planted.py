"""Quantized one-op files with planted parameters, where a converter would never put them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from one_op import SAME, VALID, OneOp, Value
from one_op import _one as one

from edgeq.flatbuffer import pack, parse, schema, unpack

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """Quantization parameters as the file has them, right or wrong.

    Attributes:
        scale: One or several scales.
        zero_point: For all scales, or one for each.
        axis: `quantizedDimension`.
    """

    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...] = 0
    axis: int = 0

    def build(self) -> Any:
        """As the schema has it."""
        entry = schema.QuantizationParametersT()
        entry.scale = np.atleast_1d(np.asarray(self.scale, np.float32))
        points = np.asarray(self.zero_point, np.int64)
        entry.zeroPoint = (
            np.broadcast_to(points, entry.scale.shape).copy() if points.ndim == 0 else points
        )
        entry.quantizedDimension = self.axis
        return entry


def plant(
    case: OneOp, stored: Mapping[str | int, Stored], types: Mapping[int, str] | None = None
) -> bytes:
    """The case's file with parameters.

    Args:
        case: A case whose values have integer types already.
        stored: Parameters by tensor name, or by operand slot of the last op.
        types: Type names by operand slot of the last op, for constants that numpy has no type for;
            such a constant becomes all zero.
    """
    tflite = case.build()
    operator, tree = parse(tflite).graphs[0].operators[-1], unpack(tflite)
    tensors = tree.subgraphs[0].tensors
    index = {tensor.name.decode(): number for number, tensor in enumerate(tensors)}
    for key, parameters in stored.items():
        place = index[key] if isinstance(key, str) else operator.inputs[key]
        tensors[place].quantization = parameters.build()
    for slot, kind in (types or {}).items():
        tensor = tensors[operator.inputs[slot]]
        tensor.type = getattr(schema.TensorType, kind.upper())
        bits = int(kind.removeprefix("int"))
        count = (int(np.prod(tensor.shape)) * bits + 7) // 8
        tree.buffers[tensor.buffer].data = np.zeros(count, np.uint8)
    return pack(tree)


class Outcome(enum.Enum):
    """What the delegate does with an op."""

    TAKEN = "takes it"
    OUTSIDE = "leaves it"
    REFUSED = "the model does not load"


TAKEN, OUTSIDE, REFUSED = Outcome.TAKEN, Outcome.OUTSIDE, Outcome.REFUSED


@dataclass(frozen=True)
class Planted:
    """A one-op file and what the delegate does with its op."""

    label: str
    tflite: bytes
    outcome: Outcome


ONE = Stored(1.0)
_CONV: dict[str, Any] = {
    "padding": SAME, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1,
}  # fmt: skip
_TWICE: dict[str, Any] = {"strideW": 2, "strideH": 2}
_CHANNELS = {"CONV_2D": 6, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 8, "TRANSPOSE_CONV": 6}
_FILTER: dict[str, tuple[int, ...]] = {
    "CONV_2D": (6, 3, 3, 4), "DEPTHWISE_CONV_2D": (1, 3, 3, 4), "FULLY_CONNECTED": (8, 16),
    "TRANSPOSE_CONV": (6, 2, 2, 4),
}  # fmt: skip


def _ints(*values: object) -> Array:
    return np.asarray(values, np.int32)


def _scalar(value: int) -> Array:
    return np.asarray(value, np.int32)


def vector(dtype: str, size: int = 4) -> Value:
    """`(size,)` of small numbers."""
    return Value((size,), dtype, 0, 9)


def _image(dtype: str) -> Value:
    return Value((1, 8, 8, 4), dtype, 0, 9)


def binary(name: str, left: float, right: float, result: float) -> bytes:
    """An int8 op of two inputs with these scales."""
    case = one(name, (vector("int8"), vector("int8")), vector("int8"))
    return plant(case, {"x0": Stored(left), "x1": Stored(right), "y0": Stored(result)})


def unary(
    name: str,
    source: float,
    result: float,
    kinds: tuple[str, str] = ("int8", "int8"),
    **options: Any,
) -> bytes:
    """An op of one input with these scales and types; floats have no scale."""
    case = one(name, (vector(kinds[0]),), vector(kinds[1]), **options)
    scales = {"x0": (source, kinds[0]), "y0": (result, kinds[1])}
    return plant(case, {n: Stored(s) for n, (s, kind) in scales.items() if kind != "float32"})


def convolution(
    name: str,
    kind: str = "int8",
    weight: Stored | None = None,
    bias: Stored | None = None,
    weight_type: str = "",
    shape: tuple[int, ...] = (),
    result: Stored = ONE,
    bias_shape: tuple[int, ...] = (-1,),
) -> bytes:
    """A CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV or FULLY_CONNECTED with int8 weights.

    Args:
        name: The op.
        kind: Type of its activations, `"float32"` for dynamic range.
        weight: Parameters of the weights, by default one scale a channel.
        bias: Parameters of the bias, by default those of the weights.
        weight_type: Another type of the weights.
        shape: Another shape of the weights.
        result: Parameters of the output.
        bias_shape: Another shape of the bias.
    """
    shape = shape or _FILTER[name]
    channels, axis = _CHANNELS[name], 3 if name == "DEPTHWISE_CONV_2D" else 0
    weight = weight or Stored((0.01,) * channels, axis=axis)
    weights = np.random.default_rng(0).integers(-127, 127, shape).astype(np.int8)
    biases = np.zeros(channels, np.float32 if kind == "float32" else np.int32)
    biases = biases.reshape(bias_shape)
    if name == "FULLY_CONNECTED":
        case = one(name, (Value((2, shape[1]), kind, 0, 9), weights, biases), Value((2, 8), kind))
    elif name == "TRANSPOSE_CONV":
        operands = (_ints(1, 16, 16, 6), weights, _image(kind), biases)
        case = one(name, operands, Value((1, 16, 16, 6), kind), padding=VALID, **_TWICE)
    else:
        options = {**_CONV, **({"depthMultiplier": 1} if axis == 3 else {})}
        result_shape = (1, 8, 8, channels)
        case = one(name, (_image(kind), weights, biases), Value(result_shape, kind), **options)
    stored: dict[str | int, Stored] = {1: weight}
    per_channel = not isinstance(weight.scale, float)
    if kind != "float32":
        slot = 3 if name == "TRANSPOSE_CONV" else 2
        source = "x2" if name == "TRANSPOSE_CONV" else "x0"
        default = Stored(weight.scale, 0, len(bias_shape) - 1 if per_channel else 0)
        stored |= {source: ONE, "y0": result, slot: bias or default}
    return plant(case, stored, {1: weight_type} if weight_type else None)


def product(kind: str, weight: Stored, constant: bool = True, transposed: bool = False) -> bytes:
    """A BATCH_MATMUL whose right matrix is int8."""
    shape = (2, 8, 16) if transposed else (2, 16, 8)
    right = np.ones(shape, np.int8) if constant else Value(shape, "int8", 0, 9)
    case = one(
        "BATCH_MATMUL", (Value((2, 5, 16), kind, 0, 9), right), Value((2, 5, 8), kind),
        adjY=transposed,
    )  # fmt: skip
    stored: dict[str | int, Stored] = {1: weight}
    if kind == "int8":
        stored |= {"x0": ONE, "y0": ONE}
    return plant(case, stored)


def _moved(case: OneOp, results: Stored) -> bytes:
    return plant(case, {**dict.fromkeys(case.inputs, ONE), **dict.fromkeys(case.outputs, results)})


_INT8 = _image("int8")
_POOL: dict[str, Any] = {**_TWICE, "filterWidth": 2, "filterHeight": 2, "padding": VALID}
MOVERS = {
    "MAX_POOL_2D": one("MAX_POOL_2D", (_INT8,), Value((1, 4, 4, 4), "int8"), **_POOL),
    "TRANSPOSE": one("TRANSPOSE", (_INT8, _ints(0, 3, 1, 2)), Value((1, 4, 8, 8), "int8")),
    "SLICE": one(
        "SLICE", (_INT8, _ints(0, 2, 1, 0), _ints(1, 4, 5, 4)), Value((1, 4, 5, 4), "int8")
    ),
    "STRIDED_SLICE": one(
        "STRIDED_SLICE", (_INT8, _ints(0, 1, 0, 0), _ints(1, 7, 8, 4), _ints(1, 1, 1, 1)),
        Value((1, 6, 8, 4), "int8"),
    ),
    "SPLIT": one(
        "SPLIT", (_scalar(3), _INT8), *(Value((1, 8, 8, 2), "int8"),) * 2, numSplits=2
    ),
    "PAD": one("PAD", (_INT8, _ints([0, 0], [1, 1], [2, 2], [0, 0])),
               Value((1, 10, 12, 4), "int8")),
    "RESIZE_BILINEAR": one(
        "RESIZE_BILINEAR", (_INT8, _ints(16, 12)), Value((1, 16, 12, 4), "int8")
    ),
    "SPACE_TO_DEPTH": one("SPACE_TO_DEPTH", (_INT8,), Value((1, 4, 4, 16), "int8"), blockSize=2),
    "DEPTH_TO_SPACE": one("DEPTH_TO_SPACE", (_INT8,), Value((1, 16, 16, 1), "int8"), blockSize=2),
    "CONCATENATION": one("CONCATENATION", (_INT8, _INT8), Value((1, 8, 8, 8), "int8"), axis=3),
    "RESHAPE": one("RESHAPE", (_INT8, _ints(1, 256)), Value((1, 256), "int8")),
}  # fmt: skip
"""Int8 ops that only move values, by name."""


def _ranked(name: str, rank: int) -> bytes:
    """An op on a float tensor of `rank` dimensions."""
    shape = (2,) * rank
    value, rest = Value(shape), shape[1:]
    cases = {
        "ADD": lambda: one("ADD", (value, value), value),
        "ABS": lambda: one("ABS", (value,), value),
        "LOGISTIC": lambda: one("LOGISTIC", (value,), value),
        "RESHAPE": lambda: one("RESHAPE", (value, _ints(*shape)), value),
        "TRANSPOSE": lambda: one("TRANSPOSE", (value, _ints(*range(rank)[::-1])), value),
        "MEAN": lambda: one("MEAN", (value, _ints(0)), Value(rest)),
        "CONCATENATION": lambda: one("CONCATENATION", (value, value), Value((4, *rest)), axis=0),
        "SPLIT": lambda: one("SPLIT", (_scalar(0), value), *(Value((1, *rest)),) * 2, numSplits=2),
        "SOFTMAX": lambda: one("SOFTMAX", (value,), value, beta=1.0),
    }
    return cases[name]().build()


def _float(
    name: str, operands: tuple[Value | Array, ...], *results: Value, **options: Any
) -> bytes:
    return one(name, operands, *results, **options).build()


def _sliced(end: int = 8, step: int = 1, **options: Any) -> bytes:
    """A STRIDED_SLICE of the rows from 2 on."""
    shape = (1, 8, 4) if "shrinkAxisMask" in options else (1, 6 // step, 8, 4)
    bounds = (_ints(0, 2, 0, 0), _ints(1, end, 8, 4), _ints(1, step, 1, 1))
    return _float("STRIDED_SLICE", (Value((1, 8, 8, 4)), *bounds), Value(shape), **options)


def _float_variants() -> list[Planted]:
    image, weights, bias = Value((1, 8, 8, 4)), np.ones((6, 3, 3, 4), np.float32), np.ones(6, "f")
    computed = Value((6, 3, 3, 4))
    pool = {**_POOL, "strideW": 3, "strideH": 3}
    point = {**_POOL, "filterWidth": 1, "filterHeight": 1}
    tall, wide = _TWICE, np.ones((6, 1, 1, 4), np.float32)
    rows = Value((2, 16))
    return [
        Planted("SOFTMAX beta 2", _float("SOFTMAX", (rows,), rows, beta=2.0), OUTSIDE),
        Planted("SLICE to the end",
                _float("SLICE", (image, _ints(0, 0, 0, 0), _ints(-1, 4, 4, 4)),
                       Value((1, 4, 4, 4))), OUTSIDE),
        Planted("MAX_POOL_2D with gaps",
                _float("MAX_POOL_2D", (image,), Value((1, 3, 3, 4)), **pool), OUTSIDE),
        Planted("AVERAGE_POOL_2D 1x1 with stride 2",
                _float("AVERAGE_POOL_2D", (image,), Value((1, 4, 4, 4)), **point), OUTSIDE),
        Planted("AVERAGE_POOL_2D 1x1",
                _float("AVERAGE_POOL_2D", (image,), image, **{**point, "strideW": 1, "strideH": 1}),
                TAKEN),
        Planted("ADD, fused TANH",
                _float("ADD", (rows, rows), rows, fusedActivationFunction=4), OUTSIDE),
        Planted("CONV_2D, computed weights",
                _float("CONV_2D", (image, computed, bias), Value((1, 8, 8, 6)), **_CONV), OUTSIDE),
        Planted("CONV_2D, computed bias",
                _float("CONV_2D", (image, weights, Value((6,))), Value((1, 8, 8, 6)), **_CONV),
                OUTSIDE),
        Planted("FULLY_CONNECTED, computed bias",
                _float("FULLY_CONNECTED", (rows, np.ones((8, 16), "f"), Value((8,))),
                       Value((2, 8))), OUTSIDE),
        Planted("RESHAPE, computed shape",
                _float("RESHAPE", (image, Value((2,), "int32", 16, 17)), Value((16, 16))), OUTSIDE),
        Planted("RESHAPE, shape in the options",
                _float("RESHAPE", (image,), Value((1, 256)), newShape=_ints(1, 256)), TAKEN),
        Planted("DEPTH_TO_SPACE by 1", _float("DEPTH_TO_SPACE", (image,), image, blockSize=1),
                OUTSIDE),
        Planted("PRELU, computed slopes",
                _float("PRELU", (image, Value((1, 1, 4))), image), OUTSIDE),
        Planted("LEAKY_RELU, slope 0", _float("LEAKY_RELU", (image,), image, alpha=0.0), OUTSIDE),
        Planted("TRANSPOSE_CONV, kernel below the stride",
                _float("TRANSPOSE_CONV", (_ints(1, 16, 16, 6), wide, image), Value((1, 16, 16, 6)),
                       padding=SAME, **tall), OUTSIDE),
        Planted("TRANSPOSE_CONV, one more row and column",
                _float("TRANSPOSE_CONV", (_ints(1, 17, 17, 6), np.ones((6, 2, 2, 4), "f"), image),
                       Value((1, 17, 17, 6)), padding=VALID, **tall), TAKEN),
        Planted("CONCATENATION of one", _float("CONCATENATION", (image,), image, axis=3), OUTSIDE),
        Planted("ADD of integers", _float("ADD", (vector("int32"),) * 2, vector("int32")), OUTSIDE),
        Planted("SIGN", _float("SIGN", (image,), image), OUTSIDE),
        Planted("STRIDED_SLICE", _sliced(), TAKEN),
        Planted("STRIDED_SLICE with gaps", _sliced(step=2), OUTSIDE),
        Planted("STRIDED_SLICE that drops an axis", _sliced(shrinkAxisMask=2), OUTSIDE),
        Planted("STRIDED_SLICE beyond the end", _sliced(end=9), TAKEN),
        Planted("BATCH_MATMUL, left transposed",
                _float("BATCH_MATMUL", (Value((2, 16, 5)), Value((2, 16, 8))), Value((2, 5, 8)),
                       adjX=True), TAKEN),
    ]  # fmt: skip


def _limits() -> list[Planted]:
    """Both sides of every limit of a scale."""
    found = []
    for name, low, high in (("ADD", 2.0**-10, 2.0**8), ("SUB", 2.0**-10, 2.0**8),
                            ("MUL", 2.0**-16, 2.0**8)):  # fmt: skip
        for ratio, outcome in (
            (low * 0.999, OUTSIDE), (low, TAKEN), (high * 0.999, TAKEN), (high, OUTSIDE),
        ):  # fmt: skip
            found += [
                Planted(f"{name} first {ratio:g}", binary(name, ratio, 1, 1), outcome),
                Planted(f"{name} second {ratio:g}", binary(name, 1, ratio, 1), outcome),
            ]
    for ratio, outcome in (
        (2**-8 * 0.999, OUTSIDE), (2**-8, TAKEN), (2.0**7, TAKEN), (2**7 * 1.001, OUTSIDE),
    ):  # fmt: skip
        found += [
            Planted(f"QUANTIZE {ratio:g}", unary("QUANTIZE", ratio, 1), outcome),
            Planted(f"LEAKY_RELU {ratio:g}", unary("LEAKY_RELU", ratio, 1, alpha=1.0), outcome),
        ]
    for alpha, outcome in (
        (2**-8 * 0.999, OUTSIDE), (2**-8, TAKEN), (128.0, TAKEN), (128.1, OUTSIDE),
        (-127.99609375, TAKEN), (-128.0, OUTSIDE), (-(2**-9), OUTSIDE),
    ):  # fmt: skip
        found.append(
            Planted(f"LEAKY_RELU slope {alpha:g}", unary("LEAKY_RELU", 1, 1, alpha=alpha), outcome)
        )
    for name, channels in _CHANNELS.items():
        axis = 3 if name == "DEPTHWISE_CONV_2D" else 0
        for highest, outcome in ((255.9, TAKEN), (256.1, REFUSED)):
            scales = Stored((0.01,) * (channels - 1) + (highest,), axis=axis)
            made = convolution(name, weight=scales)
            found.append(Planted(f"{name} in one channel {highest:g}", made, outcome))
        small = convolution(name, result=Stored(1e12))
        found.append(Planted(f"{name} in all channels 1e-14", small, TAKEN))
    return found


def _forms() -> list[Planted]:
    """Types, channels and zero points."""
    per_tensor, shifted = Stored(0.01), Stored(0.01, 3)
    found = [
        Planted(f"QUANTIZE {a} to {b}", unary("QUANTIZE", 1, 1, (a, b)), outcome)
        for a, b, outcome in (
            ("int8", "uint8", OUTSIDE),
            ("uint8", "uint8", TAKEN),
            ("int16", "int8", OUTSIDE),
            ("int16", "int16", OUTSIDE),
            ("float32", "int16", OUTSIDE),
            ("float32", "int8", TAKEN),
        )
    ]
    for kind, outcome in (("uint8", TAKEN), ("int16", OUTSIDE)):
        case = one("ADD", (vector(kind), vector(kind)), vector(kind))
        made = plant(case, dict.fromkeys(("x0", "x1", "y0"), ONE))
        found.append(Planted(f"ADD in {kind}", made, outcome))
        back = unary("DEQUANTIZE", 1, 1, (kind, "float32"))
        found.append(Planted(f"DEQUANTIZE {kind}", back, outcome))
    found.append(Planted("ELU in int8", unary("ELU", 0.1, 0.1), TAKEN))
    for name in _CHANNELS:
        channels, axis = _CHANNELS[name], 3 if name == "DEPTHWISE_CONV_2D" else 0
        scales = (0.01,) * channels
        dynamic = OUTSIDE if name == "DEPTHWISE_CONV_2D" else TAKEN
        offset = {"FULLY_CONNECTED": OUTSIDE, "TRANSPOSE_CONV": TAKEN}.get(name, REFUSED)
        narrow = TAKEN if name == "FULLY_CONNECTED" else REFUSED
        found += [
            Planted(f"{name} per-tensor", convolution(name, weight=per_tensor), TAKEN),
            Planted(f"{name} per-channel", convolution(name), TAKEN),
            Planted(f"{name} dynamic range", convolution(name, "float32"), dynamic),
            Planted(f"{name} dynamic range, per-tensor",
                    convolution(name, "float32", weight=per_tensor), dynamic),
            Planted(f"{name} zero point of weights", convolution(name, weight=shifted), offset),
            Planted(f"{name} one scale of the bias",
                    convolution(name, weight=Stored(scales, axis=axis), bias=per_tensor), narrow),
        ]  # fmt: skip
    for kind in ("int8", "float32"):
        fully = "FULLY_CONNECTED"
        found += [
            Planted(f"{fully} int4, {kind}", convolution(fully, kind, weight_type="int4"), TAKEN),
            Planted(f"{fully} int4, {kind}, odd",
                    convolution(fully, kind, weight_type="int4", shape=(8, 15)), OUTSIDE),
            Planted(f"{fully} int2, {kind}", convolution(fully, kind, weight_type="int2"), TAKEN),
            Planted(f"{fully} int2, {kind}, 18 channels",
                    convolution(fully, kind, weight_type="int2", shape=(8, 18)), OUTSIDE),
            Planted(f"{fully} bias of 4 dimensions, {kind}",
                    convolution(fully, kind, bias_shape=(1, 1, 1, 8)),
                    OUTSIDE if kind == "int8" else TAKEN),
            Planted(f"{fully} bias of 4 dimensions, per-tensor, {kind}",
                    convolution(fully, kind, Stored(0.01), bias_shape=(1, 1, 1, 8)), TAKEN),
            Planted(f"CONV_2D int4, {kind}", convolution("CONV_2D", kind, weight_type="int4"),
                    OUTSIDE),
            Planted(f"{fully} per-channel zero points, {kind}",
                    convolution(fully, kind, weight=Stored((0.01,) * 8, 1)), REFUSED),
        ]  # fmt: skip
    found += [
        Planted("CONV_2D dynamic range, zero points",
                convolution("CONV_2D", "float32", weight=Stored((0.01,) * 6, 1)), OUTSIDE),
        Planted("TRANSPOSE_CONV per-channel zero points",
                convolution("TRANSPOSE_CONV", weight=Stored((0.01,) * 6, 1)), OUTSIDE),
        Planted("TRANSPOSE_CONV dynamic range, zero points",
                convolution("TRANSPOSE_CONV", "float32", weight=Stored((0.01,) * 6, 1)), OUTSIDE),
        Planted("FULLY_CONNECTED dynamic range, zero point",
                convolution("FULLY_CONNECTED", "float32", weight=shifted), REFUSED),
        Planted("CONV_2D dynamic range, zero point",
                convolution("CONV_2D", "float32", weight=shifted), TAKEN),
    ]  # fmt: skip
    for label, made, outcome in (
        ("int8", product("int8", per_tensor), TAKEN),
        ("int8, computed", product("int8", per_tensor, constant=False), TAKEN),
        ("int8, zero point", product("int8", shifted), OUTSIDE),
        ("int8, computed, zero point", product("int8", shifted, constant=False), OUTSIDE),
        ("int8, per-channel", product("int8", Stored((0.01,) * 8, axis=2)), OUTSIDE),
        ("dynamic range", product("float32", per_tensor), TAKEN),
        ("dynamic range, zero point", product("float32", shifted), REFUSED),
        ("dynamic range, per-channel", product("float32", Stored((0.01,) * 8, axis=2)), TAKEN),
        ("dynamic range, per-channel, transposed",
         product("float32", Stored((0.01,) * 8, axis=1), transposed=True), TAKEN),
        ("dynamic range, per row",
         product("float32", Stored((0.01,) * 16, axis=1)), OUTSIDE),
    ):  # fmt: skip
        found.append(Planted(f"BATCH_MATMUL {label}", made, outcome))
    return found


def _moved_variants() -> list[Planted]:
    """Movers whose output has the parameters of the input, and others."""
    found = []
    for name, case in MOVERS.items():
        other = OUTSIDE if name == "RESHAPE" else REFUSED
        found += [
            Planted(f"{name} same parameters", _moved(case, ONE), TAKEN),
            Planted(f"{name} another scale", _moved(case, Stored(2.0)), other),
            Planted(f"{name} another zero point", _moved(case, Stored(1.0, 3)), other),
        ]
    return found


def _ranks() -> list[Planted]:
    outcomes = dict.fromkeys(("ADD", "ABS", "LOGISTIC", "RESHAPE", "TRANSPOSE"), OUTSIDE)
    outcomes |= dict.fromkeys(("MEAN", "CONCATENATION", "SPLIT", "SOFTMAX"), REFUSED)
    return [
        Planted(f"{name} of {rank} dimensions", _ranked(name, rank), TAKEN if rank < 7 else other)
        for name, other in outcomes.items()
        for rank in (1, 6, 7)
    ]


PLANTED = (*_float_variants(), *_limits(), *_forms(), *_moved_variants(), *_ranks())
"""Every limit of the delegate, from both sides where it has two."""
