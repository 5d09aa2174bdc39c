"""The view of a .tflite file: tensors, ops, constants and signatures as plain values.

Pure Python: a damaged file ends in a `ModelError`, never in a dead process. The only module that
touches the generated flatbuffer schema. Knows nothing of MLIR, runtimes or quantization rules.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import itertools
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from edgeq.errors import DependencyError, ModelError
from edgeq.files import Content, joined
from edgeq.qtypes import DType, QParams


def _load_schema() -> Any:
    """The generated schema; None on a board that has only the runtime."""
    for name in ("ai_edge_litert", "tensorflow.lite.python"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(f"{name}.schema_py_generated")
    return None


schema = _load_schema()
"""The generated schema, for those who build or edit object trees."""

IDENTIFIER = b"TFL3"
TENSOR_BYTES_MAX = 1 << 32
"""A tensor that claims more than 4 GiB is taken as damage."""

_READ_ERRORS = (
    struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError,
    MemoryError, RecursionError, KeyError,
)  # fmt: skip
"""What the generated reader raises when offsets point astray."""


def _names(enumeration: str) -> dict[int, str]:
    values = vars(getattr(schema, enumeration, object))
    return {value: name for name, value in values.items() if isinstance(value, int)}


_OP_NAMES = _names("BuiltinOperator")


def builtin_name(code: int) -> str:
    """The builtin operator's name for its code; the code itself where no schema names it."""
    return _OP_NAMES.get(code, f"op {code}")


_TYPE_NAMES = {code: name.lower() for code, name in _names("TensorType").items()}
_ACTIVATION_NAMES = _names("ActivationFunctionType")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        index: Its index in the graph, the same as the interpreter's.
        name: Name in the file.
        shape: Static shape; a dynamic dimension shows as -1.
        dtype: Lower-case type name, for example `"float32"`.
        data: Constant value with `shape`, or None for a computed tensor.
        qparams: Quantization parameters, or None.
        is_variable: Whether it keeps its value between runs.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: npt.NDArray[Any] | None
    qparams: QParams | None
    is_variable: bool

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its value."""
        return self.data is not None


@dataclass(frozen=True)
class Operator:
    """One op of a graph.

    Attributes:
        index: Position in execution order.
        name: Builtin operator name, or `CUSTOM:<code>`.
        inputs: Tensor indices; -1 for an optional input that is absent.
        outputs: Tensor indices.
        options: The schema's own options object, or None.
        version: Op version.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    version: int

    @property
    def fused_activation(self) -> str:
        """Name of the activation fused into the op, `"NONE"` without one."""
        return _ACTIVATION_NAMES.get(getattr(self.options, "fusedActivationFunction", 0), "NONE")


@dataclass(frozen=True)
class Graph:
    """One subgraph: tensors and ops in execution order."""

    index: int
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """The op that computes each tensor."""
        return {tensor: op for op in self.operators for tensor in op.outputs}

    @functools.cached_property
    def uses(self) -> dict[int, list[tuple[Operator, int]]]:
        """The `(op, operand slot)` pairs that read each tensor."""
        found: dict[int, list[tuple[Operator, int]]] = {}
        for op in self.operators:
            for slot, tensor in enumerate(op.inputs):
                found.setdefault(tensor, []).append((op, slot))
        return found

    def operands(self, op: Operator) -> Iterator[tuple[int, Tensor]]:
        """`(slot, tensor)` of every operand that is present."""
        return ((s, self.tensors[t]) for s, t in enumerate(op.inputs) if t >= 0)


