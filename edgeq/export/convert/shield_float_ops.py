"""Takes ops that stay float past the converter, which would make some of them integer all the same.

They go through as custom ops, which it leaves alone, and get their own code and options back after.
So do loops, branches and whatever else has no numbers that the converter may look at; the subgraphs
that they run are put back behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgeq.flatbuffer import Graph, op_name, schema
from edgeq.flatbuffer.subgraphs import add_subgraphs, called_by
from edgeq.mlir import GRAPH_INPUT, Annotation
from edgeq.qtypes import DType, QParams

_PREFIX = "edgeq_float_"

_NO_NUMBERS = frozenset({"string", "resource", "variant"})


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


def opaque_ops(tree: Any, graph: Graph) -> set[int]:
    """Ops of the main graph that the converter must not look into, whatever they compute in."""
    return {
        op.index
        for op, entry in zip(graph.operators, tree.subgraphs[0].operators, strict=True)
        if called_by(entry)
        or op.name.startswith("CUSTOM:")
        or any(graph.tensors[t].dtype in _NO_NUMBERS for t in (*op.inputs, *op.outputs) if t >= 0)
    }


def hide_ops(tree: Any, indices: Iterable[int]) -> Any:
    """An object tree of the main graph alone, the ops of these indices made custom."""
    tree = copy.copy(tree)
    tree.operatorCodes = list(tree.operatorCodes)
    tree.subgraphs = [copy.copy(tree.subgraphs[0])]
    tree.subgraphs[0].tensors = [_without_state(t) for t in tree.subgraphs[0].tensors]
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
        op.builtinOptions2Type, op.builtinOptions2 = 0, None
    return tree


def _without_state(tensor: Any) -> Any:
    """The tensor as one that is only written and read, as hidden ops do with a state."""
    if tensor.isVariable:
        tensor = copy.copy(tensor)
        tensor.isVariable = False
    return tensor


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
            for field in _OPTIONS:
                setattr(op, field, getattr(old, field))
            _finish_outputs(tree, op, original, old)
    add_subgraphs(tree, original, original.subgraphs[1:])


_OPTIONS = (
    "builtinOptionsType", "builtinOptions", "builtinOptions2Type", "builtinOptions2",
    "customOptions",
)  # fmt: skip


def _finish_outputs(tree: Any, op: Any, original: Any, old: Any) -> None:
    """The converter gives the results of an op that has several one name for all of them."""
    for made, known in zip(op.outputs, old.outputs, strict=True):
        entry = original.subgraphs[0].tensors[known]
        tree.subgraphs[0].tensors[made].name = entry.name
        tree.subgraphs[0].tensors[made].isVariable = entry.isVariable


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
    """Outputs of the ops of that name that read one of the tensors."""
    return {
        int(op.outputs[0])
        for op in tree.subgraphs[0].operators
        if op_name(tree.operatorCodes[op.opcodeIndex])[0] == name and int(op.inputs[0]) in tensors
    }
