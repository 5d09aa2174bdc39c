"""Custom ops that are known become builtin ones.

Knows how an op is replaced; what each one computes is in the table of its makers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.export.importing.mediapipe_ops import FORMS, CustomOp
from edgeq.export.importing.op_chain import OpChain
from edgeq.flatbuffer import Operator, parse_tree
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import layer

PREFIX = "CUSTOM:"


def with_builtin_forms(tree: Any) -> tuple[Any, list[str]]:
    """The object tree with builtin ops in the place of known custom ones, and what those were.

    The tree itself is returned where it has none of them.
    """
    graph = parse_tree(tree).graphs[0]
    known = {op.index: op for op in graph.operators if op.name.removeprefix(PREFIX) in FORMS}
    if not known:
        return tree, []
    editor = GraphEditor(tree)
    shapes = [tensor.shape for tensor in graph.tensors]
    replaced = []

    def replacement(index: int) -> Sequence[Any] | None:
        op = known.get(index)
        if op is None or any(-1 in shapes[t] for t in (*op.inputs, *op.outputs)):
            return None
        chain = OpChain(editor, layer(graph, op), shapes)
        made = FORMS[op.name.removeprefix(PREFIX)](chain, _custom_op(tree, op))
        if made is not None:
            replaced.append(op.name.removeprefix(PREFIX))
        return made

    editor.replace(replacement)
    editor.prune()
    return editor.tree, replaced


def _custom_op(tree: Any, op: Operator) -> CustomOp:
    options = tree.subgraphs[0].operators[op.index].customOptions
    content = b"" if options is None else bytes(options)
    return CustomOp(op.version, op.inputs, op.outputs, content)
