"""Primitives that call another program, and where they keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"}
    | {"custom_vjp_call_jaxpr", "remat", "remat2", "checkpoint"}
)
"""Primitives that only call another program."""

BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Under which of its parameters a call keeps that program, by its primitive and version of JAX."""


LINEAR_SOLVE = "custom_linear_solve"
"""A call that keeps how its system is multiplied beside how it is solved."""


def solving(params: Mapping[str, Any], operands: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """The program that solves a system, and its operands."""
    counts = params["const_lengths"]
    first = counts.matvec + counts.vecmat
    right = sum(counts)
    return params["jaxprs"].solve, [*operands[first : first + counts.solve], *operands[right:]]


def opened(program: Any) -> tuple[Any, Sequence[Any]]:
    """`(jaxpr, constants)` of a program that may be closed."""
    return (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())
