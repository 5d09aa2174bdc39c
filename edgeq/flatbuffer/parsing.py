"""Reads and checks a .tflite file: its bytes to an object tree, and that to plain values.

Pure Python: a damaged file ends in a `ModelError`, never in a dead process.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import DependencyError, ModelError
from edgeq.files import Content
from edgeq.flatbuffer.generated_schema import IDENTIFIER, OP_NAMES, TYPE_NAMES, schema
from edgeq.flatbuffer.graph import Graph, Model, Operator, Signature, Tensor
from edgeq.flatbuffer.sparse import dense
from edgeq.flatbuffer.subgraphs import bottom_up, called_by, loop_graphs, readers
from edgeq.qtypes import DType, QParams

TENSOR_BYTES_MAX = 1 << 32
"""A tensor that claims more than 4 GiB is taken as damage."""

NO_SUCH_OP = "no op has the code"
"""Part of the message about an op that the schema does not know; a newer one may."""

MOST_TOLD = 20
"""Numbers of tensors that a message lists."""

_READ_ERRORS = (
    struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError,
    MemoryError, RecursionError, KeyError,
)  # fmt: skip
"""Errors that the generated reader raises when offsets point astray."""


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
    _check_calls(tree)
    graphs = tuple(_with_loops(tree, codes, graph) for graph in graphs)
    signatures = tuple(_signature(entry, graphs) for entry in _list(tree.signatureDefs))
    return Model(graphs, signatures, size)


def op_name(code: Any) -> tuple[str, int]:
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin not in OP_NAMES:
        raise _damaged(f"{NO_SUCH_OP} {builtin}")
    name = OP_NAMES[builtin]
    if name == "CUSTOM":
        name = f"CUSTOM:{decoded_name(code.customCode)}"
    return name, int(code.version)


def _check_calls(tree: Any) -> None:
    """Every op may only run subgraphs that are there, and none that leads back to it."""
    count = len(tree.subgraphs)
    for index, graph in enumerate(tree.subgraphs):
        for op in _list(graph.operators):
            wrong = [other for other in called_by(op) if not 0 <= other < count]
            if wrong:
                raise _damaged(f"an op of graph {index} runs graph {wrong[0]} of {count}")
    circular = set(range(count)) - set(bottom_up(tree))
    if circular:
        raise _damaged(f"graph {_in_circle(tree, circular)} runs itself")


def _with_loops(tree: Any, codes: list[tuple[str, int]], graph: Graph) -> Graph:
    """The graph with what its loops multiply with."""
    entries = _list(tree.subgraphs[graph.index].operators)
    found = {
        op.index: _multiplied(tree, codes, entry, op)
        for op, entry in zip(graph.operators, entries, strict=True)
        if op.name == "WHILE"
    }
    if not any(found.values()):
        return graph
    operators = (replace(op, multiplied=found.get(op.index, ())) for op in graph.operators)
    return replace(graph, operators=tuple(operators))


def _multiplied(
    tree: Any, codes: list[tuple[str, int]], entry: Any, op: Operator
) -> tuple[int, ...]:
    """Operand slots of matrices that a loop passes on as they are, and multiplies with alone."""
    graphs = loop_graphs(entry)
    if graphs is None:
        return ()
    cond, body = (tree.subgraphs[index] for index in graphs)
    sides = [_list(side) for side in (cond.inputs, body.inputs, body.outputs)]
    if any(len(side) != len(op.inputs) for side in sides):
        return ()
    return tuple(
        slot
        for slot, (asked, own, given) in enumerate(zip(*sides, strict=True))
        if own == given and not readers(cond, asked) and is_multiplied(body, codes, own)
    )


def is_multiplied(graph: Any, codes: list[tuple[str, int]], tensor: int) -> bool:
    """Whether a tensor of a subgraph is read, and only as what dense layers multiply with."""
    found = readers(graph, tensor)
    names = {(codes[op.opcodeIndex][0], slot) for op, slot in found}
    return names == {("FULLY_CONNECTED", 1)}


def _in_circle(tree: Any, circular: set[int]) -> int:
    """A graph that runs itself, of graphs that all lead to such a one."""
    index, seen = min(circular), set[int]()
    while index not in seen:
        seen.add(index)
        below = (other for op in tree.subgraphs[index].operators for other in called_by(op))
        index = next(other for other in below if other in circular)
    return index


def _graph(tree: Any, codes: list[tuple[str, int]], index: int) -> Graph:
    entry = tree.subgraphs[index]
    tensors = tuple(_tensor(tree, t, i) for i, t in enumerate(_list(entry.tensors)))
    operators = tuple(
        _operator(op, codes, i, len(tensors)) for i, op in enumerate(_list(entry.operators))
    )
    inputs = _indices(entry.inputs, len(tensors), f"graph {index}")
    outputs = _indices(entry.outputs, len(tensors), f"graph {index}")
    made = {*inputs, *(t for op in operators for t in op.outputs)}
    tensors = tuple(t if t.index in made else _with_nothing_in_it(t) for t in tensors)
    graph = Graph(index, tensors, operators, inputs, outputs)
    _check_inputs(graph)
    _check_order(graph)
    return graph


def _check_inputs(graph: Graph) -> None:
    """Checks that each input is there once and is no constant."""
    for tensor in graph.inputs:
        if graph.inputs.count(tensor) > 1:
            raise _damaged(f"tensor {tensor} is two inputs at once")
        if graph.tensors[tensor].is_constant:
            raise _damaged(f"input tensor {tensor} is a constant")


def _check_order(graph: Graph) -> None:
    """Every op may only read what is constant, an input, a variable or already computed.

    A variable has a value from the run before, and may be written once as well.
    """
    kept = {t.index for t in graph.tensors if t.is_variable}
    ready = {t.index for t in graph.tensors if t.is_constant} | {*graph.inputs, *kept, -1}
    for op in graph.operators:
        missing = [t for t in op.inputs if t not in ready]
        if missing:
            raise _damaged(f"op {op.index} ({op.name}) reads tensor {missing[0]}, never computed")
        clash = [t for t in op.outputs if t in ready and t not in kept]
        if clash:
            raise _damaged(f"op {op.index} ({op.name}) writes tensor {clash[0]} a second time")
        ready.update(op.outputs)
        kept.difference_update(op.outputs)
    lost = [t for t in graph.outputs if t not in ready]
    if lost:
        raise _damaged(f"output tensor {lost[0]} is never computed")


def _with_nothing_in_it(tensor: Tensor) -> Tensor:
    """A tensor that no op computes; it is a constant if it has no elements, of whatever buffer."""
    kind = _numpy_type(tensor.dtype)
    if tensor.is_constant or tensor.is_variable or kind is None or 0 not in tensor.shape:
        return tensor
    return replace(tensor, data=np.zeros(tensor.shape, kind))


def _tensor(tree: Any, entry: Any, index: int) -> Tensor:
    if entry.type not in TYPE_NAMES:
        raise _damaged(f"tensor {index} has the unknown type {entry.type}")
    dtype = TYPE_NAMES[entry.type]
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
        index, decoded_name(entry.name), signature, dtype, data,
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
    raw, kind = np.asarray(raw, np.uint8), _numpy_type(dtype)
    if kind is None:
        return raw
    if entry.sparsity is not None:
        return dense(raw.view(kind), entry.sparsity, shape)
    if len(raw) != count * kind.itemsize:
        raise _damaged(
            f"constant tensor {index} of shape {shape} and type {dtype} "
            f"has {len(raw)} bytes instead of {count * kind.itemsize}"
        )
    return raw.view(kind).reshape(shape)


_PACKED = frozenset({"int4", "uint4", "int2", "string", "resource", "variant"})

_NUMPY_NAMES = {"bool": "bool_"}


def _numpy_type(dtype: str) -> np.dtype[Any] | None:
    """The numpy type of what a tensor holds; None where its elements share bytes or have none."""
    name = _NUMPY_NAMES.get(dtype, dtype)
    return None if dtype in _PACKED or not hasattr(np, name) else np.dtype(getattr(np, name))


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
    graph, key = graphs[entry.subgraphIndex], decoded_name(entry.signatureKey)
    inputs = _signature_side(entry.inputs, graph.inputs, f"the inputs of signature {key!r}")
    outputs = _signature_side(entry.outputs, graph.outputs, f"the outputs of signature {key!r}")
    return Signature(key, graph.index, inputs, outputs)


def _signature_side(maps: Any, tensors: tuple[int, ...], what: str) -> tuple[tuple[str, int], ...]:
    """One side of a signature: a name of its own for each of `tensors`."""
    pairs = tuple((decoded_name(m.name), int(m.tensorIndex)) for m in _list(maps))
    named, wanted = sorted(tensor for _, tensor in pairs), sorted(tensors)
    if named != wanted:
        raise _damaged(
            f"{what} are the tensors {_few(named)}, those of its graph are {_few(wanted)}"
        )
    if len({name for name, _ in pairs}) != len(pairs):
        raise _damaged(f"{what} share a name")
    return pairs


def _few(numbers: list[int]) -> str:
    more = len(numbers) - MOST_TOLD
    return f"{numbers[:MOST_TOLD]} and {more:,} more" if more > 0 else str(numbers)


def _indices(values: Any, count: int, where: str, optional: bool = False) -> tuple[int, ...]:
    found = tuple(int(v) for v in _list(values))
    lowest = -1 if optional else 0
    wrong = [v for v in found if not lowest <= v < count]
    if wrong:
        raise _damaged(f"{where} names tensor {wrong[0]} of {count}")
    return found


def _list(values: Any) -> Any:
    return () if values is None else values


def decoded_name(value: Any) -> str:
    """A name of the file as text, up to a zero byte, as the runtime has it; empty without one."""
    if value is None:
        return ""
    try:
        return str(value.partition(b"\0")[0].decode("utf-8"))
    except UnicodeDecodeError:
        raise _damaged(f"the name {value[:40]!r} is not UTF-8") from None
