"""`ScanStep`: one step of a scan, run on numbers to tell which recurrent layer it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from edgeq.export.frontends.jaxpr.calls import BODIES, CALLS, opened

Array = npt.NDArray[np.float32]
Read = list[tuple[str, Any]]
"""What the activations of a step read, each with the activation's name."""

_TOLERANCE = 1e-4
_SQUASHES = ("logistic", "tanh")

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
class ScanStep:
    """One step of a scan.

    Attributes:
        jaxpr: Its program.
        consts: Of the program.
        constants: What each step reads beside states and inputs.
        states: Number of states.
        state_shape: `(B, H)` of each.
        input_shape: `(B, I)`.
        squashed: Name of each activation of the width of a state, in the order that they run.
    """

    jaxpr: Any
    consts: Sequence[Any]
    constants: Sequence[Any]
    states: int
    state_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    squashed: tuple[str, ...]

    @property
    def width(self) -> int:
        """Of a state."""
        return self.state_shape[-1]

    @property
    def depth(self) -> int:
        """Of the inputs."""
        return self.input_shape[-1]

    def arrays(self, *values: Any) -> tuple[list[Any], list[Any]]:
        """As `both`, the activations by `squashed` alone."""
        results, read = self.both(*values)
        return results, [array for _, array in read]

    def both(self, *values: Any) -> tuple[list[Any], Read]:
        """What the step gives of states and inputs, and what its activations read."""
        read: Read = []
        results = _evaluated(self.jaxpr, self.consts, [*self.constants, *values], read)
        return results, parts(read, self.width)

    def read(self, state: Any, inputs: Any) -> Read:
        """What the activations of a step with one state read in the first row of a batch.

        Args:
            state: `(H,)`.
            inputs: `(I,)`.
        """
        rest = self.state_shape[0] - 1
        rows = (jnp.concatenate([v[None], jnp.zeros((rest, v.size))]) for v in (state, inputs))
        return [(name, part[0]) for name, part in self.both(*rows)[1]]

    def drawn(self, seed: int) -> tuple[list[Array], Array]:
        """Random states and inputs."""
        rng = np.random.default_rng(seed)
        shapes = [self.state_shape] * self.states + [self.input_shape]
        *states, inputs = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        return states, inputs


def scan_step(eqn: Any, constants: Sequence[Any], states: int) -> ScanStep | None:
    """The step of a scan over `(T, B, I)` that may be a layer with so many states `(B, H)`.

    Args:
        eqn: The scan.
        constants: What each step reads beside states and inputs.
        states: Number of states.
    """
    params = eqn.params
    jaxpr, consts = opened(params["jaxpr"])
    if any(isinstance(value, jax.core.Tracer) for value in (*constants, *consts)):
        return None
    variables = jaxpr.invars[len(constants) :]
    shapes = [tuple(var.aval.shape) for var in (*variables, *jaxpr.outvars)]
    if params["num_carry"] != states or len(variables) != states + 1:
        return None
    if len(set(map(len, shapes))) != 1 or len(shapes[0]) != 2:
        return None
    if {*shapes[:states], *shapes[states + 1 :]} != {shapes[0]}:
        return None
    if any(str(var.aval.dtype) != "float32" for var in (*variables, *jaxpr.outvars)):
        return None
    if not _is_smooth(jaxpr):
        return None
    squashed = tuple(_squashed(jaxpr, shapes[0][-1]))
    return ScanStep(jaxpr, consts, constants, states, shapes[0], shapes[states], squashed)


def _is_smooth(jaxpr: Any) -> bool:
    return all(
        _is_smooth(_body(eqn)[0]) if eqn.primitive.name in CALLS else eqn.primitive.name in _SMOOTH
        for eqn in jaxpr.eqns
    )


def _squashed(jaxpr: Any, width: int) -> Iterator[str]:
    """Each activation of a step, once for every `width` of it."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in CALLS:
            yield from _squashed(_body(eqn)[0], width)
        elif name in _SQUASHES:
            columns = math.prod(eqn.outvars[0].aval.shape[-1:])
            yield from [name] * max(1, columns // width)


def _body(eqn: Any) -> tuple[Any, Sequence[Any]]:
    return opened(next(eqn.params[key] for key in BODIES if key in eqn.params))


def _evaluated(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], read: Read
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


def parts(read: Read, width: int) -> Read:
    """What activations read, each of the width of the state."""
    return [
        (name, part)
        for name, values in read
        for part in jnp.split(values, max(1, values.shape[-1] // width), -1)
    ]


def equal(x: Any, y: Any) -> bool:
    """Whether two arrays agree as far as another order of operations lets them."""
    return x.shape == y.shape and bool(np.allclose(x, y, _TOLERANCE, _TOLERANCE))
