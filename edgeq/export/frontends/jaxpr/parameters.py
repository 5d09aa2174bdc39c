"""A function's parameters: by their paths, and in the width that a file computes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def parts(path: Sequence[Any]) -> tuple[str, ...]:
    """A path in a tree as text."""
    keys = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))) for p in path)
    return tuple(str(key) for key in keys)


def as_float32(parameters: Any, notes: list[str]) -> Any:
    """Parameters in float32; what is in another width is said in the notes."""
    narrow: dict[str, None] = {}

    def convert(leaf: Any) -> Any:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
            return leaf
        if dtype != np.float32:
            narrow.setdefault(str(dtype))
            return np.asarray(leaf).astype(np.float32)
        return leaf

    converted = jax.tree_util.tree_map(convert, parameters)
    if narrow:
        notes.append(f"parameters in {', '.join(sorted(narrow))} were converted to float32")
    return converted


def output_name(path: Sequence[Any]) -> str:
    name = "_".join(parts(path)) or "0"
    return f"output_{name}" if name[0].isdigit() else name
