"""Sorting, order statistics, running products and maxima; sums and shares along many axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.pointwise import ARITHMETIC_RANK

aten = torch.ops.aten


def sort(x: Tensor, axis: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """`sort`: the highest or lowest of all, in order; equals stay in order."""
    if x.ndim == 0 or x.shape[axis] == 1:
        return _only(x)
    values, places = torch.topk(x, int(x.shape[axis]), axis, descending, True)
    return values, places


def _only(x: Tensor) -> tuple[Tensor, Tensor]:
    """What is in order as it is, and its places."""
    return x.clone(), torch.zeros_like(x, dtype=torch.int64)


def highest_alone(
    x: Tensor, k: int, axis: int = -1, largest: bool = True, in_order: bool = True
) -> tuple[Tensor, Tensor]:
    """`topk` of which the values alone are read.

    The converter makes a sort without a kernel of it, unless something reads the places.
    """
    if x.ndim and k == x.shape[axis] == 1:
        return _only(x)
    values, places = torch.topk(x, k, axis, largest, in_order)
    return torch.where(places >= 0, values, x.narrow(axis, 0, k)), places


def stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """`sort.stable`."""
    return sort(x, dim, descending)


def stable_argsort(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> Tensor:
    """`argsort.stable`."""
    return sort(x, dim, descending)[1]


def kth_lowest(x: Tensor, k: int, axis: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """`kthvalue`."""
    values, places = torch.topk(x, k, axis, False, True)
    found = values.narrow(axis, k - 1, 1), places.narrow(axis, k - 1, 1)
    return found if keepdim else (found[0].squeeze(axis), found[1].squeeze(axis))


def median(x: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """`median.dim`: the lower one of two."""
    return kth_lowest(x, (int(x.shape[axis]) + 1) // 2, axis, keepdim)


def median_of_all(x: Tensor) -> Tensor:
    """`median`."""
    return median(x.flatten(), 0)[0]


def median_of_numbers(x: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """`nanmedian.dim`: the median of what is a number."""
    is_number = torch.logical_not(torch.isnan(x))
    values, places = sort(torch.where(is_number, x, math.inf), axis)
    count = is_number.to(torch.int64).sum(axis, True)
    middle = torch.div((count - 1).clamp(min=0), 2, rounding_mode="floor")
    found = torch.where(count > 0, values.gather(axis, middle), math.nan)
    place = places.gather(axis, middle)
    return (found, place) if keepdim else (found.squeeze(axis), place.squeeze(axis))


def median_of_all_numbers(x: Tensor) -> Tensor:
    """`nanmedian`."""
    return median_of_numbers(x.flatten(), 0)[0]


def most_common(x: Tensor, axis: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """`mode`: of the most frequent values the lowest, and its last place."""
    rows = x.movedim(axis, -1)
    same = rows.unsqueeze(-1) == rows.unsqueeze(-2)
    counts = same.to(torch.int32).sum(-1, dtype=torch.int32)
    is_most = counts == counts.amax(-1, True)
    highest = rows.amax(-1, True)
    value = torch.where(is_most, rows, highest).amin(-1, True)
    numbers = torch.arange(int(rows.shape[-1]), dtype=torch.int32)
    place = torch.where(rows == value, numbers, 0).amax(-1, True).long()
    if keepdim:
        return value.movedim(-1, axis), place.movedim(-1, axis)
    return value.squeeze(-1), place.squeeze(-1)


def _running(x: Tensor, axis: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `join` makes of all entries up to each, in steps that double what is joined."""
    length, step = int(x.shape[axis]), 1
    while step < length:
        rest = length - step
        joined = join(x.narrow(axis, step, rest), x.narrow(axis, 0, rest))
        x = torch.cat([x.narrow(axis, 0, step), joined], axis)
        step *= 2
    return x


