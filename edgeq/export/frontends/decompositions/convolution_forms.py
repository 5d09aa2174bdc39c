"""Convolutions that litert-torch lowers wrongly or not at all, by those that it has.

Padding is cut off behind a transposed convolution instead of before it, and a convolution over
three axes is one over two that reads the slices along the third as channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

aten = torch.ops.aten

Sizes = Sequence[int]

GROUPS_MAX = 8
"""A transposed convolution of more groups reads zeros between the pixels, in one op for all."""


@torch.library.custom_op("edgeq::kept_layout", mutates_args=())  # type: ignore[untyped-decorator]
def kept_layout(x: Tensor) -> Tensor:
    """`x` with its axes in PyTorch's order, where litert-torch would put channels last.

    It reads a convolution's weight as PyTorch does, and yet moves the axes of one that is computed.
    """
    return x.clone()


@kept_layout.register_fake  # type: ignore[untyped-decorator]
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Any:
    """`convolution` over one, two or three axes."""
    axes = x.ndim - 2
    stride, padding, dilation, output_padding = (
        per_axis(sizes, axes) for sizes in (stride, padding, dilation, output_padding)
    )
    if axes == 1:
        made = convolution_2d(
            x.unsqueeze(2), weight.unsqueeze(2), bias, (1, *stride), (0, *padding), (1, *dilation),
            transposed, (0, *output_padding), groups,
        )  # fmt: skip
        return made.squeeze(2)
    if axes == 2 and not transposed:
        return NotImplemented
    if axes == 2:
        return _transposed(x, weight, bias, stride, padding, dilation, output_padding, groups)
    if transposed:
        return _transposed_3d(x, weight, bias, stride, padding, dilation, output_padding, groups)
    return _over_slices(x, weight, bias, stride, padding, dilation, groups)


def convolution_2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes = (1, 1),
    transposed: bool = False,
    output_padding: Sizes = (0, 0),
    groups: int = 1,
) -> Tensor:
    """A convolution over two axes, by what the table has for it."""
    if transposed:
        made = _transposed(x, weight, bias, stride, padding, dilation, output_padding, groups)
        if made is not NotImplemented:
            return made
    found: Tensor = aten.convolution.default(
        x, weight, bias, list(stride), list(padding), list(dilation), transposed,
        list(output_padding), groups,
    )  # fmt: skip
    return found


def per_axis(sizes: Sizes, axes: int) -> list[int]:
    """A size for each axis, of one for all or of as many."""
    return [int(s) for s in (list(sizes) * axes if len(sizes) == 1 else sizes)]


def _transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    output_padding: Sizes,
    groups: int,
) -> Any:
    """A transposed convolution of images, as one that is not padded and then cut.

    Source: `TransposeConvOptions` of the .tflite schema has the paddings SAME and VALID alone, and
    no dilation; litert-torch fills `output_padding` with zeros where PyTorch computes numbers.
    """
    kernel = [int(size) for size in weight.shape[2:]]
    is_plain = all(d == 1 for d in dilation) and not any(output_padding)
    if is_plain and groups == 1 and _has_padding(kernel, stride, padding):
        return NotImplemented
    weight = _dilated(weight, dilation)
    taps = [int(size) for size in weight.shape[2:]]
    wanted = [
        (size - 1) * s - 2 * p + k + extra
        for size, s, p, k, extra in zip(
            x.shape[2:], stride, padding, taps, output_padding, strict=True
        )
    ]
    beyond = [max(0, extra - p) for p, extra in zip(padding, output_padding, strict=True)]
    late = any(beyond)
    made = _unpadded(x, weight, None if late else bias, stride, groups)
    if late:
        made = functional.pad(made, (0, beyond[1], 0, beyond[0]))
        made = made if bias is None else made + bias.reshape(1, -1, 1, 1)
    for axis, (p, size) in enumerate(zip(padding, wanted, strict=True), 2):
        made = made if made.shape[axis] == size else made.narrow(axis, p, size)
    return made


def _has_padding(kernel: Sizes, stride: Sizes, padding: Sizes) -> bool:
    """Whether the op's own padding is what is asked for, by litert-torch's lowering."""
    if not any(padding):
        return True
    return all(2 * p == k - s > 0 for k, s, p in zip(kernel, stride, padding, strict=True))


def _unpadded(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, groups: int) -> Tensor:
    """A transposed convolution without padding and dilation."""
    if groups > GROUPS_MAX:
        return _over_zeros(x, weight, bias, stride, groups)
    parts = [
        aten.convolution.default(image, part, None, list(stride), [0, 0], [1, 1], True, [0, 0], 1)
        for image, part in zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    ]
    if len(parts) == 1:
        made: Tensor = aten.convolution.default(
            x, weight, bias, list(stride), [0, 0], [1, 1], True, [0, 0], 1
        )
        return made
    joined = torch.cat(parts, 1)
    return joined if bias is None else joined + bias.reshape(1, -1, 1, 1)


def _over_zeros(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, groups: int
) -> Tensor:
    """A transposed convolution as one over the image with zeros between its pixels."""
    for axis, step in enumerate(stride, 2):
        x = spread(x, axis, step)
    filters, (height, width) = per_group(weight, groups), weight.shape[2:]
    x = functional.pad(x, (width - 1, width - 1, height - 1, height - 1))
    return convolution_2d(x, filters, bias, (1, 1), (0, 0), groups=groups)


def per_group(weight: Tensor, groups: int) -> Tensor:
    """The weight of a transposed convolution as that of a plain one over the same taps."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    swapped = grouped.transpose(1, 2)
    flat = swapped.reshape(groups * weight.shape[1], -1, *weight.shape[2:])
    return flat.flip(list(range(2, weight.ndim)))


