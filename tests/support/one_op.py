"""One-op float models: what proves each row of the op table on the real converter and kernels.

A case says what its op reads, what it puts out and with which options; `build` writes it as a
.tflite file and `draw` makes its representative data. A case may chain several ops where one alone
would not show what its row promises.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import pack, schema

Array = npt.NDArray[Any]

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU = schema.ActivationFunctionType.RELU
TANH = schema.ActivationFunctionType.TANH
RELU6 = schema.ActivationFunctionType.RELU6
INT32 = schema.TensorType.INT32

INFINITY = 3.4028234e38
"""What converters write for infinity: the largest float32."""


@dataclass(frozen=True)
class Value:
    """A tensor that is not constant.

    Attributes:
        shape: Static shape, batch included.
        dtype: Type name as in the schema, in lower case.
        low: Lowest value drawn, where it is an input of the model.
        high: Highest value drawn; integers stay below it.
        is_state: Whether an op changes it where it reads it.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = -3.0
    high: float = 3.0
    is_state: bool = False

    def draw(self, generator: np.random.Generator) -> Array:
        """One random array of that shape and type."""
        if self.dtype == "bool":
            return generator.random(self.shape) < 0.5
        if self.dtype == "float32":
            return generator.uniform(self.low, self.high, self.shape).astype(np.float32)
        return generator.integers(int(self.low), int(self.high), self.shape, self.dtype)


@dataclass(frozen=True)
class Step:
    """One op.

    Attributes:
        name: Builtin operator name.
        operands: Name of a computed tensor, a constant, or None where the operand is absent.
        outputs: Computed tensors by name, in order.
        options: Fields of the op's options that differ from the schema's defaults.
    """

    name: str
    operands: tuple[str | Array | None, ...]
    outputs: Mapping[str, Value]
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class OneOp:
    """A model around one op.

    Attributes:
        label: Name of the op that is proved, with the situation behind a slash.
        inputs: Inputs of the model by name.
        steps: Its ops in order; the last one's outputs are those of the model.
        becomes: Name of the op that the converter makes of it; empty where it keeps its own.
    """

    label: str
    inputs: Mapping[str, Value]
    steps: tuple[Step, ...]
    becomes: str = ""

    @property
    def name(self) -> str:
        """Builtin operator name of the op that is proved."""
        return self.label.partition("/")[0]

    @property
    def outputs(self) -> Mapping[str, Value]:
        """Outputs of the model by name."""
        return self.steps[-1].outputs

    def draw(self, count: int) -> list[dict[str, Array]]:
        """Samples by input name, the same at every call."""
        generator = np.random.default_rng(zlib.crc32(self.label.encode()))
        return [
            {name: value.draw(generator) for name, value in self.inputs.items()}
            for _ in range(count)
        ]

    def build(self) -> bytes:
        """The model as a .tflite file with the signature `serving_default`."""
        return _Builder(self).build()


_OPTIONS_OF = {
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), "ReducerOptions"),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), "Pool2DOptions"),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), "MaximumMinimumOptions"),
    "L2_NORMALIZATION": "L2NormOptions",
}
"""Options that are not named after their op."""


_FIRST_VERSION = {"BROADCAST_TO": 2}
"""Version of an op that the runtime has none of before."""


def _options_kind(name: str) -> str | None:
    """Class name of an op's options without the schema's final `T`; None if it has none."""
    if name in _OPTIONS_OF:
        return _OPTIONS_OF[name]
    wanted = f"{name.replace('_', '')}options".lower()
    return next((kind for kind in vars(schema.BuiltinOptions) if kind.lower() == wanted), None)


