"""Keras models on one of its backends, traced where Keras has that backend; see `frameworks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.flatbuffer import parse
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]


def recurrent() -> dict[str, tuple[list[Array], list[Array], int]]:
    """Outputs of recurrent models, those of their traces, and how many LSTM ops these have."""
    import keras

    rng = np.random.default_rng(0)
    made = {}
    with start_converter() as worker:
        for name, model in _recurrent_models().items():
            sample = tuple(rng.normal(size=(1, *i.shape[1:])).astype("f") for i in model.inputs)
            traced = frontends.trace(model, None, RepDataset([sample]), worker)
            with Session(traced.tflite, threads=1) as session:
                session.invoke(sample)
                found = [output.copy() for output in session.outputs()]
            outputs = keras.tree.flatten(model(list(sample)))
            ops = [op.name for op in parse(traced.tflite).graphs[0].operators]
            expected = [keras.ops.convert_to_numpy(output) for output in outputs]
            made[name] = (expected, found, ops.count("UNIDIRECTIONAL_SEQUENCE_LSTM"))
    return made


def _recurrent_models() -> dict[str, Any]:
    import keras
    from keras import layers

    steps, states = keras.Input((3, 3)), [keras.Input((4,)), keras.Input((4,))]
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(steps)
    given = layers.LSTM(4, use_bias=False, return_state=True, go_backwards=True)
    bounded = layers.LSTM(4, recurrent_activation="hard_sigmoid")
    return {
        "both ways": keras.Model(steps, layers.LSTM(4)(both)),
        "states": keras.Model([steps, *states], given(steps, initial_state=states)),
        "another activation": keras.Model(steps, bounded(steps)),
    }


POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def half() -> dict[str, tuple[Array, Array, bool]]:
    """Of models of half precision: outputs, those of their traces, and whether all is as it was."""
    import keras
    from keras import layers

    rng = np.random.default_rng(0)
    made = {}
    with start_converter() as worker:
        for name in POLICIES:
            policy = keras.DTypePolicy(name)
            image = keras.Input((8, 8, 3))
            x = layers.Conv2D(4, 3, padding="same", dtype=policy)(image)
            x = layers.BatchNormalization(dtype=policy)(x)
            x = layers.Flatten(dtype=policy)(layers.Activation("relu", dtype=policy)(x))
            model = keras.Model(image, x)
            sample = rng.normal(size=(1, 8, 8, 3)).astype("f")
            before = keras.ops.convert_to_numpy(keras.ops.cast(model(sample), "float32"))
            traced = frontends.trace(model, None, RepDataset([sample]), worker)
            with Session(traced.tflite, threads=1) as session:
                session.invoke((sample,))
                (found,) = (output.copy() for output in session.outputs())
            again = keras.ops.convert_to_numpy(keras.ops.cast(model(sample), "float32"))
            made[name] = (before, found, bool((again == before).all()) and not traced.states)
    return made


def with_gaps() -> dict[str, tuple[list[Array], list[Array], int]]:
    """Outputs of recurrent models on steps that are masked anywhere, those of their traces, and how
    many recurrent ops these have."""
    import keras

    rng = np.random.default_rng(0)
    made = {}
    with start_converter() as worker:
        for name, model in _masked_models().items():
            for variable in model.weights:  # biases are zeros otherwise
                variable.assign(rng.normal(size=variable.shape, scale=0.5).astype("f"))
            samples = [_with_gaps(rng, model.inputs[0].shape[1]) for _ in range(6)]
            samples.append(np.zeros_like(samples[0]))
            traced = frontends.trace(model, None, RepDataset(samples[:1]), worker)
            expected: list[Array] = []
            found: list[Array] = []
            with Session(traced.tflite, threads=1) as session:
                for sample in samples:
                    session.invoke((sample,))
                    found += [output.copy() for output in session.outputs()]
                    outputs = keras.tree.flatten(model(sample))
                    expected += map(keras.ops.convert_to_numpy, outputs)
            ops = [op.name for op in parse(traced.tflite).graphs[0].operators]
            kinds = ("UNIDIRECTIONAL_SEQUENCE_LSTM", "WHILE")
            made[name] = (expected, found, sum(map(ops.count, kinds)))
    return made


def _with_gaps(rng: np.random.Generator, steps: int) -> Array:
    values: Array = rng.normal(size=(1, steps, 3)).astype("f")
    values[0, rng.random(steps) < 0.5] = 0
    return values


def _masked_models() -> dict[str, Any]:
    import keras
    from keras import layers

    def model(steps: int, *made: Any) -> Any:
        inputs = keras.Input((steps, 3))
        found = layers.Masking()(inputs)
        for layer in made:
            found = layer(found)
        return keras.Model(inputs, found)

    both = layers.Bidirectional(layers.GRU(4, return_sequences=True))
    before = layers.GRU(3, reset_after=False, return_state=True)
    backwards = layers.LSTM(4, return_sequences=True, go_backwards=True)
    return {"loops": model(8, both, before), "ops": model(3, backwards, layers.LSTM(3))}


def masked() -> tuple[Array, Array, bool]:
    """Outputs of a masked model that reads both ways, those of its trace, and if it stayed so."""
    import keras
    from keras import layers

    backwards = layers.Bidirectional(layers.LSTM(3))
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(5, 3, mask_zero=True), backwards]
    )
    ids = np.array([[3, 1, 0]], np.int32)
    with start_converter() as worker:
        traced = frontends.trace(model, None, RepDataset([ids]), worker)
    with Session(traced.tflite) as session:
        (found,) = session.run(ids).values()
    layer = backwards.backward_layer
    kept = layer.go_backwards and not layer.unroll and "inner_loop" not in vars(layer)
    return keras.ops.convert_to_numpy(model(ids)), found, kept


def kept() -> list[tuple[Array, Array]]:
    """Outputs of a model that keeps a sum by itself, step by step, and those of its trace.

    All its layers are Keras' own, and its call has no other mode for training.
    """
    import keras

    class Running(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = keras.layers.Dense(4)
            self.total = self.add_weight(name="total", shape=(1, 4), trainable=False)

        def call(self, x: Any) -> Any:
            self.total.assign(self.total + self.layer(x))
            return self.total * 2

    steps = np.random.default_rng(0).normal(size=(3, 1, 4)).astype("f")
    model = Running()
    model(steps[0])
    with start_converter() as worker:
        traced = frontends.trace(model, None, RepDataset([(steps[0],)]), worker)
    made = []
    with Session(traced.tflite, threads=1) as session:
        stream = session.stream(dict(traced.states))  # zeros stand for what the model holds by now
        for x in steps:
            (found,) = stream.run(x).values()
            made.append((keras.ops.convert_to_numpy(model(x)), found))
    return made
