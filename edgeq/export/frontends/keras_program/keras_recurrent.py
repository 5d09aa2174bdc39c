"""Recurrent Keras layers while their model is traced: an LSTM as one call, others step by step.

On JAX the loop stays Keras' own: its front end finds the LSTM in it, and writes out the others.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgeq.export.importing.layer_calls import of_layer
from edgeq.export.importing.loop_layer import LEAST_STEPS
from edgeq.export.importing.loop_steps import GATES, GRU, GRU_BEFORE, RNN_RELU, RNN_TANH
from edgeq.export.importing.sequence_loop import SEQUENCE_LOOP
from edgeq.export.importing.sequence_lstm import SEQUENCE_LSTM


@contextlib.contextmanager
def without_loops(layers: Mapping[str, Any], backend: str) -> Iterator[None]:
    """Has recurrent layers compute without a loop.

    Args:
        layers: Of a model, by their paths.
        backend: That Keras runs on.
    """
    changed = {p: each for p, each in layers.items() if getattr(each, "unroll", None) is False}
    for path, layer in changed.items():
        with_mask = functools.partial(type(layer).inner_loop, layer)
        whole: Callable[..., Any] = with_mask
        if backend != "jax":
            layer.unroll = True
            whole = with_mask = functools.partial(_steps, layer)
        if backend != "jax" and _is_lstm(layer):
            whole = functools.partial(_lstm, functools.partial(_CALLS[backend][0], path), layer)
        elif backend != "jax" and _kind(layer):
            whole = functools.partial(_looped, functools.partial(_CALLS[backend][1], path), layer)
        layer.__dict__["inner_loop"] = functools.partial(_loop, layer, whole, with_mask)
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


def _kind(layer: Any) -> str:
    """Which of the layers that are a loop a layer is; empty if it is none."""
    import keras

    known = keras.activations
    if isinstance(layer, keras.layers.SimpleRNN):
        return {known.tanh: RNN_TANH, known.relu: RNN_RELU}.get(layer.cell.activation, "")
    if not isinstance(layer, keras.layers.GRU):
        return ""
    found = layer.cell.activation, layer.cell.recurrent_activation
    kind = GRU if layer.reset_after else GRU_BEFORE
    return kind if found == (known.tanh, known.sigmoid) else ""


def _steps(layer: Any, sequences: Any, initial_state: Any, mask: Any, **options: Any) -> Any:
    """Steps of a recurrent layer as Keras writes them.

    Keras on PyTorch cannot turn a mask around where steps are unrolled.
    """
    import keras

    if not layer.go_backwards:
        return type(layer).inner_loop(layer, sequences, initial_state, mask, **options)
    turned = keras.ops.flip(sequences, 1)
    mask = None if mask is None else keras.ops.flip(mask, 1)
    layer.go_backwards = False
    try:
        return type(layer).inner_loop(layer, turned, initial_state, mask, **options)
    finally:
        layer.go_backwards = True


def _loop(
    layer: Any,
    whole: Callable[..., Any],
    with_mask: Callable[..., Any],
    sequences: Any,
    initial_state: Any,
    mask: Any,
    **options: Any,
) -> Any:
    """A layer on whole sequences; with a mask on packed ones, where that gives all it returns."""
    if mask is None:
        return whole(sequences, initial_state, None, **options)
    is_kept = not (layer.return_state or layer.stateful)
    if hasattr(sequences, "shape") and (is_kept or _has_one_state(layer)):
        return _packed(layer, whole, sequences, initial_state, mask, **options)
    return with_mask(sequences, initial_state, mask, **options)


def _has_one_state(layer: Any) -> bool:
    """Whether a layer's state is its output."""
    import keras

    return isinstance(layer, keras.layers.GRU | keras.layers.SimpleRNN)


def _packed(
    layer: Any,
    whole: Callable[..., Any],
    sequences: Any,
    initial_state: Any,
    mask: Any,
    **options: Any,
) -> Any:
    """Steps that are masked change no state: the others run first, one behind the other.

    Each masked step then shows what the last one before it did.
    """
    import keras

    ops = keras.ops
    mask = ops.reshape(ops.cast(mask, "int32"), sequences.shape[:2])
    if layer.go_backwards:
        sequences, mask = ops.flip(sequences, 1), ops.flip(mask, 1)
    steps = sequences.shape[1]
    counts = ops.cumsum(mask, 1)
    earlier = counts[:, None] <= ops.reshape(ops.arange(steps), (1, steps, 1))
    order = ops.sum(ops.cast(earlier, "int32"), -1)
    with _whole_outputs(layer):
        found = whole(
            _rows(sequences, ops.minimum(order, steps - 1)), initial_state, None, **options
        )
    _, outputs, states = found
    if not layer.return_sequences:
        counts, mask = counts[:, -1:], mask[:, -1:]
    seen = _rows(outputs, ops.maximum(counts - 1, 0))
    shown = (mask if getattr(layer, "zero_output_for_mask", False) else counts) > 0
    axes = (*shown.shape, *[1] * (len(seen.shape) - 2))
    made = seen * ops.reshape(ops.cast(shown, seen.dtype), axes)
    if _has_one_state(layer):
        states = [ops.where(counts[:, -1:] > 0, seen[:, -1], initial_state[0])]
    return made[:, -1], made, states


