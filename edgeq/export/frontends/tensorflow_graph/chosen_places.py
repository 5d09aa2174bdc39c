"""Ops that say which places they have chosen: the largest of each window, boxes that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgeq.export.frontends.tensorflow_graph.static_values import Form, constant

CLASSES_MAX = 100
"""Of boxes that are suppressed class by class, each of which is a few ops."""

_LOWEST = -3e38
"""Stands for what is no value."""


def _pool_with_places(op: Any) -> Form:
    """The largest value of each window, and where it is: `(y * width + x) * channels + channel`."""
    (_, *taps, _), (_, *strides, _) = op.get_attr("ksize"), op.get_attr("strides")
    batch, *sizes, channels = (int(size) for size in op.inputs[0].shape)
    made = [int(size) for size in op.outputs[0].shape[1:3]]
    is_same = op.get_attr("padding") == b"SAME"
    missing = [
        max(0, (count - 1) * stride + tap - size) if is_same else 0
        for count, stride, tap, size in zip(made, strides, taps, sizes, strict=True)
    ]
    before = [pad // 2 for pad in missing]
    pads = [[0, 0], *([b, m - b] for b, m in zip(before, missing, strict=True)), [0, 0]]
    steps = [(y, x) for y in range(taps[0]) for x in range(taps[1])]
    first_y, first_x = (
        np.arange(count) * stride - b
        for count, stride, b in zip(made, strides, before, strict=True)
    )
    first = (first_y[:, None, None] * sizes[1] + first_x[:, None]) * channels + np.arange(channels)
    if op.get_attr("include_batch_in_index"):
        first = first + (np.arange(batch) * sizes[0] * sizes[1] * channels)[:, None, None, None]
    offsets = np.array([(y * sizes[1] + x) * channels for y, x in steps], np.int32)

    def pooled(image: Any) -> list[Any]:
        wide = tf.pad(image, pads, constant_values=_LOWEST)
        parts = [
            wide[:, y : y + (made[0] - 1) * strides[0] + 1 : strides[0],
                 x : x + (made[1] - 1) * strides[1] + 1 : strides[1]]
            for y, x in steps
        ]  # fmt: skip
        stacked = tf.stack(parts, -1)
        places = tf.gather(offsets, tf.argmax(stacked, -1, tf.int32)) + first.astype(np.int32)
        return [tf.reduce_max(stacked, -1), tf.cast(places, op.outputs[1].dtype)]

    return pooled


def _boxes_that_stay(op: Any) -> Form | None:
    """Suppression in each class by itself, and the best of what is left of all."""
    limits = [constant(tensor) for tensor in op.inputs[2:]]
    batch, _, groups, _ = (int(size) for size in op.inputs[0].shape)
    classes = int(op.inputs[1].shape[2])
    if any(limit is None for limit in limits) or classes > CLASSES_MAX:
        return None
    each, _, overlap, least = (np.asarray(limit).item() for limit in limits)
    clips, count = op.get_attr("clip_boxes"), int(op.outputs[0].shape[1])
    each = min(int(each), int(op.inputs[0].shape[1]))

    def of_class(boxes: Any, scores: Any) -> tuple[Any, Any]:
        """Boxes and scores of one class; those of places that stay empty are below all others."""
        chosen, valid = tf.raw_ops.NonMaxSuppressionV4(
            boxes=boxes, scores=scores, max_output_size=each, iou_threshold=overlap,
            score_threshold=least, pad_to_max_output_size=True,
        )  # fmt: skip
        is_left = tf.range(each) < valid
        return tf.gather(boxes, chosen), tf.where(is_left, tf.gather(scores, chosen), _LOWEST)

    def of_picture(boxes: Any, scores: Any) -> list[Any]:
        found = [of_class(boxes[:, c % groups], scores[:, c]) for c in range(classes)]
        corners, values = (tf.concat(part, 0) for part in zip(*found, strict=True))
        kept = min(count, classes * each)
        values, places = tf.math.top_k(values, kept)
        is_left = values > _LOWEST
        share = tf.cast(is_left, tf.float32)
        corners = tf.gather(corners, places) * share[:, None]
        corners = tf.clip_by_value(corners, 0.0, 1.0) if clips else corners
        kinds = tf.gather(np.repeat(np.arange(classes, dtype=np.float32), each), places) * share
        values = tf.where(is_left, values, 0.0)
        rows = [[0, count - kept]]
        return [
            tf.pad(corners, [*rows, [0, 0]]), tf.pad(values, rows), tf.pad(kinds, rows),
            tf.reduce_sum(tf.cast(is_left, tf.int32)),
        ]  # fmt: skip

    def chosen(boxes: Any, scores: Any, *_: Any) -> list[Any]:
        pictures = [of_picture(boxes[n], scores[n]) for n in range(batch)]
        return [tf.stack(part) for part in zip(*pictures, strict=True)]

    return chosen


def _bound(op: Any) -> Form:
    """How many of a row's sorted numbers are below each value, or not above it."""
    is_before = tf.less_equal if op.type == "UpperBound" else tf.less

    def counted(row: Any, values: Any) -> Any:
        before = is_before(row[:, None, :], values[:, :, None])
        return tf.reduce_sum(tf.cast(before, op.outputs[0].dtype), -1)

    return counted


def _is_among_best(op: Any) -> Form:
    """Whether fewer than so many classes have a higher score than the one that is asked for."""

    def found(scores: Any, classes: Any, count: Any) -> Any:
        own = tf.gather(scores, classes, batch_dims=1)[:, None]
        higher = tf.reduce_sum(tf.cast(scores > own, tf.int32), -1)
        return higher < tf.cast(count, tf.int32)

    return found


MAKERS: dict[str, Callable[[Any], Form | None]] = {
    "CombinedNonMaxSuppression": _boxes_that_stay,
    "InTopKV2": _is_among_best,
    "LowerBound": _bound,
    "MaxPoolWithArgmax": _pool_with_places,
    "UpperBound": _bound,
}
"""By the kind of op that they stand for."""
