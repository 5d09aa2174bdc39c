"""Recipes by name, and from files."""

from __future__ import annotations

import os
from pathlib import Path

from edgeq.errors import RecipeError
from edgeq.foreign.documents import DocumentError, read_text
from edgeq.recipe.mode import Mode
from edgeq.recipe.ordered_rules import Recipe

INT8 = Recipe("int8")
"""Every op in static int8 that has such a form."""

AUTO = Recipe("auto", default=Mode.AUTO)
"""Each op in the mode that makes the whole fast and right."""

PRESETS: dict[str, Recipe] = {
    "auto": AUTO,
    "int8": INT8,
    **{
        mode.value: Recipe(mode.value, default=mode)
        for mode in Mode
        if mode not in (Mode.AUTO, Mode.STATIC_INT8, Mode.FLOAT)
    },
}
"""Recipes by name."""


def as_recipe(recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """A recipe from a preset's name, a file's path or a `Recipe`.

    A file is JSON (or YAML, where its name ends in .yaml or .yml and PyYAML is installed) as
    `Recipe.to_json` writes it, or a recipe of ai-edge-quantizer.

    Raises:
        RecipeError: Neither a preset nor a readable recipe file.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe in PRESETS:
        return PRESETS[recipe]
    if not isinstance(recipe, str | os.PathLike):
        raise RecipeError(
            f"recipe must be a preset's name, a Recipe or a JSON file. "
            f"Received: {type(recipe).__name__}"
        )
    try:
        text = read_text(recipe)
    except (OSError, DocumentError) as error:
        raise RecipeError(
            f"recipe {str(recipe)!r} is neither a preset ({', '.join(PRESETS)}) "
            f"nor a readable JSON file: {error}"
        ) from None
    if Path(recipe).suffix in (".yaml", ".yml"):
        return Recipe.from_yaml(text)
    return Recipe.from_json(text)
