"""Finds the LSTM in a scan however its step is written, and emits it as one call.

The call goes through the converter and is made UNIDIRECTIONAL_SEQUENCE_LSTM behind it
(`edgeq.export.importing`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from edgeq.export.frontends.jaxpr.calls import BODIES, CALLS, opened
from edgeq.export.importing.layer_calls import call_options
from edgeq.export.importing.sequence_lstm import GATES, SEQUENCE_LSTM

Array = npt.NDArray[np.float32]
Step = Callable[..., tuple[list[Any], list[tuple[str, Any]]]]

_TOLERANCE = 1e-4
_SQUASHES = {"logistic": 3, "tanh": 2}
"""Activations of a step, and how many of the width of its state."""

_SMOOTH = frozenset(
    {
        *_SQUASHES, "add", "add_any", "broadcast_in_dim", "concatenate", "convert_element_type",
        "copy", "dot_general", "expand_dims", "mul", "neg", "reshape", "slice", "split", "squeeze",
        "sub", "transpose",
    }
)  # fmt: skip
"""What else a step may be made of. What is alike on a few numbers is then so on all: a bound that
few numbers reach, as of a clipped cell, is not among it."""


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


def find_lstm(eqn: Any, constants: Sequence[Any]) -> SequenceLstm | None:
    """The LSTM that a scan over `(T, B, I)` computes; None where it does something else.

    Args:
        eqn: The scan.
        constants: What each step reads beside states and inputs.
    """
    params = eqn.params
    jaxpr, consts = opened(params["jaxpr"])
    if any(isinstance(value, jax.core.Tracer) for value in (*constants, *consts)):
        return None
    variables = jaxpr.invars[len(constants) :]
    shapes = [tuple(var.aval.shape) for var in (*variables, *jaxpr.outvars)]
    is_like = params["num_carry"] == 2 and len(variables) == 3 and len(set(map(len, shapes))) == 1
    if not is_like or len(shapes[0]) != 2 or {*shapes[:2], *shapes[3:]} != {shapes[0]}:
        return None
    if any(str(var.aval.dtype) != "float32" for var in (*variables, *jaxpr.outvars)):
        return None
    if not _is_smooth(jaxpr):
        return None
    if sorted(name for name, _ in _squashed(jaxpr, shapes[0][-1])) != sorted(_NAMES):
        return None

    def step(*values: Any) -> tuple[list[Any], list[tuple[str, Any]]]:
        read: list[tuple[str, Any]] = []
        return _evaluated(jaxpr, consts, [*constants, *values], read), read

    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        return _read_from(step, shapes[0], shapes[2])


_NAMES = [name for name, count in _SQUASHES.items() for _ in range(count)]


def _is_smooth(jaxpr: Any) -> bool:
    return all(
        _is_smooth(_body(eqn)[0]) if eqn.primitive.name in CALLS else eqn.primitive.name in _SMOOTH
        for eqn in jaxpr.eqns
    )


def _squashed(jaxpr: Any, width: int) -> Iterator[tuple[str, int]]:
    """Each activation of a step, once for every `width` of it."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in CALLS:
            yield from _squashed(_body(eqn)[0], width)
        elif name in _SQUASHES:
            columns = math.prod(eqn.outvars[0].aval.shape[-1:])
            for part in range(max(1, columns // width)):
                yield name, part


def _body(eqn: Any) -> tuple[Any, Sequence[Any]]:
    return opened(next(eqn.params[key] for key in BODIES if key in eqn.params))


def _evaluated(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], read: list[tuple[str, Any]]
) -> list[Any]:
    """Results of a program; what its activations read is added to `read`."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for eqn in jaxpr.eqns:
        operands = [value(atom) for atom in eqn.invars]
        if eqn.primitive.name in CALLS:
            made = _evaluated(*_body(eqn), operands, read)
        else:
            if eqn.primitive.name in _SQUASHES:
                read.append((eqn.primitive.name, operands[0]))
            found = eqn.primitive.bind(*operands, **eqn.params)
            made = list(found) if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, made, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _read_from(
    step: Step, state_shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> SequenceLstm | None:
    """The weights of a step, by what its activations read, if an LSTM of them does the same."""
    rng = np.random.default_rng(0)
    shapes = (state_shape, state_shape, input_shape)
    tried = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    results, read = step(*tried)
    gates, width = _parts(read, state_shape[-1]), state_shape[-1]
    for cell_first in (False, True):
        state, cell = reversed(results[:2]) if cell_first else results[:2]
        if any(not _equal(made, state) for made in results[2:]):
            continue
        order = _order(gates, tried[0 if cell_first else 1], state, cell)
        if order is not None:
            weights = _affine(step, shapes, order, cell_first)
            found = SequenceLstm(*weights, cell_first)
            return found if _same(found, step, shapes, width) else None
    return None


def _parts(read: Sequence[tuple[str, Any]], width: int) -> list[tuple[str, Any]]:
    """What activations read, each of the width of the state."""
    return [
        (name, part)
        for name, values in read
        for part in jnp.split(values, max(1, values.shape[-1] // width), -1)
    ]


def _order(
    gates: Sequence[tuple[str, Any]], before: Any, state: Any, cell: Any
) -> list[int] | None:
    """Which activations are the input, forget, cell and output gate; None if they are not."""
    squashes = [i for i, (name, _) in enumerate(gates) if name == "logistic"]
    bounded = [i for i, (name, read) in enumerate(gates) if name == "tanh"]
    cells = [i for i in bounded if not _equal(gates[i][1], cell)]
    if len(cells) != 1:
        return None
    new = jnp.tanh(gates[cells[0]][1])
    for i, f, o in itertools.permutations(squashes):
        open_in, kept, shown = (jax.nn.sigmoid(gates[k][1]) for k in (i, f, o))
        if _equal(kept * before + open_in * new, cell) and _equal(shown * jnp.tanh(cell), state):
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
        parts = _parts(step(*carry, inputs)[1], width)
        return jnp.concatenate([parts[k][1][0] for k in order])

    zeros = jnp.zeros(width), jnp.zeros(shapes[2][-1])
    recurrence, weight = jax.jacfwd(gates, (0, 1))(*zeros)
    return (
        np.asarray(weight, np.float32),
        np.asarray(recurrence, np.float32),
        np.asarray(gates(*zeros), np.float32),
    )


def _same(found: SequenceLstm, step: Step, shapes: Sequence[tuple[int, ...]], width: int) -> bool:
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
    return all(map(_equal, results[:2], carried))


def _equal(x: Any, y: Any) -> bool:
    return x.shape == y.shape and bool(np.allclose(x, y, _TOLERANCE, _TOLERANCE))
