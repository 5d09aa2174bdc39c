"""Pools that litert-torch lowers wrongly or not at all, by those that it has.

An average is a sum that every output divides by its own count, which is known beforehand. A maximum
stays the same when an entry is read twice, so that windows of unlike sizes are filled up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor

from edgeq.export.frontends.decompositions.convolution_forms import Sizes, per_axis
from edgeq.export.frontends.decompositions.resampling import along, picked, unit_rows
from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten

Windows = list[list[int]]
"""The entries that each output reads along an axis."""


def _out(length: int, kernel: int, step: int, pad: int, ceil: bool, dilation: int = 1) -> int:
    """How many outputs a pool has along an axis; the last window begins inside or on its left."""
    room = length + 2 * pad - dilation * (kernel - 1) - 1
    count = (room + (step - 1 if ceil else 0)) // step + 1
    return count - 1 if ceil and (count - 1) * step >= length + pad else count


# Averages


def average_2d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Any:
    """`avg_pool2d`: without padding and with a factor for each output."""
    kernel = per_axis(kernel, 2)
    stride, padding = per_axis(stride or kernel, 2), per_axis(padding, 2)
    sizes = [int(size) for size in x.shape[-2:]]
    if divisor is None and _is_ready(sizes, kernel, stride, padding, ceil, counts_padding):
        return NotImplemented
    outs = [_out(*a, ceil) for a in zip(sizes, kernel, stride, padding, strict=True)]
    needed = [(n - 1) * s + k for n, s, k in zip(outs, stride, kernel, strict=True)]
    after = [need - size - p for need, size, p in zip(needed, sizes, padding, strict=True)]
    x = functional.pad(x, (padding[1], after[1], padding[0], after[0]))
    sums = aten.avg_pool2d.default(x, list(kernel), list(stride))
    factors = functools.partial(
        _factors, sizes, kernel, stride, padding, ceil, counts_padding, divisor
    )
    return sums * constant(factors)


def _is_ready(
    sizes: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, ceil: bool, counts_padding: bool
) -> bool:
    """Whether litert-torch has a pool of one op for it."""
    if not any(padding):
        whole = all((n - k) % s == 0 for n, k, s in zip(sizes, kernel, stride, strict=True))
        return whole or not ceil
    if counts_padding:
        return not ceil
    same = [
        max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, kernel, stride, strict=True)
    ]
    return not ceil and all(pad == 2 * p for pad, p in zip(same, padding, strict=True))


def _factors(
    sizes: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Tensor:
    """What the mean over a whole window is multiplied by to be that of PyTorch, `(1, oH, oW)`."""
    taps = kernel[0] * kernel[1]
    if divisor is not None:
        return torch.tensor([[[taps / divisor]]])
    ones = torch.ones(1, 1, *sizes)
    options = (list(kernel), list(stride), list(padding), ceil)
    # Of ones, the sum counts what lies inside, and the mean is that over PyTorch's own count.
    inside = aten.avg_pool2d.default(ones, *options, True, 1)
    mean = aten.avg_pool2d.default(ones, *options, counts_padding)
    found: Tensor = (mean * taps / inside)[0]
    return found


def average_1d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil: bool = False,
    counts_padding: bool = True,
) -> Tensor:
    """`avg_pool1d`: over images of one row."""
    made = aten.avg_pool2d.default(
        x.unsqueeze(-2), [1, *kernel], [1, *(stride or kernel)], [0, *padding], ceil, counts_padding
    )
    return made.squeeze(-2)


def average_3d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """`avg_pool3d`: over the last two axes, then over the first."""
    kernel = per_axis(kernel, 3)
    stride, padding = per_axis(stride or kernel, 3), per_axis(padding, 3)

    def pool(image: Tensor, k: Sizes, s: Sizes, p: Sizes) -> Tensor:
        made: Tensor = aten.avg_pool2d.default(image, k, s, p, ceil, counts_padding)
        return made

    made = _in_two_steps(x, pool, kernel, stride, padding)
    return made if divisor is None else made * (kernel[0] * kernel[1] * kernel[2] / divisor)


def _in_two_steps(
    x: Tensor,
    pool: Callable[[Tensor, Sizes, Sizes, Sizes], Tensor],
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
) -> Tensor:
    """A pool over three axes as two over images; `x` is `(..., C, D, H, W)`."""
    *outer, depth, height, width = (int(size) for size in x.shape)
    images = x.reshape(1, -1, height, width)
    flat = pool(images, kernel[1:], stride[1:], padding[1:])
    height, width = int(flat.shape[-2]), int(flat.shape[-1])
    columns = flat.reshape(1, -1, depth, height * width)
    made = pool(columns, [kernel[0], 1], [stride[0], 1], [padding[0], 0])
    return made.reshape(*outer, -1, height, width)


def adaptive_average(x: Tensor, sizes: Sizes) -> Tensor:
    """`adaptive_avg_pool` over any number of axes: a mean, a pool, or a matrix along each axis."""
    axes = list(range(x.ndim - len(sizes), x.ndim))
    whole = [axis for axis, size in zip(axes, sizes, strict=True) if size == 1]
    if whole:
        x = x.mean(whole, keepdim=True)
    rest = [(a, int(s)) for a, s in zip(axes, sizes, strict=True) if s != 1 and s != x.shape[a]]
    if len(sizes) == 2 and all(x.shape[axis] % size == 0 for axis, size in rest):
        kernel = [int(x.shape[a]) // int(s) for a, s in zip(axes, sizes, strict=True)]
        made: Tensor = aten.avg_pool2d.default(x, kernel) if rest else x
        return made
    for axis, size in rest:
        x = along(x, axis, functools.partial(_means, int(x.shape[axis]), size))
    return x


def _means(length: int, size: int) -> Tensor:
    made: Tensor = aten.adaptive_avg_pool1d.default(unit_rows(length), [size])
    return made.reshape(length, size)


# Maxima


def _entries(length: int, kernel: int, step: int, pad: int, ceil: bool, dilation: int) -> Windows:
    """What each output of a pool reads along an axis, without the padding."""
    firsts = [i * step - pad for i in range(_out(length, kernel, step, pad, ceil, dilation))]
    spans = [range(first, first + dilation * (kernel - 1) + 1, dilation) for first in firsts]
    return [[i for i in span if 0 <= i < length] for span in spans]


def _adaptive_entries(length: int, size: int) -> Windows:
    """What each output of an adaptive pool reads along an axis."""
    return [list(range(i * length // size, -(-(i + 1) * length // size))) for i in range(size)]


def _filled(windows: Windows) -> npt.NDArray[np.int64]:
    """`(windows, most entries)`: the last entry again where a window has fewer."""
    most = max(map(len, windows))
    return np.array([[*w, *[w[-1]] * (most - len(w))] for w in windows])


def _maxima(x: Tensor, windows: Sequence[Windows]) -> Tensor:
    """The maximum of each window, axis by axis."""
    for axis, each in enumerate(windows, x.ndim - len(windows)):
        length = int(x.shape[axis])
        if each == [list(range(length))]:
            x = x.amax(axis, keepdim=True)
        elif each != [[i] for i in range(length)]:
            table = _filled(each)
            read = picked(x, axis, functools.partial(torch.from_numpy, table.flatten()))
            x = read.unflatten(axis, table.shape).amax(axis + 1)
    return x


def _places(x: Tensor, windows: Sequence[Windows]) -> Tensor:
    """Where in the flattened axes the first maximum of each window is."""
    outs = [len(each) for each in windows]
    sizes = [int(size) for size in x.shape[-len(windows) :]]
    table = _table(windows, sizes)
    flat = functools.partial(torch.from_numpy, table.flatten())
    read = picked(x.flatten(x.ndim - len(windows)), -1, flat)
    chosen = read.unflatten(-1, table.shape).argmax(-1)
    firsts = constant(lambda: torch.arange(table.shape[0]) * table.shape[1])
    found = constant(flat).index_select(0, (chosen + firsts).flatten())
    return found.reshape(*x.shape[: -len(windows)], *outs)


def _table(windows: Sequence[Windows], sizes: Sizes) -> npt.NDArray[np.int64]:
    """`(outputs, entries)`: the places in the flattened axes that each output reads."""
    axes = len(windows)
    places = np.zeros((1,) * 2 * axes, np.int64)
    for axis, (each, size) in enumerate(zip(windows, sizes, strict=True)):
        entries = _filled(each)
        shape = [1] * 2 * axes
        shape[axis], shape[axes + axis] = entries.shape
        places = places * size + entries.reshape(shape)
    return places.reshape(math.prod(places.shape[:axes]), -1)


def adaptive_max(x: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """`adaptive_max_pool2d` and `adaptive_max_pool3d`."""
    lengths = x.shape[-len(sizes) :]
    windows = [_adaptive_entries(int(n), int(s)) for n, s in zip(lengths, sizes, strict=True)]
    return _maxima(x, windows), _places(x, windows)


def max_2d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil: bool = False,
) -> Any:
    """`max_pool2d`, which kernels have without dilation."""
    if all(d == 1 for d in dilation):
        return NotImplemented
    return _maxima(x, _max_windows(x, 2, kernel, stride, padding, dilation, ceil))


def max_3d(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil: bool = False,
) -> Tensor:
    """`max_pool3d`: over the last two axes, then over the first."""
    if any(d != 1 for d in dilation):
        return _maxima(x, _max_windows(x, 3, kernel, stride, padding, dilation, ceil))

    def pool(image: Tensor, k: Sizes, s: Sizes, p: Sizes) -> Tensor:
        made: Tensor = aten.max_pool2d.default(image, k, s, p, [1, 1], ceil)
        return made

    kernel = per_axis(kernel, 3)
    return _in_two_steps(x, pool, kernel, per_axis(stride or kernel, 3), per_axis(padding, 3))


def _max_windows(
    x: Tensor, axes: int, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil: bool
) -> list[Windows]:
    kernel = per_axis(kernel, axes)
    options = zip(
        x.shape[-axes:], kernel, per_axis(stride or kernel, axes), per_axis(padding, axes),
        per_axis(dilation, axes), strict=True,
    )  # fmt: skip
    return [_entries(int(n), k, s, p, ceil, d) for n, k, s, p, d in options]


def max_2d_with_places(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil: bool = False,
) -> tuple[Tensor, Tensor]:
    """`max_pool2d_with_indices` where the indices are read."""
    windows = _max_windows(x, 2, kernel, stride, padding, dilation, ceil)
    options = (list(stride), per_axis(padding, 2), per_axis(dilation, 2), ceil)
    return aten.max_pool2d.default(x, list(kernel), *options), _places(x, windows)


def max_3d_with_places(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil: bool = False,
) -> tuple[Tensor, Tensor]:
    """`max_pool3d_with_indices` where the indices are read."""
    windows = _max_windows(x, 3, kernel, stride, padding, dilation, ceil)
    return max_3d(x, kernel, stride, padding, dilation, ceil), _places(x, windows)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.avg_pool1d.default: average_1d,
    aten.avg_pool2d.default: average_2d,
    aten.avg_pool3d.default: average_3d,
    aten.adaptive_avg_pool1d.default: adaptive_average,
    aten.adaptive_avg_pool2d.default: adaptive_average,
    aten.adaptive_avg_pool3d.default: adaptive_average,
    aten.adaptive_max_pool2d.default: adaptive_max,
    aten.adaptive_max_pool3d.default: adaptive_max,
    aten.max_pool2d.default: max_2d,
    aten.max_pool3d.default: max_3d,
}

WITH_PLACES = {
    aten.max_pool2d_with_indices.default: max_2d_with_places,
    aten.max_pool3d_with_indices.default: max_3d_with_places,
}
"""What ops become whose second result, the place of each maximum, is read."""
