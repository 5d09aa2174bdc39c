"""Ops that read constants alone: run once, their results kept in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, pack, parse_tree, schema
from edgeq.flatbuffer.object_tree import prune
from edgeq.flatbuffer.subgraphs import called_by
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.runtime.interpreter import plain_interpreter

Array = npt.NDArray[Any]

KEPT_BYTES = 1 << 16
"""A larger result is only kept if what it was made from is as large."""

_SHAPES: dict[str, Callable[[tuple[int, ...]], object]] = {"SHAPE": tuple, "RANK": len}
"""Ops whose result follows from the shape of what they read, whatever its values."""

_NEVER_RUN = frozenset(
    {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"}  # other numbers each time
    | {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "HASHTABLE", "HASHTABLE_FIND"}  # a state
    | {"QUANTIZE", "DEQUANTIZE"}  # how a constant is stored
)


def compute_constants(tree: Any, worker: Worker) -> bool:
    """Puts constants in the place of ops of the main graph that always give the same.

    Args:
        tree: The file's object tree, which is changed.
        worker: A child process to run the ops in; what cannot be run stays.

    Returns:
        Whether anything changed.
    """
    graph = parse_tree(tree).graphs[0]
    known = dict(_known_shapes(graph))
    ready = {*known, *(t.index for t in graph.tensors if t.is_constant), -1}
    chosen: list[Operator] = []
    for op in graph.operators:
        if not ready.issuperset(op.outputs) and _can_run(tree, graph, op, ready):
            ready.update(op.outputs)
            chosen.append(op)
    found = {**known, **_results(tree, known, chosen, worker)}
    for tensor, value in found.items():
        _store(tree, tensor, value)
    operators = tree.subgraphs[0].operators
    tree.subgraphs[0].operators = [
        entry
        for op, entry in zip(graph.operators, operators, strict=True)
        if not op.outputs or not found.keys() >= set(op.outputs)
    ]
    if found:
        _drop_unread(tree)
    return bool(found)


def _known_shapes(graph: Graph) -> Iterator[tuple[int, Array]]:
    for op in graph.operators:
        if op.name in _SHAPES and op.outputs[0] not in graph.outputs:
            read, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
            if -1 not in read.shape:
                yield made.index, np.asarray(_SHAPES[op.name](read.shape), made.dtype)


def _can_run(tree: Any, graph: Graph, op: Operator, ready: set[int]) -> bool:
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    return (
        op.name not in _NEVER_RUN
        and not op.name.startswith(("CUSTOM:", "STABLEHLO_"))
        and not called_by(tree.subgraphs[0].operators[op.index])
        and bool(op.outputs)
        and ready.issuperset(op.inputs)
        and not {*op.outputs} & {*graph.outputs}
        and all(hasattr(np, t.dtype) and t.qparams is None for t in tensors)
        and not any(t.is_variable for t in tensors)
    )


def _results(
    tree: Any, known: Mapping[int, Array], chosen: Sequence[Operator], worker: Worker
) -> dict[int, Array]:
    """Kept results of the chosen ops, by tensor index."""
    if not chosen:
        return {}
    made = [tensor for op in chosen for tensor in op.outputs]
    try:
        results = worker.call(f"{__name__}:run_ops", _alone(tree, known, chosen, made))
    except (JobCrashed, JobFailed):
        return {}
    found: dict[int, Array] = dict(zip(made, results, strict=True))
    stored = {t.index: t.data for t in parse_tree(tree).graphs[0].tensors}
    values = {**stored, **known, **found}
    sizes = {tensor: value.nbytes for tensor, value in values.items() if value is not None}
    kept = {}
    for op in chosen:
        most = max(KEPT_BYTES, sum(sizes.get(t, 0) for t in op.inputs))
        if all(sizes[t] <= most for t in op.outputs):
            kept.update({t: found[t] for t in op.outputs})
    return kept


def _alone(
    tree: Any, known: Mapping[int, Array], chosen: Sequence[Operator], outputs: Sequence[int]
) -> Content:
    """A file with these ops alone, which takes nothing and gives all that they make."""
    made = copy.copy(tree)
    graph = copy.copy(tree.subgraphs[0])
    graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    graph.operators = [copy.copy(graph.operators[op.index]) for op in chosen]
    graph.inputs, graph.outputs = np.zeros(0, np.int32), np.asarray(outputs, np.int32)
    made.subgraphs, made.signatureDefs, made.metadata = [graph], None, None
    made.operatorCodes = list(tree.operatorCodes)
    made.buffers = [copy.copy(buffer) for buffer in tree.buffers]
    for tensor, value in known.items():
        _store(made, tensor, value)
    prune(made)
    return pack(made)


def run_ops(tflite: Content) -> list[Array]:
    """Job: what a model without inputs puts out."""
    interpreter = plain_interpreter(tflite)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def _store(tree: Any, tensor: int, value: Array) -> None:
    entry, buffer = tree.subgraphs[0].tensors[tensor], schema.BufferT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    tree.buffers.append(buffer)
    entry.buffer = len(tree.buffers) - 1
    entry.shape, entry.shapeSignature = np.asarray(value.shape, np.int32), None


def _drop_unread(tree: Any) -> None:
    """Takes out the ops whose results nothing reads any more."""
    graph = tree.subgraphs[0]
    read, kept = {int(t) for t in graph.outputs}, []
    for op in reversed(graph.operators):
        if len(op.outputs) == 0 or called_by(op) or not read.isdisjoint(map(int, op.outputs)):
            read.update(int(t) for t in op.inputs)
            kept.append(op)
    graph.operators = kept[::-1]
    prune(tree)
