"""How far outputs are apart: exact sums that merge, and what is read from them."""

from __future__ import annotations

import functools
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.fidelity.sqnr import ExactSum, Fidelity, SampleSpread, decibels


def floats(values: object) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)


@pytest.mark.parametrize(
    ("expected", "actual", "sqnr_db", "largest"),
    [
        ([3.0, 4.0], [3.0, 4.5], 20.0, 0.5),
        ([3.0, 4.0], [3.0, 4.0], math.inf, 0.0),
        ([0.0, 0.0], [0.0, 0.0], math.inf, 0.0),
        ([0.0, 0.0], [0.0, 1.0], -math.inf, 1.0),
        ([1.0], [-1.0], -20 * math.log10(2), 2.0),
        ([1e30], [1.1e30], 20.0, 1e29),
        ([1e-30], [1e30], -1200.0, 1e30),
    ],
)
def test_fidelity(
    expected: list[float], actual: list[float], sqnr_db: float, largest: float
) -> None:
    found = Fidelity().observe(floats(expected), floats(actual))
    assert found.sqnr_db == pytest.approx(sqnr_db, abs=1e-4)
    assert found.largest == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64])
def test_fidelity_of_outputs_that_are_not_real(dtype: type) -> None:
    one: npt.NDArray[Any] = np.asarray([1, 0, 1, 1], dtype)
    other: npt.NDArray[Any] = np.asarray([1, 0, 0, 1], dtype)
    assert Fidelity().observe(one, one).sqnr_db == math.inf
    assert Fidelity().observe(one, other).sqnr_db == pytest.approx(10 * math.log10(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_fidelity_of_what_is_no_number_passes_no_bound(value: float) -> None:
    found = Fidelity().observe(floats([value, 1.0]), floats([2.0, 1.0]))
    found = found.observe(floats([1.0, 1.0]), floats([1.0, 1.0]))
    assert not found.sqnr_db >= 3.0
    assert not np.isfinite(found.largest)


def added(values: list[float]) -> ExactSum:
    return functools.reduce(ExactSum.merge, map(ExactSum.of, values), ExactSum())


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=20))
def test_a_sum_is_rounded_once(values: list[float]) -> None:
    exact = sum(map(Fraction, values), Fraction(0))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert added(values).value == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e300, 1.0, -1e300], 1.0),
        ([5e-324, 1.0, -1.0], 5e-324),
        ([1e308, 1e308], math.inf),
        ([-1e308, -1e308], -math.inf),
        ([math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([], 0.0),
    ],
)
def test_sums_at_the_edges(values: list[float], expected: float) -> None:
    assert added(values).value == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


SAMPLES = 12

Samples = npt.NDArray[np.float32]
samples = arrays.arrays(
    np.float32, (2, SAMPLES, 2, 3), elements=st.floats(-(2**100), 2**100, width=32)
)
"""Two models' outputs `(2, 3)` for each of `SAMPLES`; the values are of very different size."""


def one_pass(values: Samples, order: list[int]) -> Fidelity:
    seen = Fidelity()
    for i in order:
        seen = seen.observe(values[0, i], values[1, i])
    return seen


@given(
    samples,
    st.permutations(range(SAMPLES)),
    st.lists(st.integers(0, SAMPLES), max_size=4).map(sorted),
    st.randoms(),
)
def test_however_samples_are_split_the_result_is_that_of_one_pass(
    values: Samples, order: list[int], cuts: list[int], random: Any
) -> None:
    whole = one_pass(values, list(range(SAMPLES)))
    bounds = zip([0, *cuts], [*cuts, SAMPLES], strict=True)
    parts = [one_pass(values, order[start:end]) for start, end in bounds]
    while len(parts) > 1:
        first = parts.pop(random.randrange(len(parts)))
        second = parts.pop(random.randrange(len(parts)))
        parts.append(pickle.loads(pickle.dumps(first.merge(second))))
    assert parts == [whole]
    assert parts[0].sqnr_db == whole.sqnr_db
    assert parts[0].cosine == whole.cosine
    assert parts[0].mean_error == whole.mean_error


