"""`Rule`: a check with its wording, how bad it is to break it, and what to do then.

The docstring of a rule is its only wording: messages and docs/targets.md are made of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgeq.flatbuffer import Operator, Tensor
from edgeq.linter.result import Severity
from edgeq.linter.subject import Subject
from edgeq.targets.constraints import MALFORMED

Found = tuple[Tensor | None, str]
"""The tensor at fault (None for the op as such) and what was found, in a few words."""

Check = Callable[[Subject, Operator], Iterable[Found]]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        check: The rule as a function with a docstring that ends in `Source: ...`.
        severity: How bad it is to break it.
        advice: What to do then.
        ops: Names of the ops that it is for; empty for all.
    """

    check: Check
    severity: Severity
    advice: str
    ops: tuple[str, ...] = ()

    def found(self, subject: Subject, op: Operator) -> Iterable[Found]:
        """Violations of the rule in `op`."""
        if self.ops and op.name not in self.ops:
            return ()
        try:
            return list(self.check(subject, op))
        except MALFORMED as error:
            said = f"the op has not the operands and options that any {op.name} has ({error})"
            return ((None, said),)

    @property
    def name(self) -> str:
        """Name that findings show, for example `bias-scale`."""
        return self.check.__name__.replace("_", "-")

    @property
    def sentence(self) -> str:
        """The rule in one sentence, without its full stop."""
        return self._documented()[0].rstrip(".")

    @property
    def source(self) -> str:
        """Where it comes from, and what happens if it is broken."""
        return self._documented()[1].rstrip(".")

    def _documented(self) -> tuple[str, str]:
        sentence, _, source = (inspect.getdoc(self.check) or "").partition("Source:")
        return " ".join(sentence.split()), " ".join(source.split())


def error(advice: str, *ops: str) -> Callable[[Check], Rule]:
    """Makes a check a rule for `ops` (all without names) that must not be broken."""
    return lambda check: Rule(check, Severity.ERROR, advice, ops)


def warning(advice: str, *ops: str) -> Callable[[Check], Rule]:
    """Makes a check a rule for `ops` (all without names) that may be broken for a reason."""
    return lambda check: Rule(check, Severity.WARNING, advice, ops)


AGAIN = "quantize the float model again; edgeq export keeps this rule"
