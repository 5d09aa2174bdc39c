"""Recipes, calibrations, settings and baselines from strangers: bounded, strict, with the place."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgeq
from edgeq.calibrate.calibration import Calibration
from edgeq.data.readers import open_data, read_settings
from edgeq.errors import DataError, EdgeqError, ModelError, RecipeError
from edgeq.export.search.costs import Costs
from edgeq.model import LiteModel
from edgeq.recipe import Recipe, as_recipe
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import Facts

NESTED = "[" * 100_000 + "]" * 100_000
LONGEST_MESSAGE = 1000

ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

RECIPES: dict[str, tuple[str, str]] = {
    "nested": (NESTED, "nested more than 50 levels deep"),
    "nested a little less": ("[" * 60 + "]" * 60, "nested more than 50 levels deep"),
    "a long integer": ('{"block_size": ' + "9" * 6000 + "}", "an integer of 6000 digits"),
    "text for a number": ('{"block_size": "32"}', "block_size must be one of"),
    "a float for a number": ('{"block_size": 32.0}', "block_size must be one of"),
    "a number for a flag": ('{"strict": 1}', "strict must be one of"),
    "an object for an observer": ('{"observer": {"a": 1}}', "an observer is a name"),
    "a list for a mode": ('{"default": ["int8"]}', "no mode is called ['int8']"),
    "the place of a rule": ('{"rules": [{"mode": "float"}, {"mode": "no"}]}', "rules[1]: no mode"),
    "a long name": (json.dumps({"x" * 10**6: 1}), "has no field 'xxx"),
    "an expression that is none": ('{"rules": [{"layer": "("}]}', "rules[0]: Rule.layer must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_that_are_none(case: str, tmp_path: Path) -> None:
    text, what = RECIPES[case]
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(RecipeError) as told:
        as_recipe(path)
    assert what in str(told.value)
    assert len(str(told.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ALIASES, "line 2 has the alias *a: write it out"),
        (NESTED, "nested more than 50 levels deep"),
        ("block_size: " + "9" * 6000, "it is not YAML: Exceeds the limit"),
        ("1: a\nz: b", "a recipe has no field"),
        ("? [a]\n: b", "it is not YAML"),
        ("when: 2020-99-99", "it is not YAML"),
    ],
    ids=["aliases", "nested", "integer", "mixed keys", "a list as a key", "a date"],
)
def test_yaml_that_is_none(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(RecipeError) as told:
        as_recipe(path)
    with pytest.raises(DataError):
        read_settings(path)
    assert time.monotonic() - start < 30
    assert what in str(told.value)
    assert len(str(told.value)) < LONGEST_MESSAGE


def test_files_that_never_end_are_read_in_part() -> None:
    with pytest.raises(RecipeError, match="more than 1,048,576 bytes"):
        as_recipe("/dev/zero")
    with pytest.raises(DataError, match="more than 268,435,456 bytes"):
        Calibration.load("/dev/zero")
    with pytest.raises(RecipeError, match="embedded null byte"):
        as_recipe("a\0b")


TENSOR = {"observer": "MinMax", "low": -1.0, "high": 1.0}
HISTOGRAM = {"shape": [1 << 40], "dtype": "int64", "filled": {}}
CALIBRATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "samples below 0": ({"samples": -5}, "samples is -5"),
    "beyond float32": ({"tensors": {"0": {**TENSOR, "high": 1e308}}}, "the range -1.0 to 1e+308"),
    "true for a number": ({"tensors": {"0": {**TENSOR, "high": True}}}, "the range -1.0 to True"),
    "a tensor below 0": ({"tensors": {"-1": TENSOR}}, "no tensor has the number -1"),
    "a huge array": (
        {"tensors": {"0": {"observer": "Histogram", "exponent": 1, "counts": HISTOGRAM}}},
        "an array of [1099511627776]",
    ),
    "text for an extreme": (
        {"tensors": {"0": {**TENSOR, "extremes": [["a"], [1.0]]}}}, "the extremes of tensor 0",
    ),
    "a number for a flag": (
        {"beyond": {"0": {"low": 7, "high": False, "nan": False}}}, "tensor 0 has beside its range",
    ),
    "a top beyond float32": ({"tops": {"0": 1e300}}, "tensor 0 has the top 1e+300"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALIBRATIONS)
def test_calibrations_that_no_run_can_have_made(
    case: str, demo_calibration: Calibration, tmp_path: Path
) -> None:
    change, what = CALIBRATIONS[case]
    path = demo_calibration.save(tmp_path / "calibration.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError) as told:
        Calibration.load(path)
    assert what in str(told.value)


def test_a_calibration_of_tensors_that_are_not_there(
    demo_calibration: Calibration, demo_model: LiteModel, demo_images: np.ndarray, tmp_path: Path
) -> None:
    path = demo_calibration.save(tmp_path / "calibration.json")
    content = json.loads(path.read_text())
    content["tensors"]["99999"] = TENSOR
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"the calibration names tensor 99999, and the model has"):
        edgeq.export(demo_model.tflite, demo_images, calibration=path, recipe="int8")


def plain(depth: int = 3) -> st.SearchStrategy[Any]:
    """Values of JSON, some of them extreme."""
    leaves = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
        | st.sampled_from([10**30, 1e308, -1, "int8", "minmax", "float", "32"])
    )  # fmt: skip
    keys = st.text(max_size=4) | st.sampled_from(
        ["rules", "default", "mode", "layer", "op", "observer", "strict", "block_size", "tensors",
         "samples", "model", "low", "high", "extremes", "regex", "algorithm_key", "op_config",
         "size", "mean", "int8", "float32", "sqnr_db", "metrics", "float_ops"]
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=depth * 4,
    )  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(content=plain())
def test_any_document_is_read_or_refused(content: Any, tmp_path: Path) -> None:
    text = json.dumps(content)
    path = tmp_path / "document.json"
    whole = {"format": "edgeq calibration", "version": 2, **(
        content if isinstance(content, dict) else {"tensors": content}
    )}  # fmt: skip
    path.write_text(json.dumps(whole))
    reads = (
        lambda: Recipe.from_json(text),
        lambda: Recipe.from_yaml(text),
        lambda: Costs.from_json(text),
        lambda: Facts.from_json(text),
        lambda: Calibration.load(path),
        lambda: read_settings(path),
        lambda: Thresholds.of_mapping(whole),
    )
    for read in reads:
        with contextlib.suppress(EdgeqError):
            read()


@settings(max_examples=60, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(content=st.binary(max_size=60), kind=st.sampled_from(["npy", "npz", "csv", "wav", "json"]))
def test_any_data_file_is_read_or_refused(content: bytes, kind: str, tmp_path: Path) -> None:
    start = {"npy": b"\x93NUMPY\x01\x00", "npz": b"PK\x03\x04", "wav": b"RIFF"}.get(kind, b"")
    path = tmp_path / f"data.{kind}"
    path.write_bytes(start + content)
    with contextlib.suppress(EdgeqError):
        for _, sample in zip(range(3), open_data(path), strict=False):
            assert sample is not None
