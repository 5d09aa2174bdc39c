"""`Target`: where a model runs, and all that follows from it for other parts of the package.

Other parts ask the target and compare no name, so that a new target is a file of its own and its
line in `TARGETS`.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeq.flatbuffer import Graph
from edgeq.targets.constraints import Constraint, Effect
from edgeq.targets.views import OpView, op_view
from edgeq.versions import Version

Placement = Mapping[int, tuple[str, ...]]
"""The obstacles of each op of a graph by index; none where the target runs it."""


class Purpose(enum.Enum):
    """Purpose of a rewrite of the float model; a target lists the purposes that serve it."""

    FEWER_OPS = "fewer or cheaper ops on every target"
    DELEGATION = "ops that XNNPACK takes in int8 and the Edge TPU maps as well"
    DELEGATION_ALONE = "ops that XNNPACK takes in int8, or is fast at, and the Edge TPU lacks"
    MAPPING = "ops that the Edge TPU maps and XNNPACK takes as well"
    MAPPING_ALONE = "ops that the Edge TPU maps and XNNPACK does not take in int8"
    COMMON_OPS = "ops of both, in place of one that each has a form of its own for"


@dataclass(frozen=True)
class Compiler:
    """The program that makes what the target runs of a .tflite file.

    Attributes:
        program: Its name on the `PATH`.
        how_to_get: Where it runs and how it is installed, in sentences without the last full stop.
    """

    program: str
    how_to_get: str

    @property
    def path(self) -> str | None:
        """Where it is; None if it is not installed."""
        return shutil.which(self.program)

    @property
    def missing(self) -> str:
        """Says that it is not installed and what to do."""
        return f"{self.program} is not on the PATH. {self.how_to_get}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a model runs.

    Attributes:
        name: Name as users write it.
        title: Name in sentences, with its article.
        about: What the page of targets says of it before the tables, in Markdown.
        premises: Constraints that all later ones rest on: behind a broken one no other is asked.
        constraints: All other constraints.
        whole: What follows for an op from the obstacles of others, by graph and placement.
        ops: Names of the ops that it has, by how it has them in a few words; empty for a target
            that is made of others.
        faster_in_float: Why it runs an op, given in float, in less time between integers than in
            integers; empty where it does not.
        port_type: Type of inputs and outputs where the caller names none.
        layout: Layout of images where the caller names none and the model has them otherwise; None
            keeps the model's own.
        oldest_runtime: The oldest run time that must read the file; None is the newest.
        mixes_float: Whether it runs float and integer ops side by side. One that computes in
            integers alone makes an error of an op without int8 form, until a rule leaves it float.
        rewrites: Purposes of the rewrites that serve it.
        compiler: What its files are compiled with; None where it runs them as they are.
        advice: What helps an op that it does not run, by builtin operator name.
        file_notes: What `lint` says of a file as a whole, by its graphs and their placements.
    """

    name: str
    title: str
    about: str
    premises: tuple[Constraint, ...]
    constraints: tuple[Constraint, ...]
    mixes_float: bool
    rewrites: frozenset[Purpose]
    whole: Callable[[Graph, Placement], Placement] = lambda graph, placement: placement
    ops: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faster_in_float: Callable[[OpView], str] = lambda op: ""
    port_type: str = "float32"
    layout: str | None = None
    oldest_runtime: Version | None = None
    compiler: Compiler | None = None
    advice: Mapping[str, str] = field(default_factory=dict)
    file_notes: Callable[[Sequence[tuple[Graph, Placement]]], tuple[str, ...]] = lambda graphs: ()

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

    def next_steps(self) -> tuple[str, ...]:
        """Steps left before an exported file runs there, one sentence each."""
        if self.compiler is None:
            return ()
        missing = "" if self.compiler.path is not None else f"; {self.compiler.missing}"
        return (f"{self.title} runs what `edgeq compile` makes of this file{missing}",)
