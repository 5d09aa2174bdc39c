"""SQNR along sequences: tenth by tenth, whatever their lengths."""

from __future__ import annotations

import pytest

from edgeq.fidelity.sqnr import Drift


def drift(*noises: list[float]) -> Drift | None:
    """Of sequences whose steps have a signal of 1 and these noises."""
    steps = [place for sequence in noises for place in range(len(sequence))]
    return Drift.of([(1.0, noise) for sequence in noises for noise in sequence], steps)


def test_a_long_sequence_has_ten_pieces() -> None:
    found = drift([10.0 ** -(step // 100) for step in range(1000)])
    assert found is not None
    assert found.tenths_db == pytest.approx(range(0, 100, 10))


def test_pieces_are_of_all_sequences() -> None:
    found = drift([0.1] * 10 + [0.01] * 10, [0.1] * 5 + [0.01] * 5)
    assert found is not None
    assert found.tenths_db == pytest.approx([10.0] * 5 + [20.0] * 5)


def test_few_steps_are_a_piece_each() -> None:
    found = drift([0.1, 0.01, 0.001])
    assert found is not None
    assert found.tenths_db == pytest.approx([10.0, 20.0, 30.0])
    assert found.shown == "10.0 and 30.0 dB"


def test_samples_of_no_sequence_have_none() -> None:
    assert Drift.of([(1.0, 0.1)] * 3, []) is None
    assert drift([0.1], [0.1]) is None


@pytest.mark.parametrize(
    ("tenths_db", "growing"),
    [((40.0, 30.0, 26.9), True), ((40.0, 30.0, 27.0), False), ((20.0, 30.0, 40.0), False)],
)
def test_noise_that_still_grows_in_the_second_half_is_told(
    tenths_db: tuple[float, ...], growing: bool
) -> None:
    assert Drift(tenths_db).is_growing is growing
