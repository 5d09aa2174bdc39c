"""Reads ONNX files into plain nodes and tensors.

The only module that touches ONNX's protobufs, and so the one that knows its versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from edgeq.errors import ModelError
from edgeq.export.frontends.arguments import first_line
from edgeq.export.frontends.onnx.op_table import Node
from edgeq.export.frontends.onnx.operators.elementwise import DTYPES

MOST_NODES = 100_000
"""Nodes that are run before a model is refused: loops in loops, and functions of functions, stand
for any number of them in a few bytes."""

_UNSIGNED = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


@dataclass(frozen=True)
class Port:
    """An input of a model.

    Attributes:
        name: Its name.
        dtype: ONNX's number of its type.
        shape: Its sizes, None for those that are left open; None where even their number is.
    """

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Body:
    """A graph, or the body of a branch, a loop or a function.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        nodes: Its nodes, in the order they run.
        constants: Tensors that are stored in it, by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class OnnxModel:
    """A model as it is interpreted.

    Attributes:
        proto: The model in ONNX's own form.
        inputs: What it takes; what has a value in the file is no input.
        outputs: Names of what it returns.
        body: Its graph.
        opsets: Version of each opset that it is written in, by domain.
    """

    proto: Any
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    body: Body
    opsets: Mapping[str, int]


def read_model(source: str | bytes) -> OnnxModel:
    """Reads a file with the data that lie beside it, or the bytes of one.

    Raises:
        ModelError: No such file, no ONNX, or data are missing.
    """
    proto = _loaded(source)
    if not proto.graph.output:
        raise ModelError("the ONNX file is empty or damaged: its graph has no output")
    if proto.functions:
        proto = _written_out(proto)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    body = read_body(proto.graph, opsets)
    inputs = tuple(_port(v) for v in proto.graph.input if v.name not in body.constants)
    return OnnxModel(proto, inputs, body.outputs, body, opsets)


def _loaded(source: str | bytes) -> Any:
    try:
        if isinstance(source, str):
            return onnx.load(Path(source))
        return onnx.load_model_from_string(source)
    except FileNotFoundError as error:
        raise ModelError(f"cannot read the ONNX model: {error}") from None
    except Exception as error:  # protobuf raises its own kinds for what it cannot parse
        raise ModelError(f"the ONNX file is damaged: {first_line(error)}") from None


def _written_out(proto: Any) -> Any:
    """The model without functions of its own, each written out where it is called."""
    from onnx.inliner import inline_local_functions

    functions = {(f.domain, f.name): f for f in proto.functions}
    if _size(proto.graph.node, _sizes(functions)) > MOST_NODES:
        raise ModelError(
            f"the functions of the ONNX model stand for more than {MOST_NODES:,} nodes where each "
            "is written out where it is called: export a part of the model"
        )
    return inline_local_functions(proto)


def _sizes(functions: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], int]:
    """How many nodes each function stands for.

    Raises:
        ModelError: One calls itself.
    """
    sizes: dict[tuple[str, str], int] = {}
    waiting, begun = list(functions), set[tuple[str, str]]()
    while waiting:
        key = waiting[-1]
        called = {_called(node) for node in _nodes(functions[key].node)} & functions.keys()
        missing = called - sizes.keys()
        if missing and key in begun:
            raise ModelError(f"function {key[1]!r} of the ONNX model calls itself")
        if missing:
            begun.add(key)
            waiting += missing
        else:
            sizes[waiting.pop()] = _size(functions[key].node, sizes)
    return sizes


def _size(nodes: Sequence[Any], sizes: Mapping[tuple[str, str], int]) -> int:
    count = sum(sizes.get(_called(node), 1) for node in _nodes(nodes))
    return min(count, MOST_NODES + 1)


def _called(node: Any) -> tuple[str, str]:
    return node.domain, node.op_type


