"""What a module writes into itself when it is called, told by two calls of a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree

from edgeq.export.frontends.torch_program.returned import tensors_of

_OWN = frozenset(torch.nn.Module().__dict__)
"""Attributes that every module has."""

_Key = tuple[str, str]
"""Path of a module, and name of a buffer or attribute of it."""


@dataclass(frozen=True)
class State:
    """A buffer or attribute of tensors that a module keeps.

    Attributes:
        part: Path of the module that has it.
        attribute: What it is called there.
        start: What it is before the first call: a tensor, or a tree of them.
        is_missing: Whether it is not there before the first call, which then begins with `start`.
    """

    part: str
    attribute: str
    start: Any
    is_missing: bool

    @property
    def where(self) -> str:
        """How messages name it."""
        return _where((self.part, self.attribute))

    @property
    def leaves(self) -> list[torch.Tensor]:
        """The tensors that it begins with."""
        return list(pytree.tree_leaves(self.start))


@dataclass(frozen=True)
class Written:
    """What a module writes into itself when it is called.

    Attributes:
        anything: Whether it writes at all.
        states: What a call takes and gives in one form.
        others: Names of what else is written: what grows, what begins with infinite numbers, and
            what is no tensor.
        first: Tensors that the first call returns.
        changing: Whether another call returns others than it does alone.
    """

    anything: bool = False
    states: tuple[State, ...] = ()
    others: tuple[str, ...] = ()
    first: tuple[torch.Tensor, ...] = ()
    changing: bool = False


def written_by(
    module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Written:
    """What a module writes into itself; nothing of one that cannot be copied or called."""
    try:
        run = copy.deepcopy(module)
        before = _Attributes(run)
        first = _outputs(run, arguments, keywords)
        behind = _Attributes(run)
        changed = [key for key in behind.leaves if behind.differs(before, key)]
        if not changed:
            return Written()
        other = pytree.tree_map(_other, (arguments, keywords))
        second, alone = _outputs(run, *other), _outputs(copy.deepcopy(module), *other)
        start = _Attributes(copy.deepcopy(module))
    except Exception:  # which is told where the module is traced
        return Written()
    later = _Attributes(run)
    states = {key: _state(key, start, behind, later) for key in changed}
    return Written(
        anything=True,
        states=tuple(state for state in states.values() if state is not None),
        others=tuple(_where(key) for key, state in states.items() if state is None),
        first=first,
        changing=not same(alone, second),
    )


def same(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    """Whether calls have returned the same numbers."""
    return len(some) == len(others) and all(map(torch.equal, some, others))


class _Attributes:
    """Buffers and attributes of a module, as they are at one time.

    Attributes:
        leaves: What is in each of them.
        structures: Lists and dicts that it is inside of.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.leaves: dict[_Key, list[Any]] = {}
        self.structures: dict[_Key, Any] = {}
        for path, part in module.named_modules():
            own = {name: v for name, v in part.__dict__.items() if name not in _OWN}
            for name, value in {**part._buffers, **own}.items():
                key = (path, name)
                self.leaves[key], self.structures[key] = pytree.tree_flatten(value)
        self._versions = {key: list(map(_version, found)) for key, found in self.leaves.items()}

    def differs(self, before: _Attributes, key: _Key) -> bool:
        """Whether something was written there since."""
        if key not in before.leaves or self.structures[key] != before.structures[key]:
            return True
        pairs = zip(self.leaves[key], before.leaves[key], strict=True)
        if self._versions[key] != before._versions[key]:
            return True
        return any(a is not b and not (_is_number(a) and a == b) for a, b in pairs)

    def form(self, key: _Key) -> Any:
        """Structure, shapes and types of an attribute of tensors; None of any other."""
        leaves = self.leaves.get(key)
        if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            return None
        return self.structures[key], [(leaf.shape, leaf.dtype) for leaf in leaves]

    def tree(self, key: _Key) -> Any:
        """An attribute as it is."""
        return pytree.tree_unflatten(self.leaves[key], self.structures[key])


def _state(key: _Key, start: _Attributes, behind: _Attributes, later: _Attributes) -> State | None:
    """What was written there as a state, if calls take and give it in one form."""
    form = behind.form(key)
    if form is None or form != later.form(key):
        return None
    if form == start.form(key):
        found = State(*key, start.tree(key), False)
        return found if all(leaf.isfinite().all() for leaf in found.leaves) else None
    if any(leaf is not None for leaf in start.leaves.get(key, ())):
        return None
    return State(*key, pytree.tree_map(torch.zeros_like, behind.tree(key)), True)


def _outputs(
    module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[torch.Tensor, ...]:
    """The tensors that a call returns, which later calls may overwrite."""
    with torch.no_grad():
        made, _ = tensors_of(module(*arguments, **keywords))
    return tuple(tensor.clone() for tensor in made.values())


def _other(leaf: Any) -> Any:
    """Another sample's value."""
    is_real = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    return leaf * 0.5 if is_real else leaf


def _version(leaf: Any) -> int:
    return int(leaf._version) if isinstance(leaf, torch.Tensor) else 0


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | str | torch.Size)


def _where(key: _Key) -> str:
    return ".".join(filter(None, key))
