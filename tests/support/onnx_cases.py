# ruff: noqa: SIM905  # tables of names read better as text
"""ONNX models of one node each, as a table: what is read, how, and in which opset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Input:
    """What the caller passes, as an example of it."""

    array: Array


@dataclass(frozen=True)
class Case:
    """A model of one node.

    Attributes:
        op: The node's op.
        reads: Its inputs in order: `Input`s, arrays that are stored in the model, and None.
        attributes: Its attributes.
        outputs: How many outputs it has.
        opset: Version of ONNX's opset.
        domain: Domain of the op.
        note: What sets it apart from other cases of the op.
    """

    op: str
    reads: Sequence[Input | Array | np.generic | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17
    domain: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """What the test is called."""
        return "-".join(filter(None, (self.op, self.note, str(self.opset))))

    @property
    def sample(self) -> dict[str, Array]:
        """The example by input name."""
        return {f"in{i}": v.array for i, v in enumerate(self.reads) if isinstance(v, Input)}


def draw(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    """Random float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def x(*shape: int, **options: Any) -> Input:
    """A random input."""
    return Input(draw(*shape, **options))


def whole(*shape: int, below: int = 4, low: int = 0, dtype: str = "int64", seed: int = 0) -> Array:
    """Random integers."""
    return np.random.default_rng(seed).integers(low, below, shape).astype(dtype)


def ints(*values: int) -> Array:
    """A vector of int64."""
    return np.asarray(values, np.int64)


def floats(*values: float) -> Array:
    """A vector of float32."""
    return np.asarray(values, np.float32)


