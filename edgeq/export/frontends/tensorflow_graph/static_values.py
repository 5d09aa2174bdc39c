"""What a graph tells before it runs, and tensors of fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Form = Callable[..., Any]
"""A function of an op's inputs that computes its result."""

_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
_WRITING = ("Assign", "ResourceScatter", "ResourceApply")
"""How ops are called that change a variable."""


def all_nodes(function: Any) -> list[Any]:
    """The nodes of a concrete function and of all functions that it calls."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for f in graph.library.function for node in f.node_def)]


def writes_variables(function: Any) -> bool:
    """Whether a function changes variables, which are the caller's."""
    return any(node.op.startswith(_WRITING) for node in all_nodes(function))


def is_double(node: Any) -> bool:
    """Whether an op has to do with numbers of 64 bits, of which the runtime has hardly any form."""
    return any(value.type == tf.float64.as_datatype_enum for value in node.attr.values())


def bounded(tensor: Any) -> Any:
    """The value of a whole number that is the same as its lower and its upper bound, or constant.

    `tf.math.bincount` has such a one where `minlength` and `maxlength` are one number.
    """
    value = constant(tensor)
    if value is not None or tensor.op.type != "Minimum":
        return value
    most, least = tensor.op.inputs
    if least.op.type != "Maximum":
        return None
    high, low = constant(most), constant(least.op.inputs[0])
    return high if high is not None and low is not None and high == low else None


def constant(tensor: Any) -> Any:
    """The value of a tensor that depends on shapes alone; None of any other."""
    value = tf.get_static_value(tensor)
    if value is not None:
        return value
    found, rest = {tensor.op}, [tensor.op]
    while rest:
        op = rest.pop()
        if op.type == "Placeholder":
            return None
        parents = {x.op for x in op.inputs} if op.type not in _OF_SHAPES else set()
        rest += parents - found
        found |= parents
    feeds = {
        op.outputs[0].name: np.zeros(op.outputs[0].shape, op.outputs[0].dtype.as_numpy_dtype)
        for op in tensor.graph.get_operations()
        if op.type == "Placeholder"
    }
    with tf.compat.v1.Session(graph=tensor.graph) as session:
        return session.run(tensor, feeds)


def padded(x: Any, axis: int, low: int, high: int) -> Any:
    """Zeros at both ends of an axis; less than none cut it."""
    pads = [(max(low, 0), max(high, 0)) if a == axis else (0, 0) for a in range(len(x.shape))]
    x = tf.pad(x, pads)
    cut = [slice(None)] * len(x.shape)
    cut[axis] = slice(max(-low, 0), x.shape[axis] - max(-high, 0))
    return x[tuple(cut)]
