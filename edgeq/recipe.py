"""Recipes: which mode each layer gets. Plain values, to and from JSON; knows no model.

A recipe is an ordered list of rules; the first that matches an op decides its mode.
"""

from __future__ import annotations

import enum
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeq.errors import RecipeError
from edgeq.qtypes import DType


class Mode(enum.Enum):
    """A way of computing one op.

    Static modes compute in integers whose scales calibration found. Dynamic modes store the weight
    as integers and quantize the activation anew at each run. Weight modes store the weight as
    integers and compute in float. Ops without a weight compute in float in both.
    """

    AUTO = "auto"
    STATIC_INT8 = "static_int8"
    INT16X8 = "int16x8"
    DYNAMIC_INT8 = "dynamic_int8"
    DYNAMIC_INT4 = "dynamic_int4"
    WEIGHT_INT8 = "weight_int8"
    WEIGHT_INT4 = "weight_int4"
    WEIGHT_INT2 = "weight_int2"
    FLOAT16 = "float16"
    FLOAT = "float"

    @property
    def is_static(self) -> bool:
        """Whether activations are integers with scales from calibration."""
        return self in (Mode.STATIC_INT8, Mode.INT16X8)

    @property
    def is_dynamic(self) -> bool:
        """Whether activations are quantized at each run."""
        return self in (Mode.DYNAMIC_INT8, Mode.DYNAMIC_INT4)

    @property
    def is_weight_only(self) -> bool:
        """Whether weights are integers that become float before anything is computed."""
        return self in _WEIGHT_ONLY

    @property
    def activation_dtype(self) -> DType:
        """Type of the activations in a static mode."""
        return DType.INT16 if self is Mode.INT16X8 else DType.INT8

    @property
    def weight_dtype(self) -> DType | None:
        """Type that weights are stored in; None where they are floating point."""
        return _WEIGHT_DTYPES.get(self)


_WEIGHT_ONLY = (Mode.WEIGHT_INT8, Mode.WEIGHT_INT4, Mode.WEIGHT_INT2)

_WEIGHT_DTYPES = {
    Mode.STATIC_INT8: DType.INT8,
    Mode.INT16X8: DType.INT8,
    Mode.DYNAMIC_INT8: DType.INT8,
    Mode.DYNAMIC_INT4: DType.INT4,
    Mode.WEIGHT_INT8: DType.INT8,
    Mode.WEIGHT_INT4: DType.INT4,
    Mode.WEIGHT_INT2: DType.INT2,
}


@dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """How a weight becomes integers.

    Attributes:
        per_channel: Whether weights get a scale for each channel, or one for all.
        symmetric: Whether the zero point of weights is 0; False lets each scale of a weight mode
            have the zero point that loses least.
        block_size: 32, 64, 128 or 256 gives so many neighbours in a row of a dynamic int4
            FULLY_CONNECTED weight a scale of their own; 0 is one scale for the row.
        rounding: `"gptq"` rounds weights so that what they compute on the representative data
            stays, and moves biases by what is left on average; `"nearest"` rounds each number for
            itself.
    """

    per_channel: bool = True
    symmetric: bool = True
    block_size: int = 0
    rounding: str = "gptq"

    @property
    def weights(self) -> WeightScheme:
        """The scheme alone, of a rule or recipe that says more."""
        return WeightScheme(**{f.name: getattr(self, f.name) for f in fields(WeightScheme)})


