"""Which samples of the data do what: none is judged by what it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import SAME, OneOp, Step, Value

from edgeq.data.held_out import HeldOut
from edgeq.export.judging import FEW, LEAST_JUDGED, Judging
from edgeq.flatbuffer import Graph
from edgeq.model import LiteModel


def judging(count: int, searched: bool = True) -> Judging:
    samples = HeldOut((np.full(1, number),) for number in range(count))
    samples.exhaust()
    return Judging(samples, searched)


def numbers(samples: object) -> list[int]:
    return [int(array[0]) for (array,) in samples]  # type: ignore[attr-defined]


def graph_of(size: int) -> Graph:
    shape, kernel = Value((1, size, size, 64)), np.ones((64, 3, 3, 64), np.float32)
    options = {"padding": SAME, "strideH": 1, "strideW": 1}
    step = Step("CONV_2D", ("image", kernel, np.zeros(64, np.float32)), {"y": shape}, options)
    return LiteModel(OneOp("a convolution", {"image": shape}, (step,)).build(), "tflite").graph


@pytest.mark.parametrize("count", [60, 900, 5000])
def test_a_search_judges_by_samples_from_all_of_the_data(count: int) -> None:
    made = judging(count)
    trials, fitting = numbers(made.trials), numbers(made.fitting)
    assert len(trials) == FEW
    assert trials[0] < count / 5
    assert trials[-1] > count * 4 / 5
    assert not set(trials) & set(fitting)
    assert len(fitting) >= 2 * FEW
    assert set(trials) <= set(numbers(judging(count, searched=False).fitting))


def test_little_data_do_both() -> None:
    made = judging(12)
    assert set(numbers(made.trials)) <= set(numbers(made.fitting))


def test_a_verdict_rests_on_what_runs_in_a_second() -> None:
    made = judging(900)
    quick, slow = numbers(made.verdict(graph_of(8))), numbers(made.verdict(graph_of(512)))
    assert quick == list(range(9, 900, 10))
    assert len(slow) == LEAST_JUDGED
    assert set(slow) < set(quick)
    assert slow[-1] > 800
