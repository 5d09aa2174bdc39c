"""ONNX's Resize and Upsample: as PyTorch's own where both mean the same, else as weighted picks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Known, Node, op

Matrix = npt.NDArray[np.float64]


@op("Resize", known=(1, 2, 3))
def resize(
    node: Node,
    values: Tensor,
    roi: Known | None = None,
    scales: Known | None = None,
    sizes: Known | None = None,
) -> Tensor:
    if node.version < 11:  # the second input of the first version is the scales
        return _resized(node, values, None, roi, None, "asymmetric", "floor")
    where = node.get("coordinate_transformation_mode", "half_pixel")
    return _resized(node, values, roi, scales, sizes, where, node.get("nearest_mode"))


@op("Upsample", known=(1,))
def upsample(node: Node, values: Tensor, scales: Known | None = None) -> Tensor:
    given = np.asarray(node.get("scales") or 1) if scales is None else scales
    return _resized(node, values, None, given, None, "asymmetric", "floor")


def _resized(
    node: Node,
    values: Tensor,
    roi: Known | None,
    scales: Known | None,
    sizes: Known | None,
    where: str,
    rounding: str | None,
) -> Tensor:
    axes = [a % values.ndim for a in node.get("axes") or range(values.ndim)]
    before = [values.shape[axis] for axis in axes]
    if sizes is not None and sizes.size:
        after, factors = _sizes(node, before, [int(n) for n in sizes])
    else:
        factors = [float(f) for f in np.asarray(scales).reshape(-1)]
        after = [int(np.floor(n * f)) for n, f in zip(before, factors, strict=True)]
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(m := node.get("mode", "nearest"), m)
    changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    plain = _plain(node, values, [axes[i] for i in changed], [after[i] for i in changed], mode,
                   where, [factors[i] for i in changed], rounding)  # fmt: skip
    if plain is not None:
        return plain
    if roi is None or not roi.size:
        bounds = [(0.0, 1.0)] * len(axes)
    else:
        half = len(roi) // 2
        bounds = [(float(roi[i]), float(roi[half + i])) for i in range(half)]
    for i, axis in enumerate(axes):
        if before[i] == after[i] and where != "tf_crop_and_resize":
            continue
        places = _places(before[i], after[i], factors[i], where, bounds[i])
        values = _picked(node, values, axis, places, mode, rounding, factors[i], where)
    return values


def _sizes(node: Node, before: list[int], wanted: list[int]) -> tuple[list[int], list[float]]:
    """Sizes and factors; with an aspect ratio to keep, those of one factor for all axes."""
    factors = [new / old for old, new in zip(before, wanted, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return wanted, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [int(np.floor(n * factor + 0.5)) for n in before], [factor] * len(before)


def _plain(
    node: Node,
    values: Tensor,
    axes: list[int],
    sizes: list[int],
    mode: str,
    where: str,
    factors: list[float],
    rounding: str | None,
) -> Tensor | None:
    """Result of PyTorch's own function; None where that means something else."""
    if not axes:
        return values.clone()
    if axes != [2, 3] or values.ndim != 4 or not values.is_floating_point():
        return None
    whole = all(
        size == int(f) * values.shape[a] for a, f, size in zip(axes, factors, sizes, strict=True)
    )
    if mode == "nearest" and whole and all(f >= 1 for f in factors):
        same = where == "asymmetric" and rounding == "floor"
        same = same or (where in _CENTRED and rounding in (None, "round_prefer_floor"))
        return functional.interpolate(values, sizes, mode="nearest") if same else None
    if mode != "linear" or node.get("antialias"):
        return None
    if where == "align_corners" and min(sizes) > 1:
        return functional.interpolate(values, sizes, mode="bilinear", align_corners=True)
    exact = [size / values.shape[a] for a, size in zip(axes, sizes, strict=True)]
    if not np.allclose(exact, factors):
        return None
    if where in _CENTRED and (where != "pytorch_half_pixel" or min(sizes) > 1):
        return functional.interpolate(values, sizes, mode="bilinear", align_corners=False)
    return None


_CENTRED = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


def _places(
    before: int, after: int, factor: float, where: str, bounds: tuple[float, float]
) -> Matrix:
    """Where each element of the result lies among those that were there."""
    index = np.arange(after, dtype=np.float64)
    length = before * factor
    if where == "asymmetric":
        return index / factor
    if where == "align_corners":
        return index * ((before - 1) / (after - 1)) if after > 1 else index * 0.0
    if where == "pytorch_half_pixel" and after <= 1:
        return index * 0.0
    if where == "tf_half_pixel_for_nn":
        return (index + 0.5) / factor
    if where == "half_pixel_symmetric":
        shift = before / 2 * (1 - after / length)
        return shift + (index + 0.5) / factor - 0.5
    if where == "tf_crop_and_resize":
        start, end = bounds
        if after == 1:
            return np.asarray([0.5 * (start + end) * (before - 1)])
        return start * (before - 1) + index * (end - start) * (before - 1) / (after - 1)
    return (index + 0.5) / factor - 0.5


def _picked(
    node: Node,
    values: Tensor,
    axis: int,
    places: Matrix,
    mode: str,
    rounding: str | None,
    factor: float,
    where: str,
) -> Tensor:
    size = values.shape[axis]
    ends = np.round(places, 5)  # as a place at the very end is a little beyond it
    outside = (ends < 0) | (ends > size - 1)
    if mode == "nearest":
        index = np.clip(_rounded(places, rounding), 0, size - 1).astype(np.int64)
        made = torch.index_select(values, axis, torch.from_numpy(index))
    else:
        weights = _weights(node, places, size, mode, factor).astype(np.float32)
        moved = values.movedim(axis, -1)
        made = functional.linear(moved, torch.from_numpy(weights)).movedim(-1, axis)
    if where == "tf_crop_and_resize" and outside.any():
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        mask = torch.from_numpy(outside).reshape(shape)
        made = torch.where(mask, torch.tensor(node.get("extrapolation_value", 0.0)), made)
    return made


def _rounded(places: Matrix, rounding: str | None) -> Matrix:
    places = np.round(places, 6)  # a place is a whole number but for the division that made it
    how: dict[str, Any] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    }
    made: Matrix = how.get(rounding or "", lambda p: np.ceil(p - 0.5))(places)
    return made


def _weights(node: Node, places: Matrix, size: int, mode: str, factor: float) -> Matrix:
    """The share that each element of a line has in each of the result, `(after, before)`."""
    narrow = min(factor, 1.0) if node.get("antialias") else 1.0
    reach = int(np.ceil((1 if mode == "linear" else 2) / narrow))
    made = np.zeros((len(places), size))
    for row, place in enumerate(places):
        near = np.arange(int(np.floor(place)) - reach, int(np.floor(place)) + reach + 2)
        kernel = _linear if mode == "linear" else _cubic(node.get("cubic_coeff_a", -0.75))
        shares = kernel(np.abs(near - place) * narrow)
        if node.get("exclude_outside"):
            shares = np.where((near < 0) | (near >= size), 0.0, shares)
        np.add.at(made[row], np.clip(near, 0, size - 1), shares / shares.sum())
    return made


def _linear(distance: Matrix) -> Matrix:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(a: float) -> Any:
    def kernel(d: Matrix) -> Matrix:
        inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
        outer = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))

    return kernel
