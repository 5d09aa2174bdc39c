"""Samples whose arrays are inside of lists and dicts, as models with several inputs take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.data.as_numpy import is_tensor


def flattened(item: Any, names: Sequence[str]) -> Any:
    """An item whose arrays may be inside of lists and dicts as one of arrays by input name.

    Names are those of a traced model: of the parameter, and of all keys on the way, `batch_image`.
    Keys alone tell which input an array of a positional parameter is.
    """
    parts = dict(item) if isinstance(item, Mapping) else item
    nested = parts.values() if isinstance(parts, dict) else parts
    if not isinstance(parts, dict | tuple | list) or not any(map(_is_nest, nested)):
        return item
    if isinstance(parts, dict):
        return {"_".join(path): value for path, value in _leaves(parts, ())}
    found: dict[str, Any] = {}
    for path, value in _leaves(parts, ()):
        name = _named_by([name for name in names if name not in found], path)
        if name is None:
            return item
        found[name] = value
    return found


def _named_by(names: Sequence[str], path: tuple[str, ...]) -> str | None:
    """The first name that ends with the keys below a positional parameter; any, without keys."""
    end = "_".join(path[1:])
    fits = (name for name in names if name == end or name.endswith(f"_{end}"))
    is_place = not end or path[-1].isdigit()
    return next(fits, next(iter(names), None) if is_place else None)


def _is_nest(value: Any) -> bool:
    """Whether it holds arrays or tensors; a list of numbers is an array."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, tuple | list) and any(
        isinstance(part, np.ndarray | Mapping) or is_tensor(part) or _is_nest(part)
        for part in value
    )


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Arrays inside a value, and the keys and places on the way."""
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif not path or _is_nest(value):
        parts = [(str(place), part) for place, part in enumerate(value)]
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _leaves(part, (*path, key))
