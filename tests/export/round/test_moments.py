from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.export.round.gptq import Grid, fit
from edgeq.export.round.moments import Moments

Array = npt.NDArray[np.float32]


def draw(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def alike(samples: int, positions: int, factors: Array, seed: int) -> list[Array]:
    """Rows of samples, those of each almost the same; columns go together as `factors` say."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(samples, 1, len(factors))) @ factors
    near = rows + 0.1 * random.normal(size=(samples, positions, factors.shape[1]))
    return list(near.astype(np.float32)[:, None])


def off_diagonal(squares: Array) -> Array:
    return squares[:, ~np.eye(squares.shape[-1], dtype=bool)]


def test_many_rows_of_few_samples_do_not_tell_how_columns_go_together() -> None:
    by_chance, told = Moments(), Moments()
    for rows in alike(8, 200, np.eye(32), seed=0):
        by_chance.add(rows)
    for rows in alike(24, 200, draw(2, 32, seed=1), seed=2):
        told.add(rows)
    for seen in (by_chance, told):
        seen.flush()
    assert np.abs(off_diagonal(by_chance.squares(True))).mean() < 0.1  # 0.26 if all is believed
    wanted = draw(2, 32, seed=1).T @ draw(2, 32, seed=1)
    found = off_diagonal(told.squares(True))[0]
    assert np.corrcoef(found, off_diagonal(wanted[None])[0])[0, 1] > 0.8
    assert np.abs(found).mean() > 0.5 * np.abs(off_diagonal(wanted[None])).mean()


def test_rows_of_one_sample_are_believed_by_their_number() -> None:
    many, few = Moments(), Moments()
    few.add(draw(1, 40, 32))
    many.add(draw(1, 4000, 32))
    for seen in (many, few):
        seen.flush()
        assert np.abs(off_diagonal(seen.squares(True))).mean() < 0.02  # 0.13 of the few rows


def test_few_samples_leave_a_weight_as_good_on_others() -> None:
    weight, seen = draw(1, 16, 32, seed=3), Moments()
    grid = Grid(np.full_like(weight, 0.2), np.zeros_like(weight), -7, 7)
    for rows in alike(8, 200, np.eye(32), seed=0):
        seen.add(rows)
    seen.flush()
    others = np.concatenate(alike(400, 1, np.eye(32), seed=4), axis=1)[0]
    by_squares, nearest = (
        np.square((weight - one) @ others.T).mean()
        for one in (fit(weight, seen.squares(True), grid), grid.nearest(weight))
    )
    assert by_squares < 1.1 * nearest  # 2.1 if all is believed
