"""A plan written as a recipe gives the same choices again."""

from __future__ import annotations

import numpy as np
from one_op import SAME, OneOp, Step, Value

from edgeq.export.plan.choices import Choice, choose
from edgeq.export.search.as_rules import recipe_of
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe

KERNEL = np.random.default_rng(0).normal(size=(4, 3, 3, 4)).astype(np.float32)


def convolution(name: str, source: str) -> Step:
    options = {"padding": SAME, "strideH": 1, "strideW": 1}
    operands = (source, KERNEL, np.zeros(4, np.float32))
    return Step("CONV_2D", operands, {name: Value((1, 8, 8, 4))}, options)


def model_of(*names: str) -> LiteModel:
    sources = ("image", *names[:-1])
    steps = tuple(convolution(name, source) for name, source in zip(names, sources, strict=True))
    case = OneOp("convolutions", {"image": Value((1, 8, 8, 4))}, steps)
    return LiteModel(case.build(), "tflite")


def test_a_recipe_gives_the_choices_again() -> None:
    model = model_of("stem", "body(1)", "body(1).more", "head", "tail")
    modes = [Mode.STATIC_INT8, Mode.FLOAT, Mode.STATIC_INT8, Mode.DYNAMIC_INT8, Mode.WEIGHT_INT8]
    choices = {index: Choice(mode) for index, mode in enumerate(modes)}
    recipe = recipe_of(model, choices, "mine")
    assert (recipe.name, recipe.default, len(recipe.rules)) == ("mine", Mode.STATIC_INT8, 3)
    again = choose(model, Recipe.from_json(recipe.to_json()))
    assert [choice.mode for choice in again.values()] == modes


def test_ops_of_one_layer_get_the_mode_that_loses_least() -> None:
    model = model_of("stem", "body", "body#1", "head")
    modes = [Mode.STATIC_INT8, Mode.STATIC_INT8, Mode.WEIGHT_INT8, Mode.STATIC_INT8]
    recipe = recipe_of(model, {i: Choice(mode) for i, mode in enumerate(modes)}, "mine")
    found = [choice.mode for choice in choose(model, recipe).values()]
    assert found == [Mode.STATIC_INT8, Mode.WEIGHT_INT8, Mode.WEIGHT_INT8, Mode.STATIC_INT8]