@dataclass(frozen=True)
class Signature:
    """A named entry point: `(name, tensor index)` of inputs and outputs."""

    key: str
    graph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Model:
    """A whole .tflite file."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...]
    size: int


def unpack(data: Content) -> Any:
    """The schema's mutable object tree (`ModelT`); constants are views of `data`.

    Raises:
        ModelError: Not a .tflite file, or damaged.
        DependencyError: This machine has only the runtime.
    """
    if schema is None:
        raise DependencyError(
            "looking into a .tflite file needs ai-edge-litert (or TensorFlow): "
            "pip install ai-edge-litert"
        )
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise ModelError(
            f"not a .tflite file: bytes 4..8 must be 'TFL3'. Received: {bytes(data[4:8])!r} "
            f"in {len(data)} bytes"
        )
    try:
        tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except _READ_ERRORS as error:
        raise _damaged(f"its tables point outside the file ({error})") from None
    for index, buffer in enumerate(_list(tree.buffers)):
        if buffer.size:
            _bring_in(buffer, data, index)
    return tree


def _bring_in(buffer: Any, data: Content, index: int) -> None:
    """Gives a buffer what the file holds for it behind its tables, as some converters write it."""
    if buffer.offset + buffer.size > len(data):
        raise _damaged(f"buffer {index} lies outside the file")
    buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    buffer.offset = buffer.size = 0


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no annotations
    """Writes equal small vectors once, and constants at the alignment that kernels rely on.

    Half of a small int8 file can be the zero points of its channels, which are all 0.

    For large constants room is left, but they are not copied into it: `pieces` gives them as they
    are, between what was built. Room that nothing is written to takes no memory, so there is plenty
    of it: making more would copy all.
    """

    TABLE_BYTES = 1 << 26
    ALIGNMENT = 16
    SHARED_BYTES = 1 << 16

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self.Bytes = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANON)
        self.head = size
        self._written: dict[tuple[str, bytes], int] = {}
        self._left_out: list[tuple[int, npt.NDArray[np.uint8]]] = []

    def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802  # flatbuffers' name
        is_large = x.nbytes > self.SHARED_BYTES
        key = (str(id(x)), b"") if is_large else (x.dtype.str, x.tobytes())
        if key not in self._written:
            if x.dtype == np.uint8:
                self.Prep(4, x.nbytes)
                self.Prep(self.ALIGNMENT, x.nbytes)
            leave_out = is_large and x.dtype == np.uint8
            made = self._leave_out(x) if leave_out else super().CreateNumpyVector(x)
            self._written[key] = made
        return self._written[key]

    def _leave_out(self, x: npt.NDArray[np.uint8]) -> int:
        self.StartVector(1, x.size, 1)
        self.head -= x.size
        self._left_out.append((self.Offset(), x))
        return int(self.EndVector())

    def pieces(self) -> Iterator[Any]:
        """The file from its beginning to its end."""
        built = memoryview(self.Bytes)
        place = self.head
        for distance, constant in reversed(self._left_out):
            start = len(built) - distance
            yield built[place:start]
            yield np.ascontiguousarray(constant)
            place = start + constant.size
        yield built[place:]


OUTSIDE_BYTES = 2**31 - 2 * _Builder.TABLE_BYTES
"""Constants of more bytes do not fit a flatbuffer beside its tables, and lie behind it."""


def pack(model: Any, outside_bytes: int = OUTSIDE_BYTES) -> Content:
    """Writes an object tree as a .tflite file; the same tree always gives the same bytes.

    Args:
        model: The tree.
        outside_bytes: Large constants of more bytes in all lie behind the tables, where old run
            times do not look for them.

    Raises:
        ModelError: The temporary folder, to which a large file is written, is full.
    """
    large = [b for b in model.buffers if b.data is not None and _is_left_out(b.data)]
    if sum(len(b.data) for b in large) <= outside_bytes:
        builder = _built(model)
        return joined(builder.pieces(), builder.Offset())
    return _packed_outside(model, large)


def _is_left_out(data: Any) -> bool:
    return len(data) > _Builder.SHARED_BYTES


def _built(model: Any) -> _Builder:
    weights = sum(len(b.data) for b in model.buffers if b.data is not None)
    builder = _Builder(weights + _Builder.TABLE_BYTES)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return builder


def _packed_outside(model: Any, large: Sequence[Any]) -> Content:
    """A file with these buffers behind its tables, which say where each of them lies."""
    tree = copy.copy(model)
    places = {id(buffer): index for index, buffer in enumerate(model.buffers)}
    tree.buffers = list(model.buffers)
    stubs = []
    for buffer in large:
        stub = tree.buffers[places[id(buffer)]] = copy.copy(buffer)
        stub.data, stub.offset, stub.size = None, _Builder.ALIGNMENT, len(buffer.data)
        stubs.append(stub)
    tables = _built(tree).Offset()  # as large as they will be: no field of theirs is 0
    end, behind = tables, list[Any]()
    for buffer, stub in zip(large, stubs, strict=True):
        gap = -end % _Builder.ALIGNMENT
        stub.offset = end + gap
        behind += [bytes(gap), np.ascontiguousarray(buffer.data, np.uint8)]
        end = stub.offset + stub.size
    return joined(itertools.chain(_built(tree).pieces(), behind), end)


def parse(data: Content) -> Model:
    """Reads and checks a .tflite file.

    Args:
        data: The file's bytes.

    Returns:
        The model as plain values; every index in it is in range and every constant has the
        number of bytes that its shape and type ask for.

    Raises:
        ModelError: Not a .tflite file, or damaged.
    """
    return parse_tree(unpack(data), len(data))


def parse_tree(tree: Any, size: int = 0) -> Model:
    """`parse` for an object tree; `size` is that of its file, where there is one."""
    try:
        return _model(tree, size)
    except _READ_ERRORS as error:
        raise _damaged(f"{type(error).__name__}: {error}") from None


def parse_only(data: Content) -> int:
    """Job: reads a file that may be damaged enough to keep a reader busy; returns its graphs."""
    return len(parse(data).graphs)


def _damaged(what: str) -> ModelError:
    return ModelError(f"the .tflite file is damaged: {what}. Make it again with its converter.")


def _model(tree: Any, size: int) -> Model:
    codes = [op_name(code) for code in _list(tree.operatorCodes)]
    graphs = tuple(_graph(tree, codes, index) for index in range(len(_list(tree.subgraphs))))
    if not graphs:
        raise _damaged("it has no graph")
    if not graphs[0].outputs:
        raise _damaged("its main graph has no output")
    signatures = tuple(_signature(entry, graphs) for entry in _list(tree.signatureDefs))
    return Model(graphs, signatures, size)


def op_name(code: Any) -> tuple[str, int]:
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin not in _OP_NAMES:
        raise _damaged(f"no op has the code {builtin}")
    name = _OP_NAMES[builtin]
    if name == "CUSTOM":
        name = f"CUSTOM:{_text(code.customCode)}"
    return name, int(code.version)


def _graph(tree: Any, codes: list[tuple[str, int]], index: int) -> Graph:
    entry = tree.subgraphs[index]
    tensors = tuple(_tensor(tree, t, i) for i, t in enumerate(_list(entry.tensors)))
    operators = tuple(
        _operator(op, codes, i, len(tensors)) for i, op in enumerate(_list(entry.operators))
    )
    inputs = _indices(entry.inputs, len(tensors), f"graph {index}")
    outputs = _indices(entry.outputs, len(tensors), f"graph {index}")
    graph = Graph(index, tensors, operators, inputs, outputs)
    _check_inputs(graph)
    _check_order(graph)
    return graph


def _check_inputs(graph: Graph) -> None:
    """What is fed must be fed once, and must not be in the file."""
    for tensor in graph.inputs:
        if graph.inputs.count(tensor) > 1:
            raise _damaged(f"tensor {tensor} is two inputs at once")
        if graph.tensors[tensor].is_constant:
            raise _damaged(f"input tensor {tensor} is a constant")


def _check_order(graph: Graph) -> None:
    """Every op may only read what is constant, an input, a variable or already computed."""
    ready = {t.index for t in graph.tensors if t.is_constant or t.is_variable} | {*graph.inputs, -1}
    for op in graph.operators:
        missing = [t for t in op.inputs if t not in ready]
        if missing:
            raise _damaged(f"op {op.index} ({op.name}) reads tensor {missing[0]}, never computed")
        clash = [t for t in op.outputs if t in ready]
        if clash:
            raise _damaged(f"op {op.index} ({op.name}) writes tensor {clash[0]} a second time")
        ready.update(op.outputs)
    lost = [t for t in graph.outputs if t not in ready]
    if lost:
        raise _damaged(f"output tensor {lost[0]} is never computed")


def _tensor(tree: Any, entry: Any, index: int) -> Tensor:
    if entry.type not in _TYPE_NAMES:
        raise _damaged(f"tensor {index} has the unknown type {entry.type}")
    dtype = _TYPE_NAMES[entry.type]
    static = tuple(int(d) for d in _list(entry.shape))
    signature = tuple(int(d) for d in _list(entry.shapeSignature)) or static
    if any(d < 0 for d in static) or len(signature) != len(static):
        raise _damaged(f"tensor {index} has the shape {static}")
    data = _constant(tree, entry, index, static, dtype)
    if any(
        s != d and (s != -1 or data is not None) for s, d in zip(signature, static, strict=True)
    ):
        raise _damaged(f"tensor {index} of shape {static} has the shape signature {signature}")
    return Tensor(
        index, _text(entry.name), signature, dtype, data,
        _qparams(entry.quantization, dtype, static), bool(entry.isVariable),
    )  # fmt: skip


def _constant(
    tree: Any, entry: Any, index: int, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any] | None:
    count = math.prod(shape)
    if count * 8 > TENSOR_BYTES_MAX * 2:
        raise _damaged(f"tensor {index} claims the shape {shape}")
    buffers = _list(tree.buffers)
    if not 0 <= entry.buffer < len(buffers):
        raise _damaged(f"tensor {index} names buffer {entry.buffer} of {len(buffers)}")
    raw = buffers[entry.buffer].data
    if raw is None or len(raw) == 0:
        return None
    raw = np.asarray(raw, np.uint8)
    if dtype in _PACKED or not hasattr(np, _NUMPY_NAMES.get(dtype, dtype)):
        return raw
    kind = np.dtype(_NUMPY_NAMES.get(dtype, dtype))
    if len(raw) != count * kind.itemsize:
        raise _damaged(
            f"constant tensor {index} of shape {shape} and type {dtype} "
            f"has {len(raw)} bytes instead of {count * kind.itemsize}"
        )
    return raw.view(kind).reshape(shape)


_PACKED = frozenset({"int4", "uint4", "int2", "string", "resource", "variant"})
_NUMPY_NAMES = {"bool": "bool_"}


def _qparams(entry: Any, dtype: str, shape: tuple[int, ...]) -> QParams | None:
    if entry is None or entry.scale is None or len(entry.scale) == 0:
        return None
    types = {kind.type_name: kind for kind in DType}
    if dtype not in types:
        return None
    scale = tuple(float(s) for s in entry.scale)
    zeros = _list(entry.zeroPoint)
    zero_point = tuple(int(z) for z in zeros) if len(zeros) == len(scale) else (0,) * len(scale)
    axis = int(entry.quantizedDimension) if len(scale) > 1 else None
    if axis is not None and (not 0 <= axis < len(shape) or shape[axis] != len(scale)):
        raise _damaged(f"{len(scale)} scales along axis {axis} of a tensor of shape {shape}")
    return QParams(types[dtype], scale, zero_point, axis)


def _operator(entry: Any, codes: list[tuple[str, int]], index: int, tensors: int) -> Operator:
    if not 0 <= entry.opcodeIndex < len(codes):
        raise _damaged(f"op {index} names op code {entry.opcodeIndex} of {len(codes)}")
    name, version = codes[entry.opcodeIndex]
    where = f"op {index} ({name})"
    options = entry.builtinOptions if entry.builtinOptions is not None else entry.builtinOptions2
    return Operator(
        index, name, _indices(entry.inputs, tensors, where, optional=True),
        _indices(entry.outputs, tensors, where), options, version,
    )  # fmt: skip


def _signature(entry: Any, graphs: tuple[Graph, ...]) -> Signature:
    if not 0 <= entry.subgraphIndex < len(graphs):
        raise _damaged(f"a signature names graph {entry.subgraphIndex} of {len(graphs)}")
    graph, key = graphs[entry.subgraphIndex], _text(entry.signatureKey)
    inputs = _signature_side(entry.inputs, graph.inputs, f"the inputs of signature {key!r}")
    outputs = _signature_side(entry.outputs, graph.outputs, f"the outputs of signature {key!r}")
    return Signature(key, graph.index, inputs, outputs)


def _signature_side(maps: Any, tensors: tuple[int, ...], what: str) -> tuple[tuple[str, int], ...]:
    """One side of a signature: a name of its own for each of `tensors`."""
    pairs = tuple((_text(m.name), int(m.tensorIndex)) for m in _list(maps))
    named, wanted = sorted(tensor for _, tensor in pairs), sorted(tensors)
    if named != wanted:
        raise _damaged(f"{what} are the tensors {named}, those of its graph are {wanted}")
    if len({name for name, _ in pairs}) != len(pairs):
        raise _damaged(f"{what} share a name")
    return pairs


def _indices(values: Any, count: int, where: str, optional: bool = False) -> tuple[int, ...]:
    found = tuple(int(v) for v in _list(values))
    lowest = -1 if optional else 0
    wrong = [v for v in found if not lowest <= v < count]
    if wrong:
        raise _damaged(f"{where} names tensor {wrong[0]} of {count}")
    return found


def _list(values: Any) -> Any:
    return () if values is None else values


def _text(value: Any) -> str:
    if value is None:
        return ""
    try:
        return str(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise _damaged(f"the name {value[:40]!r} is not UTF-8") from None


def completed(data: Content) -> Content:
    """The same file with what later stages count on: a name for each tensor, and a signature.

    Both are optional in the format. Every tensor of the main graph gets a name of its own, and a
    file without a signature one that is made from those names.
    """
    model, tree = parse(data), unpack(data)
    graph = model.graphs[0]
    names = _distinct([tensor.name for tensor in graph.tensors])
    if model.signatures and names == [tensor.name for tensor in graph.tensors]:
        return data
    for name, tensor in zip(names, tree.subgraphs[0].tensors, strict=True):
        tensor.name = name.encode()
    if not model.signatures:
        tree.signatureDefs = [_made_signature(graph, names)]
    return pack(tree)


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind each that is empty or was there before."""
    taken, found = set(names), set[str]()
    result = []
    for index, name in enumerate(names):
        if not name or name in found:
            numbered = (f"{name or 'tensor'}#{number}" for number in itertools.count(index))
            name = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(name)
        found.add(name)
        result.append(name)
    return result


def _made_signature(graph: Graph, names: list[str]) -> Any:
    def maps(tensors: tuple[int, ...]) -> list[Any]:
        found = []
        for name, tensor in zip(_distinct([names[t] for t in tensors]), tensors, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), tensor
            found.append(entry)
        return found

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", graph.index
    signature.inputs, signature.outputs = maps(graph.inputs), maps(graph.outputs)
    return signature


def rename_tensors(data: Content, rename: Callable[[int, str], str]) -> Content:
    """The same file with each tensor of the main graph named `rename(index, old name)`."""
    tree = unpack(data)
    for index, tensor in enumerate(tree.subgraphs[0].tensors):
        tensor.name = rename(index, _text(tensor.name)).encode()
    return pack(tree)


def with_inputs(data: Content, order: Sequence[str]) -> Content:
    """The same file with the inputs of the main graph in the order of these signature names."""
    tree = unpack(data)
    named = {_text(entry.name): entry for entry in tree.signatureDefs[0].inputs}
    tree.signatureDefs[0].inputs = [named[name] for name in order if name in named]
    tree.subgraphs[0].inputs = [entry.tensorIndex for entry in tree.signatureDefs[0].inputs]
    return pack(tree)
