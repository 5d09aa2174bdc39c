"""Recurrent layers that the runtime has one op for, or that are a loop there.

Each direction of an LSTM layer becomes one `edgeq::sequence_lstm`, which goes through the converter
as a call and is made UNIDIRECTIONAL_SEQUENCE_LSTM behind it (`edgeq.export.importing`). That of a
GRU or a simple layer becomes one `edgeq::sequence_loop`, which is made a loop there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from edgeq.export.importing.loop_layer import LEAST_STEPS
from edgeq.export.importing.loop_steps import GRU, RNN_RELU, RNN_TANH

aten = torch.ops.aten


@torch.library.custom_op("edgeq::sequence_lstm", mutates_args=())  # type: ignore[untyped-decorator]
def sequence_lstm(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    state: Tensor,
    cell: Tensor,
    projection: Optional[Tensor],  # noqa: UP045  # the schema is read from the annotation
    time_major: bool,
) -> tuple[Tensor, Tensor]:
    """One direction of an LSTM layer; gates are in the order input, forget, cell, output.

    Args:
        x: `(B, T, I)`, or `(T, B, I)` where time comes first.
        weight: `(4 * H, I)`.
        recurrence: `(4 * H, P)`.
        bias: `(4 * H,)`.
        state: `(B, P)`, what the first step reads as the output before it.
        cell: `(B, H)`, likewise.
        projection: `(P, H)` that outputs are multiplied with; None leaves them, and P is H.
        time_major: Whether time is the first axis of `x`.

    Returns:
        All outputs, `(B, T, P)` or `(T, B, P)`, and the last cell state `(B, H)`.
    """
    states = [state.unsqueeze(0), cell.unsqueeze(0)]
    parameters = [weight, recurrence, bias, torch.zeros_like(bias)]
    parameters += [] if projection is None else [projection]
    outputs, _, last = torch.lstm(x, states, parameters, True, 1, 0.0, False, False, not time_major)
    return outputs, last.squeeze(0).clone()


@sequence_lstm.register_fake  # type: ignore[untyped-decorator]
def _(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    state: Tensor,
    cell: Tensor,
    projection: Optional[Tensor],  # noqa: UP045
    time_major: bool,
) -> tuple[Tensor, Tensor]:
    outputs = torch.empty((*x.shape[:2], recurrence.shape[1]), dtype=x.dtype)
    return outputs, torch.empty(cell.shape, dtype=x.dtype)


@torch.library.custom_op("edgeq::sequence_loop", mutates_args=())  # type: ignore[untyped-decorator]
def sequence_loop(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
    state: Tensor,
    kind: str,
    time_major: bool,
) -> Tensor:
    """One direction of a GRU or a simple recurrent layer.

    Args:
        x: `(B, T, I)`, or `(T, B, I)` where time comes first.
        weight: `(G * H, I)`; the gates of a GRU are in the order reset, update, new state.
        recurrence: `(G * H, H)`.
        bias: `(G * H,)`, added to the products of `weight`.
        recurrent_bias: `(G * H,)`, added to those of `recurrence`.
        state: `(B, H)`, what the first step reads as the output before it.
        kind: A key of `edgeq.export.importing.loop_steps.GATES`.
        time_major: Whether time is the first axis of `x`.

    Returns:
        All outputs, `(B, T, H)` or `(T, B, H)`.
    """
    return _written_out(x, weight, recurrence, bias, recurrent_bias, state, kind, time_major)


@sequence_loop.register_fake  # type: ignore[untyped-decorator]
def _(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
    state: Tensor,
    kind: str,
    time_major: bool,
) -> Tensor:
    return torch.empty((*x.shape[:2], recurrence.shape[1]), dtype=x.dtype)


def _written_out(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
    state: Tensor,
    kind: str,
    time_major: bool,
) -> Tensor:
    """The steps of `sequence_loop`, one behind the other."""
    axis = 0 if time_major else 1
    read = torch.nn.functional.linear(x, weight, bias)
    made = []
    for step in read.unbind(axis):
        state = _step(kind, step, recurrence, recurrent_bias, state)
        made.append(state)
    return torch.stack(made, axis)


def _step(kind: str, read: Tensor, recurrence: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    linear = torch.nn.functional.linear
    if kind in (RNN_TANH, RNN_RELU):
        squash = torch.tanh if kind == RNN_TANH else torch.relu
        return squash(read + linear(state, recurrence, bias))
    matrices, biases, parts = recurrence.chunk(3), bias.chunk(3), read.chunk(3, -1)
    reset, kept = (torch.sigmoid(parts[i] + linear(state, matrices[i], biases[i])) for i in (0, 1))
    if kind == GRU:
        new = torch.tanh(parts[2] + reset * linear(state, matrices[2], biases[2]))
    else:
        new = torch.tanh(parts[2] + linear(reset * state, matrices[2], biases[2]))
    return new + kept * (state - new)


def lstm(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """`lstm.input`: layer by layer, the second direction on reversed steps."""
    if x.dtype != torch.float32 or (train and dropout):
        return NotImplemented
    directions = 2 if bidirectional else 1
    is_projected = states[0].shape[-1] != states[1].shape[-1]
    each = 2 + 2 * has_biases + is_projected
    time = 1 if batch_first else 0
    last_outputs, last_cells = [], []
    for layer in range(layers):
        made = []
        for direction in range(directions):
            number = layer * directions + direction
            weight, recurrence, *rest = parameters[number * each : (number + 1) * each]
            projection = rest.pop() if is_projected else None
            bias = rest[0] + rest[1] if has_biases else torch.zeros(weight.shape[0])
            steps = x.flip(time) if direction else x
            outputs, cell = torch.ops.edgeq.sequence_lstm(
                steps, weight, recurrence, bias, states[0][number], states[1][number], projection,
                not batch_first,
            )  # fmt: skip
            last_outputs.append(outputs.select(time, -1))
            last_cells.append(cell)
            made.append(outputs.flip(time) if direction else outputs)
        x = torch.cat(made, -1) if bidirectional else made[0]
    return x, torch.stack(last_outputs), torch.stack(last_cells)


def _looped(kind: str) -> Callable[..., Any]:
    """The decomposition of layers of a kind: layer by layer, the second direction reversed."""

    def layers(
        x: Tensor,
        state: Tensor,
        parameters: Sequence[Tensor],
        has_biases: bool,
        count: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        time = 1 if batch_first else 0
        if train and dropout:
            return NotImplemented
        is_loop = x.dtype == torch.float32 and x.shape[time] >= LEAST_STEPS
        run = torch.ops.edgeq.sequence_loop if is_loop else _written_out
        directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
        last = []
        for layer in range(count):
            made = []
            for direction in range(directions):
                number = layer * directions + direction
                weight, recurrence, *biases = parameters[number * each : (number + 1) * each]
                bias, added = biases or [torch.zeros_like(weight[:, 0])] * 2
                outputs = run(
                    x.flip(time) if direction else x, weight, recurrence, bias, added,
                    state[number], kind, not batch_first,
                )  # fmt: skip
                last.append(outputs.select(time, -1))
                made.append(outputs.flip(time) if direction else outputs)
            x = torch.cat(made, -1) if bidirectional else made[0]
        return x, torch.stack(last)

    return layers


TABLE: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: lstm,
    aten.gru.input: _looped(GRU),
    aten.rnn_tanh.input: _looped(RNN_TANH),
    aten.rnn_relu.input: _looped(RNN_RELU),
}
