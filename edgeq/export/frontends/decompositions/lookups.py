"""Embeddings of bags, tables whose rows are shortened, products of two inputs and of experts; reads
that constants decide over."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import Evaluator, constant

aten = torch.ops.aten

SUM, MEAN, MAX = 0, 1, 2
"""Modes of a bag as PyTorch numbers them. Source: `EmbeddingBagMode` in ATen/native"""


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    bag: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`embedding_bag`: the rows of each bag joined.

    Args:
        weight: `(rows, D)`.
        indices: `(N,)`, those of all bags.
        offsets: `(bags,)`, where each begins.
        scale_grad_by_freq: Without effect here.
        mode: `SUM`, `MEAN` or `MAX`.
        sparse: Without effect here.
        per_sample_weights: `(N,)`, for sums.
        include_last_offset: Whether `offsets` ends with N.
        padding_idx: Row that no bag counts.
        bag: How many indices each bag has, where all have as many.
    """
    rows = torch.nn.functional.embedding(indices.long(), weight)  # (N, D)
    counted = torch.ones(indices.shape)
    if padding_idx is not None:
        index = padding_idx % weight.shape[0]
        counted = (indices != index).to(weight.dtype)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if bag is not None:
        members = None
        rows, counted = rows.unflatten(0, (-1, bag)), counted.unflatten(0, (-1, bag))
    else:
        starts = offsets[:-1] if include_last_offset else offsets
        members = _members(starts, int(indices.shape[0]))
        counted = counted * members.to(weight.dtype)  # (bags, N)
    if mode == MAX:
        values = rows if members is None else rows.unsqueeze(0)
        lowest = torch.finfo(weight.dtype).min
        most = torch.where(counted.unsqueeze(-1) > 0, values, lowest).amax(-2)
        joined = torch.where(counted.sum(-1, keepdim=True) > 0, most, 0.0)
    elif members is None and padding_idx is None:
        joined = rows.mean(1) if mode == MEAN else rows.sum(1)
    else:
        if members is None:
            joined = (rows * counted.unsqueeze(-1)).sum(1)
        else:
            joined = torch.matmul(counted, rows)
        if mode == MEAN:
            joined = joined / counted.sum(-1, keepdim=True).clamp(min=1)
    none = torch.zeros(0, dtype=torch.int64)
    return joined, none, none, none


def evenly(node: Any, known: Evaluator) -> None:
    """`embedding_bag` with constant offsets that give every bag as many indices."""
    offsets = known.value_or_none(node.args[2])
    if offsets is None:
        return
    count = node.args[1].meta["val"].shape[0]
    ends = [*offsets.tolist(), count] if not _ends_with_count(node) else offsets.tolist()
    sizes = {end - start for start, end in itertools.pairwise(ends)}
    if ends[0] == 0 and ends[-1] == count and len(sizes) == 1:
        bag = sizes.pop()

        def even(*args: Any, **kwargs: Any) -> Any:
            return embedding_bag(*args, **{**kwargs, "bag": bag})

        node.target = even


def _ends_with_count(node: Any) -> bool:
    """Whether `include_last_offset` is given."""
    return bool(node.args[7]) if len(node.args) > 7 else False


def _members(starts: Tensor, count: int) -> Tensor:
    """`(bags, N)`: which indices belong to each bag."""
    places = torch.arange(count)
    ends = torch.cat([starts[1:], torch.full((1,), count, dtype=starts.dtype)])
    return (places >= starts.unsqueeze(-1)) & (places < ends.unsqueeze(-1))