class _Builder:
    """Writes one case as a schema object tree."""

    def __init__(self, case: OneOp) -> None:
        self._case = case
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._index: dict[str, int] = {}

    def build(self) -> bytes:
        for name, value in self._case.inputs.items():
            self._computed(name, value)
        for step in self._case.steps:
            self._graph.operators.append(self._operator(step))
        self._graph.inputs = self._indices(self._case.inputs)
        self._graph.outputs = self._indices(self._case.outputs)
        self._model.subgraphs = [self._graph]
        self._model.signatureDefs = [self._signature()]
        return bytes(pack(self._model))

    def _indices(self, names: Mapping[str, Value]) -> Array:
        return np.asarray([self._index[name] for name in names], np.int32)

    def _computed(self, name: str, value: Value) -> int:
        self._index[name] = self._tensor(name, value.shape, value.dtype, 0)
        self._graph.tensors[-1].isVariable = value.is_state
        return self._index[name]

    def _constant(self, name: str, data: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(name, data.shape, data.dtype.name, len(self._model.buffers) - 1)

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.asarray(shape, np.int32)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, step: Step) -> Any:
        op = schema.OperatorT()
        op.opcodeIndex = self._code(step.name)
        op.inputs = np.asarray([self._operand(o) for o in step.operands], np.int32)
        op.outputs = np.asarray([self._computed(*o) for o in step.outputs.items()], np.int32)
        kind = _options_kind(step.name)
        if kind is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            op.builtinOptions = getattr(schema, f"{kind}T")()
        for option, value in step.options.items():
            if not hasattr(op.builtinOptions, option):
                raise AttributeError(f"{kind} has no field {option!r}")
            setattr(op.builtinOptions, option, value)
        return op

    def _operand(self, operand: str | Array | None) -> int:
        if operand is None:
            return -1
        if isinstance(operand, str):
            return self._index[operand]
        return self._constant(f"constant_{len(self._graph.tensors)}", operand)

    def _code(self, name: str) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = _FIRST_VERSION.get(name, 1)
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _signature(self) -> Any:
        signature = schema.SignatureDefT()
        signature.signatureKey = b"serving_default"
        signature.inputs = [self._entry(name) for name in self._case.inputs]
        signature.outputs = [self._entry(name) for name in self._case.outputs]
        return signature

    def _entry(self, name: str) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), self._index[name]
        return entry


def _one(
    label: str,
    operands: tuple[Value | Array, ...],
    *outputs: Value,
    becomes: str = "",
    **options: Any,
) -> OneOp:
    """A case of a single op; every `Value` among its operands is an input of the model."""
    inputs = {f"x{i}": v for i, v in enumerate(operands) if isinstance(v, Value)}
    named = tuple(f"x{i}" if isinstance(v, Value) else v for i, v in enumerate(operands))
    results = {f"y{i}": v for i, v in enumerate(outputs)}
    step = Step(label.partition("/")[0], named, results, options)
    return OneOp(label, inputs, (step,), becomes)


def _unary(name: str, source: Value | None = None, **options: Any) -> OneOp:
    source = source or _IMAGE
    return _one(name, (source,), Value(source.shape), **options)


def _compared_with_zero(name: str) -> OneOp:
    """Half of what leaves a RELU is exactly 0, so both truth values are common."""
    relu = Step("RELU", ("x",), {"positive": _ROWS})
    return OneOp(name, {"x": _ROWS}, (relu, Step(name, ("positive", _floats(0)), {"y": _TRUTH})))


def _weights(*shape: int) -> Array:
    """Random weights; their range differs from channel to channel along every axis."""
    weights = np.random.default_rng(shape).normal(0.0, 0.5, shape)
    for axis, size in enumerate(shape):
        weights = np.moveaxis(np.moveaxis(weights, axis, -1) * np.linspace(0.5, 2, size), -1, axis)
    return weights.astype(np.float32)


def _dead_channel(weights: Array, channel: int) -> Array:
    weights[channel] = 0.0
    return weights


def _ints(*values: object) -> Array:
    return np.asarray(values, np.int32)


def _floats(*values: float) -> Array:
    return np.asarray(values, np.float32)


def _scalar(value: float) -> Array:
    return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)


_IMAGE = Value((1, 8, 8, 4))
_DEEP = Value((1, 8, 8, 32))
_WIDE = Value((1, 8, 8, 4), low=-0.5, high=9.0)
_ROWS = Value((2, 16))
_WIDE_ROWS = Value((2, 16), low=-0.5, high=9.0)
_TRUTH = Value((2, 16), "bool")
_POSITIVE = Value((1, 8, 8, 4), low=0.2, high=4.0)
_LOGITS = Value((4, 16), low=-6.0, high=6.0)
_FEW = Value((8, 8))
_MATRICES = Value((2, 5, 16))
_CONV: dict[str, Any] = {
    "padding": SAME, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1,
}  # fmt: skip
_DEPTHWISE = {**_CONV, "depthMultiplier": 1}
_TWICE: dict[str, Any] = {"strideW": 2, "strideH": 2}
_POOL: dict[str, Any] = {**_TWICE, "filterWidth": 2, "filterHeight": 2, "padding": VALID}
_SPATIAL = _ints(1, 2)
_BORDER = _ints([0, 0], [1, 1], [1, 1], [0, 0])
_MARGINS = _ints([0, 0], [1, 1], [2, 2], [0, 0])
_PADDED = Value((1, 10, 12, 4))

