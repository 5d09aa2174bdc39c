"""What a search tries, in order: modes throughout, cuts between them, then changes of the best.

Knows recipes and the trials made of them, nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeq.recipe import PRESETS, Recipe
from edgeq.report.search_result import Goal, Trial

THROUGHOUT = ("int8", "dynamic_int8", "weight_int8", "float16")
"""Presets that are tried first."""

OBSERVERS = ("percentile", "mse", "moving_average")
"""Other ways to find ranges, tried on the best plans with static ops."""

CHANGED = 3
"""Plans whose observers and rounding are changed."""


def first_recipes(cuts: Sequence[Recipe], mixes_float: bool) -> list[Recipe]:
    """Recipes that are tried whatever comes of them.

    Args:
        cuts: Plans between the modes, from the fastest to the most faithful.
        mixes_float: Whether the target runs float and integers side by side.
    """
    names = THROUGHOUT if mixes_float else THROUGHOUT[:1]
    return [*(PRESETS[name] for name in names), *cuts]


def changed_recipes(trials: Sequence[Trial], goal: Goal) -> list[Recipe]:
    """The best recipes with static ops, with other observers, unscaled channels and other rounding.

    Those that reach the goal come first, the cheapest of them ahead; then those that come nearest.

    Args:
        trials: What was tried so far.
        goal: What is looked for.
    """
    working = [trial for trial in trials if not trial.error]
    order = sorted(working, key=lambda t: (not goal.is_reached(t), *_distance(t, goal)))
    recipes = [Recipe.from_json(trial.recipe) for trial in order]
    static = [recipe for recipe in recipes if _is_static(recipe)][:CHANGED]
    return [changed for recipe in static for changed in _changes(recipe)]


def _distance(trial: Trial, goal: Goal) -> tuple[float, float]:
    return (0.0, trial.cost) if goal.is_reached(trial) else (trial.drop, trial.cost)


def _is_static(recipe: Recipe) -> bool:
    return any(mode.is_static for mode in (recipe.default, *(rule.mode for rule in recipe.rules)))


def _changes(recipe: Recipe) -> Iterator[Recipe]:
    for observer in OBSERVERS:
        yield replace(recipe, name=f"{recipe.name}, {observer}", observer=observer)
    yield replace(recipe, name=f"{recipe.name}, channels as they are", equalize=False)
    yield replace(recipe.with_rounding("nearest"), name=f"{recipe.name}, rounded to nearest")
