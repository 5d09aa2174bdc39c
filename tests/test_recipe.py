"""Recipes: JSON and back, which rule wins, and what is said of a recipe that makes no sense."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.calibrate.observers import MSE, NAMED, Percentile
from edgeq.errors import RecipeError
from edgeq.recipe import INT8, PRESETS, Mode, Recipe, Rule, as_recipe

FLOAT_HEAD = Rule(layer="head", mode=Mode.FLOAT, reason="it loses two points")

texts = st.text(max_size=20)
modes = st.sampled_from(Mode)
observers = st.sampled_from(sorted(NAMED))
rules = st.builds(
    Rule,
    layer=texts.map(re.escape),
    op=texts,
    mode=modes,
    reason=texts,
    observer=st.none() | observers,
)
recipes = st.builds(
    Recipe,
    name=texts,
    rules=st.lists(rules, max_size=4).map(tuple),
    default=modes,
    observer=observers,
)


@given(recipes)
def test_json_round_trip(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_absent_fields_take_their_defaults() -> None:
    read = Recipe.from_json('{"rules": [{"op": "SOFTMAX", "mode": "float"}]}')
    assert read == Recipe("int8", (Rule(op="SOFTMAX", mode=Mode.FLOAT),), Mode.STATIC_INT8)
    assert (read.observer, read.rules[0].observer) == ("minmax", None)


def test_modes_are_written_by_name() -> None:
    fields = json.loads(Recipe(rules=(FLOAT_HEAD,), default=Mode.STATIC_INT8).to_json())
    assert (fields["rules"][0]["mode"], fields["default"]) == ("float", "static_int8")


def test_rules_given_as_a_list_are_the_same_recipe() -> None:
    assert Recipe("r", [FLOAT_HEAD]) == Recipe("r", (FLOAT_HEAD,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "recipe", [Recipe(observer=MSE()), Recipe(rules=(Rule(observer=Percentile(percentile=99.0)),))]
)
def test_json_names_its_observers(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"a recipe in JSON names its observers\. Received: "):
        recipe.to_json()


def test_rules_with_observers_of_any_kind_can_be_in_a_set() -> None:
    """An observer may hold arrays, which have no hash."""
    assert len({Rule(observer=MSE()), Rule(observer=MSE()), Rule(observer="mse")}) == 2
    assert hash(Recipe(observer=MSE())) == hash(Recipe(observer=MSE()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the recipe cannot be read: it is not JSON: Expecting property name"),
        ("[]", "a recipe is a JSON object. Received: list []"),
        ('{"rules": {}}', "'rules' must be a list. Received: {}"),
        ('{"rules": null}', "'rules' must be a list. Received: None"),
        ('{"rules": ["head"]}', "a rule is a JSON object. Received: 'head'"),
        ('{"rule": []}', "a recipe has no field 'rule'; it has name, rules, default, observer, "),
        (
            '{"rules": [{"layers": "x"}]}',
            "a rule has no field 'layers'; it has layer, op, mode, reason, observer, strict",
        ),
        (
            '{"rules": [{"mode": "int4"}]}',
            "no mode is called 'int4'; the modes are auto, static_int8, int16x8, dynamic_int8, ",
        ),
        ('{"default": ["float"]}', "no mode is called ['float']"),
        ('{"strict": "no"}', "Recipe.strict must be one of (None, False, True). Received: 'no'"),
        (
            '[{"regex": ".*"}]',
            "an entry of ai-edge-quantizer's recipe has 'regex', 'operation', 'algorithm_key' and "
            "'op_config'; {'regex': '.*'} does not: 'algorithm_key'",
        ),
        ('["all"]', "an entry of ai-edge-quantizer's recipe has"),
        ('{"name": 7}', "Recipe.name must be text. Received: 7"),
        ('{"rules": [{"reason": null}]}', "Rule.reason must be text. Received: None"),
        (
            '{"rules": [{"layer": "head("}]}',
            "Rule.layer must be a regular expression: missing ), unterminated subpattern at "
            "position 4. Received: 'head('",
        ),
    ],
)
def test_json_that_is_no_recipe(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Rule, {"mode": "float"}, "Rule.mode must be a Mode, for example Mode.FLOAT. Received: "),
        (Rule, {"layer": None}, "Rule.layer must be text. Received: None"),
        (Rule, {"op": ["ADD"]}, "Rule.op must be text. Received: ['ADD']"),
        (Recipe, {"default": "float"}, "Recipe.default must be a Mode"),
        (Rule, {"symmetric": 0}, "Rule.symmetric must be true or false. Received: 0"),
        (
            Rule,
            {"symmetric": False},
            "Rule.symmetric=False is for the modes weight_int8, weight_int4, weight_int2, whose "
            "weights become float before any op but a lookup in a table computes with them: "
            "kernels that compute with integer weights take the zero point 0 alone. Received: "
            "mode 'static_int8'",
        ),
        (
            Recipe,
            {"default": Mode.DYNAMIC_INT4, "symmetric": False},
            "Recipe.symmetric=False is for the modes weight_int8, weight_int4, weight_int2, ",
        ),
        (Recipe, {"rules": FLOAT_HEAD}, "Recipe.rules must be a tuple of Rule. Received: Rule("),
        (Recipe, {"rules": ("head",)}, "Recipe.rules must hold Rule values. Received: 'head'"),
    ],
)
def test_values_that_make_no_recipe(kind: type, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        kind(**fields)


@pytest.mark.parametrize(
    ("rule", "op", "layer", "matches"),
    [
        (Rule(), "ADD", "anything", True),
        (Rule(layer="head"), "ADD", "model.head.conv", True),
        (Rule(layer="^head"), "ADD", "model.head.conv", False),
        (Rule(layer="head|stem"), "CONV_2D", "stem.0", True),
        (Rule(layer=r"\.1$"), "ADD", "block.10", False),
        (Rule(op="SOFTMAX"), "SOFTMAX", "head", True),
        (Rule(op="SOFTMAX"), "LOG_SOFTMAX", "head", False),
        (Rule(layer="head", op="ADD"), "ADD", "stem", False),
        (Rule(layer="head", op="ADD"), "MUL", "head", False),
    ],
)
def test_what_a_rule_matches(rule: Rule, op: str, layer: str, matches: bool) -> None:
    assert rule.matches(op, layer) is matches


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (FLOAT_HEAD, "layer='head' op='*' mode='float' (it loses two points)"),
        (Rule(op="ADD"), "layer='' op='ADD' mode='static_int8'"),
    ],
)
def test_describe(rule: Rule, text: str) -> None:
    assert rule.describe() == text


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_one_mode_for_every_op(name: str) -> None:
    preset = as_recipe(name)
    expected = Mode.STATIC_INT8 if name == "int8" else Mode(name)
    assert (preset.name, preset.rules, preset.default) == (name, (), expected)
    assert preset.strict is None


def test_the_default_is_a_rule_like_any_other() -> None:
    settings = {"per_channel": False, "symmetric": False, "strict": False}
    recipe = Recipe("r", (FLOAT_HEAD,), Mode.WEIGHT_INT4, **settings)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.rule_for("ADD", "head.add") is FLOAT_HEAD
    rule = recipe.rule_for("ADD", "stem")
    assert rule.mode is Mode.WEIGHT_INT4
    assert {name: getattr(rule, name) for name in settings} == settings


def test_yaml_says_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\nrules:\n  - {layer: head, mode: float, reason: sensitive}\n")
    rule = Rule("head", mode=Mode.FLOAT, reason="sensitive")
    assert as_recipe(path) == Recipe("mine", (rule,))
    path.write_text("rules: [")
    with pytest.raises(
        RecipeError, match="the recipe cannot be read: it is not YAML: while parsing"
    ):
        as_recipe(path)


PEER_RECIPES = {
    "static_wi8_ai8": Mode.STATIC_INT8,
    "static_wi8_ai16": Mode.INT16X8,
    "dynamic_wi8_afp32": Mode.DYNAMIC_INT8,
    "dynamic_wi4_afp32": Mode.DYNAMIC_INT4,
    "weight_only_wi8_afp32": Mode.WEIGHT_INT8,
    "weight_only_wi4_afp32": Mode.WEIGHT_INT4,
}


@pytest.mark.parametrize("name", sorted(PEER_RECIPES))
def test_recipes_of_ai_edge_quantizer_are_read(name: str, tmp_path: Path) -> None:
    peer = pytest.importorskip("ai_edge_quantizer.recipe")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(getattr(peer, name)()))
    rule = as_recipe(path).rule_for("FULLY_CONNECTED", "encoder.0")
    assert (rule.mode, rule.per_channel, rule.strict) == (PEER_RECIPES[name], True, False)


def test_the_last_entry_of_ai_edge_quantizer_wins() -> None:
    entries = [
        {"regex": ".*", "operation": "*", "algorithm_key": "min_max_uniform_quantize",
         "op_config": {"weight_tensor_config": {"num_bits": 8, "granularity": "TENSORWISE"},
                       "compute_precision": "INTEGER"}},
        {"regex": "head", "operation": "CONV_2D", "algorithm_key": "no_quantize"},
        {"regex": ".*", "operation": "INPUT", "algorithm_key": "no_quantize"},
    ]  # fmt: skip
    recipe = Recipe.from_json(json.dumps(entries))
    assert recipe.rule_for("CONV_2D", "head.0").mode is Mode.FLOAT
    body = recipe.rule_for("CONV_2D", "stem")
    assert (body.mode, body.per_channel) == (Mode.DYNAMIC_INT8, False)
    assert len(recipe.rules) == 2


def test_zero_points_of_weights_are_read_from_ai_edge_quantizers_recipes() -> None:
    entry = {"regex": ".*", "operation": "*", "algorithm_key": "min_max_uniform_quantize",
             "op_config": {"weight_tensor_config": {"num_bits": 4, "symmetric": False},
                           "compute_precision": "FLOAT"}}  # fmt: skip
    rule = Recipe.from_json(json.dumps([entry])).rules[0]
    assert (rule.mode, rule.symmetric) == (Mode.WEIGHT_INT4, False)


def test_bits_that_no_mode_has_are_refused() -> None:
    entry = {"regex": ".*", "operation": "*", "algorithm_key": "min_max_uniform_quantize",
             "op_config": {"weight_tensor_config": {"num_bits": 3}}}  # fmt: skip
    with pytest.raises(RecipeError, match="no mode has 3-bit weights with float activations"):
        Recipe.from_json(json.dumps([entry]))


def test_a_recipe_passes_through_and_a_file_is_read(tmp_path: Path) -> None:
    recipe = Recipe("zü", (FLOAT_HEAD,))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(json.loads(recipe.to_json()), ensure_ascii=False), "utf-8")
    assert as_recipe(recipe) is recipe
    assert as_recipe(path) == as_recipe(str(path)) == recipe


def test_what_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    cases: list[tuple[object, str]] = [
        (7, "recipe must be a preset's name, a Recipe or a JSON file. Received: int"),
        ("int9", r"'int9' is neither a preset \(auto, int8, .*\) nor a readable JSON file"),
        (tmp_path, "neither a preset .* nor a readable JSON file: .*directory"),
        (tmp_path / "binary.json", "neither a preset .* nor a readable JSON file"),
    ]
    for recipe, message in cases:
        with pytest.raises(RecipeError, match=message):
            as_recipe(recipe)  # type: ignore[arg-type]


def test_layers_are_kept_float_whatever_other_rules_say() -> None:
    base = Recipe("mine", rules=(Rule(layer="head", mode=Mode.INT16X8),))
    found = base.keeping_float("head|stem", reason="sensitive").rule_for("CONV_2D", "head.conv")
    assert (found.mode, found.reason) == (Mode.FLOAT, "sensitive")
    assert base.rules == (Rule(layer="head", mode=Mode.INT16X8),)
    with pytest.raises(RecipeError, match="regular expression"):
        INT8.keeping_float("(")