CASES: tuple[OneOp, ...] = (
    # A float CONV_2D or DEPTHWISE_CONV_2D without bias does not exist: the runtime refuses it.
    _one("CONV_2D", (_IMAGE, _weights(6, 3, 3, 4), _weights(6)), Value((1, 8, 8, 6)), **_CONV),
    _one("CONV_2D/strided, fused RELU6, batch 2",
         (Value((2, 8, 8, 4)), _weights(6, 3, 3, 4), _weights(6)), Value((2, 3, 3, 6)),
         **{**_CONV, **_TWICE, "padding": VALID}, fusedActivationFunction=RELU6),
    _one("CONV_2D/dilated", (_IMAGE, _weights(6, 3, 3, 4), _weights(6)), Value((1, 4, 4, 6)),
         **{**_CONV, "padding": VALID, "dilationWFactor": 2, "dilationHFactor": 2}),
    _one("CONV_2D/grouped", (_IMAGE, _weights(6, 3, 3, 2), _weights(6)), Value((1, 8, 8, 6)),
         **_CONV),
    _one("CONV_2D/dead channel with bias",
         (_IMAGE, _dead_channel(_weights(6, 1, 1, 4), 2), _weights(6)), Value((1, 8, 8, 6)),
         **_CONV),
    _one("DEPTHWISE_CONV_2D", (_IMAGE, _weights(1, 3, 3, 4), _weights(4)), _IMAGE, **_DEPTHWISE),
    _one("DEPTHWISE_CONV_2D/multiplier 2, strided, fused RELU",
         (_IMAGE, _weights(1, 3, 3, 8), _weights(8)), Value((1, 4, 4, 8)),
         **{**_DEPTHWISE, **_TWICE, "depthMultiplier": 2}, fusedActivationFunction=RELU),
    _one("DEPTHWISE_CONV_2D/dilated", (_IMAGE, _weights(1, 3, 3, 4), _weights(4)), _IMAGE,
         **{**_DEPTHWISE, "dilationWFactor": 2, "dilationHFactor": 2}),
    _one("TRANSPOSE_CONV", (_ints(1, 16, 16, 6), _weights(6, 2, 2, 4), _IMAGE),
         Value((1, 16, 16, 6)), padding=VALID, **_TWICE),
    _one("TRANSPOSE_CONV/with bias",
         (_ints(1, 16, 16, 6), _weights(6, 3, 3, 4), _IMAGE, _weights(6)),
         Value((1, 16, 16, 6)), padding=SAME, **_TWICE),
    _one("FULLY_CONNECTED", (_ROWS, _weights(8, 16), _weights(8)), Value((2, 8))),
    _one("FULLY_CONNECTED/without bias", (_ROWS, _weights(8, 16)), Value((2, 8))),
    _one("FULLY_CONNECTED/batch 4, dead channel, fused RELU",
         (Value((4, 16)), _dead_channel(_weights(8, 16), 3), _weights(8)), Value((4, 8)),
         fusedActivationFunction=RELU),
    _one("FULLY_CONNECTED/one channel", (_ROWS, _weights(1, 16), _weights(1)), Value((2, 1))),
    _one("CONV_2D/one channel", (_IMAGE, _weights(1, 3, 3, 4), _weights(1)), Value((1, 8, 8, 1)),
         **_CONV),
    _one("DEPTHWISE_CONV_2D/one channel",
         (Value((1, 8, 8, 1)), _weights(1, 3, 3, 1), _weights(1)), Value((1, 8, 8, 1)),
         **_DEPTHWISE),
    _one("TRANSPOSE_CONV/one channel", (_ints(1, 16, 16, 1), _weights(1, 2, 2, 4), _IMAGE),
         Value((1, 16, 16, 1)), padding=VALID, **_TWICE),
    _one("FULLY_CONNECTED/rank 3", (_MATRICES, _weights(8, 16), _weights(8)), Value((2, 5, 8)),
         keepNumDims=True),
    _one("FULLY_CONNECTED/computed weights", (Value((32, 16)), Value((8, 16))), Value((32, 8))),
    _one("BATCH_MATMUL", (_MATRICES, Value((2, 16, 8))), Value((2, 5, 8))),
    _one("BATCH_MATMUL/transposed", (_MATRICES, Value((2, 8, 16))), Value((2, 5, 8)), adjY=True),
    _one("BATCH_MATMUL/constant", (_MATRICES, _weights(2, 16, 8)), Value((2, 5, 8))),
    _one("BATCH_MATMUL/shared constant", (_MATRICES, _weights(16, 8)), Value((2, 5, 8)),
         becomes="FULLY_CONNECTED"),
    _one("ADD", (_IMAGE, _WIDE), _IMAGE),
    _one("ADD/constant", (_IMAGE, _weights(4)), _IMAGE),
    _one("ADD/broadcast, fused RELU", (_IMAGE, Value((1, 1, 1, 4))), _IMAGE,
         fusedActivationFunction=RELU),
    _one("SUB", (_IMAGE, _WIDE), _IMAGE),
    _one("SUB/from a constant", (_floats(1), _IMAGE), _IMAGE),
    _one("MUL", (_IMAGE, _WIDE), _IMAGE),
    _one("MUL/constant scalar", (_IMAGE, _scalar(0.125)), _IMAGE),
    _one("MUL/constant for each channel", (_IMAGE, _weights(4)), _IMAGE),
    OneOp("MUL/by itself", {"x": _IMAGE}, (Step("MUL", ("x", "x"), {"y": _IMAGE}),)),
    _one("DIV", (_IMAGE, Value((1, 8, 8, 4), low=1.0, high=4.0)), _IMAGE),
    _one("DIV/by a constant", (_IMAGE, _floats(7)), _IMAGE),
    _one("MEAN", (_DEEP, _SPATIAL), Value((1, 32))),
    _one("MEAN/kept dimensions", (_DEEP, _SPATIAL), Value((1, 1, 1, 32)), keepDims=True),
    _one("MEAN/channels", (_IMAGE, _ints(3)), Value((1, 8, 8))),
    _one("SUM", (_DEEP, _SPATIAL), Value((1, 32))),
    _one("SUM/channels", (_IMAGE, _ints(3)), Value((1, 8, 8, 1)), keepDims=True),
    _one("REDUCE_PROD", (Value((1, 8, 8, 4), low=0.5, high=1.5), _ints(3)), Value((1, 8, 8))),
    _one("SQUARED_DIFFERENCE", (_IMAGE, Value((1, 8, 8, 4), low=0.0, high=1.0)), _IMAGE),
    _one("SQUARED_DIFFERENCE/broadcast", (_IMAGE, Value((1, 8, 8, 1))), _IMAGE),
    _unary("ABS"),
    _unary("EXP"),
    _unary("LOG", _POSITIVE),
    _unary("SQRT", _POSITIVE),
    _unary("RSQRT", _POSITIVE),
    _unary("RELU"),
    _unary("RELU6", Value((1, 8, 8, 4), low=-3.0, high=9.0)),
    _unary("RELU_N1_TO_1"),
    _unary("RELU_0_TO_1"),
    _unary("LEAKY_RELU", alpha=0.1),
    _one("PRELU", (_IMAGE, _weights(1, 1, 4)), _IMAGE),
    _unary("HARD_SWISH", Value((1, 8, 8, 4), low=-6.0, high=6.0)),
    _unary("ELU"),
    _unary("GELU"),
    _one("CONCATENATION/ranges far apart", (_IMAGE, Value((1, 8, 8, 2), low=0.0, high=0.3)),
         Value((1, 8, 8, 6)), axis=3),
    OneOp("CONCATENATION/with a LOGISTIC", {"x": _IMAGE, "z": _IMAGE}, (
        Step("LOGISTIC", ("z",), {"gate": _IMAGE}),
        Step("CONCATENATION", ("x", "gate"), {"y": Value((1, 8, 8, 8))}, {"axis": 3}),
    )),
    _one("CONCATENATION/constant", (_IMAGE, _weights(1, 8, 8, 1)), Value((1, 8, 8, 5)), axis=-1),
    _one("CONCATENATION/six inputs", (_ROWS,) * 5 + (_WIDE_ROWS,), Value((2, 96)), axis=1),
    _one("AVERAGE_POOL_2D", (_IMAGE,), Value((1, 4, 4, 4)), **_POOL),
    _one("MAX_POOL_2D", (_IMAGE,), Value((1, 4, 4, 4)), **_POOL),
    _one("RESHAPE", (_IMAGE, _ints(1, 256)), Value((1, 256)), newShape=_ints(1, 256)),
    OneOp("RESHAPE/behind a SOFTMAX", {"x": _LOGITS}, (
        Step("SOFTMAX", ("x",), {"probabilities": _LOGITS}, {"beta": 1.0}),
        Step("RESHAPE", ("probabilities", _ints(8, 8)), {"y": _FEW}, {"newShape": _ints(8, 8)}),
    )),
    _one("TRANSPOSE", (_IMAGE, _ints(0, 3, 1, 2)), Value((1, 4, 8, 8))),
    _one("SQUEEZE", (Value((1, 8, 1, 4)),), Value((1, 8, 4)), squeezeDims=_ints(2),
         becomes="RESHAPE"),
    _one("EXPAND_DIMS", (_ROWS, _scalar(1)), Value((2, 1, 16)), becomes="RESHAPE"),
    _one("SLICE", (_IMAGE, _ints(0, 2, 1, 0), _ints(1, 4, 5, 4)), Value((1, 4, 5, 4))),
    _one("STRIDED_SLICE", (_IMAGE, _ints(0, 1, 0, 0), _ints(1, 7, 8, 4), _ints(1, 2, 1, 1)),
         Value((1, 3, 8, 4))),
    _one("STRIDED_SLICE/without gaps", (_IMAGE, _ints(0, 1, 0, 0), _ints(1, 7, 8, 4),
         _ints(1, 1, 1, 1)), Value((1, 6, 8, 4)), becomes="SLICE"),
    _one("STRIDED_SLICE/one index", (_IMAGE, _ints(0, 1, 0, 0), _ints(1, 2, 8, 4),
         _ints(1, 1, 1, 1)), Value((1, 8, 4)), shrinkAxisMask=2),
    _one("DYNAMIC_UPDATE_SLICE", (_IMAGE, Value((1, 2, 3, 4)), Value((4,), "int32", 0, 2)), _IMAGE),
    _one("DYNAMIC_UPDATE_SLICE/of a constant",
         (_weights(1, 8, 8, 4), Value((1, 2, 3, 4)), _ints(0, 1, 2, 0)), _IMAGE),
    _one("SPLIT", (_scalar(3), _IMAGE), *(Value((1, 8, 8, 2)),) * 2, numSplits=2),
    _one("SPLIT/eight parts", (_scalar(1), _ROWS), *(Value((2, 2)),) * 8, numSplits=8),
    _one("SPLIT_V", (_IMAGE, _ints(1, 3), _scalar(3)), Value((1, 8, 8, 1)), Value((1, 8, 8, 3)),
         numSplits=2),
    _one("PACK", (_ROWS, _WIDE_ROWS), Value((2, 2, 16)), axis=1, valuesCount=2),
    OneOp("PACK/with a TANH", {"x": _ROWS, "z": _ROWS}, (
        Step("TANH", ("z",), {"gate": _ROWS}),
        Step("PACK", ("x", "gate"), {"y": Value((2, 2, 16))}, {"axis": 1, "valuesCount": 2}),
    )),
    _one("UNPACK", (Value((2, 2, 16)),), _ROWS, _ROWS, axis=1, num=2),
    _one("PAD", (_IMAGE, _MARGINS), _PADDED),
    OneOp("PAD/behind a LOGISTIC", {"x": _IMAGE}, (
        Step("LOGISTIC", ("x",), {"gate": _IMAGE}),
        Step("PAD", ("gate", _MARGINS), {"y": _PADDED}),
    )),
    _one("PADV2", (_IMAGE, _MARGINS, _scalar(5.0)), _PADDED),
    OneOp("PADV2/minus infinity before a pool", {"x": _IMAGE}, (
        Step("PADV2", ("x", _BORDER, _scalar(-INFINITY)), {"padded": Value((1, 10, 10, 4))}),
        Step("MAX_POOL_2D", ("padded",), {"y": Value((1, 5, 5, 4))}, _POOL),
    )),
    _one("MIRROR_PAD", (_IMAGE, _MARGINS), _PADDED),
    _one("GATHER", (_IMAGE, _ints(3, 0)), Value((1, 8, 8, 2)), axis=3),
    _one("GATHER/constant table", (_weights(12, 8), Value((1, 5), "int32", 0, 12)),
         Value((1, 5, 8))),
    _one("EMBEDDING_LOOKUP", (Value((5,), "int32", 0, 12), _weights(12, 8)), Value((5, 8))),
    _one("GATHER_ND", (_IMAGE, _ints([0, 1], [0, 7])), Value((2, 8, 4))),
    _one("RESIZE_BILINEAR", (_IMAGE, _ints(16, 12)), Value((1, 16, 12, 4)), halfPixelCenters=True),
    _one("RESIZE_BILINEAR/aligned corners", (_IMAGE, _ints(5, 5)), Value((1, 5, 5, 4)),
         alignCorners=True),
    _one("RESIZE_NEAREST_NEIGHBOR", (_IMAGE, _ints(16, 12)), Value((1, 16, 12, 4))),
    _one("MAXIMUM", (_IMAGE, _WIDE), _IMAGE),
    _one("MAXIMUM/constant", (_IMAGE, _scalar(-1.0)), _IMAGE),
    _one("MINIMUM", (_IMAGE, _WIDE), _IMAGE),
    _one("MINIMUM/constant", (_IMAGE, _scalar(5.0)), _IMAGE),
    _one("SPACE_TO_DEPTH", (_IMAGE,), Value((1, 4, 4, 16)), blockSize=2),
    _one("DEPTH_TO_SPACE", (_IMAGE,), Value((1, 16, 16, 1)), blockSize=2),
    _one("SPACE_TO_BATCH_ND", (_IMAGE, _ints(2, 2), _ints([0, 0], [2, 0])), Value((4, 4, 5, 4))),
    _one("BATCH_TO_SPACE_ND", (Value((4, 4, 4, 4)), _ints(2, 2), _ints([0, 0], [0, 1])),
         Value((1, 8, 7, 4))),
    _one("TILE", (_ROWS, _ints(2, 3)), Value((4, 48))),
    _one("BROADCAST_TO", (Value((1, 16)), _ints(3, 2, 16)), Value((3, 2, 16))),
    _one("TOPK_V2", (Value((2, 64)), _scalar(1)), Value((2, 1)), Value((2, 1), "int32")),
    _one("REVERSE_V2", (_IMAGE, _ints(2)), _IMAGE),
    _one("MATRIX_DIAG", (_ROWS,), Value((2, 16, 16))),
    _one("MATRIX_SET_DIAG", (_FEW, Value((8,), low=0.0, high=9.0)), _FEW),
    _one("REDUCE_MAX", (_IMAGE, _SPATIAL), Value((1, 4))),
    _one("REDUCE_MIN", (_IMAGE, _SPATIAL), Value((1, 1, 1, 4)), keepDims=True),
    _one("SELECT", (_TRUTH, _ROWS, _WIDE_ROWS), _ROWS),
    _one("SELECT_V2", (_TRUTH, _ROWS, _WIDE_ROWS), _ROWS),
    _one("SELECT_V2/constant", (_TRUTH, _ROWS, _scalar(-7.0)), _ROWS),
    OneOp("SELECT_V2/on a comparison", {"x": _ROWS, "z": _ROWS}, (
        Step("GREATER", ("x", "z"), {"greater": _TRUTH}),
        Step("SELECT_V2", ("greater", "x", "z"), {"y": _ROWS}),
    )),
    _unary("LOGISTIC"),
    _unary("SOFTMAX", _LOGITS, beta=1.0),
    _unary("TANH"),
    _unary("L2_NORMALIZATION"),
    _unary("LOG_SOFTMAX", _LOGITS),
    _one("LESS", (_ROWS, _ROWS), _TRUTH),
    _one("LESS_EQUAL", (_ROWS, _WIDE_ROWS), _TRUTH),
    _one("GREATER", (_ROWS, _ROWS), _TRUTH),
    _one("GREATER/than a constant", (_ROWS, _scalar(0.5)), _TRUTH),
    _one("GREATER_EQUAL", (_ROWS, _WIDE_ROWS), _TRUTH),
    _compared_with_zero("EQUAL"),
    _compared_with_zero("NOT_EQUAL"),
    _one("ARG_MAX", (_FEW, _scalar(1)), Value((8,), "int32"), outputType=INT32),
    _one("ARG_MIN", (_FEW, _scalar(1)), Value((8,), "int32"), outputType=INT32),
)  # fmt: skip
"""At least one case for each row of the op table."""
