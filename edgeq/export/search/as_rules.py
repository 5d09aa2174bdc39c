"""A plan of a search as a recipe: rules that give it again, for everybody to read and change.

Rules speak of layers, so ops of one name in one layer get one mode: of those in the plan, the one
that loses least. Knows choices and names, nothing of costs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from edgeq.export.plan.choices import Choices
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe, Rule

FAITHFUL = (Mode.FLOAT, Mode.FLOAT16, Mode.WEIGHT_INT8, Mode.DYNAMIC_INT8, Mode.STATIC_INT8)
"""Modes that a search gives, the one that loses least first."""


def recipe_of(model: LiteModel, choices: Choices, name: str) -> Recipe:
    """The recipe by which the ops of a model get their choices.

    Args:
        model: The float model that the choices speak of.
        choices: What becomes of each op; modes of `FAITHFUL`.
        name: Of the recipe.
    """
    modes: dict[tuple[str, str], Mode] = {}
    for index, choice in choices.items():
        op = model.graph.operators[index]
        place = op.name, model.layer(op)
        modes[place] = min(choice.mode, modes.get(place, choice.mode), key=FAITHFUL.index)
    common = Counter(modes.values()).most_common(1)
    default = common[0][0] if common else Mode.FLOAT
    return Recipe(name, tuple(_rules(modes, default)), default)


def _rules(modes: dict[tuple[str, str], Mode], default: Mode) -> Iterator[Rule]:
    """A rule for the layers of each op and mode that is not the default."""
    layers: dict[tuple[str, Mode], list[str]] = {}
    for (name, layer), mode in modes.items():
        if mode is not default:
            layers.setdefault((name, mode), []).append(re.escape(layer))
    for (name, mode), found in layers.items():
        pattern = rf"\A(?:{'|'.join(found)})\Z"
        yield Rule(pattern, name, mode, "chosen by a search", strict=False)
