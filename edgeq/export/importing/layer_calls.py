"""Calls that stand for recurrent layers: what they are called, and what takes their place.

Front ends write them, converters pass them on, and here they become ops that the runtime has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, pack, parse_tree, unpack
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.object_tree import prune
from edgeq.flatbuffer.subgraph_adder import SubgraphAdder

_CUSTOM = "CUSTOM:"
_MARK = "|"
"""Between the target of a call, its kind and the path of its layer, in the name of a custom op."""


class LayerCall(NamedTuple):
    """A call in a graph.

    Attributes:
        graph: The graph.
        op: The op that calls.
        name: Name of what takes its place, which says the layer.
        kind: Which layer of its target it is.
        time_major: Whether time is the first axis of its input and output, instead of the batch.
    """

    graph: Graph
    op: Operator
    name: str
    kind: str
    time_major: bool


Writer = Callable[[GraphEditor, LayerCall, SubgraphAdder], Sequence[Any]]
"""Gives the ops for a call; what it is given besides adds graphs that they run."""


def of_layer(target: str, kind: str, path: str) -> str:
    """Name of the custom op that stands for the layer at a path, with batches first."""
    return _MARK.join((target, kind, path))


def call_options(kind: str, time_major: bool) -> str:
    """What a call that is no custom op says of its layer."""
    return json.dumps({"kind": kind, "time_major": time_major})


def with_calls_written(tflite: Content, target: str, write: Writer) -> Content:
    """The file with ops in the place of each call of a target; the file itself without one.

    Raises:
        ModelError: There are no such ops for a call.
    """
    tree = unpack(tflite)
    graph = parse_tree(tree).graphs[0]
    calls = {op.index: call for op in graph.operators if (call := _call(graph, op, target))}
    if not calls:
        return tflite
    for call in calls.values():
        if call.op.name.startswith(_CUSTOM):
            tree.subgraphs[0].tensors[call.op.outputs[0]].name = call.name.encode()
    editor = GraphEditor(tree)
    subgraphs = SubgraphAdder(editor.tree)

    def replacement(index: int) -> Sequence[Any] | None:
        return write(editor, calls[index], subgraphs) if index in calls else None

    editor.replace(replacement)
    editor.prune()
    prune(editor.tree)  # the run time refuses a file that names an op it does not have
    return pack(editor.tree)


def _call(graph: Graph, op: Operator, target: str) -> LayerCall | None:
    """What an op calls, if it calls that target."""
    if op.name.startswith(_CUSTOM):
        found, _, rest = op.name.removeprefix(_CUSTOM).partition(_MARK)
        kind, _, path = rest.partition(_MARK)
        name = f"{path}/{target.rpartition('.')[-1]}"
        return LayerCall(graph, op, name, kind, False) if found == target else None
    called = getattr(op.options, "callTargetName", None) or b""
    if op.name != "STABLEHLO_CUSTOM_CALL" or bytes(called).decode() != target:
        return None
    options = json.loads(bytes(op.options.backendConfig))
    names = [graph.tensors[t].name for t in op.outputs]
    name = next((name for name in names if ";" in name), names[0])  # others name an output
    return LayerCall(graph, op, name, options["kind"], bool(options["time_major"]))
