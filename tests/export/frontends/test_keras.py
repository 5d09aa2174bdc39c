"""Keras models on JAX, the backend of this process; others are in `test_frameworks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.data.input_spec import input_specs
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


def test_quantized_model_is_refused(converter: Worker) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")])
    model.quantize("int8")
    with pytest.raises(ModelError, match=r"layer 'dense' is quantized already \(int8\)"):
        trace(model, normal(1, 4), converter)


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_saved_file_is_exported(kind: str, tmp_path: Path, converter: Worker) -> None:
    model, path = keras.Sequential([keras.Input((4,)), layers.Dense(2)]), tmp_path / f"m.{kind}"
    model.save(path)
    traced = trace(path, normal(1, 4), converter)
    with Session(traced.tflite) as session:
        (found,) = session.run(normal(1, 4)).values()
    np.testing.assert_allclose(found, model(normal(1, 4)), atol=1e-5)


def test_file_without_a_model_is_refused(tmp_path: Path, converter: Worker) -> None:
    path = tmp_path / "broken.keras"
    path.write_bytes(b"PK\3\4nothing")
    with pytest.raises(ModelError, match=r"Keras cannot load .*broken\.keras: "):
        trace(path, normal(1, 4), converter)


class Running(layers.Layer):  # type: ignore[misc]
    """Keeps the sum of all that it has seen."""

    def build(self, shape: Any) -> None:
        self.total = self.add_weight(
            name="total", shape=(1, 4), initializer="ones", trainable=False
        )

    def call(self, x: Any) -> Any:
        self.total.assign(self.total + x)
        return self.total * 2


@pytest.mark.parametrize("kind", ["layer of one's own", "LSTM"])
def test_what_a_layer_keeps_between_calls_is_input_and_output(kind: str, converter: Worker) -> None:
    lstm = layers.LSTM(4, stateful=True, name="lstm")
    shape, layer = ((1, 4), lstm) if kind == "LSTM" else ((4,), Running(name="own"))
    model = keras.Sequential([keras.Input(shape, batch_size=1), layer])
    traced = trace(model, normal(1, *shape), converter)
    names = ("lstm_state_0", "lstm_state_1") if kind == "LSTM" else ("own_total",)
    assert traced.states == tuple((f"{name}_in", f"{name}_out") for name in names)
    assert not traced.doubts
    with Session(traced.tflite) as session:
        stream = session.stream(dict(traced.states))
        for step in range(3):
            x = normal(1, *shape) + step
            (found,) = stream.run(x).values()
            np.testing.assert_allclose(found, np.asarray(model(x), "f4"), atol=1e-5)


def test_all_inputs_may_come_in_one_list_or_dict(converter: Worker) -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    model = keras.Model([left, right], layers.Subtract()([left, right]))
    arrays = normal(1, 4), normal(1, 4, seed=1)
    for sample in ((list(arrays),), ({"right": arrays[1], "left": arrays[0]},)):
        traced = trace(model, sample, converter)
        (found,) = RepDataset([sample]).samples(input_specs(traced))
        np.testing.assert_array_equal(found, arrays)


class Difference(keras.Model):  # type: ignore[misc]
    """Called on a list, a tuple or a dict of two."""

    def call(self, inputs: Any) -> Any:
        left, right = inputs.values() if isinstance(inputs, dict) else inputs
        return left - right


@pytest.mark.parametrize("kind", [list, tuple, lambda arrays: dict(zip("ab", arrays, strict=True))])
def test_a_subclassed_model_is_called_on_what_it_was_built_on(kind: Any, converter: Worker) -> None:
    arrays, model = (normal(1, 4), normal(1, 4, seed=1)), Difference()
    model(kind(arrays))
    for sample in ((kind(arrays),), kind(arrays)):
        traced = trace(model, sample, converter)
        (fed,) = RepDataset([sample]).samples(input_specs(traced))
        with Session(traced.tflite) as session:
            (found,) = session.run(tuple(fed)).values()
        np.testing.assert_array_equal(found, arrays[0] - arrays[1])