DEFAULT_SCHEME = WeightScheme()


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
        strict: Whether it is an error if the rule matches no op, or one that the mode has no form
            for; False leaves such ops float, with that as the reason.
    """

    layer: str = ""
    op: str = "*"
    mode: Mode = Mode.STATIC_INT8
    reason: str = ""
    observer: object = field(default=None, hash=False)  # it may hold arrays, which have no hash
    strict: bool = True

    def __post_init__(self) -> None:
        _check_text(self, "layer", "op", "reason")
        _check_mode(self, "mode")
        _check_flags(self, "strict")
        _check_scheme(self, self.mode)
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
class Recipe(WeightScheme):
    """Ordered rules; the first match wins, and an op that none matches gets `default`.

    Its own scheme of weights is for ops that no rule matches.

    Attributes:
        name: What the report calls it.
        rules: Rules in order. One that matches no op of the model is an error.
        default: Mode of every other op.
        observer: How the ranges of all other tensors are found, as in `Rule`.
        strict: As in `Rule`, for ops that no rule matches.
    """

    name: str = "int8"
    rules: tuple[Rule, ...] = ()
    default: Mode = Mode.STATIC_INT8
    observer: object = field(default="minmax", hash=False)
    strict: bool = True

    def __post_init__(self) -> None:
        _check_text(self, "name")
        _check_mode(self, "default")
        _check_flags(self, "strict")
        _check_scheme(self, self.default)
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
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(f"the recipe is not JSON: {error}") from None
        return cls._from_plain(content)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """As `from_json`, for the same fields in YAML.

        Raises:
            RecipeError: Not YAML, a field or mode that does not exist, or PyYAML is missing.
        """
        try:
            import yaml
        except ImportError:
            raise RecipeError(
                "a recipe in YAML needs PyYAML: pip install pyyaml (or write it as JSON)"
            ) from None
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"the recipe is not YAML: {' '.join(str(error).split())}") from None
        return cls._from_plain(content)

    @classmethod
    def _from_plain(cls, content: object) -> Recipe:
        if isinstance(content, list) and content:
            return _from_peer(content)
        if not isinstance(content, dict):
            raise RecipeError(
                f"a recipe is a JSON object. Received: {type(content).__name__} "
                f"{str(content)[:80]!r}"
            )
        if not isinstance(content.get("rules", []), list):
            raise RecipeError(f"'rules' must be a list. Received: {content['rules']!r}")
        content["rules"] = tuple(_from_fields(Rule, rule) for rule in content.get("rules", ()))
        recipe: Recipe = _from_fields(cls, content)
        return recipe


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
        raise RecipeError(f"a {kind.__name__.lower()} is a JSON object. Received: {content!r}")
    known = _field_names(kind)
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


def _check_flags(owner: Rule | Recipe, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise RecipeError(
                f"{type(owner).__name__}.{name} must be true or false. Received: {value!r}"
            )


def _check_scheme(owner: Rule | Recipe, mode: Mode) -> None:
    _check_flags(owner, "per_channel", "symmetric")
    _check_choice(owner, "block_size", BLOCK_SIZES)
    _check_choice(owner, "rounding", ROUNDINGS)
    if not owner.symmetric and not mode.is_weight_only:
        raise RecipeError(
            f"{type(owner).__name__}.symmetric=False is for the modes "
            f"{', '.join(m.value for m in _WEIGHT_ONLY)}, whose weights become float before any op "
            "but a lookup in a table computes with them: kernels that compute with integer weights "
            f"take the zero point 0 alone. Received: mode {mode.value!r}"
        )


BLOCK_SIZES = (0, 32, 64, 128, 256)
ROUNDINGS = ("gptq", "nearest")


def _check_choice(owner: Rule | Recipe, name: str, choices: Sequence[object]) -> None:
    value = getattr(owner, name)
    if value not in choices:
        raise RecipeError(
            f"{type(owner).__name__}.{name} must be one of {tuple(choices)}. Received: {value!r}"
        )


def _mode(value: object) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        modes = ", ".join(mode.value for mode in Mode)
        raise RecipeError(f"no mode is called {value!r}; the modes are {modes}") from None


INT8 = Recipe("int8")
"""Every op in static int8; an op that has no int8 form is an error."""

AUTO = Recipe("auto", default=Mode.AUTO, strict=False)
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
        text = Path(recipe).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"recipe {str(recipe)!r} is neither a preset ({', '.join(PRESETS)}) "
            f"nor a readable JSON file: {error}"
        ) from None
    if Path(recipe).suffix in (".yaml", ".yml"):
        return Recipe.from_yaml(text)
    return Recipe.from_json(text)


def _from_peer(content: list[Any]) -> Recipe:
    """A recipe of ai-edge-quantizer: a list in which the last match wins, so it is turned round.

    Source:
        `recipe_manager.py` of ai-edge-quantizer 0.10: `regex`, `operation`, `algorithm_key` and
        `op_config` of each entry.
    """
    rules = [_peer_rule(e) for e in reversed(content) if not _is_port(e)]
    return Recipe("ai-edge-quantizer's", tuple(rules), default=Mode.FLOAT)


def _is_port(entry: Any) -> bool:
    """Whether an entry speaks of the model's inputs or outputs, whose type `export` is told."""
    return isinstance(entry, Mapping) and entry.get("operation") in ("INPUT", "OUTPUT")


def _peer_rule(entry: Any) -> Rule:
    try:
        name = str(entry.get("operation", "*"))
        op = "*" if name in ("*", "ALL_SUPPORTED") else name
        layer = str(entry.get("regex", ""))
        return Rule(
            "" if layer == ".*" else layer,
            op,
            _peer_mode(entry),
            f"operation {name} of the recipe",
            per_channel=_peer_granularity(entry) != "TENSORWISE",
            symmetric=bool(_peer_weight(entry).get("symmetric", True)),
            block_size=int(_peer_granularity(entry).rpartition("BLOCKWISE_")[2])
            if "BLOCKWISE" in _peer_granularity(entry)
            else 0,
            strict=False,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise RecipeError(
            f"an entry of ai-edge-quantizer's recipe has 'regex', 'operation', 'algorithm_key' and "
            f"'op_config'; {entry!r:.80} does not: {error}"
        ) from None


def _peer_granularity(entry: Mapping[str, Any]) -> str:
    return str(_peer_weight(entry).get("granularity", "CHANNELWISE"))


def _peer_weight(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return (entry.get("op_config") or {}).get("weight_tensor_config") or {}


def _peer_mode(entry: Mapping[str, Any]) -> Mode:
    if entry["algorithm_key"] == "no_quantize":
        return Mode.FLOAT
    config = entry["op_config"]
    weight = _peer_weight(entry)
    if entry["algorithm_key"] == "float_casting":
        return Mode.FLOAT16
    bits, activation = weight.get("num_bits", 8), config.get("activation_tensor_config")
    if activation:
        mode = {8: Mode.STATIC_INT8, 16: Mode.INT16X8}.get(activation["num_bits"])
    elif config.get("compute_precision") == "INTEGER":
        mode = {8: Mode.DYNAMIC_INT8, 4: Mode.DYNAMIC_INT4}.get(bits)
    else:
        mode = {8: Mode.WEIGHT_INT8, 4: Mode.WEIGHT_INT4, 2: Mode.WEIGHT_INT2}.get(bits)
    if mode is None or (activation and bits != 8):
        raise RecipeError(
            f"no mode has {bits}-bit weights with "
            f"{activation['num_bits'] if activation else 'float'} activations; the modes are "
            f"{', '.join(m.value for m in Mode)}"
        )
    return mode
