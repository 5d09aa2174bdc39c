"""What a function writes into its parameters for later calls, as its inputs and outputs.

A file keeps nothing between its runs. States begin with zeros, which stand for what the parameters
hold.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpy.typing as npt

from edgeq.export.frontends.arguments import free_name
from edgeq.export.frontends.jaxpr.parameters import parts

if TYPE_CHECKING:
    from edgeq.export.frontends.jax import Function

Path = tuple[str, ...]


@dataclass(frozen=True)
class State:
    """A parameter that a function keeps something in.

    Attributes:
        path: Where it is in the tree of parameters.
        start: What it holds.
        taken: Name of the input that it becomes.
        given: Name of the output.
    """

    path: Path
    start: npt.NDArray[Any]
    taken: str
    given: str

    @property
    def zeros(self) -> npt.NDArray[Any]:
        """What its input begins with."""
        return np.zeros_like(self.start)


def kept(jaxpr: Any, paths: Sequence[Path], written: Mapping[Path, Any]) -> tuple[Path, ...]:
    """Of the parameters that are written, those that the outputs depend on."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(atom for atom in eqn.invars if not hasattr(atom, "val"))
    places = zip(paths, jaxpr.invars, strict=False)
    return tuple(path for path, var in places if path in written and var in needed)


def states_of(
    function: Function, parameters: Any, kept: Sequence[Path], outputs: Sequence[str]
) -> tuple[State, ...]:
    """States of a function; none where one of them cannot be shifted to begin with zeros."""
    leaves = {parts(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(parameters)}
    starts = {path: leaves[path] for path in kept}
    if not all(_is_plain(leaf) for leaf in starts.values()):
        return ()
    taken, given = set(function.signature.parameters), set(outputs)
    return tuple(
        State(
            path, np.asarray(leaf), free_name(f"{_name(path)}_in", taken),
            free_name(f"{_name(path)}_out", given),
        )
        for path, leaf in starts.items()
    )  # fmt: skip


def carrying(function: Function, states: Sequence[State], outputs: Sequence[str]) -> Function:
    """A function that takes its states by name and gives them behind its outputs.

    Args:
        function: The function.
        states: What it keeps.
        outputs: Names of what it returns.
    """
    names = {state.path: state.taken for state in states}
    starts = {state.path: state.start for state in states}
    own = list(function.signature.parameters.values())
    rest = own[-1:] if own and own[-1].kind is Parameter.VAR_KEYWORD else []
    added = [Parameter(state.taken, Parameter.KEYWORD_ONLY) for state in states]

    def call(parameters: Any, *inputs: Any, **named: Any) -> list[Any]:
        given = {path: named.pop(name) for path, name in names.items()}

        def filled(path: Any, leaf: Any) -> Any:
            found = given.get(parts(path))
            return leaf if found is None else _shifted(found, starts[parts(path)], 1)

        whole = jax.tree_util.tree_map_with_path(filled, parameters)
        made = jax.tree_util.tree_leaves(function.call(whole, *inputs, **named))
        behind = (_shifted(function.written[s.path], s.start, -1) for s in states)
        return [*made, *behind]

    return replace(
        function,
        call=call,
        signature=inspect.Signature([*own[: len(own) - len(rest)], *added, *rest]),
        output_names=(*outputs, *(state.given for state in states)),
    )


def _is_plain(leaf: Any) -> bool:
    """Whether a parameter is an array of numbers that can be added to."""
    array = np.asarray(leaf) if isinstance(getattr(leaf, "dtype", None), np.dtype) else None
    return array is not None and array.dtype.kind in "fi" and bool(np.isfinite(array).all())


def _name(path: Path) -> str:
    """What a port of a parameter is called; nnx has arrays at `value`."""
    own = path[:-1] if len(path) > 1 and path[-1] == "value" else path
    return re.sub(r"\W", "_", "_".join(own)).strip("_")


def _shifted(state: Any, start: npt.NDArray[Any], sign: int) -> Any:
    """A state as the function has it, by what its port has, and the other way with -1."""
    return state + sign * start if start.any() else state
