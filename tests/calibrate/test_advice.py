"""Advice: each kind of fault is found where it was planted, and nothing is found without one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_op import OneOp, Step, Value
from typer.testing import CliRunner

import edgeq
from edgeq import demo
from edgeq.calibrate.advice import advise, spread_out
from edgeq.calibrate.calibration import Calibration, Extremes
from edgeq.calibrate.run import Calibrator
from edgeq.cli import app
from edgeq.data.rep_dataset import Sample
from edgeq.flatbuffer import pack, unpack
from edgeq.model import LiteModel

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def images() -> Images:
    """All of the demo's calibration images."""
    return demo.load_data().calibration


def advice(model: LiteModel, data: Images) -> tuple[str, ...]:
    kept: list[Sample] = []
    samples = ((data[i : i + 1],) for i in range(len(data)))
    return advise(model, Calibrator(model, 1).run(spread_out(samples, kept)), kept)


def with_dead_channels(model: LiteModel, dead: dict[str, int]) -> LiteModel:
    """The first `n` channels of layers, by path, have no weights and no bias any more."""
    tree = unpack(model.tflite)
    for layer, count in dead.items():
        (op,) = (o for o in model.graph.operators if model.layer(o) == layer and "CONV" in o.name)
        for slot, axis in ((1, 3 if op.name.startswith("DEPTHWISE") else 0), (2, 0)):
            tensor = model.graph.tensors[op.inputs[slot]]
            assert tensor.data is not None
            values = np.moveaxis(tensor.data.copy(), axis, 0)
            values[:count] = 0
            buffer = tree.buffers[tree.subgraphs[0].tensors[tensor.index].buffer]
            buffer.data = np.frombuffer(np.moveaxis(values, 0, axis).tobytes(), np.uint8)
    return LiteModel(pack(tree), "tflite")


def test_nothing_is_said_of_a_clean_model_and_data(demo_model: LiteModel, images: Images) -> None:
    assert advice(demo_model, images) == ()


def test_samples_that_are_far_too_loud(demo_model: LiteModel, images: Images) -> None:
    loud = images.copy()
    loud[[20, 120]] *= 100
    (found,) = advice(demo_model, loud)
    assert found == (
        "only rare values need the range of 1 of 26 tensors: in 7 of 8 samples, 99.99 % of the "
        "values fill less than a quarter of it (least: 1 %, input 'images'). Look for outliers in "
        "the data, or use the observer percentile or mse"
    )


def test_a_few_values_that_are_far_too_large(images: Images) -> None:
    """One pixel in 20,000, in every sample."""
    data = np.random.default_rng(0).normal(size=(20, 1, 100, 200, 1)).astype(np.float32)
    data[:, 0, 50, 7, 0] = 90
    value = Value((1, 100, 200, 1))
    model = OneOp("both", {"x": value}, (Step("ABS", ("x",), {"y": value}, {}),))
    kept = [(sample,) for sample in data]
    clean, spoilt = (np.where(data < limit, data, 0) for limit in (89, 91))
    small = LiteModel(model.build(), "tflite")
    assert advise(small, Calibrator(small, 1).run((s,) for s in clean), kept) == ()
    (found,) = advise(small, Calibrator(small, 1).run((s,) for s in spoilt), kept)
    assert found.startswith("only rare values need the range of 2 of 2 tensors: in 7 of 8 samples,")


@pytest.mark.parametrize("count", [4, 10])
def test_too_few_samples(count: int, demo_model: LiteModel, images: Images) -> None:
    (found,) = advice(demo_model, images[:count])
    assert "of 26 ranges would be more than 10 % narrower" in found
    assert f"give more than {count} samples" in found


@pytest.mark.parametrize("brightness", [0.0, 1.0])
def test_samples_that_are_all_the_same(
    brightness: float, demo_model: LiteModel, images: Images
) -> None:
    (found,) = advice(demo_model, np.repeat(images[:1] * np.float32(brightness), 30, 0))
    assert found == (
        "all 5 samples looked at are the same, so that ranges and SQNR are those of this one "
        "alone, and say nothing of others: give data as the model gets it in use"
    )


def test_one_sample_that_is_unlike_the_rest(demo_model: LiteModel, images: Images) -> None:
    odd = images.copy()
    odd[77] *= 100
    assert [s for s in advice(demo_model, odd) if s.startswith("without a single sample")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 127.5 + 127.5, "it holds 0 to 255, as raw pixels do"),
        (lambda x: x * 40 + 1000, "its mean is 98"),
        (lambda x: x * 1e-4, "and its standard deviation 7"),
    ],
    ids=["raw pixels", "far from 0", "tiny"],
)
def test_inputs_that_are_not_normalised(
    change: Callable[[Images], Images], message: str, demo_model: LiteModel, images: Images
) -> None:
    found = advice(demo_model, change(images).astype(np.float32))[0]
    assert found.startswith("input 'images' does not look normalised: ")
    assert message in found


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x * 0.5 + 0.5, lambda x: x * 2.5 - 0.4])
def test_usual_inputs(
    change: Callable[[Images], Images], demo_model: LiteModel, images: Images
) -> None:
    found = advice(demo_model, change(images).astype(np.float32))
    assert not [sentence for sentence in found if "normalised" in sentence]


