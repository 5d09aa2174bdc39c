"""Ops that a recipe wants in integers and that stay float: an error or a note of the report.

A rule says for itself whether it is strict; where it does not, the caller or else the target does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgeq.errors import UnsupportedOpError
from edgeq.export.plan.choices import Choices
from edgeq.export.plan.exact_numbers import UNASKED
from edgeq.flatbuffer import Operator
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe, Rule

LISTED = 8
"""So many ops are named; of more, their number."""


@dataclass(frozen=True)
class LeftFloat:
    """An op that stays float although its rule wants integers.

    Attributes:
        op: The op.
        rule: The rule.
        reason: Why it stays float.
    """

    op: Operator
    rule: Rule
    reason: str


def reasons_of(choices: Choices) -> dict[int, str]:
    """Why each op that stays float, or reads and writes float, does, by its index."""
    return {
        i: choice.reason
        for i, choice in choices.items()
        if choice.mode is Mode.FLOAT or (choice.reason and choice.mode.is_dynamic)
    }


def free_ops(model: LiteModel, recipe: Recipe, choices: Choices, strict: bool) -> frozenset[int]:
    """Ops that may become float where there is no sound file with them as they were chosen.

    Args:
        model: The float model.
        recipe: What was asked for.
        choices: What becomes of each op.
        strict: What holds for rules that do not say.
    """
    operators = model.graph.operators
    rules = {i: recipe.rule_for(operators[i].name, model.layer(operators[i])) for i in choices}
    return frozenset(
        i for i, c in choices.items() if c.mode is Mode.AUTO or not _is_strict(rules[i], strict)
    )


def _is_strict(rule: Rule, strict: bool) -> bool:
    return strict if rule.strict is None else rule.strict


def check_strict(
    model: LiteModel, recipe: Recipe, float_ops: Mapping[int, str], strict: bool
) -> None:
    """Raises an `UnsupportedOpError` where strict rules want integers of ops that stay float.

    Args:
        model: The float model.
        recipe: What becomes of each op.
        float_ops: Why each op that stays float does, by its index.
        strict: What holds for rules that do not say.
    """
    found = [s for s in _left_float(model, recipe, float_ops) if _is_strict(s.rule, strict)]
    found = [s for s in found if s.reason not in UNASKED]
    if found:
        raise UnsupportedOpError(
            f"{len(found)} op(s) cannot be {found[0].rule.mode.value} as the recipe wants: "
            f"{_listed(model, found)}. To leave such ops float, pass strict=False, or say so in "
            f"the recipe with Rule(op={found[0].op.name!r}, mode=Mode.FLOAT, reason='...')"
        )


def float_notes(model: LiteModel, recipe: Recipe, float_ops: Mapping[int, str]) -> tuple[str, ...]:
    """A note that lists the ops that stay float although their rules want integers, if any do."""
    found = list(_left_float(model, recipe, float_ops))
    if not found:
        return ()
    return (
        f"{len(found)} op(s) stay float that the recipe wants in integers: "
        f"{_listed(model, found)}. strict=True makes that an error",
    )


def _left_float(
    model: LiteModel, recipe: Recipe, float_ops: Mapping[int, str]
) -> Iterator[LeftFloat]:
    for index, reason in sorted(float_ops.items()):
        op = model.graph.operators[index]
        rule = recipe.rule_for(op.name, model.layer(op))
        if rule.mode.is_static:
            yield LeftFloat(op, rule, reason)


def _listed(model: LiteModel, found: Iterable[LeftFloat]) -> str:
    """Ops by the reason that they share."""
    by_reason: dict[str, list[str]] = {}
    for left in found:
        by_reason.setdefault(left.reason, []).append(model.where(left.op))
    return "; ".join(f"{_some(places)} ({reason})" for reason, places in by_reason.items())


def _some(places: list[str]) -> str:
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return ", ".join(places[:LISTED]) + more
