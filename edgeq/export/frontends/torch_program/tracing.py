"""Traces a module by `torch.export`, and once more with the numbers that no input decides."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from edgeq.export.frontends.torch_program.constant_reads import Repeating, any_known, reads_of


def exported(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """The `torch.export.ExportedProgram` of a module.

    No tensor's values are known to a trace, so that it fails where a size follows from a buffer (a
    stride, a padding) or a branch from a mask that `forward` has made. The second time these
    numbers are constants.

    Raises:
        Exception: That of the module as it is; torch.export raises dozens of kinds.
    """
    with torch.no_grad(), _without_checks_of_values():
        try:
            return torch.export.export(module, arguments, dict(keywords), strict=False)
        except Exception:
            with contextlib.suppress(Exception):  # what the user reads is of the module as it is
                return _exported_by_values(module, arguments, dict(keywords))
            raise


def _exported_by_values(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The program of a module, with numbers that no input decides as constants."""
    fixed = _with_fixed_numbers(module)
    reads = reads_of(fixed, arguments, keywords)
    if fixed is module and not any_known(reads):
        raise RuntimeError("all numbers follow from inputs")
    with Repeating(reads):
        return torch.export.export(fixed, arguments, keywords, strict=False)


def _with_fixed_numbers(module: Any) -> Any:
    """A copy whose single whole numbers are made in `forward`; the module itself if it has none."""
    if not any(_numbers(part) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for part in module.modules():
        numbers = _numbers(part)
        if not numbers:
            continue
        for name in numbers:
            delattr(part, name)
        kind = type(part)
        constants = {name: _constant(value) for name, value in numbers.items()}
        part.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **constants})
    return module


def _numbers(part: Any) -> dict[str, Any]:
    """Buffers of a module that are single whole numbers."""
    buffers = part.named_buffers(recurse=False)
    return {n: b for n, b in buffers if b.ndim == 0 and not b.is_floating_point()}


def _constant(value: Any) -> property:
    number, kind = value.item(), value.dtype
    return property(lambda self: torch.tensor(number, dtype=kind))


@contextlib.contextmanager
def _without_checks_of_values() -> Iterator[None]:
    """Has distributions take their parameters as they are: a trace has no values to check."""
    kind = torch.distributions.Distribution
    before = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(before)
