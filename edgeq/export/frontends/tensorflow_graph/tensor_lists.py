"""Lists of tensors that no loop writes, as of a `tf.TensorArray` in a loop of Python's.

TensorFlow's converter (2.21) takes a list through a loop apart, and ends in an error on one that is
written outside of loops. There every index is a number, so an entry is the tensor that was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edgeq.export.frontends.tensorflow_graph.branches import choices_kept
from edgeq.export.frontends.tensorflow_graph.own_forms import as_function
from edgeq.export.frontends.tensorflow_graph.static_values import all_nodes

Entries = list[str | None]
"""Names of the tensors in a list; None where nothing was written."""

_WRITES = frozenset({"TensorListSetItem", "TensorListPushBack"})
_READS = frozenset({"TensorListGetItem", "TensorListStack", "TensorListConcatV2"})


def without_lists(function: Any) -> Any:
    """A concrete function that computes the same without such lists; itself where it has none.

    Its variables become constants in the other case.
    """
    if not any(node.op in _WRITES for node in all_nodes(function)):
        return function
    try:
        with choices_kept():
            frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception:  # TensorFlow raises many kinds, as of variables that are written
        return function
    read = _entries_read(frozen.graph)
    if not read:
        return function
    graph = frozen.graph.as_graph_def()
    for node in [node for node in graph.node if node.name in read]:
        kind = frozen.graph.get_operation_by_name(node.name).get_attr("element_dtype")
        graph.node.extend(_read_anew(node, read[node.name], kind))
    graph.node.extend(_taken_apart(frozen.graph, read))
    inputs = [node.name for node in graph.node if node.op == "Placeholder"]
    wanted = [*inputs, *(tensor.op.name for tensor in frozen.outputs)]
    graph = tf.compat.v1.graph_util.extract_sub_graph(graph, wanted)
    return as_function(graph, function, [tensor.name for tensor in frozen.outputs])


def _entries_read(graph: Any) -> dict[str, list[str]]:
    """What each op that reads a list reads, by its name; not of lists that a loop writes."""
    lists: dict[str, Entries] = {}
    read: dict[str, list[str]] = {}
    for op in graph.get_operations():  # each behind what it reads
        if op.type in _READS and op.inputs[0].name in lists:
            found = lists[op.inputs[0].name]
            if op.type == "TensorListGetItem":
                place = tf.get_static_value(op.inputs[1])
                found = [None] if place is None else found[place : place + 1]
            entries = [entry for entry in found if entry is not None]
            if entries and len(entries) == len(found) and not _reads_lengths(op):
                read[op.name] = entries
            continue
        written = _written(op, lists)
        if written is not None:
            lists[op.outputs[0].name] = written
    return read


def _reads_lengths(op: Any) -> bool:
    """Whether anything reads the lengths of joined entries."""
    return any(output.consumers() for output in op.outputs[1:])


def _written(op: Any, lists: Mapping[str, Entries]) -> Entries | None:
    """The list that an op returns; None where it returns none, or one that is not known."""
    if op.type == "EmptyTensorList":
        return []
    if op.type == "TensorListReserve":
        size = tf.get_static_value(op.inputs[1])
        return None if size is None else [None] * int(size)
    if op.type == "TensorListFromTensor":
        size = op.inputs[0].shape[0]
        return None if size is None else [f"{op.name}/entries:{i}" for i in range(size)]
    before = lists.get(op.inputs[0].name) if op.inputs else None
    if before is None:
        return None
    if op.type == "TensorListPushBack":
        return [*before, op.inputs[1].name]
    if op.type == "TensorListSetItem":
        place = tf.get_static_value(op.inputs[1])
        if place is None:
            return None
        longer: Entries = [*before, *[None] * (int(place) + 1 - len(before))]
        longer[int(place)] = op.inputs[2].name
        return longer
    return before if op.type == "Identity" else None


def _read_anew(node: Any, entries: list[str], kind: Any) -> list[Any]:
    """Makes a node that reads a list read its entries; the nodes that this takes besides."""
    op, more = node.op, []
    node.attr.clear()
    node.attr["T"].type = kind.as_datatype_enum
    node.input[:] = entries
    if op == "TensorListGetItem":
        node.op = "Identity"
        return []
    node.attr["N"].i = len(entries)
    if op == "TensorListStack":
        node.op = "Pack"
        node.attr["axis"].i = 0
    else:
        node.op = "ConcatV2"
        node.attr["Tidx"].type = tf.int32.as_datatype_enum
        axis = tf.compat.v1.NodeDef(name=f"{node.name}/axis", op="Const")
        axis.attr["dtype"].type = tf.int32.as_datatype_enum
        axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tf.int32))
        node.input.append(axis.name)
        more.append(axis)
    return more


def _taken_apart(graph: Any, read: Mapping[str, list[str]]) -> list[Any]:
    """The nodes that give the entries of lists which were whole tensors."""
    entries = {entry.partition(":")[0] for found in read.values() for entry in found}
    made = []
    for op in graph.get_operations():
        if op.type == "TensorListFromTensor" and f"{op.name}/entries" in entries:
            part = tf.compat.v1.NodeDef(name=f"{op.name}/entries", op="Unpack")
            part.input.append(op.inputs[0].name)
            part.attr["T"].type = op.inputs[0].dtype.as_datatype_enum
            part.attr["num"].i = int(op.inputs[0].shape[0])
            made.append(part)
    return made
