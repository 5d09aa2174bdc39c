"""Outputs whose rows are of several magnitudes: each part is judged for itself."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.fidelity.parts import kinds_of, least_db, merged_rows, parts_of, rows_of

Array = npt.NDArray[np.float32]


def detections(seed: int) -> Array:
    """`(1, 6, 40)`: four rows of boxes in pixels over two rows of scores, as a detector gives."""
    generator = np.random.default_rng(seed)
    boxes, scores = generator.uniform(20, 300, (4, 40)), generator.beta(0.3, 3, (2, 40))
    return np.concatenate([boxes, scores])[None].astype(np.float32)


def rounded(values: Array, scale: float) -> Array:
    """What integers of one scale hold."""
    return np.asarray(np.rint(values / scale) * scale, np.float32)


def test_scores_beside_boxes_are_a_part_that_the_scale_of_the_boxes_destroys() -> None:
    expected = detections(0)
    boxes, scores = sorted(
        parts_of(rows_of(expected, rounded(expected, 2.4))), key=lambda part: part.where
    )
    assert (boxes.where, boxes.is_constant) == ("rows 0 to 3 of axis 1", False)
    assert boxes.sqnr_db > 40
    assert (scores.where, scores.is_constant) == ("rows 4 to 5 of axis 1", True)
    assert scores.least_db <= 0
    assert least_db(45.0, [boxes, scores]) == scores.least_db


def test_each_part_has_its_own_sqnr() -> None:
    expected = detections(1)
    actual = np.concatenate([rounded(expected[:, :4], 2.4), rounded(expected[:, 4:], 1 / 256)], 1)
    found = {part.where: part.sqnr_db for part in parts_of(rows_of(expected, actual))}
    noise = np.square(expected[:, 4:] - actual[:, 4:]).sum()
    signal = np.square(expected[:, 4:]).sum()
    assert found["rows 4 to 5 of axis 1"] == pytest.approx(10 * math.log10(signal / noise), 1e-4)


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param(np.eye(10, dtype=np.float32)[:1] * 0.999 + 1e-4, id="a softmax"),
        pytest.param(np.linspace(-9, 9, 10, dtype=np.float32)[None], id="logits"),
        pytest.param(np.zeros((1, 10), np.float32), id="zeros"),
        pytest.param(np.ones((1, 5000), np.float32), id="many rows"),
        pytest.param(np.float32([0.5]), id="one value"),
        pytest.param(np.zeros((1, 0), np.float32), id="nothing"),
    ],
)
def test_an_output_of_one_kind_has_no_parts(expected: Array) -> None:
    assert list(parts_of(rows_of(expected, expected))) == []
    assert [kind.axis for kind in kinds_of([expected])] == [None]


def test_a_class_that_is_rare_is_no_part_of_its_own() -> None:
    generator = np.random.default_rng(2)
    scores = [generator.dirichlet([0.05] * 4 + [1e-4])[None].astype(np.float32) for _ in range(30)]
    assert [kind.axis for kind in kinds_of(scores)] == [None]


def test_what_is_constant_says_nothing_however_near_it_is() -> None:
    expected = [np.float32([[300 + degrees]]) for degrees in (-1.0, 0.0, 1.0)]
    rows = merged_rows(
        merged_rows(*(rows_of(e, np.float32([[300.0]])) for e in expected[:2])),
        rows_of(expected[2], np.float32([[300.0]])),
    )
    (whole,) = parts_of(rows)
    assert whole.sqnr_db > 40
    assert (whole.where, whole.is_constant, whole.least_db) == ("", True, 0.0)


def test_a_probability_below_the_steps_of_int8_may_be_constant() -> None:
    quiet = rows_of(np.float32([[0.0010, 0.0012]]), np.float32([[0.0, 0.0]]))
    assert list(parts_of(quiet)) == []


def test_any_order_of_merging_is_one_pass() -> None:
    some = [rows_of(detections(i), rounded(detections(i), 0.7)) for i in range(4)]
    found = set()
    for order in itertools.permutations(some):
        first, second, third, fourth = order
        found.add(merged_rows(merged_rows(first, second), merged_rows(third, fourth)))
    assert len(found) == 1
