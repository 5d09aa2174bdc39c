"""Traces `pack_padded_sequence`, what reads it, and `pad_packed_sequence`, on all steps.

While a module is traced, a `PackedSequence` holds padded data `(T, B, ...)`, and in place of
`batch_sizes` the lengths `(B,)`. What a module does to each row of the data stays right so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from edgeq.export.frontends.torch_program.packed.packed_layers import (
    is_valid,
    last_step,
    turned,
)

SAID = (
    "pad_packed_sequence gives all steps that were packed, those behind the longest sequence "
    "filled up; PyTorch leaves these out"
)


@contextlib.contextmanager
def on_all_steps(notes: list[str]) -> Iterator[None]:
    """Has packed sequences hold all steps, and recurrent layers run on these.

    Args:
        notes: To which is added what a trace does otherwise than the module.
    """
    functions = {rnn.pack_padded_sequence: _pack, rnn.pad_packed_sequence: _pad}
    before = {function: function.__code__ for function in functions}
    forwards = {kind: kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN)}
    _notes.append(notes)
    try:
        for function, other in functions.items():  # which modules have imported by name
            function.__code__ = other.__code__
        for kind, forward in forwards.items():
            kind.forward = _also_packed(forward)
        yield
    finally:
        _notes.pop()
        for function, code in before.items():
            function.__code__ = code
        for kind, forward in forwards.items():
            kind.forward = forward


_notes: list[list[str]] = []
"""Those of the traces that run."""


def _pack(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
    """The code of `pack_padded_sequence` while a module is traced."""
    from edgeq.export.frontends.torch_program.packed import padded_sequences

    return padded_sequences.packed(input, lengths, batch_first)


def _pad(
    sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: Any = None
) -> Any:
    """The code of `pad_packed_sequence` while a module is traced."""
    from edgeq.export.frontends.torch_program.packed import padded_sequences

    return padded_sequences.padded(sequence, batch_first, padding_value, total_length)


def packed(data: Tensor, lengths: Any, batch_first: bool) -> rnn.PackedSequence:
    """All steps with the lengths, which are taken as they would be at the nearest end."""
    data = data.transpose(0, 1) if batch_first else data
    lengths = torch.as_tensor(lengths, dtype=torch.int64).clamp(1, data.shape[0])
    return rnn.PackedSequence(data, lengths)


def padded(
    sequence: rnn.PackedSequence, batch_first: bool, fill: float, total: int | None
) -> tuple[Tensor, Tensor]:
    """All steps, or as many as are asked for, with the fill behind each length."""
    data, lengths = sequence.data, sequence.batch_sizes
    steps = data.shape[0]
    valid = is_valid(lengths, steps).reshape(steps, -1, *[1] * (data.ndim - 2))
    if fill or not data.is_floating_point():
        data = torch.where(valid, data, torch.full((), fill, dtype=data.dtype))
    else:
        data = data * valid.to(data.dtype)
    if total is None:
        _notes[-1].append(SAID)
    elif total < steps:
        data = data[:total]
    elif total > steps:
        more = torch.full((total - steps, *data.shape[1:]), fill, dtype=data.dtype)
        data = torch.cat([data, more])
    return data.transpose(0, 1) if batch_first else data, lengths


def _also_packed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a recurrent layer, which takes all steps of a packed sequence."""

    def either(self: Any, input: Any, hx: Any = None) -> Any:
        if isinstance(input, rnn.PackedSequence) and input.data.ndim == 3:
            return _layers(self, input, hx)
        return forward(self, input, hx)

    return either


def _layers(layer: Any, sequence: rnn.PackedSequence, hx: Any) -> Any:
    """All layers and directions of a recurrent module: outputs in steps, and the last states."""
    x, lengths = sequence.data, sequence.batch_sizes
    directions, weights = 1 + layer.bidirectional, layer._flat_weights
    each, is_lstm = len(weights) // (layer.num_layers * directions), layer.mode == "LSTM"
    states = hx if is_lstm or hx is None else (hx,)
    last: list[Sequence[Tensor]] = []
    for level in range(layer.num_layers):
        made = []
        for backward in range(directions):
            number = level * directions + backward
            own = weights[number * each : (number + 1) * each]
            first = None if states is None else [state[number] for state in states]
            run = _lstm if is_lstm else _loop
            outputs, *ends = run(layer, x, lengths, own, first, bool(backward))
            made.append(outputs)
            last.append(ends)
        x = torch.cat(made, -1) if layer.bidirectional else made[0]
    ends = [torch.stack(ends) for ends in zip(*last, strict=True)]
    return rnn.PackedSequence(x, lengths), tuple(ends) if is_lstm else ends[0]


def _lstm(
    layer: Any,
    x: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    first: Sequence[Tensor] | None,
    backward: bool,
) -> tuple[Tensor, ...]:
    width = layer.proj_size or layer.hidden_size
    state, cell = first or (x.new_zeros(x.shape[1], n) for n in (width, layer.hidden_size))
    outputs, cell = torch.ops.edgeq.packed_lstm(
        x, lengths, weights, state, cell, layer.bias, backward, first is None
    )
    return outputs, last_step(outputs, lengths, backward), cell


def _loop(
    layer: Any,
    x: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    first: Sequence[Tensor] | None,
    backward: bool,
) -> tuple[Tensor, ...]:
    run = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layer.mode]
    (state,) = first or (x.new_zeros(x.shape[1], layer.hidden_size),)
    x = turned(x, lengths) if backward else x
    outputs, _ = run(x, state[None], list(weights), layer.bias, 1, 0.0, False, False, False)
    outputs = turned(outputs, lengths) if backward else outputs
    return outputs, last_step(outputs, lengths, backward)
