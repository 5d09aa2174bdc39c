"""ONNX's recurrent layers: one op each where the runtime has it or a loop of it, else step by step.

Written out, the products with the inputs of all steps are one product ahead of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.decompositions.sequence_layers import sequence_loop
from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, op
from edgeq.export.frontends.torch_program.packed.packed_layers import is_valid, last_step, turned
from edgeq.export.importing.loop_layer import LEAST_STEPS
from edgeq.export.importing.loop_steps import GRU, GRU_BEFORE, RNN_RELU, RNN_TANH

_Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, _Activation] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
    "softsign": functional.softsign, "softplus": functional.softplus,
}  # fmt: skip

_WITH_PARAMETERS: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "hardsigmoid": ((0.2, 0.5), lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0)),
    "affine": ((1.0, 0.0), lambda x, a, b: a * x + b),
    "scaledtanh": ((1.0, 1.0), lambda x, a, b: a * torch.tanh(b * x)),
    "leakyrelu": ((0.01,), functional.leaky_relu),
    "elu": ((1.0,), functional.elu),
    "thresholdedrelu": ((1.0,), lambda x, a: torch.where(x > a, x, torch.zeros_like(x))),
}
"""Activations with what ONNX has their alpha and beta be by default."""

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Direction:
    """One direction of a layer.

    Attributes:
        weight: Input weights `(gates * H, I)`.
        recurrence: Weights of the state `(gates * H, H)`.
        bias: Both biases `(2 * gates * H,)`.
        peephole: `(3 * H,)` of an LSTM, or None.
        activations: Activation functions, in ONNX's order.
    """

    weight: Tensor
    recurrence: Tensor
    bias: Tensor
    peephole: Tensor | None
    activations: list[_Activation]

    @property
    def biases(self) -> tuple[Tensor, Tensor]:
        """The bias of the inputs and that of the state."""
        one, other = self.bias.chunk(2)
        return one, other


_Step = Callable[[Node, _Direction, Tensor, States], States]


@op("LSTM", either=(4,))
def lstm(
    node: Node,
    values: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Known | Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peephole: Tensor | None = None,
) -> tuple[Tensor, ...]:
    starts = (hidden, cell)
    return _layer(node, _lstm_step, values, weight, recurrence, bias, lengths, starts, peephole)


@op("GRU", either=(4,))
def gru(
    node: Node,
    values: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Known | Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return _layer(node, _gru_step, values, weight, recurrence, bias, lengths, (hidden,), None)


@op("RNN", either=(4,))
def rnn(
    node: Node,
    values: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Known | Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return _layer(node, _rnn_step, values, weight, recurrence, bias, lengths, (hidden,), None)


@op("DynamicQuantizeLSTM", domain=MICROSOFT, known=(8, 9, 10, 11), either=(4,))
def quantized_lstm(
    node: Node,
    values: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None,
    lengths: Known | Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    peephole: Tensor | None,
    weight_scale: Known,
    weight_zero: Known,
    recurrence_scale: Known,
    recurrence_zero: Known,
) -> tuple[Tensor, ...]:
    """An LSTM with integer weights, stored with the gates as the last axis."""
    starts = (hidden, cell)
    weight = _real_gates(weight, weight_scale, weight_zero)
    recurrence = _real_gates(recurrence, recurrence_scale, recurrence_zero)
    return _layer(node, _lstm_step, values, weight, recurrence, bias, lengths, starts, peephole)


def _real_gates(stored: Tensor, scale: Known, zero: Known) -> Tensor:
    directions = stored.shape[0]
    scales, zeros = (torch.from_numpy(a).reshape(directions, 1, -1) for a in (scale, zero))
    return ((stored.float() - zeros.float()) * scales).transpose(1, 2)


def _layer(
    node: Node,
    step: _Step,
    values: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None,
    lengths: Known | Tensor | None,
    starts: tuple[Tensor | None, ...],
    peephole: Tensor | None,
) -> tuple[Tensor, ...]:
    by_batch = bool(node.get("layout"))
    values = values.transpose(0, 1) if by_batch else values
    steps = values.shape[0]
    values, several = _cut(values, lengths)
    first = [None if s is None else s.transpose(0, 1) if by_batch else s for s in starts]
    from_zero = all(state is None for state in starts)
    rows, ends = [], []
    for i, reverse in enumerate(_reversals(node)):
        zero = values.new_zeros(values.shape[1], recurrence.shape[2])
        gates = weight.shape[1]
        direction = _Direction(
            weight[i], recurrence[i], values.new_zeros(2 * gates) if bias is None else bias[i],
            None if peephole is None else peephole[i], _activations(node, i),
        )  # fmt: skip
        states = tuple(zero if s is None else s[i] for s in first)
        if several is None:
            row, last = _run(node, step, direction, values, states, reverse)
        else:
            row, last = _run_each(
                node, step, direction, values, states, reverse, several, from_zero
            )
        rows.append(row)
        ends.append(last)
    made = torch.stack(rows, 1)
    if steps > values.shape[0]:
        made = functional.pad(made, [0, 0, 0, 0, 0, 0, 0, steps - values.shape[0]])
    finals = [torch.stack([end[k] for end in ends]) for k in range(len(starts))]
    if by_batch:
        return made.permute(2, 0, 1, 3), *(f.transpose(0, 1) for f in finals)
    return made, *finals


def _cut(values: Tensor, lengths: Known | Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The steps that a batch has at most, and the length of each sequence if these may differ."""
    if lengths is None or isinstance(lengths, Tensor):
        return values, lengths
    if not lengths.size:
        return values, None
    longest = values[: int(lengths.max())]
    return longest, torch.from_numpy(lengths) if (lengths != lengths[0]).any() else None


