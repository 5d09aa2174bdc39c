"""Dense layers and products, distances between rows, and the algebra of small matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.padding import MOST_AXES
from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten

ROWS_MAX = 32
"""Of a matrix that is factored or solved row by row, each of which is a few ops."""

_RESHAPES = (
    aten.unsqueeze.default, aten.unflatten.int, aten.view.default, aten.reshape.default,
)  # fmt: skip


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """`linear` of rows in four dimensions or more that the converter refuses.

    Of one row it folds the dimensions into the product; without a bias it does so again. Of rows
    one by one it makes a product of another rank than it says. To many axes it adds no bias, and
    takes them into a product that does not load.
    """
    if x.dim() > MOST_AXES:
        rows = dense(x.reshape(1, -1, 1, x.shape[-1]), weight, bias)
        return rows.reshape(*x.shape[:-1], weight.shape[0])
    if _is_one_by_one(x.shape):
        image = aten.conv2d.default(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
        return image.permute(0, 2, 3, 1)
    if bias is None or x.dim() < 4 or x.numel() != x.shape[-1]:
        return NotImplemented
    row = aten.linear.default(x.reshape(1, x.shape[-1]), weight, bias)
    return row.reshape(*x.shape[:-1], weight.shape[0])


def _is_one_by_one(shape: Sequence[int]) -> bool:
    """Whether rows are `(1, rows, 1, columns)`."""
    return len(shape) == 4 and shape[0] == shape[2] == 1 != shape[1]


def reshaped_before(node: Any, _known: Any) -> None:
    """`linear` without a bias whose rows are one by one behind a reshape: so they are before it.

    The converter takes the reshape into the product, which has a rank then that it refuses.
    """
    user = next(iter(node.users), None)
    if user is None or len(node.users) > 1 or user.target not in _RESHAPES:
        return
    shape = user.meta["val"].shape
    has_bias = node.args[2:] or node.kwargs
    if has_bias or not _is_one_by_one(shape) or shape[-1] != node.meta["val"].shape[-1]:
        return
    node.target = lambda x, weight: aten.linear.default(x.reshape(*shape[:-1], x.shape[-1]), weight)
    node.meta["val"] = user.meta["val"]
    user.replace_all_uses_with(node)
    node.graph.erase_node(user)


def outer_product(node: Any, known: Any) -> None:
    """`einsum` of two tensors that sums nothing: a product of both, each widened to the result.

    As a batch of matrices of one column it is slower, and some the converter refuses.
    """
    equation, operands = node.args[0].replace(" ", ""), node.args[1]
    read, _, made = equation.partition("->")
    axes = [_lettered(a, x) for a, x in zip(read.split(","), operands, strict=True)]
    made = _lettered(made, node)
    plain = len(axes) == 2 and all(len(set(a)) == len(a) for a in axes)
    if not plain or set(made) != set(axes[0] + axes[1]):
        return
    with node.graph.inserting_before(node):
        wide = [_widened(*each, made) for each in zip(operands, axes, strict=True)]
    node.target, node.args = aten.mul.Tensor, tuple(wide)
    for operand in operands:
        if operand.target is aten.linear.default:
            reshaped_before(operand, known)


def _lettered(axes: str, node: Any) -> str:
    """An operand's axes with a letter for each that an ellipsis stands for, equal from behind."""
    missing = node.meta["val"].ndim - len(axes.replace("...", ""))
    return axes.replace("...", "".join(chr(0x3B0 + k) for k in range(missing, 0, -1)))


def _widened(operand: Any, axes: str, made: str) -> Any:
    """A node with the axes `made` of an operand, of size 1 where it has none."""
    order = sorted(range(len(axes)), key=lambda axis: made.index(axes[axis]))
    if order != sorted(order):
        operand = _behind(operand, aten.permute.default, order)
    sizes = dict(zip(sorted(axes, key=made.index), operand.meta["val"].shape, strict=True))
    return _behind(operand, aten.view.default, [sizes.get(axis, 1) for axis in made])


def _behind(source: Any, op: Any, argument: list[int]) -> Any:
    """A new node of an op that only moves what another has made."""
    made = source.graph.call_function(op, (source, argument))
    made.meta = {**source.meta, "val": op(source.meta["val"].contiguous(), argument)}
    return made


def distances_within(x: Tensor, p: float = 2.0) -> Tensor:
    """`pdist`: between all rows and those behind them."""
    first, second = np.triu_indices(int(x.shape[0]), 1)
    left = x.index_select(0, constant(lambda: torch.from_numpy(first)))
    right = x.index_select(0, constant(lambda: torch.from_numpy(second)))
    return torch.linalg.vector_norm(left - right, p, dim=-1)


def _entries(x: Tensor) -> list[list[Tensor]]:
    return [[x[..., i, j] for j in range(x.shape[-1])] for i in range(x.shape[-2])]


def determinant(x: Tensor) -> Tensor:
    """`linalg_det` of matrices of up to three rows."""
    m = _entries(x)
    if len(m) == 1:
        return m[0][0]
    if len(m) == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    rows = zip(m[0], _cofactors(m)[0], strict=True)
    first, second, third = (a * b for a, b in rows)
    return first + second + third


def _cofactors(m: list[list[Tensor]]) -> list[list[Tensor]]:
    """Of three rows."""

    def cofactor(i: int, j: int) -> Tensor:
        rows, columns = [(i + k) % 3 for k in (1, 2)], [(j + k) % 3 for k in (1, 2)]
        (a, b), (c, d) = ([m[r][k] for k in columns] for r in rows)
        return a * d - b * c

    return [[cofactor(i, j) for j in range(3)] for i in range(3)]


