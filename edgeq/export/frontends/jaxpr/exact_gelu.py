"""Finds the exact GELU in a program however it is written, and emits it as one op."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.export.frontends.jaxpr.calls import BODIES, CALLS, opened

_ELEMENTWISE = frozenset({"mul", "div", "add", "sub", "neg", "erf", "erfc", "copy"})

_GELU_GRID = np.linspace(-6.0, 6.0, 101, dtype=np.float32)
_GELU_TOLERANCE = 1e-4


def gelu(x: Any) -> Any:
    """The exact GELU as the composite that the converter makes one op of."""

    def exact(x: Any, approximate: bool) -> Any:
        return jax.nn.gelu(x, approximate=approximate)

    return jax.lax.composite(exact, "tfl.gelu")(x, approximate=False)


def find_gelus(eqns: Sequence[Any]) -> dict[Any, Any]:
    """Variables that hold the exact GELU of another, with that other.

    However it is written, as `0.5 * x * (1 + erf(x / sqrt(2)))` or with erfc: the ops around each
    error function are tried on numbers.
    """
    made_by = {var: eqn for eqn in eqns for var in eqn.outvars}
    found: dict[Any, Any] = {}
    for eqn in eqns:
        if len(eqn.invars) == 1 and _is_elementwise(eqn) and _has_error_function(eqn):
            source = eqn.invars[0]
            while (behind := _scaled(made_by.get(source))) is not None:
                source = behind
                found.update(_gelu_of(source, eqns))
    return found


def _scaled(eqn: Any) -> Any:
    """The variable that an op scales or negates; None if it does something else."""
    if eqn is None or eqn.primitive.name not in ("mul", "div", "neg"):
        return None
    variables = [atom for atom in eqn.invars if not hasattr(atom, "val")]
    return variables[0] if len(variables) == 1 else None


def _gelu_of(source: Any, eqns: Sequence[Any]) -> dict[Any, Any]:
    """The first variable that is the GELU of `source`, of those that depend on nothing else."""
    known: dict[Any, Any] = {source: _GELU_GRID}
    for eqn in eqns:
        variables = [atom for atom in eqn.invars if not hasattr(atom, "val")]
        if variables and all(v in known for v in variables) and _is_elementwise(eqn):
            var, values = eqn.outvars[0], _on_grid(eqn, known)
            if np.abs(values - _exact_gelu()).max() < _GELU_TOLERANCE:
                return {var: source}
            known[var] = values
    return {}


def _body(eqn: Any) -> Any:
    """The jaxpr that an op calls; None if it calls none."""
    if eqn.primitive.name not in CALLS:
        return None
    return opened(next(eqn.params[key] for key in BODIES if key in eqn.params))[0]


def _is_elementwise(eqn: Any) -> bool:
    body = _body(eqn)
    if body is None:
        return eqn.primitive.name in _ELEMENTWISE
    return not body.constvars and all(map(_is_elementwise, body.eqns))


def _has_error_function(eqn: Any) -> bool:
    body = _body(eqn)
    inner = () if body is None else body.eqns
    return eqn.primitive.name in ("erf", "erfc") or any(map(_has_error_function, inner))


def _on_grid(eqn: Any, known: Mapping[Any, Any]) -> Any:
    """The result of an elementwise op on values of another shape than it was traced with."""
    operands = [atom.val if hasattr(atom, "val") else known[atom] for atom in eqn.invars]
    body = _body(eqn)
    if body is None:
        with jax.ensure_compile_time_eval():
            arrays = [jnp.asarray(operand, jnp.float32) for operand in operands]
            return np.asarray(eqn.primitive.bind(*arrays, **eqn.params))
    inner = dict(zip(body.invars, operands, strict=True))
    for each in body.eqns:
        inner[each.outvars[0]] = _on_grid(each, inner)
    last = body.outvars[0]
    return last.val if hasattr(last, "val") else inner[last]


@functools.cache
def _exact_gelu() -> Any:
    values = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in _GELU_GRID.tolist()]
    return np.array(values, np.float32)
