"""Functions of images and volumes, by those that the runtime has; see `tensor_forms`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgeq.export.frontends.tensorflow_graph.static_values import Form, constant, padded

_LOWEST, _TINY = -3.0e38, 1e-30


def _pooled_volume(op: Any) -> Form:
    """A pool of planes, and one of what is left along the depth."""
    pool = tf.nn.max_pool2d if op.type == "MaxPool3D" else tf.nn.avg_pool2d
    _, *window, _ = op.get_attr("ksize")
    _, *steps, _ = op.get_attr("strides")
    padding = op.get_attr("padding").decode()

    def pooled(x: Any) -> Any:
        _, depth, height, width, channels = x.shape
        planes = tf.reshape(x, (-1, height, width, channels))
        planes = pool(planes, window[1:], steps[1:], padding)
        _, height, width, _ = planes.shape
        columns = tf.reshape(planes, (-1, depth, height * width, channels))
        columns = pool(columns, (window[0], 1), (steps[0], 1), padding)
        return tf.reshape(columns, (-1, columns.shape[1], height, width, channels))

    return pooled


def _dilated_transposed_convolution(op: Any) -> Form:
    """A convolution with the filter turned round; an undilated one stays as it is."""
    _, *dilations, _ = op.get_attr("dilations")
    _, *steps, _ = op.get_attr("strides")
    if dilations == [1, 1]:
        return lambda sizes, kernel, x: tf.raw_ops.Conv2DBackpropInput(
            input_sizes=sizes, filter=kernel, out_backprop=x,
            **{name: op.get_attr(name) for name in ("strides", "padding", "explicit_paddings")},
        )  # fmt: skip
    wanted = op.outputs[0].shape[1:3]
    explicit = op.get_attr("explicit_paddings")

    def convolved(_: Any, kernel: Any, x: Any) -> Any:
        for axis in (0, 1):
            reach = (kernel.shape[axis] - 1) * dilations[axis]
            filled = (x.shape[1 + axis] - 1) * steps[axis] + 1
            low = explicit[2 + 2 * axis] if explicit else max(filled + reach - wanted[axis], 0) // 2
            x = _spread(x, 1 + axis, steps[axis])
            x = padded(x, 1 + axis, reach - low, wanted[axis] + low - filled)
        turned = tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))
        return tf.nn.conv2d(x, turned, 1, "VALID", dilations=dilations)

    return convolved


def _spread(x: Any, axis: int, step: int) -> Any:
    """`step - 1` zeros between the entries of an axis."""
    if step == 1:
        return x
    parts = [x, *[tf.zeros_like(x)] * (step - 1)]
    shape = [size if a != axis else size * step for a, size in enumerate(x.shape)]
    wide = tf.reshape(tf.stack(parts, axis + 1), shape)
    return padded(wide, axis, 0, 1 - step)


def _resized(op: Any) -> Form | None:
    """Products with two matrices, which are what the op makes of ones and zeros."""
    constants = [constant(tensor) for tensor in op.inputs[1:]]
    if any(constant is None for constant in constants):
        return None
    names = [argument.name for argument in op.op_def.input_arg]
    given = dict(zip(names[1:], constants, strict=True))
    attributes = {a.name: op.get_attr(a.name) for a in op.op_def.attr if a.name != "T"}
    kernel = attributes.get("kernel_type")
    if isinstance(kernel, bytes):
        attributes["kernel_type"] = kernel.decode()
    _, height, width, _ = op.inputs[0].shape
    rows, columns = (
        _matrix(getattr(tf.raw_ops, op.type), size, axis, given, attributes)
        for axis, size in enumerate((height, width))
    )

    def resized(x: Any, *_: Any) -> Any:
        x = tf.einsum("rh,nhwc->nrwc", rows, tf.cast(x, tf.float32))
        return tf.einsum("kw,nrwc->nrkc", columns, x)

    return resized


def _matrix(
    resize: Any, size: int, axis: int, given: dict[str, Any], attributes: dict[str, Any]
) -> Any:
    """`(resized, size)`: what each row or column is made of."""
    single = {name: np.asarray(value).copy() for name, value in given.items()}
    for name in ("scale", "translation"):
        if name in single:
            single[name][1 - axis] = name == "scale"
    single["size"][1 - axis] = size
    ones = np.eye(size, dtype=np.float32)[None, :, :, None]
    with tf.init_scope():
        made = resize(images=ones, **single, **attributes).numpy()[0, :, :, 0]
    return made if axis == 0 else made.T


def _crops(op: Any) -> Form | None:
    """Products of each box's image with the shares that its rows and columns have in the crop."""
    sizes, outside = constant(op.inputs[3]), op.get_attr("extrapolation_value")
    if sizes is None:
        return None
    nearest = op.get_attr("method") == b"nearest"

    def shares(low: Any, high: Any, size: int, wanted: int) -> tuple[Any, Any]:
        """`(boxes, wanted, size)`, and which of them are inside, `(boxes, wanted)`."""
        steps = tf.range(wanted, dtype=tf.float32) / max(wanted - 1, 1)
        ends = (low[:, None], high[:, None]) if wanted > 1 else ((low + high)[:, None] / 2,) * 2
        places = (ends[0] + (ends[1] - ends[0]) * steps) * (size - 1)
        inside = (places >= 0) & (places <= size - 1)
        places = tf.floor(places + 0.5) if nearest else places
        distance = tf.abs(places[..., None] - tf.range(size, dtype=tf.float32))
        return tf.nn.relu(1 - distance), inside

    def cropped(images: Any, boxes: Any, owners: Any, _: Any) -> Any:
        _, height, width, _ = images.shape
        rows, rows_inside = shares(boxes[:, 0], boxes[:, 2], height, int(sizes[0]))
        columns, columns_inside = shares(boxes[:, 1], boxes[:, 3], width, int(sizes[1]))
        images = tf.cast(tf.gather(images, owners), tf.float32)
        made = tf.einsum("brh,bhwc->brwc", rows, images)
        made = tf.einsum("bkw,brwc->brkc", columns, made)
        inside = rows_inside[:, :, None] & columns_inside[:, None]
        return tf.where(inside[..., None], made, tf.fill(tf.shape(made), outside))

    return cropped