def _inverse_by_columns(x: Tensor) -> Tensor:
    """The inverse by columns that are made orthogonal twice, which needs no exchange of rows."""
    columns: list[Tensor] = []
    upper: list[Tensor] = []
    size = int(x.shape[-1])
    for j in range(size):
        column, shares = x[..., :, j : j + 1], None
        for _ in range(2 if columns else 0):
            before = torch.cat(columns, -1)
            share = torch.matmul(before.mT, column)
            column = column - torch.matmul(before, share)
            shares = share if shares is None else shares + share
        length = torch.linalg.vector_norm(column, dim=-2, keepdim=True)
        columns.append(column / length)
        above = length if shares is None else torch.cat([shares, length], -2)
        upper.append(torch.nn.functional.pad(above, (0, 0, 0, size - 1 - j)))
    triangle = _triangle_inverse(torch.cat(upper, -1), upper=True)
    return torch.matmul(triangle, torch.cat(columns, -1).mT)


def inverse(x: Tensor, *, check_errors: bool = False) -> Any:
    """`linalg_inv_ex`, of up to three rows by cofactors."""
    if x.shape[-1] > ROWS_MAX:
        return NotImplemented
    if x.shape[-1] > 3:
        return _inverse_by_columns(x), torch.zeros(x.shape[:-2], dtype=torch.int32)
    m, whole = _entries(x), determinant(x)
    if len(m) == 1:
        rows = [[torch.ones_like(whole)]]
    elif len(m) == 2:
        rows = [[m[1][1], -m[0][1]], [-m[1][0], m[0][0]]]
    else:
        rows = [list(column) for column in zip(*_cofactors(m), strict=True)]
    made = torch.stack([torch.stack(row, -1) for row in rows], -2)
    status = torch.zeros(x.shape[:-2], dtype=torch.int32)
    return made / whole.unsqueeze(-1).unsqueeze(-1), status


def inverse_alone(x: Tensor) -> Any:
    """`linalg_inv`."""
    made = inverse(x)
    return made if made is NotImplemented else made[0]


def solve_triangular(
    x: Tensor, y: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """`linalg_solve_triangular`: a product with the inverse, which is one of constants mostly."""
    triangle = x.triu() if upper else x.tril()
    if unitriangular:
        ones = torch.eye(int(x.shape[-1]), dtype=x.dtype)
        triangle = triangle * (1 - ones) + ones
    turned = _triangle_inverse(triangle, upper)
    return torch.matmul(turned, y) if left else torch.matmul(y, turned)


def _triangle_inverse(x: Tensor, upper: bool) -> Tensor:
    """The inverse of a triangular matrix, row by row."""
    size = int(x.shape[-1])
    if not 3 < size <= ROWS_MAX:
        found: Tensor = aten.linalg_inv_ex.default(x)[0]
        return found
    if upper:
        return _triangle_inverse(x.mT, False).mT
    unit = torch.eye(size, dtype=x.dtype).expand(x.shape)
    rows: list[Tensor] = []
    for i in range(size):
        row = unit[..., i : i + 1, :]
        if rows:
            row = row - torch.matmul(x[..., i : i + 1, :i], torch.cat(rows, -2))
        rows.append(row / x[..., i : i + 1, i : i + 1])
    return torch.cat(rows, -2)


def cholesky(x: Tensor, *, upper: bool = False) -> Any:
    """`linalg_cholesky`, column by column."""
    size = int(x.shape[-1])
    if size > ROWS_MAX:
        return NotImplemented
    columns: list[Tensor] = []
    for j in range(size):
        column = x[..., j:, j : j + 1]
        if columns:
            before = torch.cat(columns, -1)
            column = column - torch.matmul(before[..., j:, :], before[..., j : j + 1, :].mT)
        column = column / column[..., :1, :].sqrt()
        columns.append(torch.nn.functional.pad(column, (0, 0, j, 0)))
    made = torch.cat(columns, -1)
    return made.mT if upper else made


def cholesky_solve(y: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    """`cholesky_solve`: two products with the inverse of a triangle."""
    turned = _triangle_inverse(factor.triu() if upper else factor.tril(), upper)
    first, second = (turned, turned.mT) if upper else (turned.mT, turned)
    return torch.matmul(first, torch.matmul(second, y))


def solve(x: Tensor, y: Tensor, *, left: bool = True) -> Any:
    """`linalg_solve`: a product with the inverse."""
    turned = inverse_alone(x)
    if turned is NotImplemented:
        return NotImplemented
    is_vector = y.ndim == 1 or y.shape == x.shape[:-1]
    right = y.unsqueeze(-1) if is_vector else y
    made = torch.matmul(turned, right) if left else torch.matmul(right, turned)
    return made.squeeze(-1) if is_vector else made


TABLE: dict[Any, Callable[..., Any]] = {
    aten._sparse_addmm.default: aten.addmm.default,
    aten.cholesky_solve.default: cholesky_solve,
    aten.linear.default: dense,
    aten.linalg_cholesky.default: cholesky,
    aten.linalg_inv.default: inverse_alone,
    aten.linalg_inv_ex.default: inverse,
    aten.linalg_solve.default: solve,
    aten.linalg_solve_triangular.default: solve_triangular,
    aten._pdist_forward.default: distances_within,
}

RULES = {aten.einsum.default: outer_product, aten.linear.default: reshaped_before}
"""What replaces a node of an op."""
