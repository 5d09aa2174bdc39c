"""Many architectures by every recipe: what is exported, how faithful, how fast, and why not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RECIPES = ("auto", "int8", "dynamic_int8")
REPRESENTATIVE, UNSEEN = 32, 12
LIMIT_S = 900.0

IN_CI = (
    "block:rotary_decoder", "block:detector", "block:padded_encoder", "block:segmenter",
    "block:recommender", "block:graph", "block:conformer", "block:generator",
    "block:autoencoder", "block:forecast", "block:gru", "block:upscaler",
)  # fmt: skip
"""Twelve that need no package besides those of the tests."""


def run(
    names: Sequence[str], recipes: Sequence[str], results: Path, script: Path, console: Console
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures models that `results` does not hold yet, each in a process of its own."""
    results.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, 1):
        path = results / f"{name.replace(':', '-')}.json"
        if not path.exists():
            console.print(f"{number}/{len(names)} {name}")
            path.write_text(json.dumps(_in_own_process(name, recipes, script), indent=2))
        yield name, json.loads(path.read_text())


def _in_own_process(name: str, recipes: Sequence[str], script: Path) -> dict[str, Any]:
    command = [sys.executable, str(script), "breadth-model", name, *recipes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"state": "time limit", "why": f"longer than {LIMIT_S:.0f} s"}
    if done.returncode != 0 or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"state": "dead process", "why": f"exit code {done.returncode}: {last[:300]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, recipes: Sequence[str] = RECIPES) -> dict[str, Any]:
    """Exports one model by each recipe."""
    from benchmarks.breadth_models import build

    try:
        built = build(name)
        random = np.random.default_rng(0)
        data = [built.sample(random) for _ in range(REPRESENTATIVE)]
        unseen = [built.sample(random) for _ in range(UNSEEN)]
        expected = [built.outputs(sample) for sample in unseen]
    except Exception as error:
        return {"state": "not built", "why": f"{type(error).__name__}: {error}"[:300]}
    found: dict[str, Any] = {"state": "built"}
    model: Any = built.model
    for recipe in recipes:
        edge, found[recipe] = _exported(model, built.params, data, recipe)
        if edge is not None:
            found[recipe] |= {"dB": _sqnr_db(edge, unseen, expected)}
            model = edge.float_model.tflite  # one trace serves all recipes
    if not any("dB" in found[recipe] for recipe in recipes):
        found["upstream"] = _upstream(built, data)
    return found


def _exported(model: Any, params: Any, data: Any, recipe: str) -> tuple[Any, dict[str, Any]]:
    import edgeq

    start = time.perf_counter()
    given = None if isinstance(model, bytes) else params
    try:
        edge = edgeq.export(
            model, data, params=given, recipe=recipe, min_sqnr_db=None, progress=False
        )
    except Exception as error:
        own = isinstance(error, edgeq.EdgeqError)
        why = f"{type(error).__name__}: {error}"[:400]
        return None, {"why": why, "foreign": not own, "seconds": time.perf_counter() - start}
    report = edge.report
    return edge, {
        "reported dB": float(report.sqnr_db),
        "time": report.latency_ratio,
        "size": report.size_ratio,
        "float ops": len(report.float_ops),
        "seconds": time.perf_counter() - start,
    }


def _sqnr_db(edge: Any, unseen: Sequence[Any], expected: Sequence[Any]) -> float | None:
    """SQNR in dB of the worst output against the framework's own, on samples it has not seen."""
    signal: Counter[int] = Counter()
    noise: Counter[int] = Counter()
    with edge.session() as session:
        for sample, outputs in zip(unseen, expected, strict=True):
            answers = list(session.run(*sample).values()) if len(sample) == 1 else list(
                session.run(dict(zip(session.input_names, sample, strict=True))).values()
            )  # fmt: skip
            if [a.shape for a in answers] != [e.shape for e in outputs]:
                return None
            for place, (answer, wanted) in enumerate(zip(answers, outputs, strict=True)):
                signal[place] += float(np.square(wanted.astype(np.float64)).sum())
                difference = answer.astype(np.float64) - wanted
                noise[place] += float(np.square(difference).sum())
    return min(
        (float(10 * np.log10(signal[n] / noise[n])) for n in signal if noise[n] and signal[n]),
        default=float("inf"),
    )


def _upstream(built: Any, data: Any) -> str:
    """Why the float conversion alone fails; empty where it does not."""
    from edgeq.converter import start_converter
    from edgeq.data.rep_dataset import RepDataset
    from edgeq.export.frontends import trace

    with start_converter() as converter:
        try:
            trace(built.model, data[0], RepDataset(data), converter, built.params)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
    return ""


def show(found: dict[str, dict[str, Any]], recipes: Sequence[str], console: Console) -> None:
    """A row a model, and how many of those that can be converted each recipe exports."""
    table = Table(title="dB on unseen samples against the framework, time over float, seconds")
    for heading in ("model", *recipes):
        table.add_column(heading, overflow="fold")
    for name, result in found.items():
        table.add_row(name, *(_cell(result, recipe) for recipe in recipes))
    console.print(table)
    counted = {
        n: r for n, r in found.items() if r["state"] != "not built" and not r.get("upstream")
    }
    for recipe in recipes:
        made = sum("dB" in r.get(recipe, {}) for r in counted.values())
        foreign = sum(bool(r.get(recipe, {}).get("foreign")) for r in counted.values())
        console.print(
            f"{recipe}: {made} of {len(counted)} exported, {foreign} foreign exceptions",
            style="bold",
        )
    left = len(found) - len(counted)
    console.print(f"{left} could not be built, or not be converted to float LiteRT either")


def _cell(result: dict[str, Any], recipe: str) -> str:
    if recipe not in result:
        return f"{result['state']}: {result['why']}"
    one = result[recipe]
    if "dB" not in one:
        return str(one["why"])[:120]
    level = "other shapes" if one["dB"] is None else f"{one['dB']:.1f} dB"
    ratio = one["time"]
    return f"{level}, {'' if ratio is None else f'{ratio:.2f}x'}, {one['seconds']:.0f} s"