def _patches(op: Any) -> Form:
    """A convolution that only moves numbers."""
    (_, *window, _), (_, *steps, _) = op.get_attr("ksizes"), op.get_attr("strides")
    (_, *rates, _), padding = op.get_attr("rates"), op.get_attr("padding").decode()

    def taken(x: Any) -> Any:
        size = window[0] * window[1] * x.shape[3]
        kernel = np.eye(size, dtype=np.float32).reshape(*window, x.shape[3], size)
        return tf.nn.conv2d(x, kernel, steps, padding, dilations=rates)

    return taken


def _dilated(op: Any) -> Form:
    """The highest of the taps, each moved by what the filter adds."""
    (_, *steps, _), (_, *rates, _) = op.get_attr("strides"), op.get_attr("rates")
    _, *sizes, _ = op.outputs[0].shape
    same = op.get_attr("padding") == b"SAME"

    def highest(x: Any, kernel: Any) -> Any:
        pads = [(0, 0)]
        for size, tap, step, rate, wanted in zip(
            x.shape[1:3], kernel.shape, steps, rates, sizes, strict=False
        ):
            missing = max((wanted - 1) * step + (tap - 1) * rate + 1 - size, 0) if same else 0
            pads.append((missing // 2, missing - missing // 2))
        x = tf.pad(x, [*pads, (0, 0)], constant_values=_LOWEST)
        made = None
        for row, column in np.ndindex(*kernel.shape[:2]):
            (top, down), (left, along) = (
                (place * rate, place * rate + (wanted - 1) * step + 1)
                for place, rate, wanted, step in zip(
                    (row, column), rates, sizes, steps, strict=True
                )
            )
            moved = x[:, top : down : steps[0], left : along : steps[1]] + kernel[row, column]
            made = moved if made is None else tf.maximum(made, moved)
        return made

    return highest


def _to_hsv(_: Any = None) -> Form:
    def converted(x: Any) -> Any:
        red, green, blue = tf.unstack(x, axis=-1)
        value = tf.reduce_max(x, -1)
        spread = value - tf.reduce_min(x, -1)
        safe = tf.where(spread > 0, spread, tf.ones_like(spread))
        saturation = tf.where(value > 0, spread / tf.maximum(value, _TINY), tf.zeros_like(value))
        hue = tf.where(
            red >= value, (green - blue) / safe,
            tf.where(green >= value, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
        ) / 6.0  # fmt: skip
        hue = tf.where(hue < 0, hue + 1.0, hue)
        return tf.stack([tf.where(spread > 0, hue, tf.zeros_like(hue)), saturation, value], -1)

    return converted


def _from_hsv(_: Any = None) -> Form:
    def converted(x: Any) -> Any:
        hue, saturation, value = tf.unstack(x, axis=-1)
        sixths = 6.0 * hue
        shares = (
            tf.abs(sixths - 3.0) - 1.0, 2.0 - tf.abs(sixths - 2.0), 2.0 - tf.abs(sixths - 4.0)
        )  # fmt: skip
        parts = [(1.0 - saturation + saturation * tf.clip_by_value(s, 0.0, 1.0)) * value
                 for s in shares]  # fmt: skip
        return tf.stack(parts, -1)

    return converted


def _adjusted_hue(_: Any) -> Form:
    def adjusted(x: Any, delta: Any) -> Any:
        hue, saturation, value = tf.unstack(_to_hsv()(x), axis=-1)
        hue = hue + delta
        return _from_hsv()(tf.stack([hue - tf.floor(hue), saturation, value], -1))

    return adjusted


def _adjusted_saturation(_: Any) -> Form:
    def adjusted(x: Any, scale: Any) -> Any:
        hue, saturation, value = tf.unstack(_to_hsv()(x), axis=-1)
        saturation = tf.clip_by_value(saturation * scale, 0.0, 1.0)
        return _from_hsv()(tf.stack([hue, saturation, value], -1))

    return adjusted


def _adjusted_contrast(_: Any) -> Form:
    def adjusted(x: Any, factor: Any) -> Any:
        mean = tf.reduce_mean(x, (-3, -2), keepdims=True)
        return (x - mean) * factor + mean

    return adjusted


MAKERS: dict[str, Callable[[Any], Form | None]] = {
    "AdjustContrastv2": _adjusted_contrast,
    "AdjustHue": _adjusted_hue,
    "AdjustSaturation": _adjusted_saturation,
    "AvgPool3D": _pooled_volume,
    "Conv2DBackpropInput": _dilated_transposed_convolution,
    "CropAndResize": _crops,
    "Dilation2D": _dilated,
    "ExtractImagePatches": _patches,
    "HSVToRGB": _from_hsv,
    "MaxPool3D": _pooled_volume,
    "RGBToHSV": _to_hsv,
    "ResizeArea": _resized,
    "ResizeBicubic": _resized,
    "ScaleAndTranslate": _resized,
}
"""By the kind of op that they stand for."""
