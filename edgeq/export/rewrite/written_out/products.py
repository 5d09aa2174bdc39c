"""Products of matrices and sums of elementwise products: each in the form that is faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.export.rewrite.base import Rewrite, Shape, Site
from edgeq.flatbuffer import Operator
from edgeq.targets import Purpose

_FEWEST = 8
"""Rows and columns from which a product of matrices is faster than the sum of a broadcast product.

Measured on a Xeon with AVX-512 VNNI: (16, 16) by (16, 16) 4 times as fast, (8, 64) by (64, 2) at
0.4 of the speed; with one column the product takes 2 to 30 times as long, as each right matrix is
laid out anew for it."""

_RANK_MAX = 6
"""Most axes of what the delegate multiplies."""


def _single(site: Site, op: Operator) -> Sequence[Any] | None:
    """A product that sums nothing, or has one column, as a MUL, and a SUM behind it."""
    left, right = op.inputs
    if any(site.value(t) is not None for t in (left, right)):
        return None
    rows, depth = _matrix(site, left, op.options.adjX)
    columns, _ = _matrix(site, right, not op.options.adjY)
    if depth == 1:
        made, one, other = _shaped(site, op, (rows, depth), (depth, columns))
        return [*made, site.binary("MUL", one, other, op.outputs[0])]
    if columns != 1 or (rows > 1 and op.options.adjX):
        return None
    made, one, other = _shaped(site, op, (rows, depth), (columns, depth))
    batch = site.shape(op.outputs[0])[:-2]
    product, axis = site.tensor(op, (*batch, rows, depth)), len(batch) + 1
    total = site.editor.op(
        "SUM", [product, site.ints(op, "axis", [axis])], op.outputs, keepDims=True
    )
    return [*made, site.binary("MUL", one, other, product), total]


def _matrix(site: Site, tensor: int, is_turned: bool) -> tuple[int, int]:
    """Rows and columns of the last two axes, as they are or turned."""
    rows, columns = site.shape(tensor)[-2:]
    return (columns, rows) if is_turned else (rows, columns)


def _shaped(site: Site, op: Operator, *sizes: Shape) -> tuple[list[Any], int, int]:
    """What gives the last two axes of both operands these sizes, and the operands behind it."""
    made, both = [], []
    for tensor, size in zip(op.inputs, sizes, strict=True):
        shape = (*site.shape(tensor)[:-2], *size)
        both.append(tensor if shape == site.shape(tensor) else site.tensor(op, shape))
        if both[-1] != tensor:
            made.append(site.reshape(op, tensor, both[-1], shape))
    return made, both[0], both[1]


@dataclass(frozen=True)
class _Operand:
    """One side of a broadcast product: a matrix of `size` by the depth, behind its batch.

    Attributes:
        tensor: What holds it.
        size: Rows of the product, or its columns.
        is_turned: Whether the depth comes first.
    """

    tensor: int
    size: int
    is_turned: bool

    def shape(self, batch: Shape, depth: int) -> Shape:
        return (*batch, *((depth, self.size) if self.is_turned else (self.size, depth)))


def _broadcast(site: Site, op: Operator) -> Sequence[Any] | None:
    """The sum of a product that spreads both operands, as a product of matrices."""
    product, axes = site.producer(op.inputs[0], "MUL"), site.value(op.inputs[1])
    if product is None or axes is None or axes.size != 1 or not _is_between(site, product):
        return None
    whole = site.shape(product.outputs[0])
    if max(len(site.shape(t)) for t in product.inputs) > len(whole):  # one where it has none
        return None
    axis = int(axes.ravel()[0]) % len(whole)
    depth, shapes = whole[axis], [_aligned(site.shape(t), whole) for t in product.inputs]
    kinds = [_kind(one, other) for one, other in zip(*shapes, strict=True)]
    if depth == 1 or kinds[axis] != _BATCH:
        return None
    kinds[axis] = _DEPTH
    order = [k for k in kinds if k not in (_UNIT, _DEPTH)]
    first = order[-1] if order else _BATCH  # the last axes are the columns
    if first == _BATCH or order != sorted(
        order, key=(_BATCH, _LEFT if first == _RIGHT else _RIGHT, first).index
    ):
        return None
    # The converter makes a layer with computed weights of matrices without a batch.
    batch = tuple(size for size, k in zip(whole, kinds, strict=True) if k == _BATCH) or (1,)
    sides = [_operand(t, k, kinds, whole) for t, k in zip(product.inputs, _SIDES, strict=True)]
    if first == _LEFT:
        sides.reverse()
    left, right = sides
    if left is None or right is None or min(left.size, right.size) < _FEWEST:
        return None
    if site.value(left.tensor) is not None:  # a weight is on the right
        return None
    return _multiplied(site, op, left, right, batch, depth)


_UNIT, _BATCH, _LEFT, _RIGHT, _DEPTH = "unit", "batch", "left", "right", "depth"
_SIDES = (_LEFT, _RIGHT)


def _kind(one: int, other: int) -> str:
    """Whose axis it is, by its size in both operands."""
    if one == other:
        return _UNIT if one == 1 else _BATCH
    return _LEFT if other == 1 else _RIGHT


def _aligned(shape: Shape, whole: Shape) -> Shape:
    return (1,) * (len(whole) - len(shape)) + shape


def _is_between(site: Site, product: Operator) -> bool:
    """Whether a product is of two different tensors, and nothing but the sum reads it."""
    is_plain = product.fused_activation == "NONE" and len(set(product.inputs)) == 2
    return is_plain and site.is_read_once(product.outputs[0])


def _operand(tensor: int, side: str, kinds: Sequence[str], whole: Shape) -> _Operand | None:
    """One side; None where its own axes are on both sides of the depth."""
    own = [place for place, kind in enumerate(kinds) if kind == side]
    depth = kinds.index(_DEPTH)
    batches = [place for place, kind in enumerate(kinds) if kind == _BATCH]
    is_turned = all(place > depth for place in own)
    is_split = not is_turned and any(place > depth for place in own)
    if is_split or any(place > depth for place in batches):
        return None
    return _Operand(tensor, math.prod(whole[place] for place in own), is_turned)


def _multiplied(
    site: Site, op: Operator, left: _Operand, right: _Operand, batch: Shape, depth: int
) -> list[Any] | None:
    if len(batch) + 2 > _RANK_MAX:
        return None
    made, operands = [], []
    for side in (left, right):
        shape = side.shape(batch, depth)
        operands.append(site.tensor(op, shape))
        made.append(site.reshape(op, side.tensor, operands[-1], shape))
    if left.is_turned:
        order = [*range(len(batch)), len(batch) + 1, len(batch)]
        turned = site.tensor(op, (*batch, left.size, depth))
        made.append(site.transpose(op, operands[0], turned, order))
        operands[0] = turned
    found = site.tensor(op, (*batch, left.size, right.size))
    made.append(site.editor.op("BATCH_MATMUL", operands, [found], adjY=not right.is_turned))
    return [*made, site.reshape(op, found, op.outputs[0], site.shape(op.outputs[0]))]


def _without_batch(site: Site, op: Operator) -> Sequence[Any] | None:
    """A product of two computed matrices as a batch of one."""
    (source, right, *rest), output = op.inputs, op.outputs[0]
    is_dense, bias = op.name == "FULLY_CONNECTED", next((t for t in rest if t >= 0), None)
    if len(site.shape(right)) != 2 or any(site.value(t) is not None for t in (source, right)):
        return None
    if not is_dense and op.options.adjX:
        return None
    is_turned = is_dense or op.options.adjY
    depth, columns = site.shape(right)[:: -1 if is_turned else 1]
    rows = math.prod(site.shape(output)) // columns
    shapes = [(1, rows, depth), (1, *site.shape(right))]
    both = [site.tensor(op, shape) for shape in shapes]
    product, total = site.tensor(op, (1, rows, columns)), site.tensor(op, (1, rows, columns))
    made = [site.reshape(op, *pair) for pair in zip((source, right), both, shapes, strict=True)]
    made.append(site.editor.op("BATCH_MATMUL", both, [product], adjY=is_turned))
    if bias is not None or op.fused_activation != "NONE":
        bias = site.constant(op, "nothing", 0) if bias is None else bias
        made.append(site.binary("ADD", product, bias, total, op.fused_activation))
        product = total
    return [*made, site.reshape(op, product, output, site.shape(output))]


REWRITES = (
    Rewrite(
        "product of one column", ("BATCH_MATMUL",), "MUL, and SUM of what it gives",
        "each right matrix is laid out anew first, which takes far longer than so few "
        "multiplications", False, _single, Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "product by broadcasting", ("SUM",), "BATCH_MATMUL",
        "what is summed is never written, and in int8 not rounded in between", False, _broadcast,
        Purpose.DELEGATION_ALONE,
    ),
    Rewrite(
        "product of two computed matrices", ("BATCH_MATMUL", "FULLY_CONNECTED"),
        "BATCH_MATMUL of a batch of one", "no computed weights of a dense layer are delegated, and "
        "the converter makes one of matrices without a batch", False, _without_batch,
        Purpose.DELEGATION_ALONE,
    ),
)  # fmt: skip
