"""Damaged recipes, calibrations, settings, cost tables and baselines, and who reads them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import MSE, MinMax, MovingAverage, Percentile
from edgeq.data.readers import read_settings
from edgeq.errors import EdgeqError
from edgeq.export.search.costs import WITH_DOT_PRODUCT, Costs
from edgeq.recipe import INT8, Recipe, as_recipe
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import Facts

EXTREMES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 1000, "1", [], {},
    [[]], {"1": 1}, -(2**63), 2**31, "minmax", "int8", [1, "a"], {"observer": "MSE"},
)  # fmt: skip


def _calibration() -> Any:
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    kinds = (MinMax(), MSE(), Percentile(), MovingAverage(0.9))
    made = Calibration("0" * 64, 1, {i: kind.observe(values) for i, kind in enumerate(kinds)})
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(made.save(Path(folder) / "c.json").read_text())


def _facts() -> Any:
    facts = Facts(20.0, 0.9, {"accuracy": 0.9}, {"accuracy": 0.1}, 1000, 0.5, 3, 4, ("a",))
    return json.loads(facts.to_json())


DOCUMENTS: dict[str, tuple[Callable[[], Any], Callable[[Path], object]]] = {
    "recipe": (lambda: json.loads(INT8.keeping_float("a").to_json()), as_recipe),
    "recipe in YAML": (
        lambda: json.loads(INT8.keeping_float("a").to_json()),
        lambda path: Recipe.from_yaml(path.read_text(encoding="utf-8", errors="replace")),
    ),
    "recipe of the peer": (
        lambda: [{
            "regex": ".*", "operation": "CONV_2D", "algorithm_key": "min_max_uniform_quantize",
            "op_config": {
                "weight_tensor_config": {
                    "num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE"
                },
                "compute_precision": "INTEGER",
            },
        }],
        as_recipe,
    ),
    "calibration": (_calibration, Calibration.load),
    "costs": (lambda: json.loads(WITH_DOT_PRODUCT.to_json()), Costs.load),
    "baseline": (_facts, lambda path: Facts.from_json(path.read_text(errors="replace"))),
    "settings": (lambda: {"size": "8x8", "mean": [0.5], "layout": "nhwc"}, read_settings),
    "thresholds": (
        lambda: {"min_sqnr_db": 20, "baseline": {"sqnr_db": 1}},
        lambda path: Thresholds.of_mapping(json.loads(path.read_text(errors="replace"))),
    ),
}  # fmt: skip


def read_mutant(seed: int) -> str:
    """Has a damaged document read, which must end in a value or an `EdgeqError`.

    Returns:
        The kind of document.
    """
    random = np.random.default_rng(seed)
    name = list(DOCUMENTS)[seed % len(DOCUMENTS)]
    make, read = DOCUMENTS[name]
    text = json.dumps(_changed(make(), random))
    if random.random() < 0.3 and name != "thresholds":
        text = _cut(text, random)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "document.json"
        path.write_text(text)
        with contextlib.suppress(EdgeqError):
            read(path)
    return name


def _changed(value: Any, random: np.random.Generator) -> Any:
    """With one part of it replaced, taken away, doubled or put elsewhere."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = list(value)[random.integers(len(value))]
        choice = random.integers(10)
        if choice == 0:
            return {k: v for k, v in value.items() if k != key}
        if choice == 1:
            return {**value, str(EXTREMES[random.integers(len(EXTREMES))])[:50]: value[key]}
        return {**value, key: _changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = int(random.integers(len(value)))
        if random.random() < 0.2:
            return value + value[: place + 1]
        return [_changed(v, random) if i == place else v for i, v in enumerate(value)]
    return EXTREMES[random.integers(len(EXTREMES))]


def _cut(text: str, random: np.random.Generator) -> str:
    """With characters taken out of it, or put into it."""
    place = int(random.integers(len(text)))
    inserted = ["", "[" * 500, "\x00", "*a", "&a ", "9" * 5000, "\ud83d", "- : "][
        random.integers(8)
    ]  # fmt: skip
    return (
        (text[:place] + inserted + text[place + int(random.integers(5)) :])
        .encode(errors="replace")
        .decode()
    )
