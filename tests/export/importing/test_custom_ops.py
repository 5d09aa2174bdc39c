"""MediaPipe's custom ops become builtin ones that compute what their own kernels do."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from file_parts import edited, set_custom
from flatbuffers import flexbuffers
from one_op import OneOp, Step, Value

from edgeq.export.importing.custom_ops import with_builtin_forms
from edgeq.flatbuffer import pack, parse, unpack
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]

SAME, VALID = 1, 2


def values(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(
    name: str, content: bytes, sample: Mapping[str, Array | str], shapes: list[tuple[int, ...]],
    version: int = 1, constants: tuple[Array, ...] = (),
) -> list[Array]:  # fmt: skip
    """What the builtin form of a custom op makes of a sample."""
    inputs = {key: Value(np.shape(array)) for key, array in sample.items()}
    outputs = {f"out{place}": Value(shape) for place, shape in enumerate(shapes)}
    step = Step("PACK", (*inputs, *constants), outputs)
    file = OneOp("PACK/custom", inputs, (step,)).build()
    custom = edited(file, lambda tree: set_custom(tree, name, content, version))
    tree, replaced = with_builtin_forms(unpack(custom))
    assert replaced == [name]
    made = bytes(pack(tree))
    assert not any(op.name.startswith("CUSTOM") for op in parse(made).graphs[0].operators)
    with Session(made, "none", threads=1) as session:
        return list(session.run(dict(sample)).values())


@pytest.mark.parametrize(("padding", "begin", "size"), [
    (SAME, (1, 0), (9, 8)), (VALID, (0, 0), (11, 9)),
])  # fmt: skip
def test_transposed_convolution_with_a_bias(
    padding: int, begin: tuple[int, int], size: tuple[int, int]
) -> None:
    data, weight, bias = values(1, 5, 4, 3), values(2, 3, 3, 3, seed=1), values(2, seed=2)
    full = np.zeros((11, 9, 2), np.float64) + bias
    for y, x in np.ndindex(5, 4):
        window = full[2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        window += np.einsum("ohwi,i->hwo", weight, data[0, y, x])
    expected = full[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
    (found,) = run(
        "Convolution2DTransposeBias", struct.pack("<3i", padding, 2, 2), {"x": data},
        [(1, *size, 2)], constants=(weight, bias),
    )  # fmt: skip
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_pooling_tells_the_places_that_unpooling_goes_back_to() -> None:
    data = values(1, 6, 4, 3)
    content = struct.pack("<6i", VALID, 2, 2, 2, 2, 0)
    windows = data.reshape(1, 3, 2, 2, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(1, 3, 2, 3, 4)
    high, place = run("MaxPoolingWithArgmax2D", content, {"x": data}, [(1, 3, 2, 3)] * 2)
    np.testing.assert_array_equal(high, windows.max(-1))
    np.testing.assert_allclose(place, windows.argmax(-1) + 0.1, atol=1e-6)
    (back,) = run("MaxUnpooling2D", content, {"x": high, "places": place}, [(1, 6, 4, 3)])
    is_highest = data == np.repeat(np.repeat(high, 2, 1), 2, 2)
    np.testing.assert_array_equal(back, np.where(is_highest, data, 0))


def test_padded_windows_overlap() -> None:
    data = values(1, 5, 5, 2)
    content = struct.pack("<6i", SAME, 2, 2, 3, 3, 0)
    padded = np.pad(data[0], ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    high, place = run("MaxPoolingWithArgmax2D", content, {"x": data}, [(1, 3, 3, 2)] * 2)
    for y, x in np.ndindex(3, 3):
        window = padded[2 * y : 2 * y + 3, 2 * x : 2 * x + 3].reshape(9, 2)
        np.testing.assert_array_equal(high[0, y, x], window.max(0))
        np.testing.assert_allclose(place[0, y, x], window.argmax(0) + 0.1, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_matrix_of_a_turned_box(angle: float) -> None:
    points = values(1, 9, 3) * 20 + 50
    given = {
        "left_rotation_idx": 2, "right_rotation_idx": 5, "target_rotation_radians": angle,
        "output_width": 16, "output_height": 8, "scale_x": 1.5, "scale_y": 1.25,
        "subset_idxs": [1, 2, 4, 5, 8],
    }  # fmt: skip
    across = points[0, 5] - points[0, 2]
    turn = angle - np.arctan2(across[1], across[0])
    rotation = np.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = points[0, given["subset_idxs"], :2] @ rotation.T
    low, high = turned.min(0), turned.max(0)
    steps = (high - low) * [1.5, 1.25] / [16, 8]
    linear = rotation.T * steps
    expected = np.eye(4)
    expected[:2, :2] = linear
    expected[:2, 3] = rotation.T @ (low + high) / 2 - linear @ [8, 4]
    content = bytes(flexbuffers.Dumps(given))
    (found,) = run("Landmarks2TransformMatrix", content, {"x": points}, [(1, 4, 4)], version=2)
    np.testing.assert_allclose(found[0], expected, atol=2e-4)


@pytest.mark.parametrize(("name", "version", "center"), [
    ("TransformTensorBilinear", 2, 0.5), ("TransformTensor", 1, 0.0),
])  # fmt: skip
def test_an_image_is_read_at_places_of_a_matrix(name: str, version: int, center: float) -> None:
    image, matrix = values(1, 7, 6, 2), np.eye(4, dtype=np.float32)[None]
    matrix[0, :2] = [[0.9, -0.3, 0, 0.7], [0.25, 1.1, 0, -0.4]]
    expected = np.zeros((5, 4, 2))
    for row, column in np.ndindex(5, 4):
        x, y = matrix[0, :2] @ [column + center, row + center, 0, 1] - center
        if 0 <= x <= 5 and 0 <= y <= 6:
            left, top = int(x), int(y)
            for down, right in np.ndindex(2, 2):
                part = (1 - abs(x - left - right)) * (1 - abs(y - top - down))
                if part > 0:
                    expected[row, column] += part * image[0, top + down, left + right]
    content = bytes(flexbuffers.Dumps({"output_height": 5, "output_width": 4}))
    (found,) = run(name, content, {"x": image, "matrix": matrix}, [(1, 5, 4, 2)], version=version)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert (expected == 0).any()
    assert (expected != 0).any()


@pytest.mark.parametrize(("size", "version"), [(2, 2), (3, 2), (3, 1)])
def test_points_are_moved_by_a_matrix(size: int, version: int) -> None:
    shape = (1, 7, size) if version == 2 else (1, 1, 1, 7 * size)
    points, matrix = values(*shape), values(1, 4, 4, seed=1)
    scale = 1.0 if version == 2 else 3.0
    expected = points.reshape(7, size).astype(np.float64)
    expected[:, :2] = expected[:, :2] @ matrix[0, :2, :2].T + scale * matrix[0, :2, 3]
    given = {"dimensions": size, "scale": scale}
    content = b"" if version == 2 else bytes(flexbuffers.Dumps(given))
    sample = {"x": points, "y": matrix}
    (found,) = run("TransformLandmarks", content, sample, [shape], version=version)
    np.testing.assert_allclose(found.reshape(7, size), expected, atol=1e-5)
