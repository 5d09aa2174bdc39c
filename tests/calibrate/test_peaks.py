"""Ranges of states are as wide as long use needs them, whatever way the sequences come."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.peaks import MOST, Peaks, Stretches

ROWS = Value((1, 4))


def leaky(kept: float = 0.9) -> bytes:
    """A state that keeps a share of itself at each step."""
    steps = (
        Step("MUL", ("state", np.asarray(kept, np.float32)), {"old": ROWS}),
        Step("ADD", ("old", "x"), {"new": ROWS}),
    )
    return OneOp("ADD", {"x": ROWS, "state": ROWS}, steps).build()


def drawn(sequences: int, steps: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(sequences, steps, 4)).astype(np.float32)


def data(xs: npt.NDArray[np.float32], start: Any = None) -> edgeq.Sequences:
    return edgeq.Sequences(list(xs), {"state": "new"}, start)


def states(xs: npt.NDArray[np.float32], kept: float = 0.9) -> npt.NDArray[np.float32]:
    """The states behind each step, `(sequences, steps, 4)`."""
    found = itertools.accumulate(xs.swapaxes(0, 1), lambda state, x: kept * state + x)
    return np.stack(list(found), axis=1)


def test_a_state_of_long_use_stays_in_its_range() -> None:
    seen, unseen = drawn(16, 60), drawn(16, 2000, seed=1)
    edge = edgeq.export(leaky(), data(seen), recipe="int8", inputs="int8", outputs="int8")
    port = next(port for port in edge.io.inputs if port.name == "state")
    assert port.qparams is not None
    low, high = port.qparams.range()
    reached, later = states(seen), states(unseen)
    ends = float(reached.min()), float(reached.max())
    assert 1.5 * ends[0] < low < ends[0]
    assert ends[1] < high < 1.5 * ends[1]
    beyond, before = (
        ((later < pair[0]) | (later > pair[1])).mean() for pair in ((low, high), ends)
    )
    assert before > 2 * beyond


def peaks(low: list[float], high: list[float], steps: list[int] | None = None) -> Peaks:
    """Of a tensor 0."""
    return Peaks(tuple(steps or [60] * len(low)), {0: tuple(low)}, {0: tuple(high)})


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        pytest.param(peaks([-1.0] * 16, [2.0] * 16), (-1.0, 2.0), id="alike"),
        pytest.param(peaks([0.0] * 7, [float(i) for i in range(7)]), (0.0, 6.0), id="few"),
        pytest.param(
            peaks([0.0] * 19, [3.0] * 16 + [0.0, 1.0, 2.0], [60] * 16 + [3] * 3), (0.0, 3.0),
            id="short ones do not count",
        ),
        pytest.param(peaks([0.0] * 16, [0.0] * 16), (0.0, 0.0), id="zeros"),
        pytest.param(
            peaks([float(i) for i in range(16)], [20.0] * 16), (0.0, 20.0), id="of one sign"
        ),
        pytest.param(Peaks(), (-1.0, 1.0), id="no sequences"),
    ],
)  # fmt: skip
def test_ranges_that_stay(seen: Peaks, found: tuple[float, float]) -> None:
    assert seen.lasting(0, found) == found


def test_an_end_is_not_moved_far() -> None:
    wild = peaks([0.0] * 10, [float(i % 2) for i in range(10)])
    assert wild.lasting(0, (0.0, 1.0)) == (0.0, 1 + MOST)


def test_more_stretches_need_less() -> None:
    levels = [peaks([0.0] * 2 * n, [9.0, 10.0] * n).lasting(0, (0.0, 9.5))[1] for n in (4, 16, 64)]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) == 3


def test_long_sequences_have_several_stretches() -> None:
    stretches = Stretches([7], Peaks())
    for place in (*range(130), *range(10)):
        stretches.add(place, np.asarray([-float(place)]), np.asarray([float(place)]))
    assert stretches.peaks() == Peaks(
        (64, 64, 2, 10), {7: (-63.0, -127.0, -129.0, -9.0)}, {7: (63.0, 127.0, 129.0, 9.0)}
    )


def test_going_on_in_the_middle_of_a_sequence_gives_the_same(tmp_path: Path) -> None:
    xs = drawn(10, 20)
    kept: list[Calibration] = []
    whole = edgeq.calibrate(leaky(), data(xs), checkpoint=lambda seen: kept.append(seen()))
    part = kept[106]
    part.save(tmp_path / "part.json")
    assert part.samples == 107
    again = edgeq.calibrate(leaky(), data(xs), start=Calibration.load(tmp_path / "part.json"))
    assert again.peaks == whole.peaks
    assert len(whole.peaks.steps) == 10
    assert again.digest == whole.digest


def test_halves_merge_to_the_whole() -> None:
    xs = drawn(12, 20)
    whole, *halves = (edgeq.calibrate(leaky(), data(part)) for part in (xs, xs[:5], xs[5:]))
    assert halves[0].merge(halves[1]).ranges == whole.ranges


def test_an_observer_that_was_asked_for_is_not_overruled() -> None:
    found = edgeq.calibrate(leaky(), data(drawn(16, 60)), observer="percentile")
    assert found.peaks.steps
    assert found.ranges == {t: observer.range() for t, observer in found.observers.items()}


@pytest.mark.parametrize(
    "peaks",
    [
        '{"steps": [20], "low": {"1": [0, 0]}}',
        '{"steps": [20], "low": {"1": [0]}, "high": {}}',
        "[3]",
    ],
)
def test_a_file_with_peaks_that_are_none_is_refused(peaks: str, tmp_path: Path) -> None:
    path = edgeq.calibrate(leaky(), data(drawn(10, 20))).save(tmp_path / "ranges.json")
    text = path.read_text()
    path.write_text(text[: text.index('"peaks"')] + f'"peaks": {peaks}\n}}\n')
    with pytest.raises(edgeq.DataError, match="is damaged"):
        Calibration.load(path)
