"""Ops on complex numbers, as ops on their real and imaginary parts.

Transforms are products with cosines and sines. Knows one op at a time; which ops of a graph have
complex numbers is for others to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from edgeq.export.frontends.tensorflow_graph.static_values import Form, constant


class Parts(NamedTuple):
    """A tensor of complex numbers.

    Attributes:
        real: Real parts, float32.
        imaginary: Imaginary parts, of the same shape.
    """

    real: Any
    imaginary: Any


def is_complex(tensor: Any) -> bool:
    """Whether a tensor of a graph holds complex numbers."""
    return bool(tensor.dtype.is_complex)


def form_of(op: Any) -> Form | None:
    """A function of an op's inputs, complex ones as `Parts`, that computes its results so as well.

    None where there is none, as of numbers in double precision.
    """
    tensors = [*op.inputs, *op.outputs]
    if any(t.dtype == tf.complex128 or t.shape.rank is None for t in tensors):
        return None
    if op.type == "Const":
        value = tf.get_static_value(op.outputs[0])
        return lambda: Parts(tf.constant(value.real), tf.constant(value.imag))
    make = _MAKERS.get(op.type)
    return _of_each_part(op) if op.type in _LINEAR else None if make is None else make(op)


def _of_each_part(op: Any) -> Form:
    """The op itself, of the real parts and of the imaginary ones."""
    inferred = {
        name
        for argument in op.op_def.input_arg
        for name in (argument.type_attr, argument.number_attr, argument.type_list_attr)
    }
    settings = {a.name: op.get_attr(a.name) for a in op.op_def.attr if a.name not in inferred}
    settings.pop("T", None)
    compute = getattr(tf.raw_ops, op.type)

    def computed(*inputs: Any) -> Any:
        made = [compute(**_named(op, inputs, part), **settings) for part in (0, 1)]
        several = isinstance(made[0], list | tuple)
        return list(map(Parts, *made)) if several else Parts(*made)

    return computed


def _named(op: Any, inputs: tuple[Any, ...], part: int) -> dict[str, Any]:
    """The operands of one part by the names that an op's definition has for them."""
    left = [x[part] if isinstance(x, Parts) else x for x in inputs]
    found: dict[str, Any] = {}
    for argument in op.op_def.input_arg:
        count = op.get_attr(argument.number_attr) if argument.number_attr else 1
        taken, left = left[:count], left[count:]
        found[argument.name] = taken if argument.number_attr else taken[0]
    return found


def _plain(compute: Callable[..., Any]) -> Callable[[Any], Form]:
    return lambda op: compute


def _product(x: Parts, y: Parts, times: Callable[[Any, Any], Any] = tf.multiply) -> Parts:
    return Parts(
        times(x.real, y.real) - times(x.imaginary, y.imaginary),
        times(x.real, y.imaginary) + times(x.imaginary, y.real),
    )


def _quotient(x: Parts, y: Parts) -> Parts:
    made, square = _product(x, _conjugate(y)), _square(y)
    return Parts(made.real / square, made.imaginary / square)


def _conjugate(x: Parts) -> Parts:
    return Parts(x.real, -x.imaginary)


def _square(x: Parts) -> Any:
    """The squared length."""
    return x.real * x.real + x.imaginary * x.imaginary


def _exponential(x: Parts) -> Parts:
    size = tf.exp(x.real)
    return Parts(size * tf.cos(x.imaginary), size * tf.sin(x.imaginary))


def _cast(op: Any) -> Form:
    if not is_complex(op.inputs[0]):
        return lambda x: Parts(tf.cast(x, tf.float32), tf.zeros(op.inputs[0].shape))
    wanted = op.outputs[0].dtype
    return lambda x: x if wanted.is_complex else tf.cast(x.real, wanted)


def _matrix_product(op: Any) -> Form:
    names = {"MatMul": ("transpose_a", "transpose_b")}.get(op.type, ("adj_x", "adj_y"))
    left, right = (op.get_attr(name) for name in names)
    conjugates = op.type != "MatMul"

    def times(x: Any, y: Any) -> Any:
        return tf.matmul(x, y, transpose_a=left, transpose_b=right)

    def computed(x: Parts, y: Parts) -> Parts:
        x = _conjugate(x) if left and conjugates else x
        return _product(x, _conjugate(y) if right and conjugates else y, times)

    return computed


def _einsum(op: Any) -> Form | None:
    equation = op.get_attr("equation").decode()
    if len(op.inputs) != 2:
        return _of_each_part(op) if len(op.inputs) == 1 else None
    return lambda x, y: _product(x, y, lambda a, b: tf.einsum(equation, a, b))


def _fourier(axes: int, inverse: bool) -> Callable[[Any], Form]:
    """A transform of the last axes, each by itself."""

    def transformed(x: Parts) -> Parts:
        for axis in range(-axes, 0):
            x = _along(x, axis, _unit_circle(x.real.shape[axis], inverse))
        return x

    return _plain(transformed)


