"""Recurrent Keras layers while their model is traced: an LSTM as one call, others step by step.

On JAX nothing differs: its front end finds the LSTM in Keras' own loop, and writes out the others.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgeq.export.importing.sequence_lstm import of_layer


@contextlib.contextmanager
def without_loops(layers: Mapping[str, Any], backend: str) -> Iterator[None]:
    """Has recurrent layers compute without a loop.

    Args:
        layers: Of a model, by their paths.
        backend: That Keras runs on.
    """
    recurrent = {p: each for p, each in layers.items() if getattr(each, "unroll", None) is False}
    changed = {} if backend == "jax" else recurrent
    for path, layer in changed.items():
        layer.unroll = True
        steps = _backwards if getattr(layer, "go_backwards", False) else _forwards
        if _is_lstm(layer):
            call = _torch_call if backend == "torch" else functools.partial(_tensorflow_call, path)
            layer.__dict__["inner_loop"] = functools.partial(_lstm, call, steps, layer)
        elif steps is _backwards:
            layer.__dict__["inner_loop"] = functools.partial(steps, layer)
    try:
        yield
    finally:
        for layer in changed.values():
            layer.unroll = False
            layer.__dict__.pop("inner_loop", None)


def _is_lstm(layer: Any) -> bool:
    """Whether a layer is an LSTM with the activations of the runtime's op."""
    import keras

    activations = (keras.activations.tanh, keras.activations.sigmoid)
    return isinstance(layer, keras.layers.LSTM) and activations == (
        layer.cell.activation,
        layer.cell.recurrent_activation,
    )


def _forwards(layer: Any, sequences: Any, initial_state: Any, mask: Any, **options: Any) -> Any:
    """Steps of a recurrent layer as Keras writes them."""
    return type(layer).inner_loop(layer, sequences, initial_state, mask, **options)


def _backwards(layer: Any, sequences: Any, initial_state: Any, mask: Any, **options: Any) -> Any:
    """Steps of a recurrent layer from the last to the first, with its mask likewise.

    Keras on PyTorch cannot turn a mask around where steps are unrolled.
    """
    import keras

    turned = keras.ops.flip(sequences, 1)
    mask = None if mask is None else keras.ops.flip(mask, 1)
    layer.go_backwards = False
    try:
        return _forwards(layer, turned, initial_state, mask, **options)
    finally:
        layer.go_backwards = True


def _lstm(
    call: Callable[..., Any],
    steps: Callable[..., Any],
    layer: Any,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    **options: Any,
) -> Any:
    """An LSTM layer as one call, or its steps where it has a mask."""
    import keras

    if mask is not None:
        return steps(layer, sequences, initial_state, mask, **options)
    if layer.go_backwards:
        sequences = keras.ops.flip(sequences, 1)
    cell, bias = layer.cell, layer.cell.bias
    weights = [keras.ops.transpose(w) for w in (cell.kernel, cell.recurrent_kernel)]
    zeros = (
        keras.ops.zeros((4 * layer.units,)) if bias is None else keras.ops.convert_to_tensor(bias)
    )
    outputs, last_cell = call(sequences, *weights, zeros, *initial_state)
    last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], [last, last_cell]


def _torch_call(*operands: Any) -> Any:
    from edgeq.export.frontends.decompositions.sequence_layers import sequence_lstm

    return sequence_lstm(*operands, None, False)


def _tensorflow_call(path: str, *operands: Any) -> Any:
    """The function that TensorFlow's converter leaves as a custom op, under the layer's path."""
    import tensorflow as tf

    fusable = 'attr { key: "tfl_fusable_op" value { b: true } }'
    kind = f'name: "{of_layer(path)}" {fusable}'

    @tf.function(experimental_implements=kind)  # type: ignore[untyped-decorator]
    def sequence_lstm(
        x: Any, weight: Any, recurrence: Any, bias: Any, state: Any, cell: Any
    ) -> tuple[Any, Any]:
        def step(carried: Any, read: Any) -> tuple[Any, Any]:
            state, cell = carried
            gates = read + tf.matmul(state, recurrence, transpose_b=True)
            open_in, kept, new, shown = tf.split(gates, 4, -1)
            cell = tf.sigmoid(kept) * cell + tf.sigmoid(open_in) * tf.tanh(new)
            return tf.sigmoid(shown) * tf.tanh(cell), cell

        read = tf.einsum("bti,gi->tbg", x, weight) + bias
        outputs, cells = tf.scan(step, read, (state, cell))
        return tf.transpose(outputs, (1, 0, 2)), cells[-1]

    return sequence_lstm(*operands)
