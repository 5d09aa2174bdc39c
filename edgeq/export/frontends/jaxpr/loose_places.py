"""Finds gathers whose places may lie outside: they are made of real numbers and not cut.

JAX promises of such places that they are inside, and XLA takes the nearest of those that are not,
which a program then often masks. The kernels refuse them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from edgeq.export.frontends.jaxpr.calls import BODIES, CALLS

_PASSING = frozenset(
    {"add", "broadcast_in_dim", "concatenate", "copy", "mul", "reshape", "select_n", "slice"}
    | {"squeeze", "sub", "transpose", "expand_dims"}
)
"""Ops of whole numbers behind which places are no nearer to the inside."""


def loose_gathers(eqns: Sequence[Any]) -> set[Any]:
    """The first results of those gathers of a program."""
    made_by = {var: eqn for eqn in eqns for var in eqn.outvars}
    gathers = (eqn for eqn in eqns if eqn.primitive.name == "gather")
    return {eqn.outvars[0] for eqn in gathers if _is_loose(eqn.invars[1], made_by)}


def _is_loose(place: Any, made_by: dict[Any, Any]) -> bool:
    waiting, seen = [place], set[int]()
    while waiting:
        atom = waiting.pop()
        eqn = None if hasattr(atom, "val") else made_by.get(atom)
        if eqn is None or id(eqn) in seen:
            continue
        seen.add(id(eqn))
        name = eqn.primitive.name
        if name == "convert_element_type":
            if jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
                return True
            waiting += eqn.invars
        elif name in _PASSING or (name in CALLS and not _cuts(eqn)):
            waiting += eqn.invars
    return False


def _cuts(call: Any) -> bool:
    """Whether a call clamps, as that of `jnp.clip`."""
    body = next((call.params[key] for key in BODIES if key in call.params), None)
    inner = getattr(body, "jaxpr", body)
    names = {eqn.primitive.name for eqn in getattr(inner, "eqns", ())}
    return bool(names & {"clamp", "min", "max", "rem"})
