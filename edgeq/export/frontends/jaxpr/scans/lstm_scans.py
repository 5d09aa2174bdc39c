"""Finds the LSTM in a scan however its step is written, and emits it as one call.

The call goes through the converter and is made UNIDIRECTIONAL_SEQUENCE_LSTM behind it
(`edgeq.export.importing`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.export.frontends.jaxpr.scans.scan_steps import Array, Read, equal, scan_step
from edgeq.export.importing.layer_calls import call_options
from edgeq.export.importing.sequence_lstm import GATES, SEQUENCE_LSTM

Step = Callable[..., tuple[list[Any], Read]]


@dataclass(frozen=True)
class SequenceLstm:
    """An LSTM that a scan computes; gates are in the order input, forget, cell, output.

    Attributes:
        weight: `(4 * H, I)`.
        recurrence: `(4 * H, H)`.
        bias: `(4 * H,)`.
        cell_first: Whether the scan carries the cell before the output.
    """

    weight: Array
    recurrence: Array
    bias: Array
    cell_first: bool

    def __call__(self, state: Any, cell: Any, steps: Any) -> list[Any]:
        """Outputs `(T, B, H)` and the last cell `(B, H)`, of steps `(T, B, I)`."""
        count, batch = steps.shape[:2]
        kinds = [
            jax.ShapeDtypeStruct((count, batch, state.shape[-1]), np.float32),
            jax.ShapeDtypeStruct(cell.shape, np.float32),
        ]
        call = jax.ffi.ffi_call(
            SEQUENCE_LSTM, kinds, custom_call_api_version=1,
            legacy_backend_config=call_options("", True),
        )  # fmt: skip
        return list(call(steps, self.weight, self.recurrence, self.bias, state, cell))

    def scanned(self, states: Sequence[Any], steps: Any) -> tuple[Any, list[Any]]:
        """All outputs, and the states behind the last step in the scan's order."""
        state, cell = reversed(states) if self.cell_first else states
        outputs, last = self(state, cell, steps)
        return outputs, [last, outputs[-1]] if self.cell_first else [outputs[-1], last]


def find_lstm(eqn: Any, constants: Sequence[Any]) -> SequenceLstm | None:
    """The LSTM that a scan over `(T, B, I)` computes; None where it does something else.

    Args:
        eqn: The scan.
        constants: What each step reads beside states and inputs.
    """
    step = scan_step(eqn, constants, states=2)
    if step is None or sorted(step.squashed) != sorted(_NAMES):
        return None
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        run = jax.jit(step.arrays)  # one program is compiled sooner than each of its ops

        def both(*values: Any) -> tuple[list[Any], Read]:
            results, read = run(*values)
            return results, list(zip(step.squashed, read, strict=True))

        return _read_from(both, step.state_shape, step.input_shape)


_NAMES = ["logistic"] * 3 + ["tanh"] * 2
"""Activations of a step, each of the width of its state."""


def _read_from(
    step: Step, state_shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> SequenceLstm | None:
    """The weights of a step, by what its activations read, if an LSTM of them does the same."""
    rng = np.random.default_rng(0)
    shapes = (state_shape, state_shape, input_shape)
    tried = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    results, read = step(*tried)
    gates = read
    for cell_first in (False, True):
        state, cell = reversed(results[:2]) if cell_first else results[:2]
        if any(not equal(made, state) for made in results[2:]):
            continue
        order = _order(gates, tried[0 if cell_first else 1], state, cell)
        if order is not None:
            weights = _affine(step, shapes, order, cell_first)
            found = SequenceLstm(*weights, cell_first)
            return found if _same(found, step, shapes) else None
    return None


def _order(
    gates: Sequence[tuple[str, Any]], before: Any, state: Any, cell: Any
) -> list[int] | None:
    """Which activations are the input, forget, cell and output gate; None if they are not."""
    squashes = [i for i, (name, _) in enumerate(gates) if name == "logistic"]
    bounded = [i for i, (name, read) in enumerate(gates) if name == "tanh"]
    cells = [i for i in bounded if not equal(gates[i][1], cell)]
    if len(cells) != 1:
        return None
    new = jnp.tanh(gates[cells[0]][1])
    for i, f, o in itertools.permutations(squashes):
        open_in, kept, shown = (jax.nn.sigmoid(gates[k][1]) for k in (i, f, o))
        if equal(kept * before + open_in * new, cell) and equal(shown * jnp.tanh(cell), state):
            return [i, f, cells[0], o]
    return None


def _affine(
    step: Step, shapes: Sequence[tuple[int, ...]], order: Sequence[int], cell_first: bool
) -> tuple[Array, Array, Array]:
    """Weight, recurrence and bias of what the gates read, in their order."""
    width = shapes[0][-1]

    def gates(state: Any, inputs: Any) -> Any:
        """`(4 * H,)` of the first row of a batch."""
        rest = shapes[0][0] - 1
        state = jnp.concatenate([state[None], jnp.zeros((rest, state.size))])
        inputs = jnp.concatenate([inputs[None], jnp.zeros((rest, inputs.size))])
        cell = jnp.zeros(shapes[0])
        carry = (cell, state) if cell_first else (state, cell)
        parts = step(*carry, inputs)[1]
        return jnp.concatenate([parts[k][1][0] for k in order])

    zeros = jnp.zeros(width), jnp.zeros(shapes[2][-1])
    recurrence, weight = jax.jacfwd(gates, (0, 1))(*zeros)
    return (
        np.asarray(weight, np.float32),
        np.asarray(recurrence, np.float32),
        np.asarray(gates(*zeros), np.float32),
    )


def _same(found: SequenceLstm, step: Step, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether an LSTM of the weights computes what the step does."""
    rng = np.random.default_rng(1)
    first, second, inputs = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    results, _ = step(first, second, inputs)
    cell, state = (first, second) if found.cell_first else (second, first)
    read = inputs @ found.weight.T + state @ found.recurrence.T + found.bias
    gates = np.split(read, GATES, -1)
    opened_in, kept, shown = (jax.nn.sigmoid(gates[k]) for k in (0, 1, 3))
    cell = kept * cell + opened_in * np.tanh(gates[2])
    made = [shown * jnp.tanh(cell), cell]
    carried = made[::-1] if found.cell_first else made
    return all(map(equal, results[:2], carried))
