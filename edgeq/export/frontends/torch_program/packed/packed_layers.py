"""Steps of sequences of several lengths, and an LSTM on them.

Tensors have time first, `(T, B, ...)`, and lengths are `(B,)`, from 1 to T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

NEW = 2
"""Place of the new value among the gates of an LSTM."""


class _Operands(NamedTuple):
    """What `packed_lstm` takes."""

    x: Tensor
    lengths: Tensor
    weights: Sequence[Tensor]
    state: Tensor
    cell: Tensor
    has_biases: bool
    backward: bool
    from_zero: bool


def is_valid(lengths: Tensor, steps: int) -> Tensor:
    """Whether a step is within its sequence, `(T, B)`."""
    return torch.arange(steps)[:, None] < lengths


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence from its last step to its first, what lies behind in place."""
    places = torch.arange(len(x))[:, None]
    return _rows(x, torch.where(places < lengths, lengths - 1 - places, places))


def last_step(x: Tensor, lengths: Tensor, backward: bool) -> Tensor:
    """What each sequence ends with, or begins with, `(B, ...)`."""
    return x[0] if backward else _rows(x, lengths[None] - 1)[0]


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Rows of `(T, B, ...)` at places `(N, B)`."""
    steps, batch, *rest = x.shape
    if batch > 1:
        places = places * batch + torch.arange(batch)
    found = torch.nn.functional.embedding(places.reshape(-1), x.reshape(steps * batch, -1))
    return found.reshape(len(places), batch, *rest)


@torch.library.custom_op("edgeq::packed_lstm", mutates_args=())  # type: ignore[untyped-decorator]
def packed_lstm(
    x: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    state: Tensor,
    cell: Tensor,
    has_biases: bool,
    backward: bool,
    from_zero: bool,
) -> tuple[Tensor, Tensor]:
    """One direction of an LSTM layer on sequences of several lengths.

    Args:
        x: `(T, B, I)`.
        lengths: `(B,)`.
        weights: As `torch.lstm` takes them for one layer.
        state: `(B, P)`, what each sequence begins with.
        cell: `(B, H)`, likewise.
        has_biases: Whether there are biases among the weights.
        backward: Whether sequences are read from their last step to their first.
        from_zero: Whether state and cell are zeros.

    Returns:
        All outputs, `(T, B, P)`, of which those behind a length mean nothing, and the cell state
        after the last step that is read, `(B, H)`.
    """
    return _step_by_step(x, lengths, weights, state, cell, has_biases, backward, from_zero)


@packed_lstm.register_fake  # type: ignore[untyped-decorator]
def _(*operands: Any) -> tuple[Tensor, Tensor]:
    layer = _Operands(*operands)
    size = (*layer.x.shape[:2], layer.state.shape[-1])
    return layer.x.new_empty(size), torch.empty_like(layer.cell)


def _step_by_step(*operands: Any) -> tuple[Tensor, Tensor]:
    """The steps written out, of which those behind a length change nothing."""
    layer = _Operands(*operands)
    x, state, cell, backward = layer.x, layer.state, layer.cell, layer.backward
    outputs, valid = [], is_valid(layer.lengths, len(x))[..., None]
    for step in reversed(range(len(x))) if backward else range(len(x)):
        _, *states = _run(x[step : step + 1], layer.weights, state, cell, layer.has_biases)
        state, cell = (
            torch.where(valid[step], new, old)
            for new, old in zip(states, (state, cell), strict=True)
        )
        outputs.append(state)
    return torch.stack(outputs[::-1] if backward else outputs), cell


def _run(
    x: Tensor, weights: Sequence[Tensor], state: Tensor, cell: Tensor, has_biases: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state and last cell state of a layer on all steps."""
    states = [state[None], cell[None]]
    outputs, state, cell = torch.lstm(
        x, states, list(weights), has_biases, 1, 0.0, False, False, False
    )
    return outputs, state[0], cell[0]


def _outputs_alone(*operands: Any) -> tuple[Tensor, Tensor]:
    """The layer on sequences that begin with the first step; the cell state is of no use."""
    layer = _Operands(*operands)
    x = turned(layer.x, layer.lengths) if layer.backward else layer.x
    outputs, _, cell = _run(x, layer.weights, layer.state, layer.cell, layer.has_biases)
    return turned(outputs, layer.lengths) if layer.backward else outputs, cell


def _to_the_end(*operands: Any) -> tuple[Tensor, Tensor]:
    """The layer on sequences that end with the last step, whose cell state is the last one then.

    Steps before a sequence are zeros with a mark, by which the new value is 0: a state that is 0
    stays so.
    """
    layer = _Operands(*operands)
    x, lengths, steps = layer.x, layer.lengths, len(layer.x)
    places = torch.arange(steps)[:, None]
    if layer.backward:
        x = x.flip(0)
    else:
        moved = places + lengths
        x = _rows(x, torch.where(moved < steps, moved, moved - steps))
    before = (places < steps - lengths).to(x.dtype)[..., None]
    x = torch.cat([x * (1 - before), before], -1)
    marked = _marked(layer.weights, layer.has_biases)
    outputs, _, last = _run(x, marked, layer.state, layer.cell, layer.has_biases)
    if layer.backward:
        return outputs.flip(0), last
    moved = places - lengths
    return _rows(outputs, torch.where(moved < 0, moved + steps, moved)), last


def _marked(weights: Sequence[Tensor], has_biases: bool) -> list[Tensor]:
    """Weights of an input with a mark behind it, which takes off the bias of the new value."""
    matrix, recurrence, *rest = weights
    size = len(matrix) // 4
    column = torch.zeros_like(matrix[:, :1])
    if has_biases:
        new = slice(NEW * size, (NEW + 1) * size)
        nothing = torch.zeros_like(rest[0][:size])
        bias = -(rest[0] + rest[1])[new]
        column = torch.cat([nothing, nothing, bias, nothing])[:, None]
    return [torch.cat([matrix, column], 1), recurrence, *rest]


def _form(node: Any, known: Any) -> None:
    """Replaces a layer by the form that gives what is read of it."""
    reads_cell = any(user.args[1] == 1 and user.users for user in node.users)
    if not reads_cell:
        node.target = _outputs_alone
    else:
        node.target = _to_the_end if node.args[-1] else _step_by_step


RULES: dict[Any, Callable[[Any, Any], None]] = {torch.ops.edgeq.packed_lstm.default: _form}
"""What replaces a layer by what its results are read for."""