@given(samples)
def test_what_is_read_is_what_numpy_computes_on_all_samples_at_once(values: Samples) -> None:
    expected, actual = values.astype(np.float64).reshape(2, -1)
    seen = one_pass(values, list(range(SAMPLES)))
    assert seen.count == expected.size
    assert seen.mean_error == pytest.approx(np.abs(expected - actual).mean())
    assert seen.largest == np.abs(expected - actual).max()
    lengths = np.linalg.norm(expected) * np.linalg.norm(actual)
    if np.isfinite(lengths) and lengths > 1e-100:
        assert seen.cosine == pytest.approx(expected @ actual / lengths, abs=1e-9)
    winners = values.reshape(2, -1, 3).argmax(axis=-1)
    assert seen.top1_agreement == (winners[0] == winners[1]).mean()


@pytest.mark.parametrize(
    ("expected", "actual", "cosine"),
    [
        ([1.0, 0.0], [0.0, 3.0], 0.0),
        ([1.0, 2.0], [2.0, 4.0], 1.0),
        ([1.0, 2.0], [-1.0, -2.0], -1.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [0.0, 1.0], 0.0),
        ([1e30, 0.0], [1e30, 1e30], math.sqrt(0.5)),
    ],
)
def test_cosine(expected: list[float], actual: list[float], cosine: float) -> None:
    assert Fidelity.of(floats(expected), floats(actual)).cosine == pytest.approx(cosine)


@pytest.mark.parametrize(
    ("shape", "ranked"),
    [((1, 10), 1), ((2, 7, 3), 14), ((1, 1), 0), ((10,), 0), ((), 0), ((0, 3), 0)],
)
def test_only_scores_are_ranked(shape: tuple[int, ...], ranked: int) -> None:
    seen = Fidelity.of(np.ones(shape, np.float32), np.ones(shape, np.float32))
    assert seen.top1.count == seen.top1.same == ranked
    assert seen.top1_agreement == (1.0 if ranked else None)


def test_the_first_of_equal_scores_wins() -> None:
    seen = Fidelity.of(floats([[1, 2, 2], [0, 1, 0]]), floats([[1, 2, 2.5], [0, 1, 0]]))
    assert (seen.top1.count, seen.top1.same) == (2, 1)


def test_nothing_seen_is_no_difference() -> None:
    seen = Fidelity()
    assert (seen.sqnr_db, seen.cosine, seen.mean_error) == (math.inf, 1.0, 0.0)
    assert seen.top1_agreement is None


def test_samples_show_their_median_their_worst_tenth_and_how_sure_the_total_is() -> None:
    powers = [(100.0, 1.0)] * 15 + [(100.0, 10.0)] * 5
    found = SampleSpread.of(powers)
    total = decibels(2000.0, 65.0)
    assert (found.median_db, found.worst_tenth_db) == (20.0, 10.0)
    assert 12 < found.low_db < total < found.high_db < 18
    assert found == SampleSpread.of(powers)
    alone = SampleSpread.of([(100.0, 1.0)])
    assert (alone.median_db, alone.worst_tenth_db, alone.low_db, alone.high_db) == (20.0,) * 4
    assert SampleSpread.of([(1.0, 0.0)] * 3).median_db == math.inf
    assert SampleSpread.of([(0.0, 1.0)] * 3).low_db == -math.inf


def test_an_interval_of_few_samples_covers_as_much_as_it_says() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        noise = np.exp(random.normal(0, 0.7, 4))
        found = SampleSpread.of([(100.0, float(n)) for n in noise])
        covered += found.low_db <= decibels(100.0, math.exp(0.7**2 / 2)) <= found.high_db
    assert covered >= 170


def test_few_samples_leave_room_for_rare_loud_ones() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        noise = np.exp(random.normal(0, 1.5, 9))
        found = SampleSpread.of([(100.0, float(n)) for n in noise])
        covered += found.low_db <= decibels(100.0, math.exp(1.5**2 / 2))
    assert covered >= 160


def test_indices_agree_or_do_not_however_near_they_are() -> None:
    expected = np.arange(100).reshape(1, 100)
    other = expected.copy()
    other[0, 0], other[0, 99] = 1, 500
    seen = Fidelity.of_indices(expected, expected).merge(Fidelity.of_indices(expected, other))
    assert seen.are_indices
    assert seen.top1_agreement == 0.99
    assert seen.sqnr_db == pytest.approx(20)