def _unit_circle(size: int, inverse: bool) -> Any:
    """The matrix of a transform, `(size, size)`, complex."""
    made = np.fft.ifft(np.eye(size)) if inverse else np.fft.fft(np.eye(size))
    return made.astype(np.complex64)


def _along(x: Parts, axis: int, matrix: Any) -> Parts:
    """Complex rows along an axis times a matrix."""
    real, imaginary = (_times(part, axis, matrix.real) for part in x)
    other, another = (_times(part, axis, matrix.imag) for part in x)
    return Parts(real - another, imaginary + other)


def _times(x: Any, axis: int, matrix: Any) -> Any:
    """Real rows along an axis times a matrix."""
    last = axis == -1 or axis == len(x.shape) - 1
    turned = x if last else tf.experimental.numpy.swapaxes(x, axis, -1)
    flat = tf.reshape(turned, (-1, matrix.shape[0]))
    made = tf.reshape(tf.matmul(flat, matrix), (*turned.shape[:-1], matrix.shape[1]))
    return made if last else tf.experimental.numpy.swapaxes(made, axis, -1)


def _real_fourier(axes: int) -> Callable[[Any], Form | None]:
    """Of real numbers, the half that is no mirror image."""

    def make(op: Any) -> Form | None:
        sizes = constant(op.inputs[1])
        if sizes is None or op.inputs[0].dtype != tf.float32:
            return None

        def transformed(x: Any, _: Any) -> Parts:
            for axis, size in zip(range(-axes, 0), sizes, strict=True):
                x = _sized(x, axis, int(size))
            half = np.fft.rfft(np.eye(int(sizes[-1]))).astype(np.complex64)
            made = Parts(_times(x, -1, half.real), _times(x, -1, half.imag))
            for axis in range(-axes, -1):
                made = _along(made, axis, _unit_circle(made.real.shape[axis], False))
            return made

        return transformed

    return make


def _inverse_real_fourier(axes: int) -> Callable[[Any], Form | None]:
    """Real numbers of the half of a spectrum."""

    def make(op: Any) -> Form | None:
        sizes = constant(op.inputs[1])
        if sizes is None:
            return None
        size = int(sizes[-1])
        units = np.eye(size // 2 + 1)
        cosines, sines = (
            np.fft.irfft(part, size, -1).astype(np.float32) for part in (units, 1j * units)
        )

        def transformed(x: Parts, _: Any) -> Any:
            for axis, length in zip(range(-axes, -1), sizes, strict=False):
                x = Parts(*(_sized(part, axis, int(length)) for part in x))
                x = _along(x, axis, _unit_circle(int(length), True))
            real, imaginary = (_sized(part, -1, len(units)) for part in x)
            return _times(real, -1, cosines) + _times(imaginary, -1, sines)

        return transformed

    return make


def _sized(x: Any, axis: int, size: int) -> Any:
    """With zeros behind the values of an axis, or without the last of them."""
    places = [slice(None)] * len(x.shape)
    places[axis] = slice(0, size)
    x = x[tuple(places)]
    missing = size - x.shape[axis]
    pads = [[0, 0] for _ in x.shape]
    pads[axis] = [0, missing]
    return tf.pad(x, pads) if missing else x


_LINEAR = frozenset(
    {
        "Add", "AddN", "AddV2", "BatchToSpaceND", "BroadcastTo", "ConcatV2", "Cumsum", "ExpandDims",
        "GatherV2", "GatherNd", "Identity", "MatrixDiagV3", "Mean", "MirrorPad", "Neg", "Pack",
        "Pad", "PadV2", "Reshape", "ReverseV2", "Roll", "SelectV2", "Slice", "Snapshot", "Split",
        "SplitV", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Sum", "Tile", "Transpose",
        "Unpack", "ZerosLike",
    }
)  # fmt: skip
"""Ops that do the same to both parts."""

_MAKERS: dict[str, Callable[[Any], Form | None]] = {
    "Angle": _plain(lambda x: tf.atan2(x.imaginary, x.real)),
    "BatchMatMulV2": _matrix_product,
    "Cast": _cast,
    "Complex": _plain(Parts),
    "ComplexAbs": _plain(lambda x: tf.sqrt(_square(x))),
    "Conj": _plain(_conjugate),
    "Einsum": _einsum,
    "Exp": _plain(_exponential),
    "FFT": _fourier(1, False),
    "FFT2D": _fourier(2, False),
    "IFFT": _fourier(1, True),
    "IFFT2D": _fourier(2, True),
    "IRFFT": _inverse_real_fourier(1),
    "IRFFT2D": _inverse_real_fourier(2),
    "Imag": _plain(lambda x: x.imaginary),
    "MatMul": _matrix_product,
    "Mul": _plain(_product),
    "RFFT": _real_fourier(1),
    "RFFT2D": _real_fourier(2),
    "Real": _plain(lambda x: x.real),
    "RealDiv": _plain(_quotient),
    "Reciprocal": _plain(lambda x: _quotient(Parts(tf.ones_like(x.real), 0 * x.real), x)),
    "Square": _plain(lambda x: _product(x, x)),
}
"""By the kind of op that they stand for."""
