"""Observers: exact however the data is split, robust where they promise it, and yours as well."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import edgeq
from edgeq import demo
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import (
    MSE,
    NAMED,
    AtLeast,
    Entropy,
    Fixed,
    Histogram,
    MinMax,
    MovingAverage,
    Percentile,
    Symmetric,
    as_observer,
    extremes_suffice,
)
from edgeq.demo.run_demo import model_accuracy
from edgeq.errors import DataError, RecipeError
from edgeq.model import LiteModel
from edgeq.qtypes import affine, dequantize, quantize
from edgeq.recipe import Recipe, Rule

Values = npt.NDArray[np.float32]

ORDER_FREE: list[Any] = [MinMax(), Histogram(), Percentile(), MSE(), Entropy()]
DECIDING: list[Any] = [Percentile(), MSE(), Entropy()]


def kind(observer: object) -> str:
    return type(observer).__name__


def floats(values: object) -> Values:
    return np.asarray(values, np.float32)


def seen(fresh: Any, samples: list[Values]) -> Any:
    """One pass."""
    return functools.reduce(lambda observer, sample: observer.observe(sample), samples, fresh)


def found_range(observer: Any) -> tuple[float, float] | None:
    return None if isinstance(observer, Histogram) else observer.range()


magnitudes = st.floats(1e-30, 1e30).flatmap(
    lambda scale: st.floats(-1.0, 1.0).map(lambda share: float(np.float32(share * scale)))
)
numbers = st.sampled_from([0.0, 1e-30, -1e-30, 1e30, -1e30, 1.0, -1.0]) | magnitudes
samples_of_values = st.lists(
    arrays.arrays(np.float32, st.integers(0, 5), elements=numbers.map(np.float32)), max_size=6
)


@pytest.mark.parametrize("fresh", ORDER_FREE, ids=kind)
@settings(max_examples=60, deadline=None)
@given(samples=samples_of_values, data=st.data())
def test_any_split_order_and_merge_tree_equals_one_pass(
    fresh: Any, samples: list[Values], data: st.DataObject
) -> None:
    parts = [fresh, *(fresh.observe(sample) for sample in data.draw(st.permutations(samples)))]
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(first.merge(second))
    whole = seen(fresh, samples)
    assert parts[0] == whole
    assert found_range(parts[0]) == found_range(whole)


@pytest.mark.parametrize("fresh", [MinMax(), Histogram()], ids=kind)
@settings(max_examples=60, deadline=None)
@given(values=arrays.arrays(np.float32, st.integers(0, 9), elements=numbers.map(np.float32)),
       cut=st.integers(0, 9))  # fmt: skip
def test_a_sample_may_come_in_parts(fresh: Any, values: Values, cut: int) -> None:
    """`Percentile`, `MSE` and `Entropy` look at samples as wholes."""
    assert fresh.observe(values[:cut]).observe(values[cut:]) == fresh.observe(values)


@settings(max_examples=60, deadline=None)
@given(samples_of_values)
def test_a_histogram_counts_every_value(samples: list[Values]) -> None:
    histogram = seen(Histogram(), samples)
    assert histogram.counts.sum() == sum(sample.size for sample in samples)
    centres, counts = histogram.points()
    assert (counts > 0).all()
    assert (np.diff(centres) > 0).all()


def test_equal_histograms_have_no_hash_and_differ_from_other_things() -> None:
    assert Histogram().observe(floats([1.0])) != Histogram()
    assert Histogram() != "histogram"
    with pytest.raises(TypeError):
        hash(Histogram())


@pytest.mark.parametrize("fresh", [*ORDER_FREE, MovingAverage(), MovingAverage(0.9)], ids=kind)
def test_nothing_seen_gives_no_range_and_zeros_give_zero(fresh: Any) -> None:
    empty = fresh.observe(floats([]))
    zeros = fresh.observe(np.zeros((2, 3), np.float32))
    assert empty == fresh
    assert fresh.merge(fresh) == fresh
    assert zeros.merge(fresh) == fresh.merge(zeros) == zeros
    if not isinstance(fresh, Histogram):
        assert fresh.range() is None
        assert zeros.range() == (0.0, 0.0)


@pytest.mark.parametrize("decay", [None, 0.5, 0.9, 0.99])
@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(
        arrays.arrays(np.float32, st.integers(0, 4), elements=st.floats(-1e3, 1e3, width=32)),
        max_size=8,
    ),
    cuts=st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted),
)
def test_a_moving_average_of_ordered_parts_equals_one_pass(
    decay: float | None, samples: list[Values], cuts: list[int]
) -> None:
    fresh = MovingAverage(decay)
    a, b, c = (
        seen(fresh, part)
        for part in (samples[: cuts[0]], samples[cuts[0] : cuts[1]], samples[cuts[1] :])
    )
    whole = seen(fresh, samples)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c))):
        assert (merged.count, merged.first) == (whole.count, whole.first)
        assert (merged.low, merged.high) == pytest.approx((whole.low, whole.high), abs=1e-9)


def test_a_moving_average_is_the_formula_and_depends_on_the_order() -> None:
    samples = list(np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    low, high = float(samples[0].min()), float(samples[0].max())
    for sample in samples[1:]:
        low = 0.9 * low + 0.1 * float(sample.min())
        high = 0.9 * high + 0.1 * float(sample.max())
    forward, backward = (seen(MovingAverage(0.9), s).range() for s in (samples, samples[::-1]))
    assert forward == pytest.approx((low, high), abs=1e-9)
    assert abs(forward[1] - backward[1]) > 0.01


def test_a_simple_moving_average_is_the_mean_of_the_extremes() -> None:
    samples = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    expected = (float(samples.min(axis=1).mean()), float(samples.max(axis=1).mean()))
    for ordered in (samples, samples[::-1]):
        assert seen(MovingAverage(), list(ordered)).range() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (MovingAverage(0.9), MovingAverage(),
         "MovingAverage observers of decay 0.9 and None cannot be merged: calibrate with one"),
        (Percentile(percentile=99.0), Percentile(),
         "Percentile observers of percentile 99.0 and 99.99 cannot be merged"),
        (Fixed(-1.0, 2.0), Fixed(-2.0, 2.0), "Fixed observers of low -1.0 and -2.0 cannot"),
        (Fixed(-1.0, 2.0), Fixed(-1.0, 3.0), "Fixed observers of high 2.0 and 3.0 cannot"),
        (AtLeast(MinMax(), -1, 1), AtLeast(MinMax(), -1, 2), "AtLeast observers of high 1 and 2"),
        (Symmetric(MSE()), Symmetric(MinMax()), "Symmetric observers of MSE and MinMax cannot be"),
        (Symmetric(Percentile(percentile=99.0)), Symmetric(Percentile()),
         "Percentile observers of percentile 99.0 and 99.99 cannot be merged"),
    ],
    ids=lambda value: kind(value),
)  # fmt: skip
def test_observers_of_different_settings_are_not_merged(one: Any, other: Any, message: str) -> None:
    for first, second in ((one, other), (other, one)):
        with pytest.raises(DataError, match=r"cannot be merged"):
            first.merge(second)
    with pytest.raises(DataError, match=re.escape(message)):
        one.merge(other)
    with pytest.raises(DataError, match=re.escape(f"tensor 3: {message}")):
        Calibration("", 1, {3: one}).merge(Calibration("", 1, {3: other}))


WRAPPED: list[Any] = [Symmetric(MinMax()), Symmetric("mse"), AtLeast(Percentile(), -1e-3, 1e-3)]


@pytest.mark.parametrize("wrapper", WRAPPED, ids=repr)
def test_a_wrapper_sees_what_the_other_observer_sees(wrapper: Any) -> None:
    samples = list(floats(np.random.default_rng(5).normal(size=(6, 50))))
    found = seen(wrapper, samples)
    assert found.inner == seen(wrapper.inner, samples)
    assert seen(wrapper, samples[:2]).merge(seen(wrapper, samples[2:])) == found
    assert extremes_suffice(found) == extremes_suffice(wrapper.inner)
    assert wrapper.range() is None
    assert wrapper.observe(floats([])) == wrapper


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32))
def test_a_symmetric_range_has_zero_point_0(one: float, other: float) -> None:
    low, high = Symmetric().observe(floats([one, other])).range()
    assert low == -high
    assert high == max(abs(one), abs(other))
    assert not high or affine(low, high).zero_point == (0,)


def test_a_range_is_widened_to_what_it_must_hold() -> None:
    observer = AtLeast("minmax", -1.0, 2.0)
    assert observer.observe(floats([0.5])).range() == (-1.0, 2.0)
    assert observer.observe(floats([-3.0, 0.5])).range() == (-3.0, 2.0)
    with pytest.raises(RecipeError, match=r"AtLeast needs two finite numbers, low < high\."):
        AtLeast(MinMax())
    with pytest.raises(RecipeError, match="an observer is a name or an object with observe"):
        Symmetric(7)


@pytest.mark.parametrize("wrapper", WRAPPED, ids=repr)
def test_a_wrapper_calibrates_a_model(
    wrapper: Any, demo_model: LiteModel, demo_images: Values, tmp_path: Path
) -> None:
    found = edgeq.calibrate(demo_model.tflite, demo_images, observer=wrapper, progress=False)
    inner = edgeq.calibrate(demo_model.tflite, demo_images, observer=wrapper.inner, progress=False)
    assert {t: o.inner for t, o in found.observers.items()} == inner.observers
    assert Calibration.load(found.save(tmp_path / "c.json")) == found


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("name", ["normal", "exponential", "uniform", "standard_cauchy"])
def test_a_percentile_is_numpys_within_a_bin(name: str, percentile: float) -> None:
    values = getattr(np.random.default_rng(1), name)(size=50_000).astype(np.float32)
    observer = seen(Percentile(percentile=percentile), np.array_split(values, 7))
    width = max(group.width for group in observer.groups)
    low, high = observer.range()
    method = {"method": "inverted_cdf"}
    assert low == pytest.approx(np.percentile(values, 100 - percentile, **method), abs=width)
    assert high == pytest.approx(np.percentile(values, percentile, **method), abs=width)


def squared_error(values: Values, limits: tuple[float, float]) -> float:
    """What the integers of the range really lose."""
    qparams = affine(*limits)
    return float(np.mean(np.square(dequantize(quantize(values, qparams), qparams) - values)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.standard_t(3, 20_000),
        lambda rng: rng.laplace(size=20_000),
        lambda rng: rng.lognormal(size=20_000),
        lambda rng: rng.normal(size=20_000) * 10.0 ** rng.normal(size=20_000),
    ],
    ids=["student", "laplace", "lognormal", "mixed scales"],
)
def test_mse_loses_no_more_than_min_max_on_heavy_tails(
    draw: Callable[[np.random.Generator], Values], seed: int
) -> None:
    values = floats(draw(np.random.default_rng(seed)))
    best, widest = MSE().observe(values).range(), MinMax().observe(values).range()
    assert best is not None
    assert widest is not None
    # The histogram and the rounding of the zero point move either by a hair.
    assert squared_error(values, best) <= squared_error(values, widest) * 1.01


@pytest.mark.parametrize("observer", DECIDING, ids=kind)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_normal_values_stay_inside(observer: Any, scale: float) -> None:
    values = floats(np.random.default_rng(2).normal(size=100_000) * scale)
    low, high = seen(observer, np.array_split(values, 10)).range()
    assert np.mean((values >= low) & (values <= high)) >= 0.99
    assert max(-low, high) <= np.abs(values).max() * 1.01


@pytest.mark.parametrize("factor", [32, 100, 1e6])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("observer", DECIDING, ids=kind)
def test_loud_samples_do_not_widen_the_range(observer: Any, count: int, factor: float) -> None:
    """One sample in a hundred, or in fifty, is far louder than the rest."""
    clean = floats(np.random.default_rng(3).normal(size=(200, 500)))
    loud = clean.copy()
    loud[20 : 20 + count] *= factor
    usual, found = seen(observer, list(clean)).range(), seen(observer, list(loud)).range()
    low, high = seen(MinMax(), list(clean)).range()
    assert max(-found[0], found[1]) <= 1.5 * max(-usual[0], usual[1])
    widest = seen(MinMax(), list(loud)).range()
    assert factor / 2 <= max(-widest[0], widest[1]) / max(-low, high) <= factor


@pytest.mark.parametrize("factor", [2, 4])
def test_a_percentile_keeps_what_is_a_little_louder(factor: float) -> None:
    values = floats(np.random.default_rng(3).normal(size=(200, 500)))
    values[[20, 120]] *= factor
    found = seen(Percentile(percentile=100.0), list(values)).range()
    assert found[0] <= values.min()
    assert found[1] >= values.max()


def test_a_percentile_keeps_loud_samples_that_are_not_rare() -> None:
    values = floats(np.random.default_rng(3).normal(size=(200, 500)))
    values[20:25] *= 100
    found = seen(Percentile(), list(values)).range()
    assert found[1] > np.percentile(values, 99.9) > 50


def test_a_percentile_of_samples_that_are_mostly_zeros() -> None:
    values = np.zeros((200, 50), np.float32)
    values[7] = 3.0
    low, high = seen(Percentile(percentile=99.9), list(values)).range()
    assert low <= 0
    assert high == pytest.approx(3.0, rel=1e-3)


def test_a_percentile_leaves_out_loud_values() -> None:
    """`MSE` keeps them where every sample has some: they are nearly all of its power."""
    clean = floats(np.random.default_rng(4).normal(size=100_000))
    loud = clean.copy()
    loud[::100] *= 100
    observer = Percentile(percentile=99.0)
    usual, found = observer.observe(clean).range(), observer.observe(loud).range()
    assert max(-found[0], found[1]) <= 3 * max(-usual[0], usual[1])


def test_a_fixed_range_does_not_move() -> None:
    fixed = Fixed(-1.0, 2.0)
    moved = fixed.observe(floats([9.0])).merge(Fixed(-1.0, 2.0).observe(floats([-9.0])))
    assert moved == fixed
    assert fixed.range() == (-1.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf), (-math.inf, 0)]
)
def test_a_fixed_range_is_two_finite_numbers(low: float, high: float) -> None:
    message = f"Fixed needs two finite numbers, low < high. Received: {low}, {high}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        Fixed(low, high)


@pytest.mark.parametrize("percentile", [50, 100.1, math.nan, -1])
def test_a_percentile_lies_above_the_median(percentile: float) -> None:
    message = f"Percentile.percentile must lie in (50, 100]. Received: {percentile}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        Percentile(percentile=percentile)


@pytest.mark.parametrize("decay", [0, 1, -0.5, math.nan])
def test_a_decay_lies_between_0_and_1(decay: float) -> None:
    message = f"MovingAverage.decay must lie in (0, 1). Received: {decay}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        MovingAverage(decay)


@pytest.mark.parametrize("name", NAMED)
def test_names_stand_for_unused_observers(name: str) -> None:
    assert as_observer(name) == NAMED[name]()
    assert as_observer(name).range() is None


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (
            "median",
            "no observer is called 'median'; the observers are minmax, moving_average, "
            "percentile, mse, entropy",
        ),
        (7, "an observer is a name or an object with observe, merge and range. Received: 7"),
        (MSE, "an observer is a name or an object with observe, merge and range. Received: <class"),
        (None, "Received: None"),
    ],
)
def test_what_is_no_observer(observer: object, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        as_observer(observer)


@dataclass(frozen=True)
class Trimmed:
    """A user's own: without each sample's smallest and largest value."""

    low: float | None = None
    high: float | None = None

    def observe(self, values: Values) -> Trimmed:
        inner = np.sort(values, axis=None)[1:-1]
        return self.merge(Trimmed(float(inner[0]), float(inner[-1])))

    def merge(self, other: Trimmed) -> Trimmed:
        if self.low is None or self.high is None:
            return other
        if other.low is None or other.high is None:
            return self
        return Trimmed(min(self.low, other.low), max(self.high, other.high))

    def range(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def test_an_observer_of_your_own(demo_model: LiteModel, demo_images: Values) -> None:
    found = edgeq.calibrate(demo_model.tflite, demo_images, observer=Trimmed(), progress=False)
    (image,) = demo_model.graph.inputs
    assert found.observers[image] == seen(Trimmed(), list(demo_images))
    assert all(type(observer) is Trimmed for observer in found.observers.values())
    assert edgeq.export(
        demo_model.tflite, demo_images, recipe="int8", calibration=found, progress=False
    ).plan.tensors[image] == affine(*found.ranges[image])


def test_a_rule_gives_its_layers_an_observer(
    demo_model: LiteModel, demo_images: Values, demo_calibration: Calibration
) -> None:
    recipe = Recipe("mine", (Rule(op="CONV_2D", observer=Percentile(percentile=90.0)),))
    found = edgeq.calibrate(
        demo_model.tflite, demo_images, recipe=recipe, threads=1, progress=False
    )
    convolutions = {
        output for op in demo_model.graph.operators if op.name == "CONV_2D" for output in op.outputs
    }
    assert convolutions & set(found.observers)
    for tensor, observer in found.observers.items():
        if tensor in convolutions:
            assert isinstance(observer, Percentile)
            assert found.ranges[tensor] != demo_calibration.ranges[tensor]
        else:
            assert found.ranges[tensor] == pytest.approx(demo_calibration.ranges[tensor], rel=1e-6)


def test_a_rules_observer_decides_the_plan(demo_model: LiteModel, demo_images: Values) -> None:
    rule = Rule(op="FULLY_CONNECTED", observer=Fixed(-50.0, 50.0))
    recipe = Recipe("mine", (rule,), observer="mse")
    edge = edgeq.export(demo_model.tflite, demo_images, recipe=recipe, progress=False)
    logits = next(op for op in edge.rewritten.graph.operators if op.name == "FULLY_CONNECTED")
    assert edge.plan.tensors[logits.outputs[0]] == affine(-50.0, 50.0)


@functools.cache
def float_accuracy() -> float:
    return model_accuracy(demo.float_model_path().read_bytes(), demo.load_data()) * 100


@pytest.mark.parametrize(
    ("name", "observer", "least", "most"),
    [
        ("min-max", "minmax", 8.0, 100.0),
        ("percentile 99.99", "percentile", -1.0, 0.5),
        ("mse", "mse", -1.0, 0.5),
        ("entropy", "entropy", -1.0, 0.5),
    ],
)
def test_accuracy_with_loud_samples(name: str, observer: object, least: float, most: float) -> None:
    """The demo model, with two of its 200 representative images a hundred times as loud."""
    data = demo.load_data()
    images = data.calibration.copy()
    images[[20, 120]] *= 100
    recipe = Recipe("observed", observer=observer, rounding="nearest", strict=True)
    edge = edgeq.export(
        demo.float_model_path(),
        images,
        recipe=recipe,
        min_sqnr_db=None,
        threads=1,
        progress=False,
    )
    accuracy = model_accuracy(edge.tflite, data) * 100
    lost = float_accuracy() - accuracy
    row: dict[str, tables.Cell] = {"observer": name, "float %": float_accuracy()}
    tables.add_row("observers with 1 % outliers", {**row, "int8 %": accuracy, "lost": lost})
    assert least <= round(lost, 6) <= most