def renormed(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """`embedding_renorm`: every row is shortened; which ones are read does not matter."""
    length = torch.linalg.vector_norm(weight, norm_type, dim=-1, keepdim=True)
    factor = max_norm / (length + 1e-7)
    return torch.where(length > max_norm, weight * factor, weight)


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`bilinear`: a product of `y` with all matrices at once, then one with `x`."""
    out, left, right = (int(size) for size in weight.shape)
    products = torch.matmul(y, weight.reshape(out * left, right).T).unflatten(-1, (out, left))
    made = (products * x.unsqueeze(-2)).sum(-1)
    return made if bias is None else made + bias


def grouped_product(
    x: Tensor, weight: Tensor, offs: Tensor | None, bias: Any = None, out_dtype: Any = None
) -> Any:
    """`grouped_mm`: rows of each group times the group's own matrix, as experts are computed.

    All rows go through all matrices in one product, of which each row keeps its group's: where a
    group ends is computed, and a file has fixed sizes.

    Args:
        x: `(rows, K)`, group after group.
        weight: `(groups, K, N)`.
        offs: `(groups,)`, behind which row each group ends.
        bias: Not known here.
        out_dtype: Likewise.
    """
    if offs is None or bias is not None or out_dtype is not None or (x.ndim, weight.ndim) != (2, 3):
        return NotImplemented
    groups, inner, outer = (int(size) for size in weight.shape)
    wide = weight.permute(1, 0, 2).reshape(inner, groups * outer)
    products = torch.matmul(x, wide).unflatten(-1, (groups, outer))  # (rows, groups, N)
    row = torch.arange(int(x.shape[0]), dtype=offs.dtype).unsqueeze(-1)
    started = torch.cat([torch.ones_like(row, dtype=torch.bool), row >= offs[:-1]], 1)
    is_own = started & (row < offs)
    return (products * is_own.to(x.dtype).unsqueeze(-1)).sum(1)


def by_known_masks(node: Any, known: Evaluator) -> None:
    """An index of which masks are constants: where they hold, as numbers."""
    indices: list[Any] = []
    for index in node.args[1]:
        is_fixed = index is not None and _is_mask(index) and known.is_known(index)
        indices += _places(node, index, known) if is_fixed else [index]
    node.update_arg(1, indices)


def _is_mask(index: Any) -> bool:
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def _places(node: Any, mask: Any, known: Evaluator) -> list[Any]:
    """New nodes before another, which give where a mask holds, by axis."""
    made = []
    for places in known.value(mask).nonzero(as_tuple=True):
        with node.graph.inserting_before(node):
            made.append(node.graph.call_function(_as_constant(places)))
        made[-1].meta = {**mask.meta, "val": places}
        known.hold(made[-1], places)
    return made


def _as_constant(value: Tensor) -> Callable[[], Tensor]:
    """A function that gives a constant, for a node to call."""

    def given() -> Tensor:
        return constant(lambda: value)

    return given


def by_known_mask(node: Any, known: Evaluator) -> None:
    """`masked_select` by a constant mask."""
    mask = known.value_or_none(node.args[1])
    if mask is None:
        return

    def selected(x: Tensor, _: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(x.shape, mask.shape)
        places = constant(lambda: mask.expand(shape).reshape(-1).nonzero()[:, 0])
        return x.expand(shape).reshape(-1).index_select(0, places)

    node.target = selected


def by_known_counts(node: Any, known: Evaluator) -> None:
    """`repeat_interleave` of which a constant tells how often each entry is repeated."""
    counts = known.value_or_none(node.args[1])
    if counts is None:
        return

    def repeated(x: Tensor, _: Tensor, dim: int | None = None, **options: Any) -> Tensor:
        rows, axis = (x.reshape(-1), 0) if dim is None else (x, dim)
        length = int(rows.shape[axis])
        places = constant(lambda: torch.repeat_interleave(counts.expand(length)))
        return rows.index_select(axis, places)

    node.target = repeated


TABLE: dict[Any, Callable[..., Any]] = {
    aten.embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
    aten._embedding_bag_forward_only.default: embedding_bag,
    aten.embedding_renorm.default: renormed,
    aten.bilinear.default: bilinear,
    aten._grouped_mm.default: grouped_product,
}

RULES = {
    aten.embedding_bag.default: evenly,
    aten.embedding_bag.padding_idx: evenly,
    aten.index.Tensor: by_known_masks,
    aten.masked_select.default: by_known_mask,
    aten.repeat_interleave.self_Tensor: by_known_counts,
}
"""What replaces a node of an op."""

OF_PACKAGES: dict[str, Callable[..., Any]] = {
    "transformers.grouped_mm_fallback.default": grouped_product,
}
"""What replaces a node of an op that a package defines, by the op's name."""
