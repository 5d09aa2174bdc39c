"""Ops that make other axes than the file says get a RESHAPE behind them.

The converter drops a RESHAPE in front of a bias, be it folded into the FULLY_CONNECTED or added by
an op of its own, and gives that op the shape of the sum: `(40, 8) -> (1, 40, 4)`. The kernel makes
`(40, 4)`. XNNPACK refuses some such files; in others, what reads an axis takes a wrong one.
"""

from __future__ import annotations

import math

import numpy as np

from edgeq.files import Content
from edgeq.flatbuffer.graph import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.parsing import parse, parse_tree, unpack

Shape = tuple[int, ...]

_BROADCASTING = frozenset(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"))


def settle_shapes(tflite: Content) -> Content:
    """The file with the shapes that kernels make; `tflite` itself where they do already."""
    if not _unsettled(parse(tflite).graphs[0]):
        return tflite
    tree = unpack(tflite)
    graph = parse_tree(tree).graphs[0]
    editor, new = GraphEditor(tree), {}
    for op, shape in _unsettled(graph):
        declared = graph.tensors[op.outputs[0]]
        made = editor.typed(declared.name, shape, declared.dtype, declared.qparams)
        new[op.index] = (
            editor.copied(op.index, op.inputs, [made]),
            editor.reshape(made, declared.index, declared.shape),
        )
    editor.replace(new.get)
    return editor.finish()


def _unsettled(graph: Graph) -> list[tuple[Operator, Shape]]:
    made = [(op, _made(graph, op)) for op in graph.operators]
    return [(op, shape) for op, shape in made if _is_unsettled(graph, op, shape)]


def _is_unsettled(graph: Graph, op: Operator, made: Shape) -> bool:
    declared = graph.tensors[op.outputs[0]].shape if made else made
    return made != declared and -1 not in declared and math.prod(made) == math.prod(declared)


def _made(graph: Graph, op: Operator) -> Shape:
    """The shape that the kernel computes from its operands; empty where that is not told here."""
    operands = [tensor.shape for slot, tensor in graph.operands(op) if slot < 2]
    if len(operands) < 2 or len(op.outputs) != 1 or any(-1 in shape for shape in operands):
        return ()
    if op.name == "FULLY_CONNECTED":
        read, weights = operands
        return _product(read, weights, bool(getattr(op.options, "keepNumDims", False)))
    return _sum(operands) if op.name in _BROADCASTING else ()


def _product(read: Shape, weights: Shape, keeps_axes: bool) -> Shape:
    if len(weights) != 2 or not read or not weights[1]:
        return ()
    if keeps_axes:
        return (*read[:-1], weights[0])
    return (math.prod(read) // weights[1], weights[0])


def _sum(shapes: list[Shape]) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return ()
