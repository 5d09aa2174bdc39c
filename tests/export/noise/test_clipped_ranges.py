"""Ranges that cut off rare values: only where outputs of samples not seen before are better."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Fixed
from edgeq.calibrate.run import Calibrator
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.export.noise import clipped_ranges as clipping
from edgeq.export.noise.clipped_ranges import LEAST_GAIN_DB, clipped_ranges
from edgeq.export.plan.choices import choose
from edgeq.model import LiteModel
from edgeq.recipe import INT8

Array = npt.NDArray[np.float32]
WIDTH = 32
MANY = 4 * clipping.MOST_SAMPLES


def network() -> OneOp:
    """Three layers."""
    random = np.random.default_rng(4)
    rows = Value((64, WIDTH))
    weights = [random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 6 for _ in range(3)]
    steps = tuple(
        Step("FULLY_CONNECTED", (source, weight), {made: rows})
        for source, weight, made in zip("xab", weights, "aby", strict=True)
    )
    return OneOp("layers", {"x": rows}, steps)


def rows_of(count: int, seed: int = 7) -> list[Array]:
    """Rows of which a few are far louder than the others."""
    random = np.random.default_rng(seed)
    loud = random.standard_t(3.0, size=(count, 64, 1))
    return list((loud * random.normal(size=(count, 64, WIDTH))).astype(np.float32))


MODEL = LiteModel(network().build(), "tflite")


def samples_of(rows: Sequence[Array]) -> list[Sample]:
    return list(RepDataset(list(rows)).samples(input_specs(MODEL)))


def cut(rows: Sequence[Array]) -> tuple[Calibration, Calibration, tuple[str, ...]]:
    """The widest ranges of rows, those that may leave out rare values, and the notes."""
    samples = samples_of(rows)
    widest = Calibrator(MODEL, 1).run(samples)
    return widest, *clipped_ranges(MODEL, widest, choose(MODEL, INT8), (), samples, 1)


def gaining(monkeypatch: pytest.MonkeyPatch, *halves: float) -> None:
    """Has each half of the samples that judge win so much by ranges that were cut."""

    def tally(_: LiteModel, ranges: Calibration, *__: Any) -> Any:
        is_cut = any(isinstance(observer, Fixed) for observer in ranges.observers.values())
        return SimpleNamespace(rows=(), is_cut=is_cut)

    def parts_db(tallies: Sequence[Any], _: Any) -> Array:
        both = zip(tallies, halves, strict=True)
        return np.asarray([[30.0 + seen.is_cut * gain] for seen, gain in both], np.float32)

    monkeypatch.setattr(clipping, "_tally", tally)
    monkeypatch.setattr(clipping, "_parts_db", parts_db)


def test_rare_values_are_left_out_within_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gaining(monkeypatch, 1.0, 2.0)
    widest, found, (note,) = cut(rows_of(MANY))
    inner = {t.index for t in MODEL.graph.tensors if t.name in ("a", "b")}
    assert note.startswith("ranges of 2 tensors leave out rare values: outputs win 1.5 dB")
    for tensor, (low, high) in found.ranges.items():
        below, above = widest.ranges[tensor]
        is_narrower = high - low < 0.8 * (above - below)
        assert is_narrower if tensor in inner else (low, high) == (below, above)


def test_half_of_the_samples_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    gaining(monkeypatch, 5.0, LEAST_GAIN_DB / 2)
    widest, found, notes = cut(rows_of(MANY))
    assert (found is widest, notes) == (True, ())


def test_ranges_stay_where_outputs_need_what_is_rare() -> None:
    widest, found, notes = cut(rows_of(MANY))
    assert (found is widest, notes) == (True, ())


@pytest.mark.parametrize(("times", "is_cut"), [(1, False), (2, True)])
def test_what_a_single_of_few_samples_reaches_stays(
    times: int, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaining(monkeypatch, 1.0, 2.0)
    rows = rows_of(MANY // 2)
    _, found, notes = cut([*[3 * max(rows, key=np.ptp)] * times, *rows])
    assert bool(notes) == is_cut
    assert any(isinstance(o, Fixed) for o in found.observers.values()) == is_cut


@pytest.mark.parametrize(
    ("count", "won_db", "is_cut"), [(34, 1.2, False), (34, 1.6, True), (MANY, 0.8, True)]
)
def test_what_few_samples_win_may_be_chance(
    count: int, won_db: float, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaining(monkeypatch, won_db, won_db)
    rows = rows_of(count)
    _, _, notes = cut([*[3 * max(rows, key=np.ptp)] * 2, *rows])
    assert bool(notes) == is_cut


def test_few_samples_cut_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gaining(monkeypatch, 1.0, 2.0)
    widest, found, notes = cut(rows_of(9))
    assert (found is widest, notes) == (True, ())


def test_what_fails_leaves_the_widest_ranges_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MSE", lambda: None)
    widest, found, (note,) = cut(rows_of(MANY))
    assert found is widest
    assert note.startswith("no ranges leave out rare values: to find such failed with")


def test_samples_that_judge_may_hold_other_kinds_of_values() -> None:
    rows = rows_of(MANY)
    for quiet in rows[1::2]:
        quiet[:32] /= 1000
    assert not [note for note in cut(rows)[2] if "failed" in note]
