"""Weights of loops, as operands of the loop or as constants of its body.

The runtime is fastest where the body has them, and makes stored ones float. Plans speak of operands
of ops in the main graph, so what is planned, and what is held against a plan, has them there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from edgeq.export.convert.store_weights import DYNAMIC_OPTIONS
from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, parse_tree, schema, unpack
from edgeq.flatbuffer.object_tree import op_code
from edgeq.flatbuffer.parsing import is_multiplied, op_name
from edgeq.flatbuffer.subgraphs import called_by, loop_graphs, readers
from edgeq.versions import stored_weight_version

Loop = tuple[int, int]
"""Indices of the condition and the body."""


def with_lifted_weights(tree: Any) -> Any:
    """The object tree with the weights of its loops in the main graph; itself where none has any.

    Args:
        tree: Of a file that was checked; it is not changed.
    """
    loops = dict(main_loops(tree))
    lifted = {loop: found for loop in loops if (found := _constant_weights(tree, loop))}
    if not lifted:
        return tree
    made = _copied(tree, lifted)
    for loop, weights in lifted.items():
        _lift(made, loop, weights, loops[loop])
    return made


def lifted_graph(tflite: Content) -> Graph:
    """The main graph of a file with the weights of its loops in it; other indices stay."""
    return parse_tree(with_lifted_weights(unpack(tflite)), len(tflite)).graphs[0]


def with_sunk_weights(tree: Any) -> Any:
    """The object tree with what loops multiply with in their bodies, where it is constant."""
    graph = parse_tree(tree).graphs[0]
    loops = dict(main_loops(tree))
    sunk = {
        loop: slots
        for loop, places in loops.items()
        if (slots := _constant_operands(graph, [graph.operators[place] for place in places]))
    }
    if not sunk:
        return tree
    made = _copied(tree, sunk)
    gone = [_sink(made, loop, slots, loops[loop]) for loop, slots in sunk.items()]
    _drop(made.subgraphs[0], set().union(*gone))
    return made


def main_loops(tree: Any) -> Iterator[tuple[Loop, list[int]]]:
    """Condition and body of each loop of the main graph, and the places of the ops that run it.

    Left out is what anything else runs as well.
    """
    main = tree.subgraphs[0].operators or ()
    places: dict[Loop, list[int]] = {}
    for place, op in enumerate(main):
        loop = loop_graphs(op)
        if loop is not None:
            places.setdefault(loop, []).append(place)
    called = [index for g in tree.subgraphs for op in g.operators or () for index in called_by(op)]
    for loop, found in places.items():
        if all(called.count(index) == len(found) for index in loop):
            yield loop, found


def _constant_weights(tree: Any, loop: Loop) -> list[int]:
    """Constants of a body that are nothing but weights of dense layers, made float there or not."""
    body = tree.subgraphs[loop[1]]
    codes = [op_name(code) for code in tree.operatorCodes]
    return [
        index
        for index, tensor in enumerate(body.tensors)
        if _is_stored(tree, tensor)
        and tensor.shape is not None
        and len(tensor.shape) == 2
        and index not in body.outputs
        and is_multiplied(body, codes, _made_float(body, codes, index))
    ]


def _made_float(graph: Any, codes: list[tuple[str, int]], tensor: int) -> int:
    """What a DEQUANTIZE makes of a tensor that nothing else reads; else the tensor itself."""
    found = [op for op, _ in readers(graph, tensor)]
    is_stored = len(found) == 1 and codes[found[0].opcodeIndex][0] == "DEQUANTIZE"
    return int(found[0].outputs[0]) if is_stored else tensor


def _is_stored(tree: Any, tensor: Any) -> bool:
    data = tree.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _constant_operands(graph: Graph, ops: Sequence[Operator]) -> tuple[int, ...]:
    """Slots of what some loops multiply with that is one constant for all of them."""
    first = ops[0]
    return tuple(
        slot
        for slot in first.multiplied
        if graph.tensors[_stored_in(graph, first.inputs[slot])].is_constant
        and all(op.inputs[slot] == first.inputs[slot] for op in ops)
        and not any(_is_read(graph, op.outputs[slot]) for op in ops)
    )


def _stored_in(graph: Graph, tensor: int) -> int:
    """What a DEQUANTIZE makes a tensor of; the tensor itself where none does."""
    producer = graph.producers.get(tensor)
    is_stored = producer is not None and producer.name == "DEQUANTIZE"
    return producer.inputs[0] if producer is not None and is_stored else tensor


def _is_read(graph: Graph, tensor: int) -> bool:
    return tensor in graph.outputs or bool(graph.uses.get(tensor))


def _copied(tree: Any, loops: Iterable[Loop]) -> Any:
    """An object tree whose main graph and whose loops' graphs may be changed."""
    made = copy.copy(tree)
    made.operatorCodes = list(tree.operatorCodes)
    made.subgraphs = list(tree.subgraphs)
    for index in {0, *(index for loop in loops for index in loop)}:
        graph = made.subgraphs[index] = copy.copy(tree.subgraphs[index])
        graph.tensors, graph.operators = list(graph.tensors), list(graph.operators)
    return made


