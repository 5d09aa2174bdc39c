"""Keras models on JAX, the backend of this process; others are in `test_frameworks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError
from edgeq.export import frontends
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

keras = pytest.importorskip("keras")
pytest.importorskip("jax")
layers = keras.layers


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    return frontends.trace(model, None, RepDataset([sample]), worker)


def test_inputs_and_outputs_keep_their_names(converter: Worker) -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    both = layers.Concatenate(name="both")([left, right])
    model = keras.Model([left, right], [layers.Dense(2, name=n)(both) for n in ("first", "second")])
    traced = trace(model, (normal(1, 4), normal(1, 4, seed=1)), converter)
    assert [name for name, _ in traced.input_tensors()] == ["left", "right"]
    sample = {"left": normal(1, 4), "right": normal(1, 4, seed=1)}
    with Session(traced.tflite) as session:
        found = session.run(sample)
    for name, expected in zip(("first", "second"), model(list(sample.values())), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_recurrent_layer_is_unrolled_and_left_as_it_was(converter: Worker) -> None:
    gru = layers.GRU(4, name="gru")
    model = keras.Sequential([keras.Input((3, 4)), gru, layers.Dense(2, name="head")])
    data = normal(10, 3, 4)
    edge_model = edgeq.export(model, data)
    assert gru.unroll is False
    assert edge_model.report.outputs[0].sqnr_db > 20
    with Session(edge_model.float_model.tflite) as session:
        found = session.run(data[:1])
    np.testing.assert_allclose(found["head"], model(data[:1]), atol=1e-5)


def test_a_layer_that_reads_both_ways_needs_no_mask(converter: Worker) -> None:
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    model = keras.Sequential([keras.Input((3, 3)), both, layers.LSTM(4), layers.Dense(2)])
    sample = normal(1, 3, 3)
    with Session(trace(model, sample, converter).tflite) as session:
        (found,) = session.run(sample).values()
    np.testing.assert_allclose(found, model(sample), atol=1e-5)


def test_model_that_is_not_built_is_refused(converter: Worker) -> None:
    model = keras.Sequential([layers.Dense(2)], name="classifier")
    with pytest.raises(ModelError, match="'classifier' is not built: it has no weights yet"):
        trace(model, normal(1, 4), converter)
