"""Finds a GRU or a simple recurrent layer in a scan however its step is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.export.frontends.jaxpr.scans.scan_steps import (
    Array,
    ScanStep,
    equal,
    scan_step,
)
from edgeq.export.importing.layer_calls import call_options
from edgeq.export.importing.loop_layer import LEAST_STEPS
from edgeq.export.importing.loop_steps import GRU, GRU_BEFORE, RNN_TANH
from edgeq.export.importing.sequence_loop import SEQUENCE_LOOP

_ACTIVATIONS = {("logistic", "logistic", "tanh"): (GRU, GRU_BEFORE), ("tanh",): (RNN_TANH,)}
"""Kinds of layers by what their step squashes."""


@dataclass(frozen=True)
class SequenceLoop:
    """A layer that a scan computes; the gates of a GRU are in the order reset, update, new state.

    Attributes:
        kind: Which one.
        weight: `(G * H, I)`.
        recurrence: `(G * H, H)`.
        bias: `(G * H,)`, added to the products of the weight.
        recurrent_bias: `(G * H,)`, to those of the recurrence.
    """

    kind: str
    weight: Array
    recurrence: Array
    bias: Array
    recurrent_bias: Array

    def __call__(self, state: Any, steps: Any) -> Any:
        """Outputs `(T, B, H)` of steps `(T, B, I)`, from a state `(B, H)`."""
        made = jax.ShapeDtypeStruct((*steps.shape[:2], state.shape[-1]), np.float32)
        call = jax.ffi.ffi_call(
            SEQUENCE_LOOP, made, custom_call_api_version=1,
            legacy_backend_config=call_options(self.kind, True),
        )  # fmt: skip
        operands = self.weight, self.recurrence, self.bias, self.recurrent_bias
        return call(steps, *operands, state)

    def scanned(self, states: Sequence[Any], steps: Any) -> tuple[Any, list[Any]]:
        """All outputs, and the state behind the last step."""
        outputs = self(states[0], steps)
        return outputs, [outputs[-1]]

    def step(self, state: Array, inputs: Array) -> Any:
        """The state behind one step."""
        read = inputs @ self.weight.T + self.bias
        parts = np.split(read, read.shape[-1] // state.shape[-1], -1)
        matrices = np.split(self.recurrence, len(parts))
        biases = np.split(self.recurrent_bias, len(parts))
        if self.kind == RNN_TANH:
            return np.tanh(parts[0] + state @ matrices[0].T + biases[0])
        reset, kept = (_sigmoid(parts[i] + state @ matrices[i].T + biases[i]) for i in (0, 1))
        if self.kind == GRU:
            new = np.tanh(parts[2] + reset * (state @ matrices[2].T + biases[2]))
        else:
            new = np.tanh(parts[2] + (reset * state) @ matrices[2].T + biases[2])
        return new + kept * (state - new)


def find_loop(eqn: Any, constants: Sequence[Any]) -> SequenceLoop | None:
    """The layer that a scan over `(T, B, I)` computes; None where it does something else.

    Args:
        eqn: The scan.
        constants: What each step reads beside states and inputs.
    """
    if eqn.params["length"] < LEAST_STEPS:
        return None
    step = scan_step(eqn, constants, states=1)
    kinds = () if step is None else _ACTIVATIONS.get(tuple(sorted(step.squashed)), ())
    if step is None or not kinds:
        return None
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        run = jax.jit(step.arrays)  # one program is compiled sooner than each of its ops
        (state,), inputs = step.drawn(1)
        results, read = run(state, inputs)
        if any(not equal(result, results[0]) for result in results):
            return None
        seen = _Seen.of(step)
        for kind in kinds:
            found = _simple(seen) if kind == RNN_TANH else _gru(kind, seen, state, results[0], read)
            if found is not None and _same(found, step, run):
                return found
    return None


@dataclass(frozen=True)
class _Seen:
    """What the activations of a step read, in a first row, of a state of zeros.

    Attributes:
        names: Of the activations.
        inputs: Two inputs `(I,)`, of which the first is zeros.
        read: At each of them, `(N, H)` of N activations.
        by_state: Derivatives by the state at each, `(N, H, H)`.
        by_inputs: Derivatives by the inputs at zeros, `(N, H, I)`.
    """

    names: Sequence[str]
    inputs: Sequence[Array]
    read: Sequence[Array]
    by_state: Sequence[Array]
    by_inputs: Array

    @classmethod
    def of(cls, step: ScanStep) -> _Seen:
        """Runs the step."""

        def read(state: Any, inputs: Any) -> Any:
            return jnp.stack([values for _, values in step.read(state, inputs)])

        slopes = jax.jacfwd(read, (0, 1))
        both = jax.jit(lambda state, inputs: (read(state, inputs), *slopes(state, inputs)))
        inputs = [np.zeros(step.depth, np.float32), step.drawn(7)[1][0]]
        state = np.zeros(step.width, np.float32)
        first, second = ([np.asarray(made) for made in both(state, x)] for x in inputs)
        read_at, by_state = (first[0], second[0]), (first[1], second[1])
        return cls(step.squashed, inputs, read_at, by_state, first[2])


def _simple(seen: _Seen) -> SequenceLoop:
    bias = seen.read[0][0]
    return SequenceLoop(RNN_TANH, seen.by_inputs[0], seen.by_state[0][0], bias, np.zeros_like(bias))


def _gru(
    kind: str, seen: _Seen, state: Array, after: Any, read: Sequence[Any]
) -> SequenceLoop | None:
    """The weights of a GRU of a kind, from one step and what its activations read in it."""
    place = seen.names.index("tanh")
    update = _update(seen.names, state, after, read)
    if update is None:
        return None
    kept, sign = update
    reset = next(i for i, name in enumerate(seen.names) if name == "logistic" and i != kept)
    gates = [
        (factor * seen.by_inputs[i], factor * seen.by_state[0][i], factor * seen.read[0][i])
        for i, factor in ((reset, 1), (kept, sign))
    ]
    opened = [_sigmoid(values[reset]) for values in seen.read]
    slopes = [slope[place] for slope in seen.by_state]
    weight, own = seen.by_inputs[place], seen.read[0][place]
    bias = np.zeros_like(own)
    if kind == GRU_BEFORE:  # a(x) + U (r * h) is what the tanh reads
        recurrence = slopes[0] / opened[0]
    else:  # a(x) + r * (U h + b)
        each = [slope / r[:, None] for slope, r in zip(slopes, opened, strict=True)]
        turned = gates[0][1]
        length = (turned**2).sum(-1) * (opened[1] - opened[0])
        bias = ((each[0] - each[1]) * turned).sum(-1) / np.where(length == 0, 1.0, length)
        recurrence = each[0] - (bias * (1 - opened[0]))[:, None] * turned
        own = own - opened[0] * bias
        weight = weight - (bias * opened[0] * (1 - opened[0]))[:, None] * gates[0][0]
    parts = zip(*gates, (weight, recurrence, own), strict=True)
    weights, recurrences, biases = (np.concatenate(part).astype(np.float32) for part in parts)
    added = np.concatenate([np.zeros(2 * len(bias)), bias]).astype(np.float32)
    return SequenceLoop(kind, weights, recurrences, biases, added)


def _update(
    names: Sequence[str], state: Array, after: Any, read: Sequence[Any]
) -> tuple[int, int] | None:
    """Which activation says what a GRU keeps of its state, and -1 if it says what is new."""
    new = np.tanh(read[names.index("tanh")])
    places = [i for i, name in enumerate(names) if name == "logistic"]
    for place, sign in itertools.product(places, (1, -1)):
        if equal(np.asarray(after), new + _sigmoid(sign * read[place]) * (state - new)):
            return place, sign
    return None


def _same(found: SequenceLoop, step: ScanStep, run: Callable[..., Any]) -> bool:
    """Whether a layer of these weights computes what the step does."""
    arrays = (found.weight, found.recurrence, found.bias, found.recurrent_bias)
    if not all(np.isfinite(array).all() for array in arrays):
        return False
    for seed in (2, 3):
        (state,), inputs = step.drawn(seed)
        results, _ = run(state, inputs)
        if not equal(np.asarray(results[0]), found.step(state, inputs)):
            return False
    return True


def _sigmoid(values: Any) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(values, np.float64))), np.float32)
