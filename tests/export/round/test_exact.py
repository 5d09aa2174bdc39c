"""Matrix arithmetic whose bits do not depend on the order of sums, and so not on threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.export.round.exact import PANEL, WIDE, add_gram, cholesky, mirrored, product, solved

Array = npt.NDArray[np.float32]


def draw(*shape: int, seed: int = 3) -> Array:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) * np.exp(generator.normal(size=shape))).astype(np.float32)


@pytest.mark.parametrize("terms", [1, 9, 300, 5000])
def test_the_order_of_terms_does_not_show(terms: int) -> None:
    left, right = draw(2, 5, terms), draw(2, terms, 7, seed=4)
    order = np.random.default_rng(0).permutation(terms)
    found = product(left, right)
    assert np.array_equal(found, product(left[:, :, order], right[:, order]))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    assert np.abs(found - exact).max() <= 4e-6 * (np.abs(left) @ np.abs(right)).max()


def test_a_wide_product_is_that_of_its_parts() -> None:
    left, right = draw(1, 3, 20), draw(1, 20, WIDE + 9, seed=4)
    assert np.array_equal(product(left, right)[..., -9:], product(left, right[..., -9:]))


@pytest.mark.parametrize("columns", [1, 7, WIDE + 9])
def test_a_gram_matrix_is_the_product_of_rows_with_themselves(columns: int) -> None:
    rows, more = draw(2, 30, columns), draw(2, 30, columns, seed=4)
    squares = np.zeros((2, columns, columns), np.float32)
    for some in (rows, more):
        add_gram(squares, some)
    expected = sum(product(some.transpose(0, 2, 1), some) for some in (rows, more))
    assert np.array_equal(mirrored(squares), expected)


def test_what_is_not_finite_stays_so() -> None:
    left = draw(1, 2, 3)
    left[0, 0, 0] = np.nan
    found = product(left, draw(1, 3, 2))
    assert np.isnan(found[0, 0]).all()
    assert np.isfinite(found[0, 1]).all()
    assert product(np.zeros((1, 2, 0), np.float32), np.zeros((1, 0, 2), np.float32)).sum() == 0


@pytest.mark.parametrize("size", [1, 9, PANEL, PANEL + 1, WIDE + 2 * PANEL])
def test_a_factor_times_itself_is_the_matrix(size: int) -> None:
    rows = draw(2, 2 * size, size)
    squares = (rows.transpose(0, 2, 1) @ rows).astype(np.float32)
    factor = cholesky(squares)
    assert np.array_equal(factor, np.tril(factor))
    again = factor.astype(np.float64) @ factor.transpose(0, 2, 1).astype(np.float64)
    assert np.abs(again - squares).max() <= 1e-5 * np.abs(squares).max()


@pytest.mark.parametrize("size", [1, 9, PANEL + 1, 3 * PANEL])
def test_a_solution_times_the_factor_is_what_was_wanted(size: int) -> None:
    factor = np.tril(draw(2, size, size) / size) + np.eye(size, dtype=np.float32)
    wanted = draw(2, size, 5, seed=4)
    again = factor.astype(np.float64) @ solved(factor, wanted)
    assert np.abs(again - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_matrix_without_a_factor_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        cholesky(np.array([[[1.0, 2.0], [2.0, 1.0]]], np.float32))
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        cholesky(np.full((1, 2, 2), np.nan, np.float32))


ROUNDING = """
import hashlib
import numpy as np
from edgeq.export.round.gptq import Grid, fit
from edgeq.export.round.moments import Missing, Moments

seen, digest = Moments(), hashlib.sha256()
random = np.random.default_rng(0)
for _ in range(2):
    seen.add(np.maximum(random.normal(size=(1, 700, 192)), 0).astype(np.float32))
seen.flush()
squares = seen.squares(centred=True)
weight = random.normal(size=(1, 40, 192)).astype(np.float32)
scale = np.full_like(weight, 0.02)
grid = Grid(scale, np.zeros_like(scale), -127, 127)
rows = np.maximum(random.normal(size=(1, 700, 192)), 0).astype(np.float32)
missing = [Missing.of(weight, rows[:, i::2] * 0.9, rows[:, i::2], True).products for i in range(2)]
for found in (squares, fit(weight, squares, grid), fit(weight, squares, grid, missing)):
    digest.update(np.ascontiguousarray(found).tobytes())
print(digest.hexdigest())
"""
"""Squares of 192 columns, which the channels of a narrow MobileNetV2 are, and a weight by them."""


def test_threads_of_blas_leave_no_trace() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", ROUNDING], capture_output=True, check=True, timeout=60,
            env={**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count},
        ).stdout
        for count in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
