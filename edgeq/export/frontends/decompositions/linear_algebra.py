"""Distances between rows, and the algebra of small matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeq.export.frontends.torch_program.program_constants import constant

aten = torch.ops.aten


def distances_within(x: Tensor, p: float = 2.0) -> Tensor:
    """`pdist`: between all rows and those behind them."""
    first, second = np.triu_indices(int(x.shape[0]), 1)
    left = x.index_select(0, constant(lambda: torch.from_numpy(first)))
    right = x.index_select(0, constant(lambda: torch.from_numpy(second)))
    return torch.linalg.vector_norm(left - right, p, dim=-1)


def _entries(x: Tensor) -> list[list[Tensor]]:
    return [[x[..., i, j] for j in range(x.shape[-1])] for i in range(x.shape[-2])]


def determinant(x: Tensor) -> Any:
    """`linalg_det` of matrices of up to three rows."""
    if x.shape[-1] > 3:
        return NotImplemented
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


def inverse(x: Tensor, *, check_errors: bool = False) -> Any:
    """`linalg_inv_ex` of matrices of up to three rows."""
    if x.shape[-1] > 3:
        return NotImplemented
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
    turned = aten.linalg_inv_ex.default(triangle)[0]
    return torch.matmul(turned, y) if left else torch.matmul(y, turned)


def determinant_parts(x: Tensor) -> Any:
    """`_linalg_det`, of which the first result is read."""
    made = determinant(x)
    return made if made is NotImplemented else (made, x, torch.zeros(1, dtype=torch.int32))


TABLE: dict[Any, Callable[..., Any]] = {
    aten._linalg_det.default: determinant_parts,
    aten.linalg_inv.default: inverse_alone,
    aten.linalg_inv_ex.default: inverse,
    aten.linalg_solve_triangular.default: solve_triangular,
    aten._pdist_forward.default: distances_within,
}
