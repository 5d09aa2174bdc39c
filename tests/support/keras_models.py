"""Keras models on PyTorch, traced where Keras has that backend; see `frameworks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]


def masked() -> tuple[Array, Array, bool]:
    """Outputs of a masked model that reads both ways, those of its trace, and if it stayed so."""
    import keras
    from keras import layers

    backwards = layers.Bidirectional(layers.LSTM(3))
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(5, 3, mask_zero=True), backwards]
    )
    ids = np.array([[3, 1, 0, 0]], np.int32)
    with start_converter() as worker:
        traced = frontends.trace(model, None, RepDataset([ids]), worker)
    with Session(traced.tflite) as session:
        (found,) = session.run(ids).values()
    layer = backwards.backward_layer
    kept = layer.go_backwards and not layer.unroll and "inner_loop" not in vars(layer)
    return keras.ops.convert_to_numpy(model(ids)), found, kept
