"""Recipes: which mode each layer gets. Plain values, to and from JSON; knows no model.

A recipe is an ordered list of rules; the first that matches an op decides its mode.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeq.errors import RecipeError


class Mode(enum.Enum):
    """A way of computing one op."""

    STATIC_INT8 = "static_int8"
    FLOAT = "float"


@dataclass(frozen=True)
class Rule:
    """One line of a recipe.

    Attributes:
        layer: Regular expression searched for in the layer path, for example `"head|stem"`.
        op: Builtin operator name, for example `"SOFTMAX"`, or `"*"` for every op.
        mode: What matching ops become.
        reason: Why, in the user's words; the report repeats it beside every op left float.
        observer: How the range of the op's outputs is found: a name or an observer (see
            `edgeq.calibrate.observers`), or None for the recipe's.
    """

    layer: str = ""
    op: str = "*"
    mode: Mode = Mode.STATIC_INT8
    reason: str = ""
    observer: object = field(default=None, hash=False)  # it may hold arrays, which have no hash

    def __post_init__(self) -> None:
        _check_text(self, "layer", "op", "reason")
        _check_mode(self, "mode")
        try:
            re.compile(self.layer)
        except re.error as error:
            raise RecipeError(
                f"Rule.layer must be a regular expression: {error}. Received: {self.layer!r}"
            ) from None

    def matches(self, op: str, layer: str) -> bool:
        """Whether the rule speaks of an op of that name and layer path."""
        return self.op in ("*", op) and re.search(self.layer, layer) is not None

    def describe(self) -> str:
        """The rule on one line, as the report and errors write it."""
        text = f"layer={self.layer!r} op={self.op!r} mode={self.mode.value!r}"
        return f"{text} ({self.reason})" if self.reason else text


@dataclass(frozen=True)
class Recipe:
    """Ordered rules; the first match wins, and an op that none matches gets `default`.

    Attributes:
        name: What the report calls it.
        rules: Rules in order. One that matches no op of the model is an error.
        default: Mode of every other op.
        observer: How the ranges of all other tensors are found, as in `Rule`.
    """

    name: str = "int8"
    rules: tuple[Rule, ...] = ()
    default: Mode = Mode.STATIC_INT8
    observer: object = field(default="minmax", hash=False)

    def __post_init__(self) -> None:
        _check_text(self, "name")
        _check_mode(self, "default")
        if not isinstance(self.rules, tuple | list):
            raise RecipeError(f"Recipe.rules must be a tuple of Rule. Received: {self.rules!r}")
        wrong = [rule for rule in self.rules if not isinstance(rule, Rule)]
        if wrong:
            raise RecipeError(f"Recipe.rules must hold Rule values. Received: {wrong[0]!r}")
        object.__setattr__(self, "rules", tuple(self.rules))

    def to_json(self) -> str:
        """The recipe as JSON text that `from_json` reads back.

        Raises:
            RecipeError: An observer is given as an object; JSON takes names.
        """
        rules = [_to_fields(rule) for rule in self.rules]
        return json.dumps({**_to_fields(self), "rules": rules}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads what `to_json` writes.

        Raises:
            RecipeError: Not JSON, or a field or mode that does not exist.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(f"the recipe is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise RecipeError(
                f"a recipe is a JSON object. Received: {type(content).__name__} {text[:80]!r}"
            )
        if not isinstance(content.get("rules", []), list):
            raise RecipeError(f"'rules' must be a list. Received: {content['rules']!r}")
        content["rules"] = tuple(_from_fields(Rule, rule) for rule in content.get("rules", ()))
        recipe: Recipe = _from_fields(cls, content)
        return recipe


def _to_fields(owner: Rule | Recipe) -> dict[str, Any]:
    values = {f.name: getattr(owner, f.name) for f in fields(owner)}
    if not isinstance(values["observer"], str | None):
        raise RecipeError(f"a recipe in JSON names its observers. Received: {values['observer']!r}")
    return {k: v.value if isinstance(v, Mode) else v for k, v in values.items()}


def _from_fields(kind: type[Any], content: object) -> Any:
    """Builds a `Rule` or `Recipe` from a JSON object, naming what does not fit."""
    if not isinstance(content, Mapping):
        raise RecipeError(f"a {kind.__name__.lower()} is a JSON object. Received: {content!r}")
    known = kind.__dataclass_fields__
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise RecipeError(
            f"a {kind.__name__.lower()} has no field {unknown[0]!r}; it has {', '.join(known)}"
        )
    values = dict(content)
    for name in {"mode", "default"} & set(values):
        values[name] = _mode(values[name])
    return kind(**values)


def _check_text(owner: Rule | Recipe, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str):
            raise RecipeError(f"{type(owner).__name__}.{name} must be text. Received: {value!r}")


def _check_mode(owner: Rule | Recipe, name: str) -> None:
    value = getattr(owner, name)
    if not isinstance(value, Mode):
        raise RecipeError(
            f"{type(owner).__name__}.{name} must be a Mode, for example Mode.FLOAT. "
            f"Received: {value!r}"
        )


def _mode(value: object) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        modes = ", ".join(mode.value for mode in Mode)
        raise RecipeError(f"no mode is called {value!r}; the modes are {modes}") from None


INT8 = Recipe("int8")
"""Every op in static int8; an op that has no int8 form is an error."""

PRESETS: dict[str, Recipe] = {"int8": INT8, "auto": INT8}
"""Recipes by name."""


def as_recipe(recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """A recipe from a preset's name, a JSON file's path or a `Recipe`.

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
        return Recipe.from_json(Path(recipe).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"recipe {str(recipe)!r} is neither a preset ({', '.join(PRESETS)}) "
            f"nor a readable JSON file: {error}"
        ) from None
