"""Takes ops that stay float past the converter, which would make some of them integer all the same.

They go through as custom ops, which it leaves alone, and get their own code and options back after.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgeq.files import Content
from edgeq.flatbuffer import Graph, op_name, pack, schema
from edgeq.mlir import GRAPH_INPUT, Annotation
from edgeq.qtypes import DType, QParams

_PREFIX = "edgeq_float_"


def stand_ins(graph: Graph, planned: Iterable[int]) -> tuple[Annotation, ...]:
    """Annotations of the float inputs that only hidden ops read; `restore_ops` takes them out.

    Without them the converter (0.5) quantizes no op that has a bias.
    """
    known = set(planned)
    anything = QParams(DType.INT8, (1.0,), (0,))
    return tuple(
        Annotation(GRAPH_INPUT, slot, False, anything)
        for slot, tensor in enumerate(graph.inputs)
        if tensor not in known and graph.tensors[tensor].dtype == "float32"
    )


def hide_ops(tree: Any, indices: Iterable[int]) -> Content:
    """The float file of an object tree with the ops of these indices made custom."""
    tree = copy.copy(tree)
    tree.operatorCodes = list(tree.operatorCodes)
    tree.subgraphs = [copy.copy(graph) for graph in tree.subgraphs]
    operators = tree.subgraphs[0].operators = list(tree.subgraphs[0].operators)
    for index in indices:
        op = operators[index] = copy.copy(operators[index])
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = f"{_PREFIX}{index}".encode()
        code.version = 1
        tree.operatorCodes.append(code)
        op.opcodeIndex = len(tree.operatorCodes) - 1
        op.builtinOptionsType, op.builtinOptions = 0, None
    return pack(tree)


def restore_ops(tree: Any, original: Any, stand_ins: Iterable[Annotation]) -> None:
    """Makes the hidden ops of a converted file's object tree again what they are in `original`."""
    graph = tree.subgraphs[0]
    for mark in stand_ins:
        _bypass(tree, int(graph.inputs[mark.slot]))
    for op in tree.subgraphs[0].operators:
        name = (tree.operatorCodes[op.opcodeIndex].customCode or b"").decode("utf-8", "replace")
        if name.startswith(_PREFIX):
            old = original.subgraphs[0].operators[int(name.removeprefix(_PREFIX))]
            code = copy.copy(original.operatorCodes[old.opcodeIndex])
            tree.operatorCodes[op.opcodeIndex] = code
            op.builtinOptionsType, op.builtinOptions = old.builtinOptionsType, old.builtinOptions
            op.customOptions = old.customOptions


def _bypass(tree: Any, tensor: int) -> None:
    """Lets the readers of QUANTIZE and DEQUANTIZE behind a float input read the input."""
    graph = tree.subgraphs[0]
    integers = _outputs_behind(tree, {tensor}, "QUANTIZE")
    floats = _outputs_behind(tree, integers, "DEQUANTIZE")
    for op in graph.operators:
        op.inputs = np.where(np.isin(op.inputs, list(floats)), tensor, op.inputs).astype(np.int32)
    gone = integers | floats
    graph.operators = [op for op in graph.operators if gone.isdisjoint(op.outputs.tolist())]


def _outputs_behind(tree: Any, tensors: set[int], name: str) -> set[int]:
    """What the ops of that name write that read one of the tensors."""
    return {
        int(op.outputs[0])
        for op in tree.subgraphs[0].operators
        if op_name(tree.operatorCodes[op.opcodeIndex])[0] == name and int(op.inputs[0]) in tensors
    }