def _nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    """Nodes and those in their bodies."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


def read_body(graph: Any, opsets: Mapping[str, int]) -> Body:
    """The nodes and constants of an ONNX graph."""
    constants = {entry.name: as_tensor(entry) for entry in graph.initializer}
    constants |= {entry.values.name: as_dense(entry) for entry in graph.sparse_initializer}
    given = tuple(v.name for v in graph.input if v.name not in constants)
    nodes = read_nodes(_in_order(graph.node), opsets)
    return Body(given, tuple(v.name for v in graph.output), nodes, constants)


def _in_order(nodes: Sequence[Any]) -> Sequence[Any]:
    """Nodes behind those whose values they read, as ONNX wants them and not every tool writes them.

    Nodes that read each other stay as they are.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    read = {
        i: {makers[name] for part in _nodes([node]) for name in part.input if name in makers}
        for i, node in enumerate(nodes)
    }
    if all(maker < i for i, found in read.items() for maker in found):
        return nodes
    try:
        return [nodes[i] for i in TopologicalSorter(read).static_order()]
    except CycleError:
        return nodes


def read_nodes(
    nodes: Sequence[Any],
    opsets: Mapping[str, int],
    referred: Mapping[str, Any] | None = None,
    name: str = "",
) -> tuple[Node, ...]:
    """ONNX's nodes as plain values.

    Args:
        nodes: Of a graph or a function.
        opsets: Version of each opset by domain.
        referred: What the attributes of a function's nodes refer to.
        name: The name that nodes without one get; by default that of their first output.
    """
    return tuple(
        Node(
            name or node.name or next(filter(None, node.output), node.op_type),
            node.op_type,
            "" if node.domain == "ai.onnx" else node.domain,
            opsets.get(node.domain, opsets.get("ai.onnx", 1) if not node.domain else 1),
            _attributes(node, referred or {}),
            tuple(node.input),
            tuple(node.output),
            node,
        )
        for node in nodes
    )


def _attributes(node: Any, referred: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            found[attribute.name] = plain_value(onnx.helper.get_attribute_value(attribute))
        elif attribute.ref_attr_name in referred:
            found[attribute.name] = referred[attribute.ref_attr_name]
    return found


def plain_value(value: Any) -> Any:
    """The value of an attribute: text as such, and tensors in a type that PyTorch has."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return as_tensor(value)
    if isinstance(value, onnx.SparseTensorProto):
        return as_dense(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_value(entry) for entry in value]
    return value


def as_tensor(proto: Any) -> torch.Tensor:
    """A stored tensor in a type that PyTorch computes in.

    Raises:
        ModelError: It holds text, lies in another file, or is damaged.
    """
    # ONNX would look for that file in the working folder.
    if onnx.external_data_helper.uses_external_data(proto):
        raise ModelError(
            "the weights of this ONNX model lie in a file beside it: give its path, or load it "
            "with onnx.load(path)"
        )
    if proto.data_type not in DTYPES and proto.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"ONNX tensor {proto.name!r} holds text, which the runtime has not")
    try:
        array = np.array(numpy_helper.to_array(proto))
    except Exception as error:  # whatever numpy makes of damaged data
        raise ModelError(f"ONNX tensor {proto.name!r} is damaged: {first_line(error)}") from None
    name = array.dtype.name
    if name in _UNSIGNED:
        array = array.astype(_UNSIGNED[name])
    elif name in ("int4", "uint4", "int2", "uint2"):
        array = array.astype(np.uint8 if name.startswith("u") else np.int8)
    elif array.dtype.kind not in "iub":
        array = array.astype(np.float32)
    return torch.from_numpy(array)


def as_dense(proto: Any) -> torch.Tensor:
    """A stored sparse tensor with its zeros, as the runtime has it.

    Raises:
        ModelError: It is damaged.
    """
    values, places = as_tensor(proto.values), as_tensor(proto.indices).numpy()
    try:
        flat = np.ravel_multi_index(tuple(places.T), proto.dims) if places.ndim == 2 else places
        made = torch.zeros(tuple(proto.dims), dtype=values.dtype)
        made.reshape(-1)[torch.from_numpy(np.asarray(flat, np.int64))] = values
    except Exception as error:  # whatever numpy and PyTorch make of damaged data
        name = proto.values.name
        raise ModelError(f"ONNX tensor {name!r} is damaged: {first_line(error)}") from None
    return made


def _port(value: Any) -> Port:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{value.name!r} of the ONNX model is no tensor, but a sequence or a map")
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Port(value.name, kind.elem_type, None)
    sizes = (d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return Port(value.name, kind.elem_type, tuple(sizes))
