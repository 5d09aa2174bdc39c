"""Calibrations as values and files: saved, loaded, merged, resumed, and refused where they lie."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import recipes

import edgeq
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import (
    MSE,
    AtLeast,
    Entropy,
    Fixed,
    Histogram,
    MinMax,
    MovingAverage,
    Percentile,
    Symmetric,
)
from edgeq.calibrate.run import Calibrator, probes
from edgeq.data.held_out import HeldOut
from edgeq.errors import DataError, ModelError
from edgeq.model import LiteModel

Images = npt.NDArray[np.float32]

OBSERVERS: list[Any] = [
    MinMax(), Fixed(-1.0, 2.0), MovingAverage(), MovingAverage(0.9), Percentile(percentile=99.0),
    MSE(), Entropy(), Symmetric(MSE()), AtLeast(MinMax(), -1.0, 1.0),
]  # fmt: skip

observers = pytest.mark.parametrize("observer", OBSERVERS, ids=lambda o: type(o).__name__)


@dataclass(frozen=True)
class Largest:
    """A user's own, with an array and a number of numpy's."""

    high: np.float32 | None = None
    shape: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 2), np.int64))

    def observe(self, values: Images) -> Largest:
        return self.merge(Largest(values.max(), np.asarray([[0, values.ndim], [1, 0]])))

    def merge(self, other: Largest) -> Largest:
        if self.high is None or other.high is None:
            return other if self.high is None else self
        return Largest(max(self.high, other.high), np.maximum(self.shape, other.shape))

    def range(self) -> tuple[float, float] | None:
        return None if self.high is None else (-1.0, float(max(self.high, 0)))


def run(model: LiteModel, images: Images, observer: Any, **options: Any) -> Calibration:
    engine = Calibrator(model, 1, {p.tensor: observer for p in probes(model.graph)})
    return engine.run(((image[None],) for image in images), **options)


@observers
def test_a_file_is_read_back_equal_and_equal_calibrations_give_equal_files(
    observer: Any, demo_model: LiteModel, demo_images: Images, tmp_path: Path
) -> None:
    made = run(demo_model, demo_images, observer)
    path = made.save(tmp_path / "new" / "calibration.json")
    read = Calibration.load(path)
    assert read == made
    assert read.ranges == made.ranges
    read.save(tmp_path / "again.json")
    run(demo_model, demo_images, observer).save(tmp_path / "repeated.json")
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert path.read_bytes() == (tmp_path / "repeated.json").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]


def test_a_file_is_readable(demo_calibration: Calibration, tmp_path: Path) -> None:
    text = demo_calibration.save(tmp_path / "calibration.json").read_text()
    content = json.loads(text)
    assert (content["format"], content["version"]) == ("edgeq calibration", 2)
    assert (content["model"], content["samples"]) == (demo_calibration.model, 20)
    assert list(content["tensors"]) == [str(t) for t in sorted(demo_calibration.observers)]
    for tensor, (low, high) in demo_calibration.ranges.items():
        fields = content["tensors"][str(tensor)]
        lows, highs = fields.pop("extremes")
        assert fields == {"observer": "MinMax", "low": low, "high": high, "range": [low, high]}
        assert low == lows[0] <= lows[1]
        assert high == highs[0] >= highs[1]


def test_a_histogram_alone_can_be_saved(tmp_path: Path) -> None:
    histogram = Histogram().observe(np.asarray([-3.0, 0.0, 1e-9], np.float32))
    made = Calibration("0" * 64, 1, {0: Percentile((histogram,))})
    assert Calibration.load(made.save(tmp_path / "c.json")).observers[0].groups == (histogram,)


@observers
def test_halves_merge_to_the_whole(
    observer: Any, demo_model: LiteModel, demo_images: Images
) -> None:
    halves = [run(demo_model, part, observer) for part in (demo_images[:7], demo_images[7:])]
    whole, merged = run(demo_model, demo_images, observer), halves[0].merge(halves[1])
    assert merged.samples == whole.samples == 20
    if isinstance(observer, MovingAverage):
        for tensor, limits in whole.ranges.items():
            assert merged.ranges[tensor] == pytest.approx(limits, abs=1e-9)
    else:
        assert merged == whole
        assert halves[1].merge(halves[0]) == whole


def test_what_cannot_be_merged(demo_calibration: Calibration) -> None:
    other = replace(demo_calibration, model="0" * 64)
    with pytest.raises(DataError, match="calibrations of different float models cannot be merged"):
        demo_calibration.merge(other)
    fewer = replace(demo_calibration, observers=dict(list(demo_calibration.observers.items())[1:]))
    with pytest.raises(DataError, match="cannot be merged"):
        demo_calibration.merge(fewer)
    tensor = next(iter(demo_calibration.observers))
    mixed = replace(demo_calibration, observers={**demo_calibration.observers, tensor: MSE()})
    message = f"tensor {tensor} was seen by MinMax in one calibration and by MSE in the other"
    with pytest.raises(DataError, match=message):
        demo_calibration.merge(mixed)


def changed(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update(fields)


TENSOR = {"observer": "MinMax", "low": -1.0, "high": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(version=3), "has version 3; this edgeq reads version 2"),
        (lambda content: content.pop("version"), "has version None"),
        (changed(format="recipe"), "is not a calibration file"),
        (lambda content: content.pop("format"), "is not a calibration file"),
        (lambda content: content.pop("tensors"), "is damaged: KeyError: 'tensors'"),
        (lambda content: content.pop("model"), "is damaged: KeyError: 'model'"),
        (changed(samples="many"), "is damaged: ValueError"),
        (changed(tensors=[]), "is damaged: AttributeError"),
        (changed(tensors={"x": TENSOR}), "is damaged: ValueError"),
        (changed(tensors={"0": 7}), "is damaged: TypeError"),
        (changed(tensors={"0": {**TENSOR, "low": "x"}}), "tensor 0 has the range 'x' to 1.0"),
        (changed(tensors={"0": {**TENSOR, "low": 2.0}}), "tensor 0 has the range 2.0 to 1.0"),
        (changed(tensors={"0": {**TENSOR, "high": float("nan")}}), "is damaged: ValueError"),
        (changed(tensors={"0": {"observer": "Fixed", "low": 2.0, "high": 1.0}}), "is damaged"),
        (changed(tensors={"0": {"low": 1.0}}), "is damaged: KeyError: 'observer'"),
        (changed(tensors={"0": {**TENSOR, "observer": "Mine"}}),
         "names the observer 'Mine', which is not edgeq's: pass its class to load"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused(
    change: Callable[[dict[str, Any]], object],
    message: str,
    demo_calibration: Calibration,
    tmp_path: Path,
) -> None:
    path = demo_calibration.save(tmp_path / "calibration.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(message)) as told:
        Calibration.load(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"null", b'"text"'])
def test_what_is_no_calibration_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    for wrong in (path, tmp_path, tmp_path / "absent.json"):
        with pytest.raises(DataError, match="is not a calibration file"):
            Calibration.load(wrong)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(share: float, demo_calibration: Calibration, tmp_path: Path) -> None:
    path = demo_calibration.save(tmp_path / "calibration.json")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="is not a calibration file"):
        Calibration.load(path)


def test_an_observer_of_your_own_needs_its_class(
    demo_model: LiteModel, demo_images: Images, tmp_path: Path
) -> None:
    made = run(demo_model, demo_images, Largest())
    path = made.save(tmp_path / "calibration.json")
    with pytest.raises(DataError, match=r"names the observer 'Largest'.*pass its class to load"):
        Calibration.load(path)
    read = Calibration.load(path, [Largest])
    assert read.ranges == made.ranges
    for tensor, observer in made.observers.items():
        assert read.observers[tensor].high == observer.high
        np.testing.assert_array_equal(read.observers[tensor].shape, observer.shape)


def test_an_observer_that_is_no_dataclass_cannot_be_saved(tmp_path: Path) -> None:
    class Mine:
        def range(self) -> tuple[float, float]:
            return 0.0, 1.0

    with pytest.raises(DataError, match="the observer Mine cannot be saved: make it a dataclass"):
        Calibration("0" * 64, 1, {0: Mine()}).save(tmp_path / "calibration.json")
    assert not list(tmp_path.iterdir())


def test_a_calibration_of_another_model_is_refused(
    demo_model: LiteModel, demo_calibration: Calibration, demo_images: Images, tmp_path: Path
) -> None:
    other = replace(demo_calibration, model="0" * 64)
    message = re.escape(
        "the calibration was made from another float model (its SHA-256 starts with 000000000000, "
        f"this model's with {demo_model.digest[:12]}); calibrate again"
    )
    with pytest.raises(ModelError, match=message):
        edgeq.export(demo_model.tflite, demo_images, calibration=other.save(tmp_path / "c.json"))
    with pytest.raises(ModelError, match=message):
        Calibrator(demo_model).run([], start=other)


def test_exporting_with_a_file_gives_the_same_bytes(
    demo_model: LiteModel, demo_images: Images, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"recipe": recipes.NEAREST, "progress": False}
    exported = edgeq.export(demo_model.tflite, demo_images, **options)
    used = np.concatenate([sample for (sample,) in HeldOut((i[None],) for i in demo_images)])
    made = edgeq.calibrate(demo_model.tflite, used, progress=False)
    path = made.save(tmp_path / "calibration.json")
    for given in (made, path, str(path)):
        again = edgeq.export(demo_model.tflite, demo_images, calibration=given, **options)
        assert again.tflite == exported.tflite
        assert again.calibration == exported.calibration
        assert not again.report.independent


@observers
def test_going_on_equals_the_uninterrupted_run(
    observer: Any, demo_model: LiteModel, demo_images: Images, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"observer": observer, "threads": 1, "progress": False}
    partial = edgeq.calibrate(demo_model.tflite, demo_images[:8], **options)
    read = Calibration.load(partial.save(tmp_path / "partial.json"))
    resumed = edgeq.calibrate(demo_model.tflite, demo_images, start=read, **options)
    assert resumed == run(demo_model, demo_images, observer)


def test_going_on_with_another_observer_is_refused(
    demo_model: LiteModel, demo_calibration: Calibration
) -> None:
    engine = Calibrator(demo_model, 1, {p.tensor: MSE() for p in probes(demo_model.graph)})
    with pytest.raises(DataError, match="was seen by MSE in one calibration and by MinMax in the"):
        engine.run([], start=demo_calibration)


@observers
def test_a_checkpoint_after_each_sample_is_what_was_seen_so_far(
    observer: Any, demo_model: LiteModel, demo_images: Images
) -> None:
    snapshots: list[Calibration] = []
    whole = run(demo_model, demo_images, observer, checkpoint=lambda make: snapshots.append(make()))
    assert [s.samples for s in snapshots] == list(range(1, 21))
    assert snapshots[-1] == whole
    assert snapshots[6] == run(demo_model, demo_images[:7], observer)


PEAK = """
import resource, sys
import edgeq
import edgeq.demo as demo
images = demo.load_data().calibration
def samples():
    for index in range(int(sys.argv[2])):
        yield images[index % 100][None]
edgeq.calibrate(demo.float_model_path(), samples, observer=sys.argv[1], threads=1, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize(("observer", "most"), [("minmax", 4_000), ("mse", 600)])
def test_memory_does_not_grow_with_the_samples(observer: str, most: int) -> None:
    peaks = []
    for count in (100, most):
        command = [sys.executable, "-c", PEAK, observer, str(count)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        peaks.append(int(told.stdout))
    assert peaks[1] < peaks[0] * 1.05
