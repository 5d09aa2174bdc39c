"""`Recipe`: ordered rules, to and from JSON and YAML."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edgeq.errors import RecipeError
from edgeq.foreign.documents import DocumentError, parse_json, parse_yaml, shortened
from edgeq.recipe.layer_rule import Rule
from edgeq.recipe.mode import Mode
from edgeq.recipe.peer_recipe import peer_rules
from edgeq.recipe.weight_scheme import (
    WeightScheme,
    check_choice,
    check_flags,
    check_mode,
    check_scheme,
    check_text,
)


@dataclass(frozen=True)
class Recipe(WeightScheme):
    """Ordered rules; the first match wins, and an op that none matches gets `default`.

    Its own scheme of weights is for ops that no rule matches.

    Attributes:
        name: What the report calls it.
        rules: Rules in order. One that matches no op of the model is an error.
        default: Mode of every other op.
        observer: How the ranges of all other tensors are found, as in `Rule`.
        strict: As in `Rule`, for ops that no rule matches.
        equalize: Whether channels of very different ranges are scaled before they share the scale
            of a tensor, where ops are in static int8; weights and biases take the scales up. Layers
            whose weights are rounded to nearest stay as they are.
    """

    name: str = "int8"
    rules: tuple[Rule, ...] = ()
    default: Mode = Mode.STATIC_INT8
    observer: object = field(default="minmax", hash=False)
    strict: bool | None = None
    equalize: bool = True

    def __post_init__(self) -> None:
        check_text(self, "name")
        check_flags(self, "equalize")
        check_mode(self, "default")
        check_choice(self, "strict", (None, False, True))
        check_scheme(self, self.default)
        if not isinstance(self.rules, tuple | list):
            raise RecipeError(f"Recipe.rules must be a tuple of Rule. Received: {self.rules!r}")
        wrong = [rule for rule in self.rules if not isinstance(rule, Rule)]
        if wrong:
            raise RecipeError(f"Recipe.rules must hold Rule values. Received: {wrong[0]!r}")
        object.__setattr__(self, "rules", tuple(self.rules))

    def rule_for(self, op: str, layer: str) -> Rule:
        """The first rule that matches an op, or one made of the recipe's defaults."""
        found = next((rule for rule in self.rules if rule.matches(op, layer)), None)
        return found or self._default_rule

    @functools.cached_property
    def _default_rule(self) -> Rule:
        return Rule(
            mode=self.default,
            reason="the recipe's default",
            observer=self.observer,
            strict=self.strict,
            **vars(self.weights),
        )

    def keeping_float(self, layer: str, reason: str = "kept float on request") -> Recipe:
        """The recipe with some layers left float, whatever its other rules say.

        Args:
            layer: Regular expression searched for in the layer path, for example `"classifier"`.
            reason: Why; the report repeats it beside every op left float.

        Raises:
            RecipeError: `layer` is no regular expression.
        """
        return replace(self, rules=(Rule(layer=layer, mode=Mode.FLOAT, reason=reason), *self.rules))

    def with_rounding(self, rounding: str) -> Recipe:
        """The recipe with all weights rounded in one way."""
        rules = tuple(replace(rule, rounding=rounding) for rule in self.rules)
        return replace(self, rules=rules, rounding=rounding)

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
            content = parse_json(text)
        except DocumentError as error:
            raise RecipeError(f"the recipe cannot be read: {error}") from None
        return cls._from_plain(content)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """As `from_json`, for the same fields in YAML.

        Raises:
            RecipeError: Not YAML, a field or mode that does not exist, or PyYAML is missing.
        """
        try:
            content = parse_yaml(text)
        except ImportError:
            raise RecipeError(
                "a recipe in YAML needs PyYAML: pip install pyyaml (or write it as JSON)"
            ) from None
        except DocumentError as error:
            raise RecipeError(f"the recipe cannot be read: {error}") from None
        return cls._from_plain(content)

    @classmethod
    def _from_plain(cls, content: object) -> Recipe:
        if isinstance(content, list) and content:
            return cls("ai-edge-quantizer's", peer_rules(content), default=Mode.FLOAT)
        if not isinstance(content, dict):
            raise RecipeError(
                f"a recipe is a JSON object. Received: {type(content).__name__} "
                f"{shortened(content)}"
            )
        if not isinstance(content.get("rules", []), list):
            raise RecipeError(f"'rules' must be a list. Received: {shortened(content['rules'])}")
        content["rules"] = tuple(
            _rule(rule, place) for place, rule in enumerate(content.get("rules", ()))
        )
        recipe: Recipe = _from_fields(cls, content)
        return recipe


def _rule(content: object, place: int) -> Rule:
    try:
        made: Rule = _from_fields(Rule, content)
    except RecipeError as error:
        raise RecipeError(f"rules[{place}]: {error}") from None
    return made


def _to_fields(owner: Rule | Recipe) -> dict[str, Any]:
    values = {name: getattr(owner, name) for name in _field_names(type(owner))}
    if not isinstance(values["observer"], str | None):
        raise RecipeError(f"a recipe in JSON names its observers. Received: {values['observer']!r}")
    return {k: v.value if isinstance(v, Mode) else v for k, v in values.items()}


def _field_names(kind: type[Rule | Recipe]) -> list[str]:
    """The fields of a rule or recipe, those of the weights' scheme behind its own."""
    scheme = [f.name for f in fields(WeightScheme)]
    return [f.name for f in fields(kind) if f.name not in scheme] + scheme


def _from_fields(kind: type[Any], content: object) -> Any:
    """Builds a `Rule` or `Recipe` from a JSON object, naming what does not fit."""
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"a {kind.__name__.lower()} is a JSON object. Received: {shortened(content)}"
        )
    known = _field_names(kind)
    unknown = sorted(set(content) - set(known), key=str)
    if unknown:
        raise RecipeError(
            f"a {kind.__name__.lower()} has no field {shortened(unknown[0])}; "
            f"it has {', '.join(known)}"
        )
    values = dict(content)
    for name in {"mode", "default"} & set(values):
        values[name] = _mode(values[name])
    if not isinstance(values.get("observer"), str | None):
        raise RecipeError(f"an observer is a name. Received: {shortened(values['observer'])}")
    return kind(**values)


def _mode(value: object) -> Mode:
    try:
        return Mode(value)
    except (ValueError, TypeError):
        modes = ", ".join(mode.value for mode in Mode)
        raise RecipeError(f"no mode is called {shortened(value)}; the modes are {modes}") from None