@contextlib.contextmanager
def _whole_outputs(layer: Any) -> Iterator[None]:
    """Has a layer give the outputs of all steps, from the first to the last."""
    before = layer.return_sequences, layer.go_backwards
    layer.return_sequences, layer.go_backwards = True, False
    try:
        yield
    finally:
        layer.return_sequences, layer.go_backwards = before


def _rows(values: Any, places: Any) -> Any:
    """Rows `(B, N, ...)` of `(B, T, ...)` at places `(B, N)`."""
    import keras

    ops = keras.ops
    batch, count, *rest = values.shape
    if batch > 1:
        places = places + ops.reshape(count * ops.arange(batch, dtype="int32"), (batch, 1))
    flat = ops.reshape(values, (batch * count, *rest))
    picked = ops.take(flat, ops.reshape(places, (-1,)), axis=0)
    return ops.reshape(picked, (*places.shape, *rest))


def _lstm(
    call: Callable[..., Any],
    layer: Any,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    **options: Any,
) -> Any:
    """An LSTM layer without a mask as one call."""
    import keras

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


def _looped(
    call: Callable[..., Any],
    layer: Any,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    **options: Any,
) -> Any:
    """A GRU or simple layer without a mask as one call, or its few steps."""
    import keras

    if sequences.shape[1] < LEAST_STEPS:
        return _steps(layer, sequences, initial_state, None, **options)
    if layer.go_backwards:
        sequences = keras.ops.flip(sequences, 1)
    cell, kind = layer.cell, _kind(layer)
    weights = [_gates(kind, keras.ops.transpose(w)) for w in (cell.kernel, cell.recurrent_kernel)]
    zeros = keras.ops.zeros((GATES[kind] * layer.units,))
    biases = [zeros, zeros]
    if cell.bias is not None:
        given = keras.ops.convert_to_tensor(cell.bias)
        biases = [given[0], given[1]] if len(given.shape) > 1 else [given, zeros]
    outputs = call(kind, sequences, *weights, *(_gates(kind, b) for b in biases), initial_state[0])
    last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], [last]


def _gates(kind: str, values: Any) -> Any:
    """What Keras has in the order update, reset, new state, in that of the call."""
    import keras

    if GATES[kind] == 1:
        return values
    kept, reset, new = keras.ops.split(values, 3)
    return keras.ops.concatenate([reset, kept, new])


def _torch_lstm(path: str, *operands: Any) -> Any:
    from edgeq.export.frontends.decompositions.sequence_layers import sequence_lstm

    return sequence_lstm(*operands, None, False)


def _torch_loop(path: str, kind: str, *operands: Any) -> Any:
    from edgeq.export.frontends.decompositions.sequence_layers import sequence_loop

    return sequence_loop(*operands, kind, False)


def _kept(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that TensorFlow's converter leaves as a custom op of that name."""
    import tensorflow as tf

    fusable = 'attr { key: "tfl_fusable_op" value { b: true } }'
    kept: Callable[..., Any] = tf.function(
        function, experimental_implements=f'name: "{name}" {fusable}'
    )
    return kept


def _tensorflow_lstm(path: str, *operands: Any) -> Any:
    import tensorflow as tf

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

    return _kept(of_layer(SEQUENCE_LSTM, "", path), sequence_lstm)(*operands)


def _tensorflow_loop(path: str, kind: str, *operands: Any) -> Any:
    import tensorflow as tf

    def product(state: Any, weight: Any, bias: Any) -> Any:
        return tf.matmul(state, weight, transpose_b=True) + bias

    def sequence_loop(
        x: Any, weight: Any, recurrence: Any, bias: Any, recurrent_bias: Any, state: Any
    ) -> Any:
        def simple(state: Any, read: Any) -> Any:
            squash = tf.tanh if kind == RNN_TANH else tf.nn.relu
            return squash(read + product(state, recurrence, recurrent_bias))

        def gated(state: Any, read: Any) -> Any:
            matrices, biases = tf.split(recurrence, 3, 0), tf.split(recurrent_bias, 3, 0)
            reset, kept, new = tf.split(read, 3, -1)
            reset = tf.sigmoid(reset + product(state, matrices[0], biases[0]))
            kept = tf.sigmoid(kept + product(state, matrices[1], biases[1]))
            if kind == GRU:
                new = tf.tanh(new + reset * product(state, matrices[2], biases[2]))
            else:
                new = tf.tanh(new + product(reset * state, matrices[2], biases[2]))
            return new + kept * (state - new)

        read = tf.einsum("bti,gi->tbg", x, weight) + bias
        outputs = tf.scan(gated if GATES[kind] > 1 else simple, read, state)
        return tf.transpose(outputs, (1, 0, 2))

    return _kept(of_layer(SEQUENCE_LOOP, kind, path), sequence_loop)(*operands)


_CALLS = {
    "torch": (_torch_lstm, _torch_loop), "tensorflow": (_tensorflow_lstm, _tensorflow_loop),
}  # fmt: skip
"""By backend, what calls an LSTM layer and any other, given the layer's path."""