@pytest.mark.parametrize("moved", [False, True])
def test_a_model_that_normalises_itself_may_be_given_pixels(moved: bool) -> None:
    value, flat = Value((1, 30, 30, 3)), Value((1, 2700))
    factor, shape = np.asarray([1 / 255], np.float32), np.asarray([1, 2700], np.int32)
    scaling = Step("MUL", ("flat" if moved else "x", factor), {"y": flat if moved else value}, {})
    moving = Step("RESHAPE", ("x", shape), {"flat": flat}, {})
    one = OneOp("MUL", {"x": value}, (moving, scaling) if moved else (scaling,))
    model = LiteModel(one.build(), "tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 30, 30, 3)).astype(np.float32)
    kept = [(sample,) for sample in pixels]
    assert advise(model, Calibrator(model, 1).run(kept), kept) == ()


def test_dead_channels_are_summed_into_one_sentence(demo_model: LiteModel, images: Images) -> None:
    """Five of the expanding layer, as many of the depthwise one behind it, and two of the first."""
    broken = with_dead_channels(demo_model, {"features.0": 2, "features.3.layers.0": 5})
    assert advice(broken, images) == (
        "12 of 480 channels are dead, with one and the same number throughout 8 samples (most: 5 "
        "of 64, CONV_2D at features.3.layers.0 (op 3)). They cost time and say nothing: prune "
        "them, or add data that wakes them",
    )


finite = st.floats(-1e6, 1e6, width=32)
pairs = st.lists(st.tuples(finite, finite).map(sorted), max_size=8)


@given(pairs, st.randoms(use_true_random=False), st.integers(0, 8))
def test_extremes_are_exact_however_they_are_merged(
    samples: list[tuple[float, float]], random: object, cut: int
) -> None:
    def merged(part: list[tuple[float, float]]) -> Extremes:
        ones = (Extremes((low,), (high,)) for low, high in part)
        return functools.reduce(Extremes.merge, ones, Extremes())

    shuffled = sorted(samples, key=lambda _: random.random())
    whole = merged(samples)
    assert merged(shuffled[:cut]).merge(merged(shuffled[cut:])) == whole
    assert whole.low == tuple(sorted(low for low, _ in samples)[:2])
    assert whole.high == tuple(sorted((high for _, high in samples), reverse=True)[:2])
    assert 0 <= whole.resting_on_one() <= 1


def test_how_much_rests_on_one_sample() -> None:
    assert Extremes().resting_on_one() == 0
    assert Extremes((-1.0,), (1.0,)).resting_on_one() == 0
    assert Extremes((-1.0, -1.0), (3.0, 1.0)).resting_on_one() == 0.5
    assert Extremes((1.0, 2.0), (4.0, 3.0)).resting_on_one() == 0.25


def test_extremes_are_those_of_the_samples(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    ones = [Calibrator(demo_model, 1).run([(image[None],)]) for image in demo_images]
    for tensor, seen in demo_calibration.extremes.items():
        lows, highs = zip(*(one.ranges[tensor] for one in ones), strict=True)
        assert seen == Extremes(tuple(sorted(lows)[:2]), tuple(sorted(highs, reverse=True)[:2]))
    parts = [Calibrator(demo_model, 1).run([(i[None],) for i in p]) for p in
             (demo_images[:7], demo_images[7:])]  # fmt: skip
    assert parts[1].merge(parts[0]) == demo_calibration


def test_samples_are_kept_from_everywhere() -> None:
    kept: list[Sample] = []
    array = np.zeros(1)
    for number, _ in enumerate(spread_out(((array,) for _ in range(1000)), kept)):
        array[:] = number + 1
    assert [int(sample[0][0]) for sample in kept] == [0, 1, 3, 7, 15, 31, 63, 127]


def test_the_command_line_and_the_report_show_it(demo_files: Path) -> None:
    model, output = demo_files / "model.tflite", demo_files / "c.json"
    data = np.load(demo_files / "images.npy") * 127.5 + 127.5
    np.save(demo_files / "images.npy", data)
    command = ["calibrate", str(model), "--data", str(demo_files / "images.npy"), "-o", str(output)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "note: input 'images' does not look normalised: it holds 0 to" in shown.output
    notes = edgeq.export(model, data, calibration=output, min_sqnr_db=None).report.notes
    assert any("does not look normalised" in note for note in notes)
