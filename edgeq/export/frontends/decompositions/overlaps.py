"""Windows that are put back into an image, entries on a diagonal, and rows of the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.convolution_forms import spread
from edgeq.export.frontends.torch_program.program_constants import Evaluator, constant

aten = torch.ops.aten


def diagonal(x: Tensor, offset: int = 0, first: int = 0, second: int = 1) -> Tensor:
    """`diagonal`: the entries of the flattened matrix that are on it."""
    matrix = x.movedim((first, second), (-2, -1))
    rows, columns = int(matrix.shape[-2]), int(matrix.shape[-1])
    places = constant(
        lambda: torch.arange(rows * columns).reshape(rows, columns).diagonal(offset).clone()
    )
    return matrix.flatten(-2).index_select(-1, places)


def einsum(equation: str, operands: Sequence[Tensor], *, path: Any = None) -> Any:
    """`einsum` with a letter twice in an operand, which asks for a diagonal."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or all(len(set(term)) == len(term) for term in terms):
        return NotImplemented
    opened = [_without_repeats(*pair) for pair in zip(terms, operands, strict=True)]
    shorter = ",".join(term for term, _ in opened)
    return aten.einsum.default(f"{shorter}->{right}", [x for _, x in opened], path=path)


def _without_repeats(term: str, x: Tensor) -> tuple[str, Tensor]:
    for place, letter in enumerate(term):
        again = term.find(letter, place + 1)
        if again >= 0:
            rest = term[:place] + term[place + 1 : again] + term[again + 1 :]
            return _without_repeats(rest + letter, diagonal(x, 0, place, again))
    return term, x


def fold(
    x: Tensor,
    sizes: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """`col2im`: every tap is put at its place, and all are added."""
    taps = math.prod(kernel)
    outs = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip(sizes, kernel, dilation, padding, stride, strict=True)
    ]
    channels = int(x.shape[-2]) // taps
    columns = x.reshape(-1, channels, *kernel, *outs)
    if list(kernel) == list(stride) and not any(padding) and all(d == 1 for d in dilation):
        image = columns.permute(0, 1, 4, 2, 5, 3).reshape(
            -1, channels, outs[0] * kernel[0], outs[1] * kernel[1]
        )
        full = image
    else:
        room = [size + 2 * p for size, p in zip(sizes, padding, strict=True)]
        parts = []
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                part = spread(spread(columns[:, :, i, j], 2, stride[0]), 3, stride[1])
                top, left = i * dilation[0], j * dilation[1]
                bottom = room[0] - top - int(part.shape[2])
                right = room[1] - left - int(part.shape[3])
                parts.append(torch.nn.functional.pad(part, (left, right, top, bottom)))
        full = sum(parts[1:], parts[0])
    for axis in (0, 1):
        size = int(sizes[axis])
        if full.shape[2 + axis] < size + padding[axis]:
            behind = [0] * 4
            behind[3 - 2 * axis] = size + int(padding[axis]) - int(full.shape[2 + axis])
            full = torch.nn.functional.pad(full, behind)
        full = full.narrow(2 + axis, int(padding[axis]), size)
    return full.reshape(*x.shape[:-2], channels, *sizes)


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """`unfold`: windows along an axis, each along a new last one."""
    axis = dimension % x.ndim
    count = (int(x.shape[axis]) - size) // step + 1
    places = constant(lambda: torch.arange(count)[:, None] * step + torch.arange(size))
    windows = x.index_select(axis, places.flatten()).unflatten(axis, (count, size))
    return windows.movedim(axis + 1, -1)


def strided(node: Any, known: Evaluator) -> None:
    """`as_strided`: rows of the tensor as it lies in memory, which litert-torch takes for its own.

    What is no whole memory in some order of the axes is left to litert-torch.
    """
    meta = node.args[0].meta["val"]
    order = sorted(range(meta.ndim), key=lambda axis: -meta.stride(axis))
    if not meta.permute(order).is_contiguous():
        return

    def rows(
        x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
    ) -> Tensor:
        start = storage_offset or 0
        width = _common_width(size, stride, math.gcd(start, x.numel()))
        outer = [step // width for step in stride[:-1]]
        inner = [*size[:-1], size[-1] // width]
        places = constant(
            lambda: (
                torch.arange(x.numel() // width)
                .as_strided(inner, [*outer, 1 if width > 1 else stride[-1]], start // width)
                .flatten()
            )
        )
        return x.permute(order).reshape(-1, width).index_select(0, places).reshape(size)

    node.target = rows


def _common_width(size: Sequence[int], stride: Sequence[int], divisor: int) -> int:
    """How many numbers are always read in a row."""
    if not size or stride[-1] != 1:
        return 1
    return math.gcd(divisor, int(size[-1]), *(int(step) for step in stride[:-1]))


TABLE: dict[Any, Callable[..., Any]] = {
    aten.diagonal.default: diagonal,
    aten.diagonal_copy.default: diagonal,
    aten.einsum.default: einsum,
    aten.col2im.default: fold,
    aten.unfold.default: unfold,
}

RULES = {aten.as_strided.default: strided}
"""What replaces a node of an op."""
