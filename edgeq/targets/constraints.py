"""`Constraint` and `Target`: written conditions under which a target runs an op.

The docstring of a constraint is its only wording: the message, the report's line and the row of
docs/targets.md are made of it.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeq.flatbuffer import Graph
from edgeq.targets.views import OpView, op_view

Check = Callable[[OpView], str | None]
"""What breaks the constraint in an op, in a few words; None where it holds."""

Placement = Mapping[int, tuple[str, ...]]
"""The obstacles of each op of a graph by index; none where the target runs it."""


class Effect(enum.Enum):
    """What becomes of an op that breaks a constraint."""

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
        """What breaks the condition in `op`; None where it holds."""
        return None if self.ops and op.name not in self.ops else self.check(op)


def constraint(*ops: str, effect: Effect = Effect.FALLBACK) -> Callable[[Check], Constraint]:
    """Makes a `Constraint` for `ops` (all without names) of a function."""
    return lambda check: Constraint(check, ops, effect)


@dataclass(frozen=True)
class Target:
    """Where a model runs.

    Attributes:
        name: Name as users write it.
        title: Name in sentences.
        premises: Constraints that all later ones rest on: behind a broken one no other is asked.
        constraints: All other constraints.
        whole: What follows for an op from the obstacles of others, by graph and placement.
    """

    name: str
    title: str
    premises: tuple[Constraint, ...]
    constraints: tuple[Constraint, ...]
    whole: Callable[[Graph, Placement], Placement] = lambda graph, placement: placement

    def broken(self, op: OpView) -> tuple[tuple[Constraint, str], ...]:
        """The constraints that `op` breaks, each with what was found."""
        for premise in self.premises:
            what = premise.found(op)
            if what is not None:
                return ((premise, what),)
        found = [(c, c.found(op)) for c in self.constraints]
        return tuple((c, what) for c, what in found if what is not None)

    def obstacles(self, op: OpView) -> tuple[str, ...]:
        """Why the target does not run `op`, one sentence each; empty where it does."""
        return tuple(f"{c.sentence}: {what}" for c, what in self.broken(op))

    def refuses(self, op: OpView) -> bool:
        """Whether a model with `op` does not even load."""
        return any(c.effect is Effect.REFUSAL for c, _ in self.broken(op))

    def placement(self, graph: Graph) -> Placement:
        """The obstacles of each op of a graph, those that follow from other ops included."""
        found = {op.index: self.obstacles(op_view(graph, op)) for op in graph.operators}
        return self.whole(graph, found)
