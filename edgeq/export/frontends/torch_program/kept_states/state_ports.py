"""A module that takes and gives what another keeps between its calls."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any

import torch
import torch.utils._pytree as pytree

from edgeq.export.frontends.arguments import free_name
from edgeq.export.frontends.torch_program.kept_states.written_states import State, Written, same
from edgeq.export.frontends.torch_program.returned import tensors_of


def keeping(module: torch.nn.Module, states: Sequence[State]) -> Keeping:
    """A copy of a module with its states among its parameters and results."""
    signature = inspect.signature(module.forward)
    inputs = list(_names(states, "_in", signature.parameters))
    own = list(signature.parameters.values())
    behind = own[-1:] if own and own[-1].kind is Parameter.VAR_KEYWORD else []
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in inputs]
    itself = Parameter("self", Parameter.POSITIONAL_ONLY)

    def forward(self: Keeping, *arguments: Any, **keywords: Any) -> dict[str, torch.Tensor]:
        return self.run(arguments, keywords)

    parameters = [itself, *own[: len(own) - len(behind)], *added, *behind]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    kind = type(type(module).__name__, (Keeping,), {"forward": forward})
    made: Keeping = kind(copy.deepcopy(module), tuple(states), tuple(inputs))
    return made


class Keeping(torch.nn.Module):  # type: ignore[misc]
    """A module whose states are its last parameters and the last of what it returns.

    It returns a dict of the module's tensors, by the names that a trace gives, and of the states.
    These begin with zeros, which stand for what the module itself begins with.

    Args:
        module: The module, which loses them.
        states: What it keeps.
        inputs: Names of the parameters that are states; those that are not given are zeros.

    Attributes:
        states: What it keeps.
        inputs: Names of the parameters that are states.
        outputs: Names of the results that are states; known once it has run.
        left_out: Names of what the module returns that is no tensor; likewise.
    """

    def __init__(
        self, module: torch.nn.Module, states: tuple[State, ...], inputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self._orig_mod = module  # a name that layer paths leave out
        self.states = states
        self.inputs = inputs
        self.outputs: tuple[str, ...] = ()
        self.left_out: tuple[str, ...] = ()
        # A trace knows no values.
        self._shifts = [[s if s.any() else None for s in state.leaves] for state in states]
        for state in states:
            part = module.get_submodule(state.part)
            part._buffers.pop(state.attribute, None)
            part.__dict__.pop(state.attribute, None)

    def run(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Calls the module with its states in their places, and takes them out again."""
        given = iter([keywords.pop(name, None) for name in self.inputs])
        for state, shifts in zip(self.states, self._shifts, strict=True):
            pairs = zip(state.leaves, shifts, strict=True)
            values = [_begun(start, shift, next(given)) for start, shift in pairs]
            held = pytree.tree_unflatten(values, pytree.tree_structure(state.start))
            self._orig_mod.get_submodule(state.part).__dict__[state.attribute] = held
        made, self.left_out = tensors_of(self._orig_mod(*arguments, **keywords))
        self.outputs = tuple(_names(self.states, "_out", made))
        names = iter(self.outputs)
        for state, shifts in zip(self.states, self._shifts, strict=True):
            part = self._orig_mod.get_submodule(state.part)
            behind = pytree.tree_leaves(part.__dict__.pop(state.attribute))
            for shift, value in zip(shifts, behind, strict=True):
                made[next(names)] = value if shift is None else _since(shift, value)
        return made

    def states_of(self, inputs: Collection[str]) -> tuple[State, ...]:
        """The states that have one of these inputs."""
        names = iter(self.inputs)
        own = {
            state.where: set(itertools.islice(names, len(state.leaves))) for state in self.states
        }
        return tuple(state for state in self.states if own[state.where].intersection(inputs))

    def changes(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> bool:
        """Whether it gives something else when it is called again, and so keeps more than these."""
        run = copy.deepcopy(self)
        with torch.no_grad():
            first, second = (tuple(run(*arguments, **keywords).values()) for _ in range(2))
        return not same(first, second)


def beginning_so(
    module: torch.nn.Module,
    written: Written,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
) -> tuple[State, ...]:
    """States with which a module's first call is what it is by itself.

    What is missing before the first call may begin with other values than zeros.
    """
    made = keeping(module, written.states).run(arguments, dict(keywords))
    pairs = zip(written.first, made.values(), strict=False)
    if all(torch.allclose(own, found, rtol=1e-3, atol=1e-5) for own, found in pairs):
        return written.states
    return tuple(state for state in written.states if not state.is_missing)


def _names(states: Sequence[State], end: str, taken: Collection[str]) -> Iterator[str]:
    """A name for each tensor of states that nothing else has."""
    known = set(taken)
    for state in states:
        count = len(state.leaves)
        for place in range(count):
            base = state.where.replace(".", "_").strip("_") + (f"_{place}" if count > 1 else "")
            yield free_name(base + end, known)


def _begun(
    start: torch.Tensor, shift: torch.Tensor | None, given: torch.Tensor | None
) -> torch.Tensor:
    """A state as the module has it; `given` is what it is besides what it begins with."""
    if given is None:
        return start.clone()
    if shift is None:
        return given.clone()
    return given ^ shift if shift.dtype == torch.bool else given + shift


def _since(shift: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A state as ports have it."""
    return value ^ shift if shift.dtype == torch.bool else value - shift
