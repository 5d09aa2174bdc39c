"""`Rule`: one line of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edgeq.errors import RecipeError
from edgeq.foreign.documents import shortened
from edgeq.recipe.mode import Mode
from edgeq.recipe.weight_scheme import (
    WeightScheme,
    check_choice,
    check_mode,
    check_scheme,
    check_text,
)


@dataclass(frozen=True)
class Rule(WeightScheme):
    """One line of a recipe, with the scheme of the weights that it speaks of.

    Attributes:
        layer: Regular expression searched for in the layer path, for example `"head|stem"`.
        op: Builtin operator name, for example `"SOFTMAX"`, or `"*"` for every op.
        mode: What matching ops become.
        reason: Why, in the user's words; the report repeats it beside every op left float.
        observer: How the range of the op's outputs is found: a name or an observer (see
            `edgeq.calibrate.observers`), or None for the recipe's.
        strict: Whether an op that has no form in a static mode is an error, or else stays float
            with that as the reason. None is what `export` was told, or else the target's own. A
            rule that matches no op is an error unless this is False.
    """

    layer: str = ""
    op: str = "*"
    mode: Mode = Mode.STATIC_INT8
    reason: str = ""
    observer: object = field(default=None, hash=False)  # it may hold arrays, which have no hash
    strict: bool | None = None

    def __post_init__(self) -> None:
        check_text(self, "layer", "op", "reason")
        check_mode(self, "mode")
        check_choice(self, "strict", (None, False, True))
        check_scheme(self, self.mode)
        try:
            re.compile(self.layer)
        except (re.error, RecursionError, OverflowError) as error:
            raise RecipeError(
                f"Rule.layer must be a regular expression: {error}. "
                f"Received: {shortened(self.layer)}"
            ) from None

    def matches(self, op: str, layer: str) -> bool:
        """Whether the rule speaks of an op of that name and layer path."""
        return self.op in ("*", op) and re.search(self.layer, layer) is not None

    def describe(self) -> str:
        """The rule on one line, as the report and errors write it."""
        text = f"layer={self.layer!r} op={self.op!r} mode={self.mode.value!r}"
        return f"{text} ({self.reason})" if self.reason else text