def _lift(tree: Any, loop: Loop, weights: Sequence[int], places: Sequence[int]) -> None:
    main, (cond, body) = tree.subgraphs[0], (tree.subgraphs[index] for index in loop)
    for weight in weights:
        whole, passed = body.tensors[weight], copy.copy(body.tensors[weight])
        passed.buffer = 0
        body.tensors[weight] = passed
        body.inputs, body.outputs = (_with(side, weight) for side in (body.inputs, body.outputs))
        cond.inputs = _with(cond.inputs, _added(cond, passed))
        constant = _added(main, whole)
        for place in places:
            op = main.operators[place] = copy.copy(main.operators[place])
            op.inputs = _with(op.inputs, constant)
            op.outputs = _with(op.outputs, _added(main, passed))


def _added(graph: Any, tensor: Any) -> int:
    graph.tensors.append(copy.copy(tensor))
    return len(graph.tensors) - 1


def _with(tensors: Any, more: int) -> Any:
    return np.append(np.asarray(tensors, np.int32), np.int32(more))


def _sink(tree: Any, loop: Loop, slots: Sequence[int], places: Sequence[int]) -> set[int]:
    """Puts what some loops multiply with into their body; what they read and wrote it as."""
    main, (cond, body) = tree.subgraphs[0], (tree.subgraphs[index] for index in loop)
    first = main.operators[places[0]]
    for slot in slots:
        given, own = int(first.inputs[slot]), int(body.inputs[slot])
        unpacking = next((op for op in main.operators if given in op.outputs), None)
        if unpacking is not None:
            _make_float(main, body, unpacking, own)
            continue
        kept = copy.copy(main.tensors[given])
        kept.name, body.tensors[own] = body.tensors[own].name, kept
        if kept.type != schema.TensorType.FLOAT32:
            _compute_with_integers(tree, body, own, len(kept.quantization.scale) == 1)
    for graph in (cond, body):
        graph.inputs = np.delete(np.asarray(graph.inputs, np.int32), slots)
    body.outputs = np.delete(np.asarray(body.outputs, np.int32), slots)
    gone = {int(first.inputs[slot]) for slot in slots}
    for place in places:
        op = main.operators[place] = copy.copy(main.operators[place])
        gone.update(int(op.outputs[slot]) for slot in slots)
        op.inputs, op.outputs = (
            np.delete(np.asarray(side, np.int32), slots) for side in (op.inputs, op.outputs)
        )
    return gone


def _make_float(main: Any, body: Any, unpacking: Any, own: int) -> None:
    """Has a body make a stored weight float itself: once, when the model is loaded."""
    op = copy.copy(unpacking)
    op.inputs = np.array([_added(body, main.tensors[unpacking.inputs[0]])], np.int32)
    op.outputs = np.array([own], np.int32)
    body.operators.insert(0, op)


def _drop(main: Any, gone: set[int]) -> None:
    """Empties those tensors that nothing reads any more, and drops the ops that made them."""
    unread = {tensor for tensor in gone if not readers(main, tensor)}
    idle = [op for op in main.operators if unread.intersection(op.outputs)]
    main.operators = [op for op in main.operators if not any(op is other for other in idle)]
    unread |= {int(t) for op in idle for t in op.inputs if not readers(main, t)}
    for tensor in unread:
        main.tensors[tensor] = schema.TensorT()


def _compute_with_integers(tree: Any, body: Any, weight: int, one_scale: bool) -> None:
    """Has the dense layers of a body round what they multiply with an integer weight."""
    version = stored_weight_version("FULLY_CONNECTED", "int8", one_scale)
    for place, op in enumerate(body.operators):
        if weight in op.inputs:
            op = body.operators[place] = copy.copy(op)
            op.opcodeIndex = op_code(tree, "FULLY_CONNECTED", version)
            op.builtinOptions = copy.copy(op.builtinOptions)
            for field, value in DYNAMIC_OPTIONS.items():
                setattr(op.builtinOptions, field, value)