def cumulative_product(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """`cumprod`."""
    x = x if dtype is None else x.to(dtype)
    return _running(x, axis, torch.mul)


def cumulative_maximum(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """`cummax`, with the last place of each."""
    return _cumulative(x, axis, torch.maximum)


def cumulative_minimum(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """`cummin`, with the last place of each."""
    return _cumulative(x, axis, torch.minimum)


def _cumulative(
    x: Tensor, axis: int, join: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    if x.ndim == 0:
        return x, torch.zeros_like(x, dtype=torch.int64)
    values = _running(x, axis, join)
    shape = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    places = torch.arange(int(x.shape[axis]), dtype=torch.int32).reshape(shape)
    found = torch.where(x == values, places, torch.zeros_like(places))
    return values, _running(found, axis, torch.maximum).long()


def cumulative_logsumexp(x: Tensor, axis: int) -> Tensor:
    """`logcumsumexp`."""
    return _running(x, axis, torch.logaddexp)


def bucketize(
    x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """`bucketize`: how many boundaries lie below."""
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


def searchsorted(
    boundaries: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """`searchsorted`: how many boundaries lie below, of those in the same row."""
    if sorter is not None:
        return NotImplemented
    wide = x.unsqueeze(-1)
    rows = boundaries if boundaries.ndim == 1 else boundaries.unsqueeze(-2)
    below = rows <= wide if right or side == "right" else rows < wide
    return below.to(torch.int32).sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _of_number(form: Callable[..., Any]) -> Callable[..., Any]:
    """`bucketize` or `searchsorted` of a number instead of a tensor."""

    def place(*given: Any, **options: Any) -> Any:
        return form(*(v if isinstance(v, Tensor) else torch.full((), v) for v in given), **options)

    return place


def first_places(x: Tensor, *, size: int, fill_value: int = -1) -> Any:
    """`nonzero_static`: where the first numbers besides zero are, `(size, axes of x)`."""
    flat = x.reshape(-1) != 0
    count, shape = int(flat.shape[0]), [int(n) for n in x.shape]
    if x.ndim == 0 or size > count:
        return NotImplemented
    order = torch.where(flat, torch.arange(count, 0, -1, dtype=torch.int32), 0)
    early, place = torch.topk(order, size)
    columns = []
    for length in reversed(shape):
        columns.append(torch.remainder(place, length))
        place = torch.div(place, length, rounding_mode="floor")
    places = torch.stack(columns[::-1], -1)
    return torch.where((early > 0).unsqueeze(-1), places, fill_value)


def histogram(x: Tensor, bins: int = 100, low: float = 0, high: float = 0) -> Tensor:
    """`histc`."""
    values = x.flatten()
    first: Any = values.amin() if low == high else low
    last: Any = values.amax() if low == high else high
    place = torch.floor((values - first) / (last - first) * bins).clamp(max=bins - 1)
    inside = (values >= first) & (values <= last)
    hit = (place.unsqueeze(-1) == torch.arange(bins)) & inside.unsqueeze(-1)
    return hit.to(x.dtype).sum(0)


def _place_of_whole(op: Callable[..., Tensor]) -> Callable[..., Any]:
    """`argmax` or `argmin`, of 32 bits: kernels compare no wider whole numbers."""

    def form(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.is_floating_point() or x.dtype == torch.int32:
            return NotImplemented
        return op(x.to(torch.int32), *args, **kwargs)

    return form


def _in_rows(x: Tensor, axis: int) -> Tensor:
    """`(before, axis, behind)`: the axes in front of one and behind it, each as one."""
    shape = x.shape
    return x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def joined_along(op: Any) -> Callable[..., Any]:
    """A sum, mean or extreme of more axes than kernels take, along one after the other."""

    def joined(x: Tensor, axes: Any = None, keepdim: bool = False, **options: Any) -> Any:
        if x.ndim <= ARITHMETIC_RANK:
            return NotImplemented
        along = {axis % x.ndim for axis in (axes or range(x.ndim))}
        shape = list(x.shape)
        for axis in along:
            shape[axis] = 1
            x = op(_in_rows(x, axis), [1], True, **options).reshape(shape)
        return x if keepdim else x.reshape([n for a, n in enumerate(shape) if a not in along])

    return joined


def variance(
    x: Tensor, axes: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> Any:
    """`var.correction` of more axes than kernels take."""
    if x.ndim <= ARITHMETIC_RANK:
        return NotImplemented
    along = list(axes or range(x.ndim))
    off = x - x.mean(along, True)
    count = math.prod(int(x.shape[axis]) for axis in along) - (
        1 if correction is None else correction
    )
    return (off * off).sum(along, keepdim) / count


def _root(variances: Any) -> Any:
    return variances if variances is NotImplemented else variances.sqrt()


def shared_along(op: Any) -> Callable[..., Any]:
    """A softmax of more axes than kernels take, in rows."""

    def shared(x: Tensor, axis: int, *rest: Any) -> Any:
        if x.ndim <= ARITHMETIC_RANK:
            return NotImplemented
        return op(_in_rows(x, axis % x.ndim), 1, *rest).reshape(x.shape)

    return shared


def rolled(x: Tensor, shifts: Sequence[int], axes: Sequence[int] = ()) -> Any:
    """`roll` of more axes than kernels take, as joins of two parts."""
    if x.ndim <= ARITHMETIC_RANK or not axes:
        return NotImplemented
    for shift, axis in zip(shifts, axes, strict=True):
        size = int(x.shape[axis])
        first, last = x.split([size - shift % size, shift % size], axis)
        x = torch.cat([last, first], axis)
    return x


def highest_along(x: Tensor, axis: int, keepdim: bool = False) -> Any:
    """`max.dim` of more axes than kernels take."""
    if x.ndim <= ARITHMETIC_RANK:
        return NotImplemented
    return x.amax(axis, keepdim), x.argmax(axis, keepdim)


_SHARES = (
    aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default,
)  # fmt: skip
_SUMS = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default)

TABLE: dict[Any, Callable[..., Any]] = {
    **{op: shared_along(op) for op in _SHARES},
    **{op: joined_along(op) for op in _SUMS},
    aten.max.dim: highest_along,
    aten.var.correction: variance,
    aten.std.correction: lambda x, *axes, **options: _root(variance(x, *axes, **options)),
    aten.roll.default: rolled,
    aten.argmax.default: _place_of_whole(aten.argmax.default),
    aten.argmin.default: _place_of_whole(aten.argmin.default),
    aten.histc.default: histogram,
    aten.nonzero_static.default: first_places,
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
    aten.argsort.stable: stable_argsort,
    aten.kthvalue.default: kth_lowest,
    aten.median.dim: median,
    aten.median.default: median_of_all,
    aten.nanmedian.dim: median_of_numbers,
    aten.nanmedian.default: median_of_all_numbers,
    aten.mode.default: most_common,
    aten.cumprod.default: cumulative_product,
    aten.cummax.default: cumulative_maximum,
    aten.cummin.default: cumulative_minimum,
    aten.logcumsumexp.default: cumulative_logsumexp,
    aten.bucketize.Tensor: bucketize,
    aten.searchsorted.Tensor: searchsorted,
    aten.bucketize.Scalar: _of_number(bucketize),
    aten.searchsorted.Scalar: _of_number(searchsorted),
}
