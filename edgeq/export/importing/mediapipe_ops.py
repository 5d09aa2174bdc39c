"""Builtin forms of MediaPipe's custom ops, which LiteRT by itself has no kernels for.

Each form computes what the op's own kernel does; where one does not fit, the op stays as it is.

Source:
    `mediapipe/util/tflite/operations` of MediaPipe, which says what each op computes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from edgeq.export.importing.op_chain import OpChain

SMALLEST_LENGTH = 1e-12
"""Points that are closer have no direction; they count as lying side by side."""


@dataclass(frozen=True)
class CustomOp:
    """A custom op as its file has it.

    Attributes:
        version: Of the op.
        inputs: Tensor indices.
        outputs: Tensor indices.
        content: Its options as the file holds them.
    """

    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    content: bytes

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The options of an op that has them by name; none where it has none."""
        return flexbuffers.Loads(self.content) if self.content else {}

    def numbers(self, count: int) -> tuple[int, ...]:
        """The options of an op that has a C structure of integers."""
        return struct.unpack(f"<{count}i", self.content[: 4 * count])


_SAME, _VALID = 1, 2
"""`TfLitePadding`."""

_PADDING = {_SAME: 0, _VALID: 1}
"""The same in the schema, which old run times come without."""


def transposed_convolution(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """Convolution2DTransposeBias: TRANSPOSE_CONV with a bias, which the builtin op has now."""
    padding, stride_w, stride_h = op.numbers(3)
    data, weight, bias = op.inputs
    if padding not in _PADDING:
        return None
    batch, *size, _ = chain.shape(data)
    channels, *kernel, _ = chain.shape(weight)
    shape = [batch, *map(_widened, size, kernel, (stride_h, stride_w), [padding] * 2), channels]
    made = chain.op(
        "TRANSPOSE_CONV", [chain.constant(shape, np.int32), weight, data, bias], shape, "float32",
        version=3, padding=_PADDING[padding], strideW=stride_w, strideH=stride_h,
    )  # fmt: skip
    return chain.into(op.outputs[0], made)


def _widened(size: int, kernel: int, stride: int, padding: int) -> int:
    """Size of what a transposed convolution writes along one axis."""
    cut = max(0, kernel - (size - 1) % stride - 1) if padding == _SAME else 0
    return stride * (size - 1) + kernel - cut


@dataclass(frozen=True)
class _Pool:
    """`TfLitePoolParams` up to its activation."""

    padding: int
    stride_w: int
    stride_h: int
    width: int
    height: int
    activation: int

    def before(self, size: int, kernel: int, stride: int) -> tuple[int, int]:
        """Padding of one axis in front of it and behind it."""
        if self.padding == _VALID:
            return 0, 0
        missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        return missing // 2, missing - missing // 2


def max_pool_with_places(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """MaxPoolingWithArgmax2D: the greatest value of each window, and its place in the window."""
    pool = _Pool(*op.numbers(6))
    (data,), (values, places) = op.inputs, op.outputs
    if pool.padding not in _PADDING or pool.activation:
        return None
    _, height, width, _ = chain.shape(data)
    rows = pool.before(height, pool.height, pool.stride_h)
    columns = pool.before(width, pool.width, pool.stride_w)
    shape = chain.shape(values)
    made = chain.op(
        "MAX_POOL_2D", [data], shape, "float32", padding=_PADDING[pool.padding],
        strideW=pool.stride_w, strideH=pool.stride_h, filterWidth=pool.width,
        filterHeight=pool.height,
    )  # fmt: skip
    chain.into(values, made)
    padded = _padded(chain, data, rows, columns)
    taps = [
        _tap(chain, padded, y, x, shape, pool)
        for y in range(pool.height)
        for x in range(pool.width)
    ]
    stacked = chain.op("PACK", taps, (*shape, len(taps)), axis=4, valuesCount=len(taps))
    first = chain.op(
        "ARG_MAX", [stacked, chain.constant(4, np.int32)], shape, "int32", outputType=2
    )
    real = chain.cast(first, "float32")
    return chain.into(places, chain.add(real, chain.constant(0.1)))  # as its kernel does


def _padded(chain: OpChain, data: int, rows: tuple[int, int], columns: tuple[int, int]) -> int:
    if not any((*rows, *columns)):
        return data
    edges = [(0, 0), rows, columns, (0, 0)]
    shape = [n + sum(edge) for n, edge in zip(chain.shape(data), edges, strict=True)]
    lowest = chain.constant(np.finfo(np.float32).min)
    return chain.op("PADV2", [data, chain.constant(edges, np.int32), lowest], shape)


def _tap(chain: OpChain, padded: int, y: int, x: int, shape: tuple[int, ...], pool: _Pool) -> int:
    """Values of the windows at one place, `(N, H, W, C)`."""
    batch, height, width, channels = shape
    ends = y + (height - 1) * pool.stride_h + 1, x + (width - 1) * pool.stride_w + 1
    begin = chain.constant([0, y, x, 0], np.int32)
    end = chain.constant([batch, *ends, channels], np.int32)
    strides = chain.constant([1, pool.stride_h, pool.stride_w, 1], np.int32)
    return chain.op("STRIDED_SLICE", [padded, begin, end, strides], shape, beginMask=0)


def max_unpool(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """MaxUnpooling2D: each value goes to its place in its window, the rest of which is 0."""
    pool = _Pool(*op.numbers(6))
    values, places = op.inputs
    whole = pool.width == pool.height == pool.stride_w == pool.stride_h
    if not whole or pool.activation:
        return None
    shape, block = chain.shape(values), pool.width
    found = chain.op("FLOOR", [places], shape)
    parts = []
    for place in range(block * block):
        here = chain.op("EQUAL", [found, chain.constant(place)], shape, "bool")
        parts.append(chain.mul(values, chain.cast(here, "float32")))
    batch, height, width, channels = shape
    wide = chain.concat(parts, 3)
    size = (batch, height * block, width * block, channels)
    return chain.into(op.outputs[0], chain.op("DEPTH_TO_SPACE", [wide], size, blockSize=block))


def transform_matrix(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """Landmarks2TransformMatrix, version 2: where a box around some points lies in an image.

    `landmarks (1, N, 3)` -> `matrix (1, 4, 4)`, which takes places in the box, turned so that two
    of the points lie at an angle that is given, to places in the image.
    """
    if op.version != 2:
        return None
    given = op.attributes
    size = np.asarray([given["output_width"], given["output_height"]], np.float32)
    scale = np.asarray([given["scale_x"], given["scale_y"]], np.float32)
    (landmarks,) = op.inputs
    turn = _turn(chain, landmarks, given)
    box = chain.constant(np.asarray(given["subset_idxs"]), np.int32)
    points = chain.gather(chain.slice(landmarks, (0, 0, 0), (1, -1, 2)), box, 1)
    turned = chain.matmul(points, turn)
    low, high = (chain.reduce(kind, turned, 1) for kind in ("REDUCE_MIN", "REDUCE_MAX"))
    middle = chain.mul(chain.add(low, high), chain.constant(0.5))
    center = chain.reshape(chain.matmul(middle, turn, transposed=True), (1, 2, 1))
    steps = chain.mul(chain.sub(high, low), chain.constant(scale / size))
    linear = chain.mul(turn, steps)
    shift = chain.reduce("SUM", chain.mul(linear, chain.constant(-size / 2)), 2)
    moved = chain.add(center, shift)
    rows = chain.concat([linear, chain.constant(np.zeros((1, 2, 1))), moved], 2)
    rest = chain.constant([[[0, 0, 1, 0], [0, 0, 0, 1]]])
    return chain.into(op.outputs[0], chain.concat([rows, rest], 1))


def _turn(chain: OpChain, landmarks: int, given: Mapping[str, Any]) -> int:
    """`(1, 2, 2)`: what row vectors are multiplied by to turn them to the angle that is given."""
    ends = (given["left_rotation_idx"], given["right_rotation_idx"])
    left, right = (chain.slice(landmarks, (0, end, 0), (1, 1, 2)) for end in ends)
    across = chain.sub(right, left)
    squared = chain.reduce("SUM", chain.mul(across, across), 2)
    least = chain.constant(SMALLEST_LENGTH**2)
    length = chain.op("SQRT", [chain.binary("MAXIMUM", squared, least)], (1, 1, 1))
    direction = chain.binary("DIV", across, length)
    cos, sin = np.cos(given["target_rotation_radians"]), np.sin(given["target_rotation_radians"])
    to_cos_sin = np.asarray([[cos, sin], [sin, -cos]])
    to_matrix = np.asarray([[1, 0, 0, 1], [0, 1, -1, 0]])
    flat = chain.matmul(direction, chain.constant((to_cos_sin @ to_matrix)[None]))
    return chain.reshape(flat, (1, 2, 2))


def sample_by_matrix(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """TransformTensorBilinear and TransformTensor: an image read at places that a matrix gives.

    `image (1, H, W, C)`, `matrix (1, 4, 4)` -> `(1, h, w, C)`; outside of the image is 0.
    """
    image, matrix = op.inputs
    _, height, width, channels = chain.shape(image)
    if chain.shape(image)[0] != 1:
        return None
    shape = chain.shape(op.outputs[0])
    # Version 2 has the middle of a pixel where version 1 has its corner.
    center = 0.5 if op.version == 2 else 0.0
    y, x = np.mgrid[: shape[1], : shape[2]].reshape(2, -1)
    grid = np.stack([x + center, y + center, 0 * x, 0 * x + 1], 1)[None]
    rows = chain.slice(matrix, (0, 0, 0), (1, 2, 4))
    places = chain.matmul(chain.constant(grid), rows, transposed=True)
    if center:
        places = chain.sub(places, chain.constant(center))
    last = np.asarray([width - 1, height - 1])
    inside = chain.binary("MAXIMUM", places, chain.constant(0.0))
    inside = chain.binary("MINIMUM", inside, chain.constant(last))
    is_inside = chain.cast(chain.binary("EQUAL", places, inside, "bool"), "float32")
    mask = chain.reshape(chain.reduce("REDUCE_MIN", is_inside, 2), (y.size, 1))
    table = chain.reshape(image, (height * width, channels))
    found = chain.mul(_read_between(chain, table, inside, last), mask)
    return chain.into(op.outputs[0], chain.reshape(found, shape))


def _read_between(chain: OpChain, table: int, places: int, last: Any) -> int:
    """Rows of `table (H * W, C)` at `places (1, n, 2)` between its pixels, `(n, C)`."""
    count = chain.shape(places)[1]
    below = chain.op("FLOOR", [places], chain.shape(places))
    part = chain.sub(places, below)
    first = chain.cast(below, "int32")
    second = chain.binary(
        "MINIMUM", chain.add(first, chain.constant(1, np.int32)), chain.constant(last, np.int32)
    )

    def column(tensor: int, axis: int, shape: tuple[int, ...]) -> int:
        return chain.reshape(chain.slice(tensor, (0, 0, axis), (1, count, 1)), shape)

    stride = chain.constant(int(last[0]) + 1, np.int32)
    x = [column(side, 0, (count,)) for side in (first, second)]
    y = [chain.mul(column(side, 1, (count,)), stride) for side in (first, second)]
    right, lower = (column(part, axis, (count, 1)) for axis in (0, 1))
    upper_row, lower_row = (_blend(chain, *_both(chain, table, top, x), right) for top in y)
    return _blend(chain, upper_row, lower_row, lower)


def _both(chain: OpChain, table: int, top: int, sides: Sequence[int]) -> tuple[int, int]:
    left, right = (chain.gather(table, chain.add(top, side), 0) for side in sides)
    return left, right


def _blend(chain: OpChain, one: int, other: int, part: int) -> int:
    return chain.add(one, chain.mul(chain.sub(other, one), part))


def move_landmarks(chain: OpChain, op: CustomOp) -> list[Any] | None:
    """TransformLandmarks: points moved by a matrix, the third coordinate left as it is.

    `landmarks (1, N, D)` in version 2, `(1, 1, 1, N * D)` in version 1; `matrix (1, 4, 4)`.
    """
    landmarks, matrix = op.inputs
    shape = chain.shape(landmarks)
    given = op.attributes if op.version == 1 else {}
    size = int(given.get("dimensions", shape[-1]))
    if size not in (2, 3):
        return None
    count = int(np.prod(shape)) // size
    points = chain.reshape(landmarks, (1, count, size))
    turned = chain.matmul(
        chain.slice(points, (0, 0, 0), (1, count, 2)),
        chain.slice(matrix, (0, 0, 0), (1, 2, 2)), transposed=True,
    )  # fmt: skip
    shift = chain.reshape(chain.slice(matrix, (0, 0, 3), (1, 2, 1)), (1, 1, 2))
    if given.get("scale", 1) != 1:
        shift = chain.mul(shift, chain.constant(given["scale"]))
    moved = chain.add(turned, shift)
    if size == 3:
        moved = chain.concat([moved, chain.slice(points, (0, 0, 2), (1, count, 1))], 2)
    return chain.into(op.outputs[0], chain.reshape(moved, shape))


FORMS = {
    "Convolution2DTransposeBias": transposed_convolution,
    "MaxPoolingWithArgmax2D": max_pool_with_places,
    "MaxUnpooling2D": max_unpool,
    "Landmarks2TransformMatrix": transform_matrix,
    "TransformTensor": sample_by_matrix,
    "TransformTensorBilinear": sample_by_matrix,
    "TransformLandmarks": move_landmarks,
}
"""Builtin form of a custom op, by its name."""
