"""Assertions on the values of tensors, which a trace takes as they went with the sample."""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from edgeq.export.frontends.torch_program import source_places

_ASKING = (torch.Tensor.__bool__, torch.Tensor.item)


class _Asked(TorchFunctionMode):  # type: ignore[misc]
    """Writes down what tensors are asked for by checks, and answers it in a second run.

    Args:
        answers: Those of the run before; None writes them down.
    """

    def __init__(self, answers: list[Any] | None = None) -> None:
        super().__init__()
        self._given = None if answers is None else iter(answers)
        self.answers: list[Any] = []

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if function in _ASKING and _is_check():
            if self._given is not None:
                return next(self._given)
            self.answers.append(function(*arguments))
            return self.answers[-1]
        return function(*arguments, **(keywords or {}))


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


@contextlib.contextmanager
def passed(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[int]:
    """Has checks of values answer as they do for a sample; gives how often they are asked.

    Args:
        module: A copy of the module, which runs once.
        arguments: The sample.
        keywords: That by name.
    """
    with _Asked() as asked:
        module(*arguments, **keywords)
    with _Asked(asked.answers):
        yield len(asked.answers)