def _run_each(
    node: Node,
    step: _Step,
    direction: _Direction,
    values: Tensor,
    states: States,
    reverse: bool,
    lengths: Tensor,
    from_zero: bool,
) -> tuple[Tensor, States]:
    """As `_run`, of sequences with lengths `(B,)`; zeros where nothing is read."""
    lengths = lengths.long()
    within = lengths.clamp(1, values.shape[0])
    if step is _lstm_step and _is_plain(node, direction):
        parameters = [_reordered(p) for p in (direction.weight, direction.recurrence)]
        parameters += [_reordered(p) for p in direction.biases]
        rows, cell = torch.ops.edgeq.packed_lstm(
            values, within, parameters, *states, True, reverse, from_zero
        )
        ends = last_step(rows, within, reverse), cell
    else:
        steps = turned(values, within) if reverse else values
        every = _run_all(node, step, direction, steps, states, False)
        ends = tuple(last_step(state, within, False) for state in every)
        rows = turned(every[0], within) if reverse else every[0]
    valid = is_valid(lengths, values.shape[0])[..., None].to(rows.dtype)
    has_any = (lengths > 0)[:, None].to(rows.dtype)
    return rows * valid, tuple(end * has_any for end in ends)


def _reversals(node: Node) -> tuple[bool, ...]:
    kinds = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    return kinds[str(node.get("direction", "forward")).lower()]


