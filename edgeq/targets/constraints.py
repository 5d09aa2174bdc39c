"""`Constraint`: a written condition under which a target runs an op.

The docstring of a constraint is its only wording: the message, the report's line and the row of
docs/targets.md are made of it.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from edgeq.targets.views import OpView

Check = Callable[[OpView], str | None]
"""Says in a few words how an op breaks a constraint; None where it holds."""


MALFORMED = (IndexError, AttributeError, TypeError, ValueError, ZeroDivisionError, OverflowError)
"""Errors of a check that looks for what a damaged file's op does not have."""


class Effect(enum.Enum):
    """Consequence for an op that breaks a constraint."""

    FALLBACK = "runs outside, on the plain kernels"
    REFUSAL = "the model does not load"


@dataclass(frozen=True)
class Constraint:
    """One condition.

    Attributes:
        check: The condition as a function with a docstring that ends in `Source: ...`.
        ops: Names of the ops that it is for; empty for all.
        effect: What becomes of an op that breaks it.
    """

    check: Check
    ops: tuple[str, ...] = ()
    effect: Effect = Effect.FALLBACK

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.check.__name__

    @property
    def sentence(self) -> str:
        """The condition in one sentence, without its full stop."""
        return self._documented()[0].rstrip(".")

    @property
    def source(self) -> str:
        """Where the condition comes from."""
        return self._documented()[1].rstrip(".")

    def _documented(self) -> tuple[str, str]:
        sentence, _, source = (inspect.getdoc(self.check) or "").partition("Source:")
        return " ".join(sentence.split()), " ".join(source.split())

    def found(self, op: OpView) -> str | None:
        """Says how `op` breaks the condition; None where it holds."""
        if self.ops and op.name not in self.ops:
            return None
        try:
            return self.check(op)
        except MALFORMED as error:
            return f"the op has not the operands and options that any {op.name} has ({error})"


def constraint(*ops: str, effect: Effect = Effect.FALLBACK) -> Callable[[Check], Constraint]:
    """Makes a `Constraint` for `ops` (all without names) of a function."""
    return lambda check: Constraint(check, ops, effect)
