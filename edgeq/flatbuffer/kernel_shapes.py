"""Ops that make other axes than the file says get a RESHAPE behind them.

The converter drops a RESHAPE in front of a bias, be it folded into the FULLY_CONNECTED or added by
an op of its own, and gives that op the shape of the sum: `(40, 8) -> (1, 40, 4)`. The kernel makes
`(40, 4)`. XNNPACK refuses some such files; in others, what reads an axis takes a wrong one. What
keeps boxes has a batch of one in the file, and none in the kernel.
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

_KEEPING = ("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5")


def settle_shapes(tflite: Content) -> Content:
    """The file with the shapes that kernels make; `tflite` itself where they do already."""
    if not _unsettled(parse(tflite).graphs[0]):
        return tflite
    tree = unpack(tflite)
    graph = parse_tree(tree).graphs[0]
    editor, new = GraphEditor(tree), {}
    for op, shapes in _unsettled(graph):
        outputs, behind = list(op.outputs), []
        for slot, shape in shapes.items():
            declared = graph.tensors[op.outputs[slot]]
            made = editor.typed(declared.name, shape, declared.dtype, declared.qparams)
            outputs[slot] = made
            behind.append(editor.reshape(made, declared.index, declared.shape))
        new[op.index] = (editor.copied(op.index, op.inputs, outputs), *behind)
    editor.replace(new.get)
    return editor.finish()


def _unsettled(graph: Graph) -> list[tuple[Operator, dict[int, Shape]]]:
    found = [(op, _differing(graph, op)) for op in graph.operators]
    return [(op, shapes) for op, shapes in found if shapes]


def _differing(graph: Graph, op: Operator) -> dict[int, Shape]:
    """Shapes that the kernel makes by output slot, where the file says another of the same size."""
    made = _kept_boxes(graph, op) if op.name in _KEEPING else _made(graph, op)
    declared = [graph.tensors[t].shape for t in op.outputs]
    return {
        slot: shape
        for slot, shape in enumerate(made)
        if shape != declared[slot]
        and -1 not in declared[slot]
        and math.prod(shape) == math.prod(declared[slot])
    }


def _kept_boxes(graph: Graph, op: Operator) -> list[Shape]:
    """What keeps boxes gives: as many places as it may keep, scores of them, and their number."""
    most = graph.tensors[op.inputs[2]].data
    if most is None or most.size != 1:
        return []
    return [(int(most.reshape(())),)] * (len(op.outputs) - 1) + [()]


def _made(graph: Graph, op: Operator) -> list[Shape]:
    """The shape that the kernel computes from its operands, if that is told here."""
    operands = [tensor.shape for slot, tensor in graph.operands(op) if slot < 2]
    if len(operands) < 2 or len(op.outputs) != 1 or any(-1 in shape for shape in operands):
        return []
    if op.name == "FULLY_CONNECTED":
        read, weights = operands
        made = _product(read, weights, bool(getattr(op.options, "keepNumDims", False)))
    else:
        made = _sum(operands) if op.name in _BROADCASTING else ()
    return [made] if made else []


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