def _activations(node: Node, direction: int) -> list[_Activation]:
    """The activations of a direction; those that have parameters take the next ones given."""
    count = {"RNN": 1, "GRU": 2}.get(node.op, 3)
    default = ["Tanh"] if count == 1 else ["Sigmoid", "Tanh", "Tanh"][:count]
    every = [str(name).lower() for name in node.get("activations") or default * (direction + 1)]
    alphas, betas = (iter(node.get(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    made: list[_Activation] = []
    for name in every:
        if name in _WITH_PARAMETERS:
            defaults, function = _WITH_PARAMETERS[name]
            given = [next(left, d) for left, d in zip((alphas, betas), defaults, strict=False)]
            made.append(partial(_of_parameters, function, given))
        elif name in _ACTIVATIONS:
            made.append(_ACTIVATIONS[name])
        else:
            raise node.refused(f"has {name} for an activation")
    limit, chosen = node.get("clip"), made[count * direction : count * (direction + 1)]
    gates = 2 if node.op == "LSTM" else count  # not what leaves the cell
    return [partial(_limited, a, limit) if limit and i < gates else a for i, a in enumerate(chosen)]


def _of_parameters(
    function: Callable[..., Tensor], parameters: Sequence[float], values: Tensor
) -> Tensor:
    return function(values, *parameters)


def _limited(activation: _Activation, limit: float, values: Tensor) -> Tensor:
    """An activation of what lies within a limit."""
    return activation(torch.clamp(values, -limit, limit))


def _run(
    node: Node, step: _Step, direction: _Direction, values: Tensor, states: States, reverse: bool
) -> tuple[Tensor, States]:
    """The states of every step `(T, B, H)`, and the last ones."""
    if step is _lstm_step and _is_plain(node, direction):
        return _plain_lstm(direction, values, states, reverse)
    every = _run_all(node, step, direction, values, states, reverse)
    return every[0], tuple(state[0 if reverse else -1] for state in every)


def _run_all(
    node: Node, step: _Step, direction: _Direction, values: Tensor, states: States, reverse: bool
) -> States:
    """All states of every step, each `(T, B, H)`."""
    kind = _loop_kind(node, direction)
    if kind and values.shape[0] >= LEAST_STEPS and values.dtype == torch.float32:
        return (_looped(kind, direction, values, states, reverse),)
    projected = functional.linear(values, direction.weight, direction.biases[0])
    inputs: Any = projected.unbind(0)
    made = []
    for one in reversed(inputs) if reverse else inputs:
        states = step(node, direction, one, states)
        made.append(states)
    columns = zip(*(made[::-1] if reverse else made), strict=True)
    return tuple(map(torch.stack, columns))


def _is_plain(node: Node, layer: _Direction) -> bool:
    """Whether PyTorch has the same LSTM, of which the runtime has one op."""
    plain = [_ACTIVATIONS[name] for name in ("sigmoid", "tanh", "tanh")]
    is_plain = layer.peephole is None and layer.activations == plain
    return is_plain and not node.get("input_forget")


def _plain_lstm(
    layer: _Direction, values: Tensor, states: States, reverse: bool
) -> tuple[Tensor, States]:
    steps = values.flip(0) if reverse else values
    parameters = [_reordered(p) for p in (layer.weight, layer.recurrence, *layer.biases)]
    rows, *ends = torch.lstm(
        steps, [state.unsqueeze(0) for state in states], parameters, True, 1, 0.0, False, False,
        False,
    )  # fmt: skip
    return rows.flip(0) if reverse else rows, tuple(end.squeeze(0) for end in ends)


def _loop_kind(node: Node, layer: _Direction) -> str:
    """Which of the layers that are a loop a GRU or simple layer is; empty if it is none."""
    tanh, relu, sigmoid = (_ACTIVATIONS[name] for name in ("tanh", "relu", "sigmoid"))
    if node.op == "GRU" and layer.activations == [sigmoid, tanh]:
        return GRU if node.get("linear_before_reset") else GRU_BEFORE
    simple = {tanh: RNN_TANH, relu: RNN_RELU}
    return simple.get(layer.activations[0], "") if node.op == "RNN" else ""


def _looped(kind: str, layer: _Direction, values: Tensor, states: States, reverse: bool) -> Tensor:
    steps = values.flip(0) if reverse else values
    parameters = [layer.weight, layer.recurrence, *layer.biases]
    if kind in (GRU, GRU_BEFORE):
        parameters = [_reset_first(p) for p in parameters]
    rows = sequence_loop(steps, *parameters, states[0], kind, True)
    return rows.flip(0) if reverse else rows


def _reset_first(gates: Tensor) -> Tensor:
    """Gates in PyTorch's order: reset, update, new state."""
    update, reset, new = gates.chunk(3)
    return torch.cat([reset, update, new])


def _reordered(gates: Tensor) -> Tensor:
    """Gates in PyTorch's order: input, forget, cell, output."""
    enter, leave, keep, new = gates.chunk(4)
    return torch.cat([enter, keep, new, leave])


def _lstm_step(node: Node, layer: _Direction, inputs: Tensor, states: States) -> States:
    hidden, cell = states
    gates = inputs + functional.linear(hidden, layer.recurrence, layer.biases[1])
    enter, leave, keep, new = gates.chunk(4, 1)
    sigmoid, tanh, out = layer.activations
    if layer.peephole is not None:
        p_enter, p_leave, p_keep = layer.peephole.chunk(3)
        enter, keep = enter + p_enter * cell, keep + p_keep * cell
    enter = sigmoid(enter)
    keep = 1 - enter if node.get("input_forget") else sigmoid(keep)
    cell = keep * cell + enter * tanh(new)
    if layer.peephole is not None:
        leave = leave + p_leave * cell
    return sigmoid(leave) * out(cell), cell


def _gru_step(node: Node, layer: _Direction, inputs: Tensor, states: States) -> States:
    (hidden,) = states
    sigmoid, tanh = layer.activations
    i_update, i_reset, i_new = inputs.chunk(3, 1)
    w_update, w_reset, w_new = layer.recurrence.chunk(3)
    b_update, b_reset, b_new = layer.biases[1].chunk(3)
    update = sigmoid(i_update + functional.linear(hidden, w_update, b_update))
    reset = sigmoid(i_reset + functional.linear(hidden, w_reset, b_reset))
    if node.get("linear_before_reset"):
        new = tanh(i_new + reset * functional.linear(hidden, w_new, b_new))
    else:
        new = tanh(i_new + functional.linear(reset * hidden, w_new, b_new))
    return ((1 - update) * new + update * hidden,)


def _rnn_step(node: Node, layer: _Direction, inputs: Tensor, states: States) -> States:
    (hidden,) = states
    return (
        layer.activations[0](inputs + functional.linear(hidden, layer.recurrence, layer.biases[1])),
    )
