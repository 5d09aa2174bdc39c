"""Functions of whole tensors, by those that the runtime has.

Each is made for one op of a graph, by its attributes and constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgeq.export.frontends.tensorflow_graph import (
    branches,
    chosen_places,
    image_forms,
    matrix_forms,
)
from edgeq.export.frontends.tensorflow_graph.static_values import Form, bounded, constant, padded

_MOST_DENSE = 1 << 22
"""Entries of a sparse matrix that may become a dense one, 16 MB."""

_CHANNELS_LAST = ("NHWC", "NDHWC")


def form_of(op: Any) -> Form | None:
    """A function of the inputs of an op that computes its result; None where there is none."""
    make = _MAKERS.get(op.type)
    if make is None:
        return _constants(op)
    return make(op) if _is_channels_last(op) else None


def _constants(op: Any) -> Form | None:
    """What an op gives for constants, as random numbers of a seed that is one."""
    if op.op_def.is_stateful or op.type.startswith("Placeholder") or not op.outputs:
        return None
    found = [constant(output) for output in op.outputs]
    if any(not isinstance(v, np.ndarray | np.generic) or v.dtype.kind not in "fiub" for v in found):
        return None
    return lambda *_: [tf.constant(value) for value in found]


def kinds() -> frozenset[str]:
    """The kinds of ops that `form_of` knows."""
    return frozenset(_MAKERS)


def _is_channels_last(op: Any) -> bool:
    attributes = op.node_def.attr
    return "data_format" not in attributes or (
        attributes["data_format"].s.decode() in _CHANNELS_LAST
    )


def _cumulative_product(op: Any) -> Form | None:
    """Products so far, in steps that double what is joined."""
    axis = constant(op.inputs[1])
    if axis is None:
        return None
    axis = int(axis) % len(op.inputs[0].shape)
    reverse, exclusive = op.get_attr("reverse"), op.get_attr("exclusive")

    def moved(x: Any, step: int) -> Any:
        ones = tf.ones([step if a == axis else size for a, size in enumerate(x.shape)], x.dtype)
        return tf.concat([ones, padded(x, axis, 0, -step)], axis)

    def product(x: Any, _: Any) -> Any:
        x, step = tf.reverse(x, [axis]) if reverse else x, 1
        x = moved(x, 1) if exclusive else x
        while step < x.shape[axis]:
            x, step = x * moved(x, step), 2 * step
        return tf.reverse(x, [axis]) if reverse else x

    return product


def _segments(op: Any) -> Form | None:
    """By the op that takes segments in any order; those without rows are 0."""
    ids = constant(op.inputs[1])
    if ids is None:
        return None
    counts = np.bincount(ids).reshape(-1, *[1] * (len(op.inputs[0].shape) - 1))
    name = {"SegmentMean": "sum"}.get(op.type, op.type.removeprefix("Segment").lower())
    joined = getattr(tf.math, f"unsorted_segment_{name}")

    def segmented(x: Any, _: Any) -> Any:
        made = joined(x, ids, len(counts))
        if op.type == "SegmentMean":
            return made / tf.constant(np.maximum(counts, 1), x.dtype)
        return made if counts.all() else tf.where(counts > 0, made, tf.zeros_like(made))

    return segmented


def _scattered(op: Any) -> Form:
    """`TensorScatterMax` and `TensorScatterMin`: by segments, one for each place."""
    shape, depth = op.inputs[0].shape.as_list(), int(op.inputs[1].shape[-1])
    steps = [math.prod(shape[axis + 1 : depth]) for axis in range(depth)]
    segments, joined = {
        "TensorScatterMax": (tf.math.unsorted_segment_max, tf.maximum),
        "TensorScatterMin": (tf.math.unsorted_segment_min, tf.minimum),
    }[op.type]

    def scattered(x: Any, places: Any, updates: Any) -> Any:
        ids = tf.reduce_sum(tf.cast(places, tf.int32) * tf.constant(steps, tf.int32), -1)
        rows = tf.reshape(updates, [-1, math.prod(shape[depth:])])
        made = segments(rows, tf.reshape(ids, [-1]), math.prod(shape[:depth]))
        return joined(x, tf.reshape(made, shape))

    return scattered


def _counts(op: Any) -> Form | None:
    """`DenseBincount`: the sum of marks, one row a value; those beyond the size have none."""
    size, is_binary = bounded(op.inputs[1]), op.get_attr("binary_output")
    has_weights = op.inputs[2].shape.num_elements() != 0
    if size is None or not op.inputs[2].shape.is_fully_defined():
        return None

    def counted(values: Any, _: Any, weights: Any) -> Any:
        marks = tf.one_hot(values, int(size), dtype=weights.dtype)
        if is_binary:
            return tf.reduce_max(marks, -2)
        return tf.reduce_sum(marks * weights[..., None] if has_weights else marks, -2)

    return counted


def _sparse_product(op: Any) -> Form | None:
    """A product with the dense matrix, where a constant tells its places."""
    places, size = constant(op.inputs[0]), constant(op.inputs[2])
    if places is None or size is None or np.prod(size) > _MOST_DENSE:
        return None
    left, right = op.get_attr("adjoint_a"), op.get_attr("adjoint_b")

    def product(_: Any, values: Any, __: Any, x: Any) -> Any:
        known = tf.get_static_value(values)
        if known is None:
            matrix = tf.scatter_nd(places, values, size)
        else:
            dense = np.zeros(size, known.dtype)
            np.add.at(dense, tuple(np.transpose(places)), known)
            matrix = tf.constant(dense)
        return tf.matmul(matrix, x, adjoint_a=left, adjoint_b=right)

    return product


def _extreme(op: Any) -> Form:
    """Of whole numbers as a choice, of which the converter makes no activation."""
    is_low = op.type == "Minimum"
    own = tf.minimum if is_low else tf.maximum
    is_float = op.inputs[0].dtype.is_floating

    def extreme(x: Any, y: Any) -> Any:
        return own(x, y) if is_float else tf.where(x < y if is_low else x > y, x, y)

    return extreme


def _rectified(op: Any) -> Form:
    """Of whole numbers as choices, for the same reason."""
    own = tf.nn.relu6 if op.type == "Relu6" else tf.nn.relu
    if op.inputs[0].dtype.is_floating:
        return lambda x: own(x)

    def rectified(x: Any) -> Any:
        made = tf.where(x > 0, x, tf.zeros_like(x))
        return tf.where(made < 6, made, 6 * tf.ones_like(x)) if op.type == "Relu6" else made

    return rectified


def _length(op: Any) -> Form | None:
    """The root of the sum of squares."""
    axes, keeps = constant(op.inputs[1]), op.get_attr("keep_dims")
    if axes is None:
        return None
    return lambda x, _: tf.sqrt(tf.reduce_sum(x * x, axes, keeps))


def _nothing(_: Any) -> Form:
    """Of what prints on the machine that a model was made on."""
    return lambda *_: []


_MAKERS: dict[str, Callable[[Any], Form | None]] = {
    **branches.MAKERS,
    **chosen_places.MAKERS,
    **image_forms.MAKERS,
    **matrix_forms.MAKERS,
    "Cumprod": _cumulative_product,
    "DenseBincount": _counts,
    "EuclideanNorm": _length,
    "Maximum": _extreme,
    "Minimum": _extreme,
    "PrintV2": _nothing,
    "Relu": _rectified,
    "Relu6": _rectified,
    "SegmentMax": _segments,
    "SegmentMean": _segments,
    "SegmentMin": _segments,
    "StringFormat": lambda op: lambda *_: tf.constant(""),
    "SparseTensorDenseMatMul": _sparse_product,
    "TensorScatterMax": _scattered,
    "TensorScatterMin": _scattered,
    "TensorScatterSub": lambda op: lambda x, at, y: tf.tensor_scatter_nd_add(x, at, -y),
}
"""By the kind of op that they stand for."""