def spread(x: Tensor, axis: int, step: int) -> Tensor:
    """`x` with `step - 1` zeros between its entries along an axis."""
    if step == 1:
        return x
    shape, length = [int(size) for size in x.shape], int(x.shape[axis])
    inner = math.prod(shape[axis + 1 :])
    wide = functional.pad(x.reshape(-1, 1, inner), (0, 0, 0, step - 1))
    spaced = wide.reshape(*shape[:axis], length * step, *shape[axis + 1 :])
    return spaced.narrow(axis, 0, (length - 1) * step + 1)


def _dilated(weight: Tensor, dilation: Sizes) -> Tensor:
    """A weight with the zeros of its dilation between its taps."""
    for axis, step in enumerate(dilation, 2):
        weight = spread(weight, axis, step)
    return weight


def _over_slices(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """A convolution over three axes as one over two, of all slices that a slice is made of."""
    taps = int(weight.shape[2])
    x = functional.pad(x, (0, 0, 0, 0, padding[0], padding[0])) if padding[0] else x
    count = (x.shape[2] - (taps - 1) * dilation[0] - 1) // stride[0] + 1
    batch, channels = x.shape[0], x.shape[1]
    slices = []
    for tap in range(taps):
        first = tap * dilation[0]
        slices.append(x[:, :, first : first + (count - 1) * stride[0] + 1 : stride[0]])
    # (N, C, D, H, W) each, to (N * D, C * taps, H, W) with the channels of a group together
    if taps == 1:
        images = _as_images(slices[0])
    elif groups == 1:
        images = torch.cat([_as_images(part) for part in slices], 1)
    else:
        parts = [_as_images(part) for part in slices]
        shape = (batch * count, groups, channels // groups, *x.shape[3:])
        images = torch.cat([part.reshape(shape) for part in parts], 2).flatten(1, 2)
    filters = weight.transpose(1, 2).flatten(1, 2)
    made = convolution_2d(
        images, filters, bias, stride[1:], padding[1:], dilation[1:], groups=groups
    )
    return _as_volume(made, batch)


def _as_images(x: Tensor) -> Tensor:
    """`(N, C, D, H, W)` as `(N * D, C, H, W)`."""
    return x.transpose(1, 2).flatten(0, 1)


def _as_volume(images: Tensor, batch: int) -> Tensor:
    """`(N * D, C, H, W)` as `(N, C, D, H, W)`."""
    return images.reshape(batch, -1, *images.shape[1:]).transpose(1, 2)


def _transposed_3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    """A transposed convolution over three axes: over two for each tap along the first."""
    batch, depth, taps = int(x.shape[0]), int(x.shape[2]), int(weight.shape[2])
    images = _as_images(x)
    full = (depth - 1) * stride[0] + (taps - 1) * dilation[0] + 1 + output_padding[0]
    total: Tensor | None = None
    for tap in range(taps):
        made = convolution_2d(
            images, weight[:, :, tap], None, stride[1:], padding[1:], dilation[1:], True,
            output_padding[1:], groups,
        )  # fmt: skip
        part = spread(_as_volume(made, batch), 2, stride[0])
        first = tap * dilation[0]
        part = functional.pad(part, (0, 0, 0, 0, first, full - first - part.shape[2]))
        total = part if total is None else total + part
    assert total is not None
    kept = total.narrow(2, padding[0], full - 2 * padding[0])
    return kept if bias is None else kept + bias.reshape(1, -1, 1, 1, 1)


def padded_by_name(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1,),
    padding: str = "valid",
    dilation: Sizes = (1,),
    groups: int = 1,
) -> Tensor:
    """`conv1d.padding`, `conv2d.padding` and `conv3d.padding`."""
    axes = weight.ndim - 2
    spans = [d * (k - 1) for d, k in zip(per_axis(dilation, axes), weight.shape[2:], strict=True)]
    pads = [0] * axes if padding == "valid" else [span // 2 for span in spans]
    if padding == "same" and any(span % 2 for span in spans):
        # One more behind than before, where the span is odd.
        more = [side for span in reversed(spans) for side in (0, span % 2)]
        x = functional.pad(x, more)
    is_single = x.ndim == axes + 1
    made = aten.convolution.default(
        x.unsqueeze(0) if is_single else x, weight, bias, per_axis(stride, axes), pads,
        per_axis(dilation, axes), False, [0] * axes, groups,
    )  # fmt: skip
    return made.squeeze(0) if is_single else made


def recorded(*arguments: Any) -> Tensor:
    """`_convolution`, as TorchScript records it: with settings of the backend behind the others."""
    return aten.convolution.default(*arguments[:9])


TABLE: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: convolution,
    aten._convolution.default: recorded,
    aten._convolution.deprecated: recorded,
    aten.conv1d.padding: padded_by_name,
    aten.conv2d.padding: padded_by_name,
    aten.conv3d.padding: padded_by_name,
}
