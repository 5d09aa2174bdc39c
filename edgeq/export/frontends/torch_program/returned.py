"""What a forward pass returns, as the tensors by name that a trace takes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree

from edgeq.errors import ModelError
from edgeq.export.frontends.torch_program.traced_program import output_name


def returning_tensors(module: torch.nn.Module, left_out: list[str]) -> torch.nn.Module:
    """A copy of a module that returns its tensors by name, and nothing besides.

    Names are those that a trace gives. Dataclasses are read field by field.

    Args:
        module: The module.
        left_out: Gets the names of what is no tensor, when the copy runs.

    Raises:
        ModelError: The module cannot be copied, or what runs returns no tensor.
    """
    try:
        module = copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"the module cannot be copied ({error}); let it return tensors in tuples, lists or "
            "dicts alone"
        ) from None
    own = module.forward

    @functools.wraps(own)
    def forward(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        tensors, left_out[:] = tensors_of(own(*arguments, **keywords))
        if not tensors:
            raise ModelError(f"{type(module).__name__} returns no tensor")
        return tensors

    forward.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
    module.forward = forward
    return module


def tensors_of(result: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a result by the names that a trace gives, and names of what is none."""
    found = {output_name(path): part for path, part in _leaves(result, ())}
    tensors = {name: part for name, part in found.items() if isinstance(part, torch.Tensor)}
    return tensors, tuple(name for name in found if name not in tensors)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is inside a value, and where."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        names = [field.name for field in dataclasses.fields(value)]
        parts = [(name, getattr(value, name)) for name in names]
    elif isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or [str(i) for i in range(len(value))]
        parts = list(zip(names, value, strict=True))
    else:
        inside = pytree.tree_leaves(value)  # of what other packages have registered, as caches
        if len(inside) == 1 and inside[0] is value:
            yield path, value
            return
        parts = [(str(place), part) for place, part in enumerate(inside)]
    for name, part in parts:
        yield from _leaves(part, (*path, name))
