"""ONNX's `Pad`: around a tensor, a value or elements of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import Known, Node, op


@op("Pad", known=(1, 2, 3))
def pad(
    node: Node,
    values: Tensor,
    pads: Known | None = None,
    value: Known | None = None,
    axes: Known | None = None,
) -> Tensor:
    given = [int(n) for n in (node.get("pads") or node.get("paddings") if pads is None else pads)]
    along = list(range(values.ndim)) if axes is None else [int(a) % values.ndim for a in axes]
    before, after = [0] * values.ndim, [0] * values.ndim
    for i, axis in enumerate(along):
        before[axis], after[axis] = given[i], given[i + len(along)]
    fill = node.get("value", 0.0) if value is None or not value.size else value.item()
    mode = node.get("mode", "constant")
    if mode == "constant":
        widths = [n for axis in reversed(range(values.ndim)) for n in (before[axis], after[axis])]
        return functional.pad(values, widths, value=fill)
    return _padded_with_own(values, before, after, mode)


OWN_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""Ways to pad with elements of a tensor itself: ONNX's name, and PyTorch's."""


def _padded_with_own(
    values: Tensor, before: Sequence[int], after: Sequence[int], mode: str
) -> Tensor:
    """Pads axes with elements of their own, or takes some away; images all at once."""
    for axis, size in enumerate(values.shape):
        start, end = max(-before[axis], 0), size + min(after[axis], 0)
        values = values.narrow(axis, start, end - start)
    grown = {
        axis: (max(before[axis], 0), max(after[axis], 0))
        for axis in range(values.ndim)
        if max(before[axis], after[axis]) > 0
    }
    most = [n - 1 if mode == "reflect" else n for n in values.shape]
    is_once = all(max(pads) <= most[axis] for axis, pads in grown.items())
    if values.ndim in (3, 4) and min(grown, default=0) >= 2 and is_once:
        last = reversed(range(2, values.ndim))
        widths = [n for axis in last for n in grown.get(axis, (0, 0))]
        return functional.pad(values, widths, mode=OWN_MODES[mode])
    for axis, pads in grown.items():
        is_far = max(pads) > most[axis]
        values = (_picked if is_far else _padded_rows)(values, axis, pads, mode)
    return values


def _padded_rows(values: Tensor, axis: int, pads: tuple[int, int], mode: str) -> Tensor:
    """Pads one axis, as the rows of an image."""
    shape = values.shape
    image = values.reshape(1, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    image = functional.pad(image, [0, 0, *pads], mode=OWN_MODES[mode])
    return image.reshape(*shape[:axis], image.shape[2], *shape[axis + 1 :])


def _picked(values: Tensor, axis: int, pads: tuple[int, int], mode: str) -> Tensor:
    """Pads one axis by more elements than it has."""
    numpy_mode: Any = mode
    index = np.pad(np.arange(values.shape[axis]), pads, numpy_mode)
    return torch.index_select(values, axis, torch.from_numpy(index))
