"""Python numbers that `forward` reads from tensors which no input decides, or for a check.

`torch.export` knows no tensor's values, also of those that are made in `forward` from nothing, such
as a mask of ones where none was given. A run on a sample tells which reads are of such tensors; a
trace then gets their numbers. Assertions go for it as they do for the sample.
"""

from __future__ import annotations

import copy
import linecache
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeq.export.frontends.torch_program import source_places

READERS = frozenset(
    {
        Tensor.item,
        Tensor.tolist,
        Tensor.__bool__,
        Tensor.__int__,
        Tensor.__float__,
        Tensor.__index__,
    }
)
"""What makes Python numbers of tensors."""

UNKNOWN = object()
"""In place of a number that an input decides."""


class Read(NamedTuple):
    """One number that was read.

    Attributes:
        reader: What has read it.
        number: The number, or `UNKNOWN`.
        checks: Whether an input decides it, but nothing follows from it unless it is refused.
    """

    reader: Any
    number: Any
    checks: bool


def reads_of(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Read]:
    """The reads of a run on a sample."""
    inputs = [t for t in pytree.tree_leaves((arguments, keywords)) if isinstance(t, Tensor)]
    origins = _Origins(inputs)
    recording = _Recording(origins)
    with torch.no_grad(), origins, recording:
        copy.deepcopy(module)(*arguments, **keywords)
    return recording.reads


def any_known(reads: Sequence[Read]) -> bool:
    """Whether a trace can make use of them."""
    return any(read.number is not UNKNOWN for read in reads)


class _Origins(TorchDispatchMode):  # type: ignore[misc]
    """Follows which memory holds what inputs, or random numbers, decide."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._decided: set[int] = set()
        self._kept: list[Any] = []  # an address may be used again once its memory is free
        self._mark(inputs)

    def decide(self, tensor: Tensor) -> bool:
        """Whether inputs decide what a tensor holds."""
        return tensor.untyped_storage()._cdata in self._decided

    def _mark(self, tensors: Sequence[Tensor]) -> None:
        self._decided.update(tensor.untyped_storage()._cdata for tensor in tensors)
        self._kept += [tensor.untyped_storage() for tensor in tensors]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = func(*args, **(kwargs or {}))
        results = [t for t in pytree.tree_leaves(made) if isinstance(t, Tensor)]
        self._kept += [tensor.untyped_storage() for tensor in results]
        if torch.Tag.nondeterministic_seeded in func.tags or any(map(self.decide, given)):
            places = zip(func._schema.arguments, args, strict=False)
            written = [v for p, v in places if p.alias_info and p.alias_info.is_write]
            self._mark([*results, *(v for v in written if isinstance(v, Tensor))])
        return made


class _Recording(TorchFunctionMode):  # type: ignore[misc]
    """Writes the reads down."""

    def __init__(self, origins: _Origins) -> None:
        super().__init__()
        self.reads: list[Read] = []
        self._origins = origins

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in READERS:
            decided = self._origins.decide(args[0])
            checks = decided and _is_check()
            known = checks or not decided
            self.reads.append(Read(func, found if known else UNKNOWN, checks))
        return found


def _is_check() -> bool:
    """Whether the user's line that runs is an assertion, or a condition for raising."""
    frame: Any = sys._getframe(1)
    while frame is not None and not source_places.is_users(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return False
    file, number = frame.f_code.co_filename, frame.f_lineno
    line, behind = (linecache.getline(file, n).strip() for n in (number, number + 1))
    return line.startswith("assert ") or (line.startswith("if ") and behind.startswith("raise "))


class Repeating(TorchFunctionMode):  # type: ignore[misc]
    """Gives the known numbers to a trace, which reads in the same order.

    Raises:
        RuntimeError: While it traces, where it does not.
    """

    def __init__(self, reads: Sequence[Read]) -> None:
        super().__init__()
        self._left = iter(reads)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        number = UNKNOWN
        if func in READERS:
            reader, number, _ = next(self._left, (None, None, False))
            if reader is not func:
                raise RuntimeError("the trace reads other numbers than a run does")
        return func(*args, **(kwargs or {})) if number is UNKNOWN else number