def model_of(
    nodes: Sequence[Any],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
    sizes: Mapping[str, Sequence[int | str | None]] | None = None,
) -> Any:
    """A `ModelProto`.

    Args:
        nodes: Of `onnx.helper.make_node`.
        inputs: An example of each input, by name.
        outputs: Names of the outputs.
        constants: Stored tensors by name.
        opset: Version of ONNX's opset.
        sizes: Declared sizes of inputs that are not those of the example.
    """
    from onnx import helper, numpy_helper

    stored = constants or {}
    graph = helper.make_graph(
        list(nodes), "graph",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype),
                (sizes or {}).get(name, array.shape),
            )
            for name, array in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )  # fmt: skip
    versions = {"": opset, "com.microsoft": 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def single(case: Case) -> Any:
    """The model of a case."""
    from onnx import helper

    names = [
        "" if v is None else f"in{i}" if isinstance(v, Input) else f"constant{i}"
        for i, v in enumerate(case.reads)
    ]
    outputs = [f"out{i}" for i in range(case.outputs)]
    node = helper.make_node(
        case.op, names, outputs, name="layer", domain=case.domain, **case.attributes
    )
    kinds = (np.ndarray, np.generic)
    stored = {n: v for n, v in zip(names, case.reads, strict=True) if isinstance(v, kinds)}
    return model_of([node], case.sample, outputs, stored, case.opset)


_UNARY = (
    "Abs Acos Asin Asinh Atan Ceil Cos Cosh Erf Exp Floor Neg Reciprocal Relu Round Sigmoid Sign "
    "Sin Sinh Softplus Softsign Sqrt Tan Tanh HardSwish Identity Elu Celu Selu LeakyRelu "
    "ThresholdedRelu HardSigmoid Softmax LogSoftmax Hardmax"
)

ELEMENTWISE = [
    *(
        Case(op, [x(2, 3, 4, low=0.1 if op in ("Sqrt", "Reciprocal") else -0.9, high=0.9)])
        for op in _UNARY.split()
    ),
    Case("Acosh", [x(2, 3, low=1.1)]),
    Case("Atanh", [x(2, 3, low=-0.9, high=0.9)]),
    Case("Log", [x(2, 3, low=0.1)]),
    Case("Mish", [x(2, 3)], opset=18),
    Case("Gelu", [x(2, 3)], opset=20),
    Case("Gelu", [x(2, 3)], {"approximate": "tanh"}, opset=20, note="tanh"),
    *(Case(op, [x(2, 3), x(3, seed=1)]) for op in "Add Sub Mul Div Max Min Sum Mean".split()),
    *(
        Case(op, [x(2, 3), x(2, 3, seed=1)])
        for op in "Equal Greater GreaterOrEqual Less LessOrEqual".split()
    ),
    *(
        Case(op, [Input(draw(2, 3) > 0), Input(draw(2, 3, seed=1) > 0)])
        for op in "And Or Xor".split()
    ),
    Case("Not", [Input(draw(2, 3) > 0)]),
    Case("Div", [Input(whole(6, low=-9, below=9)), ints(2)], note="integers"),
    Case("Mod", [Input(whole(6, low=-9, below=9)), ints(4)]),
    Case("Mod", [x(6), floats(0.7)], {"fmod": 1}, note="fmod"),
    Case("Pow", [x(2, 3, low=0.1), floats(2.5)]),
    Case("Pow", [x(2, 3), ints(2)], note="integer"),
    Case("Clip", [x(2, 3), np.float32(-0.5), np.float32(0.5)]),
    Case("Clip", [x(2, 3), None, np.float32(0.5)], note="high"),
    Case("Clip", [x(2, 3)], {"min": 0.0, "max": 6.0}, opset=9, note="attributes"),
    Case("Where", [Input(draw(2, 3) > 0), x(2, 3, seed=1), x(3, seed=2)]),
    Case("Cast", [x(2, 3)], {"to": 6}),
    Case("Cast", [Input(whole(2, 3, below=2))], {"to": 9}, note="bool"),
    Case("CastLike", [x(2, 3), np.zeros(1, np.int32)]),
    Case("IsNaN", [x(2, 3)]),
    Case("IsInf", [Input(floats(1, np.inf, -np.inf))], {"detect_negative": 0}),
    Case("BitShift", [Input(whole(4, dtype="uint8")), whole(4, dtype="uint8")],
         {"direction": "LEFT"}),
    Case("Dropout", [x(2, 3)]),
    Case("PRelu", [x(1, 4, 3, 3), draw(4, 1, 1)]),
    Case("PRelu", [x(2, 3, 4), draw(3, 4)], note="element"),
    Case("HardSigmoid", [x(2, 3)], {"alpha": 1 / 6, "beta": 0.5}, note="mobile"),
    Case("Shrink", [x(2, 3)], {"bias": 0.1, "lambd": 0.5}),
    Case("CumSum", [x(2, 5), np.int64(1)]),
    Case("CumSum", [x(2, 5), np.int64(1)], {"exclusive": 1, "reverse": 1}, note="reverse"),
    Case("Swish", [x(2, 3)], {"alpha": 1.5}, opset=24),
]  # fmt: skip

MOVEMENT = [
    Case("Constant", [], {"value_floats": [1.0, 2.0]}),
    Case("Reshape", [x(2, 3, 4), ints(0, -1)]),
    Case("Reshape", [x(2, 3, 4), ints(4, -1)], opset=5, note="old"),
    Case("Flatten", [x(2, 3, 4)], {"axis": -1}),
    Case("Squeeze", [x(1, 3, 1), ints(0)]),
    Case("Squeeze", [x(1, 3, 1)], {"axes": [2]}, opset=11, note="attribute"),
    Case("Unsqueeze", [x(2, 3), ints(0, -1)]),
    Case("Unsqueeze", [x(2, 3)], {"axes": [1]}, opset=11, note="attribute"),
    Case("Transpose", [x(2, 3, 4)], {"perm": [2, 0, 1]}),
    Case("Transpose", [x(2, 3, 4)], note="reversed"),
    Case("Concat", [x(2, 3), x(2, 1, seed=1), draw(2, 2)], {"axis": -1}),
    Case("Split", [x(2, 7), ints(3, 4)], {"axis": 1}, outputs=2),
    Case("Split", [x(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=3, opset=18, note="uneven"),
    Case("Split", [x(2, 6)], {"axis": 1, "split": [2, 4]}, outputs=2, opset=11, note="attribute"),
    Case("Slice", [x(4, 6), ints(1, -1), ints(3, -10), ints(0, 1), ints(1, -2)]),
    Case("Slice", [x(4, 6), ints(-3), ints(2**62), ints(1)], note="end"),
    Case("Slice", [x(4, 6)], {"starts": [1], "ends": [3], "axes": [1]}, opset=9, note="attribute"),
    Case("Gather", [x(4, 6), ints(-1, 2)], {"axis": 1}),
    Case("Gather", [x(4, 6), np.int64(-1)], note="scalar"),
    Case("Gather", [draw(4, 6), Input(whole(1, 5))], note="embedding"),
    Case("GatherElements", [x(3, 4), whole(3, 2, low=-4)], {"axis": 1}),
    Case("GatherND", [x(3, 4, 2), whole(5, 2, below=3)]),
    Case("GatherND", [x(3, 4, 2), whole(3, 1, below=4)], {"batch_dims": 1}, note="batch"),
    Case("ScatterElements", [x(3, 4), ints(2, 0).reshape(1, 2), x(1, 2, seed=1)], {"axis": 0}),
    Case("ScatterElements", [x(3, 4), ints(2, 2).reshape(2, 1), x(2, 1, seed=1)],
         {"axis": 0, "reduction": "add"}, note="add"),
    Case("ScatterND", [x(4, 3), ints(3, 1).reshape(2, 1), x(2, 3, seed=1)]),
    Case("ScatterND", [x(4, 3), ints(1, 1).reshape(2, 1), x(2, 3, seed=1)],
         {"reduction": "add"}, note="add"),
    Case("Expand", [x(3, 1), ints(2, 1, 4)]),
    Case("Tile", [x(2, 3), ints(2, 1)]),
    Case("Pad", [x(1, 2, 4), ints(0, 0, 1, 0, 0, 2), np.float32(0.5)]),
    Case("Pad", [x(1, 2, 4), ints(0, 0, 2, 0, 0, 1)], {"mode": "reflect"}, note="reflect"),
    Case("Pad", [x(1, 2, 4), ints(0, 0, 2, 0, 0, 1)], {"mode": "edge"}, note="edge"),
    Case("Pad", [x(1, 2, 4), ints(0, 0, -1, 0, 0, 1)], note="cut"),
    Case("Pad", [x(1, 7, 1), ints(0, 5, 0, 0, 4, 0)], {"mode": "reflect"}, note="reflect rows"),
    Case("Pad", [x(1, 2, 8, 9), ints(0, 0, -1, 2, 0, 0, -2, 3)], {"mode": "reflect"},
         note="reflect cut"),
    Case("Pad", [x(2, 4, 4, 3, 2), ints(1, 0, 2, 0, 0, 0, 1, 0, 0, 1)], {"mode": "edge"},
         note="edge of 5 axes"),
    Case("Pad", [x(1, 5), ints(0, 9, 0, 7)], {"mode": "edge"}, note="edge beyond the size"),
    Case("Pad", [x(1, 2, 5), ints(0, 0, 2, 0, 0, 3)], {"mode": "wrap"}, opset=19, note="wrap"),
    Case("Pad", [x(1, 2, 4), ints(1, 2), np.float32(0), ints(2)], opset=18, note="axes"),
    Case("Pad", [x(1, 2, 4)], {"pads": [0, 0, 1, 0, 0, 1], "value": 1.0}, opset=9,
         note="attribute"),
    Case("OneHot", [Input(whole(2, 3)), np.int64(4), floats(-1, 2)], {"axis": 1}),
    Case("DepthToSpace", [x(1, 8, 2, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [x(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, note="crd"),
    Case("SpaceToDepth", [x(1, 2, 4, 6)], {"blocksize": 2}),
    Case("ReverseSequence", [x(4, 2, 3), ints(4, 2)]),
    Case("Trilu", [x(4, 4), np.int64(1)]),
    Case("Trilu", [x(4, 4)], {"upper": 0}, note="lower"),
    Case("Compress", [x(4, 3), np.asarray([True, False, True, False])], {"axis": 0}),
    Case("EyeLike", [x(3, 4)], {"k": 1}),
    Case("Col2Im", [x(1, 8, 9), ints(4, 4), ints(2, 2)], opset=18),
]  # fmt: skip


def _conv(kernel: int, channels: int = 4, inputs: int = 3, rank: int = 2) -> Array:
    return draw(channels, inputs, *([kernel] * rank), low=-0.5, high=0.5, seed=7)


_IMAGE = x(1, 3, 9, 8)

LAYERS = [
    Case("Conv", [_IMAGE, _conv(3), draw(4)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("Conv", [_IMAGE, _conv(3)], {"pads": [0, 1, 1, 0], "dilations": [2, 2]}, note="uneven"),
    Case("Conv", [_IMAGE, _conv(3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, note="upper"),
    Case("Conv", [_IMAGE, _conv(2)], {"auto_pad": "SAME_LOWER"}, note="lower"),
    Case("Conv", [x(1, 4, 6, 6), _conv(3, 8, 1)], {"group": 4}, note="depthwise"),
    Case("Conv", [x(1, 3, 9), _conv(3, rank=1)], note="1d"),
    Case("Conv", [x(1, 3, 5, 5, 5), _conv(3, rank=3)], note="3d"),
    Case("ConvTranspose", [_IMAGE, draw(3, 4, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1],
         "output_padding": [1, 1]}),
    Case("ConvTranspose", [_IMAGE, draw(3, 4, 3, 3), draw(4)], {"strides": [2, 2],
         "pads": [0, 1, 1, 0]}, note="uneven"),
    Case("ConvTranspose", [_IMAGE, draw(3, 4, 3, 3)], {"strides": [2, 2],
         "auto_pad": "SAME_UPPER"}, note="same"),
    Case("ConvTranspose", [_IMAGE, draw(3, 4, 3, 3)], {"strides": [2, 2],
         "output_shape": [18, 16]}, note="shape"),
    Case("Gemm", [x(2, 5), draw(5, 3), draw(3)]),
    Case("Gemm", [x(5, 2), draw(3, 5), draw(2, 3)], {"transA": 1, "transB": 1, "alpha": 0.5,
         "beta": 2.0}, note="scaled"),
    Case("MatMul", [x(2, 4, 5), draw(5, 3)]),
    Case("MatMul", [x(2, 4, 5), x(2, 5, 3, seed=1)], note="batch"),
    Case("Einsum", [x(2, 4, 5), x(2, 5, 3, seed=1)], {"equation": "bij,bjk->bik"}),
    Case("BatchNormalization", [_IMAGE, draw(3), draw(3), draw(3), draw(3, low=0.1)]),
    Case("InstanceNormalization", [_IMAGE, draw(3), draw(3)]),
    Case("LayerNormalization", [x(2, 3, 4), draw(4), draw(4)]),
    Case("LayerNormalization", [x(2, 3, 4), draw(3, 4)], {"axis": 1}, outputs=3, note="three"),
    Case("GroupNormalization", [x(1, 4, 3, 3), draw(4), draw(4)], {"num_groups": 2}, opset=21),
    Case("RMSNormalization", [x(2, 3, 4), draw(4)], opset=23),
    Case("LRN", [x(1, 6, 3, 3)], {"size": 3}),
    Case("LpNormalization", [x(2, 5)], {"p": 2, "axis": 1}),
    Case("MeanVarianceNormalization", [_IMAGE]),
    Case("Softmax", [x(2, 3, 4)], {"axis": 1}, opset=11, note="rows"),
    Case("GridSample", [x(1, 2, 5, 5), draw(1, 4, 4, 2, low=-0.9, high=0.9)]),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2],
         "pads": [1, 1, 1, 1]}),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1],
         "count_include_pad": 1}, note="counted"),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
         opset=19, note="ceil"),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, note="same"),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
         note="ceil"),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"}, note="same"),
    Case("MaxPool", [x(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}, note="1d"),
    Case("GlobalAveragePool", [_IMAGE]),
    Case("GlobalMaxPool", [_IMAGE]),
    Case("GlobalLpPool", [_IMAGE]),
    Case("LpPool", [_IMAGE], {"kernel_shape": [2, 2]}),
]  # fmt: skip

REDUCTIONS = [
    *(
        Case(op, [x(2, 3, 4, low=0.1), ints(1, -1)], {"keepdims": 0}, opset=18)
        for op in (
            "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
            "ReduceSumSquare ReduceLogSum ReduceLogSumExp"
        ).split()
    ),
    Case("ReduceMean", [x(2, 3, 4)], {"axes": [1]}, opset=13, note="attribute"),
    Case("ReduceSum", [x(2, 3, 4)], note="all"),
    Case("ReduceSum", [x(2, 3), np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}, note="noop"),
    Case("ArgMax", [x(2, 5)], {"axis": 1, "keepdims": 0}),
    Case("ArgMin", [Input(floats(2, 1, 1).reshape(1, 3))], {"axis": 1, "select_last_index": 1}),
    Case("TopK", [x(2, 6), ints(3)], outputs=2),
    Case("TopK", [x(2, 6)], {"k": 2, "axis": 1}, outputs=2, opset=9, note="attribute"),
]


def _resize(note: str, target: Array, sizes: bool = False, **attributes: Any) -> Case:
    reads: list[Any] = [x(1, 2, 5, 6), None, None, target]
    if not sizes:
        reads = [x(1, 2, 5, 6), None, target]
    return Case("Resize", reads, attributes, opset=18, note=note)


_TWICE, _ODD = floats(1, 1, 2, 2), ints(1, 2, 8, 13)

RESIZES = [
    _resize("nearest", _TWICE, mode="nearest"),
    _resize("asymmetric", _TWICE, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric"),
    _resize("odd", _ODD, True, mode="nearest"),
    _resize("odd-asymmetric", _ODD, True, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric"),
    _resize("odd-ceil", _ODD, True, mode="nearest", nearest_mode="ceil"),
    _resize("smaller", ints(1, 2, 3, 4), True, mode="nearest", nearest_mode="round_prefer_ceil"),
    _resize("linear", _TWICE, mode="linear"),
    _resize("linear-odd", _ODD, True, mode="linear"),
    _resize("linear-corners", _ODD, True, mode="linear",
            coordinate_transformation_mode="align_corners"),
    _resize("linear-asymmetric", _ODD, True, mode="linear",
            coordinate_transformation_mode="asymmetric"),
    _resize("linear-pytorch", ints(1, 2, 1, 4), True, mode="linear",
            coordinate_transformation_mode="pytorch_half_pixel"),
    _resize("linear-factor", floats(1, 1, 1.7, 0.6), mode="linear"),
    _resize("antialias", ints(1, 2, 3, 3), True, mode="linear", antialias=1),
    _resize("cubic", _TWICE, mode="cubic", cubic_coeff_a=-0.5),
    _resize("cubic-inside", _ODD, True, mode="cubic", exclude_outside=1),
    Case("Upsample", [x(1, 2, 3, 3), _TWICE], {"mode": "nearest"}, opset=9),
    Case("Upsample", [x(1, 2, 3, 3)], {"scales": [1.0, 1.0, 2.0, 2.0]}, opset=7, note="attribute"),
    Case("Resize", [x(1, 2, 3, 3), _TWICE], {"mode": "linear"}, opset=10),
]  # fmt: skip


def _recurrent(
    op: str, gates: int, note: str = "", directions: int = 1, steps: int = 5, **attributes: Any
) -> Case:
    reads: list[Any] = [
        x(steps, 2, 3), draw(directions, gates * 4, 3), draw(directions, gates * 4, 4, seed=1),
        draw(directions, 2 * gates * 4, seed=2), None, x(directions, 2, 4, seed=3),
    ]  # fmt: skip
    if op == "LSTM":
        reads.append(x(directions, 2, 4, seed=4))
    return Case(op, reads, {"hidden_size": 4, **attributes}, outputs=2 + (op == "LSTM"), note=note)


RECURRENT = [
    _recurrent("LSTM", 4),
    _recurrent("LSTM", 4, "both", 2, direction="bidirectional"),
    _recurrent("GRU", 3),
    _recurrent("GRU", 3, "linear", 2, direction="bidirectional", linear_before_reset=1),
    _recurrent("GRU", 3, "loop", steps=9),
    _recurrent("GRU", 3, "linear-loop", 2, 9, direction="bidirectional", linear_before_reset=1),
    _recurrent("GRU", 3, "relu", steps=9, activations=["Sigmoid", "Relu"]),
    _recurrent("RNN", 1, "reverse", direction="reverse"),
    _recurrent("RNN", 1, "loop", steps=9, direction="reverse"),
    _recurrent("RNN", 1, "relu", activations=["Relu"]),
    Case("LSTM", [x(5, 2, 3), draw(1, 16, 3), draw(1, 16, 4, seed=1), None,
         np.asarray([3, 3], np.int32), None, None, draw(1, 12)], {"hidden_size": 4}, outputs=3,
         note="peephole-short"),
    Case("LSTM", [x(5, 2, 3), draw(1, 16, 3), draw(1, 16, 4, seed=1)],
         {"hidden_size": 4, "input_forget": 1}, outputs=3, note="coupled"),
]  # fmt: skip

_MS = "com.microsoft"

FUSED = [
    Case("FusedConv", [_IMAGE, _conv(3), draw(4)], {"activation": "Relu"}, domain=_MS),
    Case("FusedConv", [_IMAGE, _conv(3)], {"activation": "LeakyRelu", "activation_params": [0.2]},
         domain=_MS, note="leaky"),
    Case("FusedMatMul", [x(2, 5), draw(3, 5)], {"transB": 1, "alpha": 0.5}, domain=_MS),
    Case("BiasGelu", [x(2, 5), draw(5)], domain=_MS),
    Case("FastGelu", [x(2, 5)], domain=_MS),
    Case("QuickGelu", [x(2, 5)], domain=_MS),
    Case("SkipLayerNormalization", [x(1, 3, 4), x(1, 3, 4, seed=1), draw(4), draw(4), draw(4)],
         domain=_MS),
]  # fmt: skip

ALL = [*ELEMENTWISE, *MOVEMENT, *LAYERS, *REDUCTIONS, *RESIZES, *RECURRENT, *FUSED]
