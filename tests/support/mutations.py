"""Small float .tflite models, and ways to damage them that a number repeats exactly.

`mutant(base, seed)` gives the same bytes for the same arguments. Half of the ways work on the bytes
of a file, half on the fields behind them; the latter give files that are well-formed and wrong.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.demo import float_model_path, load_data
from edgeq.flatbuffer import pack, schema, unpack

Array: TypeAlias = npt.NDArray[Any]
Random: TypeAlias = np.random.Generator

SAMPLES = 12
EXTREME_WORDS = (0, 1, -1, 2**31 - 1, -(2**31), 1 << 30, 1 << 24, 0x7FFF, -4, 255)
EXTREME_DIMENSIONS = (0, 1, 3, -1, 1 << 10, 1 << 16, 1 << 24, 2**31 - 1, -(2**31))
EXTREME_FLOATS = (np.nan, np.inf, -np.inf, 3e38, 1e-42)


@dataclass(frozen=True)
class Base:
    """A valid float model and the data that calibrates it.

    Attributes:
        name: Short name for test output.
        tflite: The file.
        data: As many samples as `SAMPLES`, in the form that `edgeq.export` takes.
    """

    name: str
    tflite: bytes
    data: tuple[tuple[Array, ...], ...]


class Builder:
    """Writes a .tflite file of one graph, tensor by tensor and op by op."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._codes: list[Any] = []
        self._buffers = [schema.BufferT()]
        self._inputs: list[int] = []

    def tensor(self, shape: Sequence[int], kind: str = "float32", buffer: int = 0) -> int:
        """Index of a new tensor."""
        tensor = schema.TensorT()
        tensor.name = f"t{len(self._graph.tensors)}".encode()
        tensor.type = getattr(schema.TensorType, kind.upper())
        tensor.shape = np.asarray(shape, np.int32)
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def input(self, *shape: int) -> int:
        """Index of a new float input."""
        self._inputs.append(self.tensor(shape))
        return self._inputs[-1]

    def constant(self, value: Any, kind: str = "int32") -> int:
        """Index of a new constant."""
        array = np.asarray(value, kind)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self.tensor(array.shape, kind, len(self._buffers) - 1)

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        *shapes: Sequence[int],
        options: str = "",
        **fields: Any,
    ) -> list[int]:
        """Indices of the outputs of a new op.

        Args:
            name: Builtin operator.
            inputs: Tensor indices.
            *shapes: Shape of each output.
            options: Name of the options table without `Options`, for example `"Conv2D"`.
            **fields: Fields of that table.
        """
        op = schema.OperatorT()
        op.opcodeIndex = len(self._codes)
        op.inputs = np.asarray(inputs, np.int32)
        outputs = [self.tensor(shape) for shape in shapes]
        op.outputs = np.asarray(outputs, np.int32)
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options}Options")
            op.builtinOptions = getattr(schema, f"{options}OptionsT")()
            for field, value in fields.items():
                setattr(op.builtinOptions, field, value)
        self._codes.append(_operator_code(getattr(schema.BuiltinOperator, name)))
        self._graph.operators.append(op)
        return outputs

    def finish(self, outputs: Sequence[int]) -> bytes:
        """The file, with a signature."""
        self._graph.inputs = np.asarray(self._inputs, np.int32)
        self._graph.outputs = np.asarray(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.description = 3, b"a small test model"
        model.subgraphs, model.buffers = [self._graph], self._buffers
        model.operatorCodes = self._codes
        model.signatureDefs = [self._signature(outputs)]
        return pack(model)

    def _signature(self, outputs: Sequence[int]) -> Any:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs = [_named(f"in{i}", t) for i, t in enumerate(self._inputs)]
        signature.outputs = [_named(f"out{i}", t) for i, t in enumerate(outputs)]
        return signature


def _operator_code(code: int) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
    return entry


def _named(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def _weights(*shape: int) -> Array:
    scale = 1.0 / np.sqrt(np.prod(shape[1:]) or 1)
    return np.random.default_rng(sum(shape)).normal(0.0, scale, shape).astype(np.float32)


def classifier() -> bytes:
    """Convolution, pooling, a transpose, a dense layer and a softmax."""
    b = Builder()
    image = b.input(1, 8, 8, 3)
    padded = b.op(
        "PAD", [image, b.constant([[0, 0], [1, 1], [1, 1], [0, 0]])], (1, 10, 10, 3), options="Pad"
    )
    kernel, bias = b.constant(_weights(8, 3, 3, 3), "float32"), b.constant(_weights(8), "float32")
    features = b.op(
        "CONV_2D", [*padded, kernel, bias], (1, 8, 8, 8), options="Conv2D",
        padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
        fusedActivationFunction=schema.ActivationFunctionType.RELU,
    )  # fmt: skip
    pooled = b.op(
        "MAX_POOL_2D", features, (1, 4, 4, 8), options="Pool2D", padding=schema.Padding.VALID,
        strideH=2, strideW=2, filterHeight=2, filterWidth=2,
    )  # fmt: skip
    turned = b.op(
        "TRANSPOSE", [*pooled, b.constant([0, 3, 1, 2])], (1, 8, 4, 4), options="Transpose"
    )
    flat = b.op(
        "RESHAPE", [*turned, b.constant([1, 128])], (1, 128), options="Reshape",
        newShape=np.asarray([1, 128], np.int32),
    )  # fmt: skip
    dense = [b.constant(_weights(5, 128), "float32"), b.constant(_weights(5), "float32")]
    logits = b.op("FULLY_CONNECTED", [*flat, *dense], (1, 5), options="FullyConnected")
    return b.finish(b.op("SOFTMAX", logits, (1, 5), options="Softmax", beta=1.0))


def rearranger() -> bytes:
    """Two inputs, two outputs and the ops that constants steer: slices, gathers, resizes."""
    b = Builder()
    left, right = b.input(1, 4, 4, 4), b.input(1, 4, 4, 4)
    joined = b.op("CONCATENATION", [left, right], (1, 4, 4, 8), options="Concatenation", axis=3)
    gathered = b.op(
        "GATHER", [*joined, b.constant([7, 5, 3, 1])], (1, 4, 4, 4), options="Gather", axis=3
    )
    halves = b.op(
        "SPLIT", [b.constant(2), *gathered], (1, 4, 2, 4), (1, 4, 2, 4), options="Split",
        numSplits=2,
    )  # fmt: skip
    added = b.op("ADD", halves, (1, 4, 2, 4), options="Add")
    large = b.op(
        "RESIZE_BILINEAR", [*added, b.constant([8, 4])], (1, 8, 4, 4), options="ResizeBilinear",
        halfPixelCenters=True,
    )  # fmt: skip
    cut = b.op(
        "STRIDED_SLICE",
        [*large, *map(b.constant, ([0, 0, 0, 0], [1, 8, 4, 4], [1, 2, 1, 1]))],
        (1, 4, 4, 4), options="StridedSlice",
    )  # fmt: skip
    part = b.op(
        "SLICE", [*cut, b.constant([0, 1, 0, 0]), b.constant([1, 2, 4, 4])], (1, 2, 4, 4),
        options="Slice",
    )  # fmt: skip
    deep = b.op("SPACE_TO_DEPTH", part, (1, 1, 2, 16), options="SpaceToDepth", blockSize=2)
    mean = b.op("MEAN", [*deep, b.constant([1, 2])], (1, 16), options="Reducer", keepDims=False)
    weight = b.constant(_weights(6, 16), "float32")
    scores = b.op("FULLY_CONNECTED", [*mean, weight, -1], (1, 6), options="FullyConnected")
    tiled = b.op("TILE", [*scores, b.constant([1, 2])], (1, 12))
    return b.finish([*tiled, *cut])


@functools.cache
def bases() -> tuple[Base, ...]:
    """The models that mutants are made from."""
    draw = np.random.default_rng(7)

    def smooth(*shape: int) -> Array:
        return draw.normal(0.0, 1.0, shape).astype(np.float32)

    demo = load_data().calibration[:SAMPLES]
    return (
        Base("demo", float_model_path().read_bytes(), tuple((image[None],) for image in demo)),
        Base("classifier", classifier(), tuple((smooth(1, 8, 8, 3),) for _ in range(SAMPLES))),
        Base(
            "rearranger",
            rearranger(),
            tuple((smooth(1, 4, 4, 4), smooth(1, 4, 4, 4)) for _ in range(SAMPLES)),
        ),
    )


def mutant(base: int, seed: int) -> tuple[str, bytes]:
    """A damaged copy of a base model.

    Args:
        base: Index into `bases()`.
        seed: Chooses the way (in turn, so that each is used equally often) and its details.

    Returns:
        The name of the way and the bytes.
    """
    return damage(bases()[base].tflite, base, seed)


def damage(tflite: bytes, base: int, seed: int) -> tuple[str, bytes]:
    """As `mutant`, for any file; a way that a file has nothing for gives way to the next one."""
    for number in range(seed, seed + len(WAYS)):
        way = WAYS[number % len(WAYS)]
        with contextlib.suppress(ValueError, IndexError):
            return way.__name__, way(tflite, np.random.default_rng([base, seed]))
    raise ValueError("no way to damage the file")


# Ways that work on bytes.


def _structure(data: bytes) -> Array:
    """Positions of the bytes that are not in a constant of more than 64 bytes."""
    whole = np.frombuffer(data, np.uint8)
    free = np.ones(len(data), bool)
    for buffer in unpack(data).buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            start = buffer.data.__array_interface__["data"][0] - whole.ctypes.data
            free[start : start + len(buffer.data)] = False
    return np.flatnonzero(free)


def _flip(data: bytes, random: Random, positions: Array, most: int) -> bytes:
    damaged = bytearray(data)
    for position in random.choice(positions, random.integers(1, most + 1)):
        damaged[position] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def _word_position(data: bytes, random: Random) -> int:
    return min(int(random.choice(_structure(data))) // 4 * 4, len(data) - 4)


def flip_one_structure_bit(data: bytes, random: Random) -> bytes:
    return _flip(data, random, _structure(data), 1)


def flip_structure_bits(data: bytes, random: Random) -> bytes:
    return _flip(data, random, _structure(data), 16)


def flip_bits_anywhere(data: bytes, random: Random) -> bytes:
    return _flip(data, random, np.arange(len(data)), 64)


def replace_structure_byte(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    damaged[int(random.choice(_structure(data)))] = int(random.integers(256))
    return bytes(damaged)


def truncate(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(len(data)))]


def truncate_a_little(data: bytes, random: Random) -> bytes:
    return data[: -int(random.integers(1, 64))]


def fill_range(data: bytes, random: Random) -> bytes:
    start = int(random.choice(_structure(data)))
    count = min(int(random.choice([4, 16, 64, 1024])), len(data) - start)
    filler = bytes([int(random.choice([0, 255]))])
    return data[:start] + filler * count + data[start + count :]


def swap_words(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    one, other = _word_position(data, random), _word_position(data, random)
    damaged[one : one + 4], damaged[other : other + 4] = (
        data[other : other + 4], data[one : one + 4],
    )  # fmt: skip
    return bytes(damaged)


def overwrite_word(data: bytes, random: Random) -> bytes:
    position = _word_position(data, random)
    word = int(random.choice(EXTREME_WORDS)).to_bytes(4, "little", signed=True)
    return data[:position] + word + data[position + 4 :]


def nudge_word(data: bytes, random: Random) -> bytes:
    position = _word_position(data, random)
    word = int.from_bytes(data[position : position + 4], "little")
    changed = (word + int(random.choice([-8, -4, -1, 1, 4, 8]))) % 2**32
    return data[:position] + changed.to_bytes(4, "little") + data[position + 4 :]


def remove_bytes(data: bytes, random: Random) -> bytes:
    position = int(random.choice(_structure(data)))
    return data[:position] + data[position + int(random.choice([1, 4, 16])) :]


# Ways that work on the fields of a file.


def _fields(change: Callable[[Any, Random], None]) -> Callable[[bytes, Random], bytes]:
    @functools.wraps(change)
    def way(data: bytes, random: Random) -> bytes:
        tree = unpack(data)
        change(tree, random)
        return pack(tree)

    return way


def _pick(random: Random, items: Sequence[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def _some_op(tree: Any, random: Random) -> Any:
    return _pick(random, tree.subgraphs[0].operators)


def _some_tensor(tree: Any, random: Random) -> Any:
    return _pick(random, tree.subgraphs[0].tensors)


def _some_constant(tree: Any, random: Random, kinds: Sequence[int]) -> tuple[Any, Any]:
    tensors = [t for t in tree.subgraphs[0].tensors if t.buffer and t.type in kinds]
    tensor = _pick(random, [t for t in tensors if tree.buffers[t.buffer].data is not None])
    return tensor, tree.buffers[tensor.buffer]


@_fields
def change_operand(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    op.inputs = op.inputs.copy()
    target = int(random.integers(-1, len(tree.subgraphs[0].tensors)))
    op.inputs[int(random.integers(len(op.inputs)))] = target


@_fields
def change_result(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    op.outputs = op.outputs.copy()
    target = int(random.integers(-1, len(tree.subgraphs[0].tensors)))
    op.outputs[int(random.integers(len(op.outputs)))] = target


@_fields
def remove_operands(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    op.inputs = op.inputs[: int(random.integers(len(op.inputs)))]


@_fields
def add_operands(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    extra = random.choice([op.inputs[0], op.inputs[-1], -1], int(random.integers(1, 4)))
    op.inputs = np.concatenate([op.inputs, extra]).astype(np.int32)


@_fields
def shuffle_operands(tree: Any, random: Random) -> None:
    op = _pick(random, [op for op in tree.subgraphs[0].operators if len(op.inputs) > 1])
    op.inputs = np.roll(op.inputs, int(random.integers(1, len(op.inputs))))


@_fields
def change_number_of_results(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    if random.integers(2):
        op.outputs = op.outputs[:0]
        return
    tree.subgraphs[0].tensors.append(_some_tensor(tree, random))
    added = len(tree.subgraphs[0].tensors) - 1
    op.outputs = np.concatenate([op.outputs, [added]]).astype(np.int32)


@_fields
def change_op_code(tree: Any, random: Random) -> None:
    code = _pick(random, tree.operatorCodes)
    code.builtinCode = int(random.integers(210))
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)


@_fields
def change_op_version(tree: Any, random: Random) -> None:
    _pick(random, tree.operatorCodes).version = int(random.choice([-1, 0, 2, 3, 7, 1000]))


@_fields
def change_tensor_shape(tree: Any, random: Random) -> None:
    tensor = _pick(random, [t for t in tree.subgraphs[0].tensors if t.shape is not None])
    tensor.shape = np.asarray(tensor.shape, np.int32).copy()
    if len(tensor.shape):
        axis = int(random.integers(len(tensor.shape)))
        tensor.shape[axis] = int(random.choice(EXTREME_DIMENSIONS))


@_fields
def change_tensor_rank(tree: Any, random: Random) -> None:
    tensor = _some_tensor(tree, random)
    shape = [] if tensor.shape is None else [int(d) for d in tensor.shape]
    shapes = [shape[1:], shape[:-1], [1, *shape], [*shape, 1], [], [1] * 9, shape[::-1]]
    tensor.shape = np.asarray(_pick(random, shapes), np.int32)


@_fields
def change_tensor_type(tree: Any, random: Random) -> None:
    _some_tensor(tree, random).type = int(random.integers(0, 20))


@_fields
def change_shape_signature(tree: Any, random: Random) -> None:
    tensor = _some_tensor(tree, random)
    shape = [] if tensor.shape is None else [int(d) for d in tensor.shape]
    signature = _pick(random, [[-1] * len(shape), [-1, *shape], [-1, *shape[1:]], [7] * len(shape)])
    tensor.shapeSignature = np.asarray(signature, np.int32)


@_fields
def change_integer_constant(tree: Any, random: Random) -> None:
    """Axes, permutations, paddings, sizes and indices."""
    _, buffer = _some_constant(tree, random, (schema.TensorType.INT32,))
    values = np.asarray(buffer.data, np.uint8).copy().view(np.int32)
    values[int(random.integers(len(values)))] = int(
        random.choice((*EXTREME_WORDS, 2, 3, 4, 5, 8, -2, -5, 100, 100_000))
    )
    buffer.data = values.view(np.uint8)


@_fields
def change_constant_length(tree: Any, random: Random) -> None:
    kinds = (schema.TensorType.INT32, schema.TensorType.FLOAT32)
    _, buffer = _some_constant(tree, random, kinds)
    data = np.asarray(buffer.data, np.uint8)
    buffer.data = _pick(random, [data[:-1], data[:-4], data[:4], np.tile(data, 2), None])


@_fields
def shorten_constant_and_its_shape(tree: Any, random: Random) -> None:
    """A weight, bias or index vector that is whole in itself but too short for its op."""
    kinds = (schema.TensorType.INT32, schema.TensorType.FLOAT32)
    tensor, buffer = _some_constant(tree, random, kinds)
    shape = np.asarray([] if tensor.shape is None else tensor.shape, np.int32).copy()
    if len(shape) == 0:
        return
    shape[int(random.integers(len(shape)))] = int(random.choice([1, 2]))
    tensor.shape = shape
    buffer.data = np.resize(np.asarray(buffer.data, np.uint8), int(np.prod(shape)) * 4)


@_fields
def put_extreme_weights(tree: Any, random: Random) -> None:
    _, buffer = _some_constant(tree, random, (schema.TensorType.FLOAT32,))
    values = np.asarray(buffer.data, np.uint8).copy().view(np.float32)
    places = random.integers(len(values), size=int(random.integers(1, 4)))
    values[places] = float(random.choice(EXTREME_FLOATS))
    buffer.data = values.view(np.uint8)


@_fields
def change_option(tree: Any, random: Random) -> None:
    """Strides, dilations, filter sizes, axes, paddings and activations."""
    ops = [op for op in tree.subgraphs[0].operators if op.builtinOptions is not None]
    options = _pick(random, [op.builtinOptions for op in ops if vars(op.builtinOptions)])
    name = _pick(
        random, [n for n, v in vars(options).items() if isinstance(v, int | float)] or [""]
    )
    if isinstance(getattr(options, name, None), bool):
        setattr(options, name, not getattr(options, name))
    elif "activation" in name.lower() or name in ("padding", "weightsFormat"):
        setattr(options, name, int(random.integers(-1, 8)))
    elif name:
        value = int(random.choice([0, -1, 2, 5, 100, 65536, 2**31 - 1]))
        setattr(options, name, value % 128 if "Type" in name else value)


@_fields
def remove_options(tree: Any, random: Random) -> None:
    op = _some_op(tree, random)
    op.builtinOptions, op.builtinOptionsType = None, schema.BuiltinOptions.NONE


@_fields
def swap_options(tree: Any, random: Random) -> None:
    one, other = _some_op(tree, random), _some_op(tree, random)
    one.builtinOptions, one.builtinOptionsType = other.builtinOptions, other.builtinOptionsType


@_fields
def change_buffer_of_tensor(tree: Any, random: Random) -> None:
    _some_tensor(tree, random).buffer = int(random.integers(len(tree.buffers) + 2))


@_fields
def make_variable(tree: Any, random: Random) -> None:
    _some_tensor(tree, random).isVariable = True


@_fields
def add_quantization(tree: Any, random: Random) -> None:
    parameters = schema.QuantizationParametersT()
    count = int(random.choice([1, 2, 16]))
    parameters.scale = np.full(count, random.choice([0.1, 0.0, -1.0, np.nan]), np.float32)
    parameters.zeroPoint = np.full(count, int(random.choice([0, 300, -(2**40)])), np.int64)
    parameters.quantizedDimension = int(random.choice([0, -1, 3, 100]))
    _some_tensor(tree, random).quantization = parameters


@_fields
def change_graph_outputs(tree: Any, random: Random) -> None:
    graph = tree.subgraphs[0]
    index = int(random.integers(len(graph.tensors)))
    choices = [[], [index], [*graph.outputs, *graph.outputs], [*graph.outputs, index], graph.inputs]
    graph.outputs = np.asarray(_pick(random, choices), np.int32)


@_fields
def change_graph_inputs(tree: Any, random: Random) -> None:
    graph = tree.subgraphs[0]
    index = int(random.integers(len(graph.tensors)))
    choices = [[], [index], [*graph.inputs, *graph.inputs], [*graph.inputs, index], graph.outputs]
    graph.inputs = np.asarray(_pick(random, choices), np.int32)


@_fields
def empty_a_table(tree: Any, random: Random) -> None:
    graph = tree.subgraphs[0]
    owner, name = _pick(
        random,
        [
            (graph, "operators"), (graph, "tensors"), (tree, "subgraphs"), (tree, "buffers"),
            (tree, "operatorCodes"), (graph, "inputs"), (graph, "outputs"),
        ],
    )  # fmt: skip
    setattr(owner, name, [])


@_fields
def remove_op(tree: Any, random: Random) -> None:
    operators = tree.subgraphs[0].operators
    del operators[int(random.integers(len(operators)))]


@_fields
def duplicate_op(tree: Any, random: Random) -> None:
    operators = tree.subgraphs[0].operators
    operators.insert(int(random.integers(len(operators))), _some_op(tree, random))


@_fields
def swap_ops(tree: Any, random: Random) -> None:
    operators = tree.subgraphs[0].operators
    one, other = random.integers(len(operators), size=2)
    operators[one], operators[other] = operators[other], operators[one]


@_fields
def change_signature(tree: Any, random: Random) -> None:
    signature = tree.signatureDefs[0]
    entry = _pick(random, [*signature.inputs, *signature.outputs])
    choice = int(random.integers(5))
    if choice == 0:
        entry.tensorIndex = int(random.integers(len(tree.subgraphs[0].tensors)))
    elif choice == 1:
        entry.name = b""
    elif choice == 2:
        signature.subgraphIndex = int(random.choice([1, 2**32 - 1]))
    elif choice == 3:
        signature.outputs = []
    else:
        signature.inputs, signature.outputs = signature.outputs, signature.inputs


@_fields
def change_tensor_names(tree: Any, random: Random) -> None:
    tensors = tree.subgraphs[0].tensors
    name = _pick(random, [b"", None, b"\xff\xfe", b"x" * 10_000, b"a\nb\x00c"])
    for index in random.integers(len(tensors), size=int(random.choice([1, 2, 200]))):
        tensors[index].name = name


@_fields
def add_graph(tree: Any, random: Random) -> None:
    tree.subgraphs.append(tree.subgraphs[0])


@_fields
def make_sparse(tree: Any, random: Random) -> None:
    tensor, _ = _some_constant(tree, random, (schema.TensorType.FLOAT32,))
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.asarray([0, 1, 2**30], np.int32)
    sparsity.blockMap = np.asarray([5], np.int32)
    tensor.sparsity = sparsity


@_fields
def change_scales(tree: Any, random: Random) -> None:
    found = [t.quantization for t in tree.subgraphs[0].tensors if t.quantization is not None]
    parameters = _pick(random, [q for q in found if q.scale is not None and len(q.scale)])
    scale = np.array(parameters.scale)
    scale[int(random.integers(len(scale)))] = random.choice([0.0, 1e10, 1e-30, -1.0, np.nan, 128.0])
    parameters.scale = scale


@_fields
def change_scale_tables(tree: Any, random: Random) -> None:
    found = [t.quantization for t in tree.subgraphs[0].tensors if t.quantization is not None]
    parameters = _pick(random, [q for q in found if q.scale is not None and len(q.scale)])
    choice = int(random.integers(4))
    if choice == 0:
        parameters.scale = np.repeat(parameters.scale, 2)
    elif choice == 1:
        parameters.zeroPoint = np.zeros(int(random.choice([0, 2, 7])), np.int64)
    elif choice == 2:
        parameters.quantizedDimension = int(random.choice([-1, 1, 9]))
    else:
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = schema.BlockwiseQuantizationT()


WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_one_structure_bit, change_operand, flip_structure_bits, change_result,
    flip_bits_anywhere, remove_operands, replace_structure_byte, add_operands,
    truncate, shuffle_operands, truncate_a_little, change_number_of_results,
    fill_range, change_op_code, swap_words, change_op_version,
    overwrite_word, change_tensor_shape, nudge_word, change_tensor_rank,
    remove_bytes, change_tensor_type, change_shape_signature, change_integer_constant,
    change_constant_length, shorten_constant_and_its_shape, put_extreme_weights, change_option,
    remove_options, swap_options, change_buffer_of_tensor, make_variable,
    add_quantization, change_graph_outputs, change_graph_inputs, empty_a_table,
    remove_op, duplicate_op, swap_ops, change_signature,
    change_tensor_names, add_graph, make_sparse, change_scales, change_scale_tables,
)  # fmt: skip
"""Every way to damage a file."""
