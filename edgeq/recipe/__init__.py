"""Recipes: which mode each layer gets. Plain values, to and from JSON; knows no model.

A recipe is an ordered list of rules; the first that matches an op decides its mode.
"""

from edgeq.recipe.layer_rule import Rule
from edgeq.recipe.mode import Mode
from edgeq.recipe.ordered_rules import Recipe
from edgeq.recipe.presets import AUTO, INT8, PRESETS, as_recipe
from edgeq.recipe.weight_scheme import DEFAULT_SCHEME, WeightScheme

__all__ = [
    "AUTO",
    "DEFAULT_SCHEME",
    "INT8",
    "PRESETS",
    "Mode",
    "Recipe",
    "Rule",
    "WeightScheme",
    "as_recipe",
]
