"""One model for several lengths: data by length, one file, a session that picks by the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.errors import DataError
from edgeq.export.deploy.signatures import MultiSignatureModel
from edgeq.flatbuffer import unpack
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]

DEPTH, WIDTH = 8, 64
LENGTHS = {"long": 24, "short": 10}
PAD = 0.5


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHT = drawn(DEPTH, WIDTH)
SAMPLES = [drawn(1, length, DEPTH, seed=length) for length in (*range(4, 24), 24, 30)]


def centred(frames: Any) -> Any:
    """Depends on what fills a sample up: each frame sees the mean of all."""
    return {"found": (frames - 3 * frames.mean(axis=1, keepdims=True)) @ WEIGHT}


@pytest.fixture(scope="module")
def made() -> MultiSignatureModel:
    pytest.importorskip("jax")
    data = edgeq.Buckets(SAMPLES, LENGTHS, axis=1, pad=PAD)
    found = edgeq.export(centred, data, recipe="int8", inputs="int8", progress=False)
    assert isinstance(found, MultiSignatureModel)
    return found


def test_samples_go_where_they_fit_and_longer_ones_are_cut() -> None:
    found = edgeq.Buckets(SAMPLES, LENGTHS, axis=1, pad=PAD).by_key()
    assert list(found) == ["short", "long"]
    assert {item.shape for item in found["short"]} == {(1, 10, DEPTH)}
    assert {item.shape for item in found["long"]} == {(1, 24, DEPTH)}
    assert len(found["short"]) == len(SAMPLES)
    assert len(found["long"]) == sum(sample.shape[1] > 10 for sample in SAMPLES)
    np.testing.assert_array_equal(found["short"][0][:, :4], SAMPLES[0])
    assert (found["short"][0][:, 4:] == PAD).all()
    np.testing.assert_array_equal(found["long"][-1], SAMPLES[-1][:, :24])


def test_inputs_without_the_axis_stay_as_they_are() -> None:
    items = [
        {"sound": drawn(1, n), "speaker": drawn(1, 3), "mask": np.ones((1, n))} for n in (5, 9)
    ]
    data = edgeq.Buckets(items, {"a": 6, "b": 9}, {"sound": 1, "mask": 1}, {"sound": 2.0})
    (short, _), (long,) = data.by_key().values()
    assert short["sound"][0, 5] == 2.0
    assert short["mask"].tolist() == [[1, 1, 1, 1, 1, 0]]
    assert [a.shape for a in (*short.values(), *long.values())] == [
        (1, 6), (1, 3), (1, 6), (1, 9), (1, 3), (1, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"a": 6}, 1), "two or more lengths by signature key"),
        (({"a": 6, "b": 0}, 1), "two or more lengths by signature key"),
        (({"a": 6, "b": 9}, 1.5), "axis is a whole number"),
        (({"a": 6, "b": 9}, 1, "zero"), "pad is a number, or a dict of them"),
    ],
)
def test_what_makes_no_buckets_is_told(arguments: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        edgeq.Buckets(SAMPLES, *arguments)


def test_data_that_do_not_fit_are_told() -> None:
    with pytest.raises(DataError, match="sample 0, input 0: it has no axis 5; give axis by input"):
        edgeq.Buckets(SAMPLES, LENGTHS, axis=5).by_key()
    with pytest.raises(DataError, match="bucket 'huge': no sample is longer than 40"):
        edgeq.Buckets(SAMPLES, {"large": 40, "huge": 50}, axis=1).by_key()
    data = edgeq.Buckets(SAMPLES, LENGTHS, axis=1)
    with pytest.raises(DataError, match=r"which edgeq\.export alone takes"):
        edgeq.plan(centred, data)
    with pytest.raises(DataError, match="Buckets are data of one model"):
        edgeq.export({"a": centred}, data)


def test_a_session_picks_the_shortest_that_holds_an_input(
    made: MultiSignatureModel, tmp_path: Path
) -> None:
    weight = DEPTH * WIDTH
    contents = [b.data for b in unpack(made.tflite).buffers if b.data is not None]
    assert [len(content) for content in contents].count(weight) == 1
    with Session(made.save(tmp_path / "both.tflite")) as session:
        for length, key in ((24, "long"), (7, "short"), (10, "short"), (11, "long")):
            sample = drawn(1, length, DEPTH, seed=100 + length)
            found = session.run(sample, real=True)["found"]
            assert session.bucket == key
            filled = np.full((1, LENGTHS[key], DEPTH), PAD, np.float32)
            filled[:, :length] = sample
            expected = np.asarray(centred(filled)["found"])
            assert found.shape == expected.shape == session.io.outputs[0].shape
            assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
        with pytest.raises(DataError, match="longer than the longest bucket, 'long', which takes"):
            session.run(drawn(1, 25, DEPTH), real=True)
        with pytest.raises(DataError, match="of shape"):
            session.run(drawn(1, 8, DEPTH - 1), real=True)


def test_an_isolated_session_tells_its_bucket(made: MultiSignatureModel) -> None:
    with Session(made.tflite, isolated=True) as session:
        for length, key in ((24, "long"), (7, "short"), (11, "long")):
            session.run(drawn(1, length, DEPTH), real=True)
            assert session.bucket == key
            assert session.io.inputs[0].shape[1] == LENGTHS[key]


def test_a_bucket_can_be_asked_for_by_its_key(made: MultiSignatureModel) -> None:
    with made.session("short") as session:
        assert session.bucket is None
        with pytest.raises(DataError, match="of shape"):
            session.run(drawn(1, 24, DEPTH), real=True)
