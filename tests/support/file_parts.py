"""Files changed or put together on their object trees, for what no converter here writes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from flatbuffers import flexbuffers
from one_op import OneOp, Step, Value

from edgeq.flatbuffer import pack, schema, unpack
from edgeq.flatbuffer.subgraphs import add_subgraphs

Array = npt.NDArray[Any]


def edited(tflite: bytes, change: Callable[[Any], None]) -> bytes:
    """The file after `change` of its object tree."""
    tree = unpack(tflite)
    change(tree)
    return bytes(pack(tree))


def with_subgraphs(tflite: bytes, *bodies: bytes) -> bytes:
    """The file with the main graph of each of the others as a subgraph behind its own."""
    tree = unpack(tflite)
    for body in bodies:
        other = unpack(body)
        add_subgraphs(tree, other, other.subgraphs[:1])
    return bytes(pack(tree))


def set_op(
    tree: Any, place: int, name: str, options: Any = None, *, second: bool = False, graph: int = 0
) -> None:
    """Makes the op at a place of a graph another builtin one, with these options."""
    op, code = tree.subgraphs[graph].operators[place], schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    tree.operatorCodes.append(code)
    op.opcodeIndex = len(tree.operatorCodes) - 1
    op.builtinOptionsType = op.builtinOptions2Type = 0
    op.builtinOptions = op.builtinOptions2 = None
    kind = type(options).__name__.removesuffix("T")
    if second:
        op.builtinOptions2, op.builtinOptions2Type = options, getattr(schema.BuiltinOptions2, kind)
    elif options is not None:
        op.builtinOptions, op.builtinOptionsType = options, getattr(schema.BuiltinOptions, kind)


def set_custom(tree: Any, name: str, content: bytes, version: int = 1, place: int = 0) -> None:
    """Makes the op at a place of the main graph a custom one."""
    set_op(tree, place, "CUSTOM")
    code = tree.operatorCodes[-1]
    code.customCode, code.version = name.encode(), version
    op = tree.subgraphs[0].operators[place]
    op.customOptions = np.frombuffer(content, np.uint8) if content else None


def open_sizes(tree: Any, tensors: Mapping[str, Sequence[int]]) -> None:
    """Lets tensors of the main graph have any size where -1 stands, and 1 in the file."""
    for tensor in tree.subgraphs[0].tensors:
        shape = tensors.get(tensor.name.decode())
        if shape is not None:
            tensor.shapeSignature = np.asarray(shape, np.int32)
            tensor.shape = np.maximum(tensor.shapeSignature, 1)


def stored_as(tree: Any, place: int, slot: int, values: Array, **fields: Any) -> None:
    """Has an op of the main graph read a DEQUANTIZE of a constant in place of one operand."""
    graph = tree.subgraphs[0]
    op = graph.operators[place]
    old = graph.tensors[op.inputs[slot]]
    constant, buffer = copy.copy(old), schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    tree.buffers.append(buffer)
    constant.buffer, constant.name = len(tree.buffers) - 1, old.name + b"/stored"
    for field, value in fields.items():
        setattr(constant, field, value)
    old.buffer = 0
    graph.tensors.append(constant)
    made = schema.OperatorT()
    made.inputs = np.asarray([len(graph.tensors) - 1], np.int32)
    made.outputs = np.asarray([op.inputs[slot]], np.int32)
    graph.operators.insert(place, made)
    set_op(tree, place, "DEQUANTIZE", schema.DequantizeOptionsT())
    tree.operatorCodes[made.opcodeIndex].version = 3


def values(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


DENSE = OneOp(
    "FULLY_CONNECTED/import",
    {"x": Value((1, 8))},
    (Step("FULLY_CONNECTED", ("x", values(5, 8), values(5, seed=1)), {"y": Value((1, 5))}),),
)

SCALED = OneOp(
    "MUL/body",
    {"a": Value((1, 5)), "b": Value((1, 5))},
    (
        Step("MUL", ("a", np.float32([0.5, 2, 1, 3, 4])), {"c": Value((1, 5))}),
        Step("ADD", ("c", "b"), {"d": Value((1, 5))}),
    ),
)


def composite() -> bytes:
    """A dense layer, and a composite of its result and itself."""
    case = OneOp(
        "ADD/caller",
        {"x": Value((1, 8))},
        (*DENSE.steps, Step("ADD", ("y", "y"), {"z": Value((1, 5))})),
    )
    options = schema.StableHLOCompositeOptionsT()
    options.name, options.decompositionSubgraphIndex = b"app.scaled", 1
    options.compositeAttributes = np.frombuffer(flexbuffers.Dumps({}), np.uint8)
    whole = with_subgraphs(case.build(), SCALED.build())
    return edited(whole, lambda tree: set_op(tree, 1, "STABLEHLO_COMPOSITE", options, second=True))
