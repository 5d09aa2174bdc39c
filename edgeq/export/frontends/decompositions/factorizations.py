"""Factors of small matrices, and what is made of them, as the steps that they are.

Pivots and reflections are those of LAPACK, which PyTorch calls, so that signs are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeq.export.frontends.decompositions.linear_algebra import (
    ROWS_MAX,
    determinant,
    solve_triangular,
)

aten = torch.ops.aten


def _is_large(x: Tensor) -> bool:
    return min(int(x.shape[-1]), int(x.shape[-2])) > ROWS_MAX


def _lu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors, the row that each was exchanged with from 0 on, and the order of rows."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = torch.arange(height, dtype=torch.int32), torch.arange(width)
    order = rows.expand(x.shape[:-1])
    exchanges: list[Tensor] = []
    for j in range(min(height, width)):
        sizes = torch.where(rows >= j, x[..., j].abs(), -1.0)
        place = sizes.argmax(-1, keepdim=True).to(torch.int32)
        exchanges.append(place)
        there = (rows == place).unsqueeze(-1)
        here = (rows == j).unsqueeze(-1)
        pivot = (x * there.to(x.dtype)).sum(-2, keepdim=True)
        number = (order * there.squeeze(-1).to(order.dtype)).sum(-1, True, dtype=torch.int32)
        x = torch.where(here, pivot, torch.where(there, x[..., j : j + 1, :], x))
        moved = torch.where(there.squeeze(-1), order[..., j : j + 1], order)
        order = torch.where(here.squeeze(-1), number, moved)
        below = (rows > j).unsqueeze(-1)
        shares = torch.where(below, x[..., j : j + 1] / pivot[..., j : j + 1], 0.0)
        x = x - shares * torch.where(columns > j, pivot, 0.0)
        x = torch.where(below & (columns == j), shares, x)
    return x, torch.cat(exchanges, -1), order


def _triangles(factors: Tensor) -> tuple[Tensor, Tensor]:
    """The lower one, with ones on its diagonal, and the upper one."""
    height, width = int(factors.shape[-2]), int(factors.shape[-1])
    count = min(height, width)
    ones = torch.eye(height, count, dtype=factors.dtype)
    return factors[..., :count].tril(-1) + ones, factors[..., :count, :].triu()


def _ordered(order: Tensor, x: Tensor) -> Tensor:
    """The matrix that puts rows in an order, `(..., rows, rows)` like a matrix."""
    return (order.unsqueeze(-1) == torch.arange(order.shape[-1], dtype=torch.int32)).to(x.dtype)


def lu_factor(x: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """`linalg_lu_factor_ex`: factors, exchanges from 1 on, and that all went well."""
    if not pivot or _is_large(x):
        return NotImplemented
    factors, exchanges, _ = _lu(x)
    return factors, exchanges + 1, torch.zeros(x.shape[:-2], dtype=torch.int32)


def lu_factor_alone(x: Tensor, *, pivot: bool = True) -> Any:
    """`linalg_lu_factor`, without the check of what went well."""
    made = lu_factor(x, pivot=pivot)
    return made if made is NotImplemented else made[:2]


def lu(x: Tensor, *, pivot: bool = True) -> Any:
    """`linalg_lu`: the order of rows as a matrix, and both triangles."""
    if not pivot or _is_large(x):
        return NotImplemented
    factors, _, order = _lu(x)
    return _ordered(order, x).mT, *_triangles(factors)


def lu_solve(
    factors: Tensor, exchanges: Tensor, y: Tensor, *, left: bool = True, adjoint: bool = False
) -> Any:
    """`linalg_lu_solve`."""
    if adjoint or not left or _is_large(factors):
        return NotImplemented
    rows = torch.arange(factors.shape[-1], dtype=torch.int32)
    for j in range(int(factors.shape[-1])):
        place = exchanges[..., j : j + 1].to(torch.int32) - 1
        there, here = (rows == place).unsqueeze(-1), (rows == j).unsqueeze(-1)
        row = (y * there.to(y.dtype)).sum(-2, keepdim=True)
        y = torch.where(here, row, torch.where(there, y[..., j : j + 1, :], y))
    lower, upper = _triangles(factors)
    half = solve_triangular(lower, y, upper=False, unitriangular=True)
    return solve_triangular(upper, half, upper=True)


def _exchanged_sign(exchanges: Tensor) -> Tensor:
    """-1 where the number of rows that changed places is odd."""
    stayed = exchanges == torch.arange(exchanges.shape[-1], dtype=torch.int32)
    return torch.where(stayed, 1.0, -1.0).prod(-1)


def determinant_parts(x: Tensor) -> Any:
    """`_linalg_det`, of which the first result is read."""
    if x.shape[-1] <= 3:
        return determinant(x), x, torch.zeros(1, dtype=torch.int32)
    if _is_large(x):
        return NotImplemented
    factors, exchanges, _ = _lu(x)
    made = torch.diagonal(factors, dim1=-2, dim2=-1).prod(-1) * _exchanged_sign(exchanges)
    return made, factors, exchanges + 1


def logarithm_of_determinant(x: Tensor) -> Any:
    """`_linalg_slogdet`, of which two results are read."""
    if x.shape[-1] <= 3:
        made = determinant(x)
        return made.sign(), made.abs().log(), x, torch.zeros(x.shape[:-1], dtype=torch.int32)
    if _is_large(x):
        return NotImplemented
    factors, exchanges, _ = _lu(x)
    pivots = torch.diagonal(factors, dim1=-2, dim2=-1)
    sign = pivots.sign().prod(-1) * _exchanged_sign(exchanges)
    return sign, pivots.abs().log().sum(-1), factors, exchanges + 1


def householder(x: Tensor) -> Any:
    """`geqrf`: the triangle with the reflections below it, and the factor of each."""
    if _is_large(x):
        return NotImplemented
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = torch.arange(height).unsqueeze(-1), torch.arange(width)
    factors: list[Tensor] = []
    for j in range(min(height, width)):
        top = x[..., j : j + 1, j : j + 1]
        rest = torch.where(rows > j, x[..., j : j + 1], 0.0)
        square = (rest * rest).sum(-2, keepdim=True)
        is_reflected = square > 0
        length = torch.where(top < 0, 1.0, -1.0) * (top * top + square).sqrt()
        length = torch.where(is_reflected, length, top)
        divisor = torch.where(is_reflected, length, 1.0)
        factor = torch.where(is_reflected, (length - top) / divisor, 0.0)
        mirror = rest / torch.where(is_reflected, top - length, 1.0)
        whole = torch.where(rows == j, 1.0, mirror)
        shares = factor * torch.matmul(whole.mT, x)
        x = x - whole * torch.where(columns > j, shares, 0.0)
        x = torch.where((rows == j) & (columns == j), length, x)
        x = torch.where((rows > j) & (columns == j), mirror, x)
        factors.append(factor.squeeze(-1))
    return x, torch.cat(factors, -1)


def householder_product(mirrors: Tensor, factors: Tensor) -> Any:
    """`linalg_householder_product`: what the reflections make of unit vectors."""
    if _is_large(mirrors):
        return NotImplemented
    height, width = int(mirrors.shape[-2]), int(mirrors.shape[-1])
    rows = torch.arange(height).unsqueeze(-1)
    made = torch.eye(height, width, dtype=mirrors.dtype).expand(mirrors.shape)
    for j in reversed(range(int(factors.shape[-1]))):
        below = torch.where(rows > j, mirrors[..., j : j + 1], 0.0)
        column = torch.where(rows == j, 1.0, below)
        share = factors[..., j : j + 1].unsqueeze(-1) * torch.matmul(column.mT, made)
        made = made - column * share
    return made


def qr(x: Tensor, mode: str = "reduced") -> Any:
    """`linalg_qr`."""
    if _is_large(x):
        return NotImplemented
    height, width = int(x.shape[-2]), int(x.shape[-1])
    mirrors, factors = householder(x)
    rows = height if mode == "complete" else min(height, width)
    r = mirrors[..., :rows, :].triu()
    if mode == "r":
        return x.new_zeros(0), r
    wide = torch.nn.functional.pad(mirrors, (0, max(rows - width, 0)))
    return householder_product(wide[..., :rows], factors), r


def pseudoinverse(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`linalg_pinv` of a matrix whose columns or rows are independent, as far as it is used."""
    if _is_large(x):
        return NotImplemented
    if x.shape[-2] < x.shape[-1]:
        return pseudoinverse(x.mT).mT
    q, r = qr(x)
    return solve_triangular(r, q.mT, upper=True)


TABLE: dict[Any, Callable[..., Any]] = {
    aten._linalg_det.default: determinant_parts,
    aten._linalg_slogdet.default: logarithm_of_determinant,
    aten.linalg_lu_factor.default: lu_factor_alone,
    aten.linalg_lu_factor_ex.default: lu_factor,
    aten.linalg_lu.default: lu,
    aten.linalg_lu_solve.default: lu_solve,
    aten.geqrf.default: householder,
    aten.linalg_householder_product.default: householder_product,
    aten.linalg_qr.default: qr,
    aten.linalg_pinv.atol_rtol_tensor: pseudoinverse,
}
