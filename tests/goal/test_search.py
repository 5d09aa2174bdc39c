"""A search by a metric: what it returns, that it goes on where it was stopped, what it refuses."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import process
from one_op import RELU, SAME, OneOp, Step, Value

import edgeq
from edgeq import DataError, Mode, RecipeError, SearchResult
from edgeq.export.export_options import ExportOptions
from edgeq.export.offers import offers
from edgeq.goal import metric_search, variants
from edgeq.goal.variants import THROUGHOUT, changed_recipes
from edgeq.report.search_result import Goal, SearchReport, Trial
from edgeq.runtime.session import Session
from edgeq.terminal.progress import Progress

RANDOM = np.random.default_rng(0)


def drawn(*shape: int) -> npt.NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


LOUD = drawn(8, 3, 3, 8)
LOUD[0] *= 20  # one channel sets the scale of the others, and the classifier does not hear it
DEAF = drawn(3, 8)
DEAF[:, 0] = 0

CLASSIFIER = OneOp(
    "a classifier that static int8 spoils",
    {"image": Value((1, 12, 12, 8))},
    (
        Step(
            "CONV_2D", ("image", drawn(8, 3, 3, 8), np.zeros(8, np.float32)),
            {"stem": Value((1, 12, 12, 8))},
            {"padding": SAME, "strideH": 1, "strideW": 1, "fusedActivationFunction": RELU},
        ),
        Step(
            "CONV_2D", ("stem", LOUD, np.zeros(8, np.float32)), {"body": Value((1, 12, 12, 8))},
            {"padding": SAME, "strideH": 1, "strideW": 1, "fusedActivationFunction": RELU},
        ),
        Step("MEAN", ("body", np.asarray([1, 2], np.int32)), {"pooled": Value((1, 8))}),
        Step("FULLY_CONNECTED", ("pooled", DEAF, None), {"scores": Value((1, 3))}),
    ),
)  # fmt: skip
MODEL = CLASSIFIER.build()
IMAGES = np.concatenate([sample["image"] for sample in CLASSIFIER.draw(40)])
TEST = IMAGES[:20] * np.linspace(0.5, 1, 20, dtype=np.float32)[:, None, None, None]


def float_answers() -> npt.NDArray[np.int64]:
    """What the float model says of the test images: its own accuracy is 1."""
    with Session(MODEL) as session:
        return session.run(TEST)["scores"].argmax(axis=-1)


def run(folder: Path | None = None, **settings: Any) -> SearchResult:
    given = {"labels": float_answers(), "max_drop": 0.0, "max_latency_ratio": 100.0, **settings}
    return edgeq.search(MODEL, IMAGES, eval_data=TEST, folder=folder, progress=False, **given)


@pytest.fixture(scope="module", autouse=True)
def one_offer() -> Iterator[None]:
    """Has the plans between modes be found once for all tests, and one of the best be changed."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda: offers(MODEL, IMAGES, ExportOptions.read(), Progress()))
        patch.setattr(metric_search, "offers", lambda *_: once())
        patch.setattr(variants, "CHANGED", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "trials"


@pytest.fixture(scope="module")
def found(folder: Path) -> SearchResult:
    return run(folder)


def test_the_cheapest_plan_that_keeps_the_metric_is_returned(found: SearchResult) -> None:
    report, best = found.report, found.report.best
    assert report.reached
    assert best.drop == 0
    assert report.working[0].float_value == 1
    assert best.cost == min(t.cost for t in report.working if t.drop <= 0)
    names = [trial.name for trial in report.trials]
    assert names[:4] == list(THROUGHOUT)
    assert any(name.startswith("cut") for name in names)
    assert any(name.endswith(", mse") for name in names)
    assert any(name.endswith("rounded to nearest") for name in names)
    assert report.sentence in re.sub(r"\s+", " ", report.text())


def test_its_recipe_gives_the_same_file_again(found: SearchResult, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(found.recipe.to_json())
    assert (
        edgeq.export(MODEL, IMAGES, recipe=path, progress=False).tflite == found.edge_model.tflite
    )


def test_a_page_has_the_plans_that_no_other_beats(found: SearchResult, tmp_path: Path) -> None:
    page = edgeq.write_report(tmp_path / "page.html", found.edge_model, search=found.report)
    text = page.read_text(encoding="utf-8")
    assert f"<p>{found.report.sentence}.</p>" in text
    for trial in found.report.front:
        assert f"<td>{trial.name}</td>" in text


def test_a_search_goes_on_where_it_was(
    found: SearchResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in list(folder.glob("trial-*.json"))[:2]:
        path.unlink()
    exported = []

    def counted(model: Any, data: Any, **settings: Any) -> Any:
        exported.append(settings["recipe"].name)
        return edgeq.export(model, data, **settings)

    monkeypatch.setattr(metric_search, "export", counted)
    again = run(folder)
    assert len(exported) == 3  # the two that were lost, and the result
    assert [t.name for t in again.report.trials] == [t.name for t in found.report.trials]
    assert again.report.best.drop == 0
    assert len(list(folder.glob("trial-*.json"))) == len(found.report.trials)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_was_tried_before_it_stopped_is_kept(
    stop: type[BaseException], found: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stopping(model: Any, data: Any, **settings: Any) -> Any:
        calls.append(settings["recipe"].name)
        if len(calls) == 3:
            raise stop
        return edgeq.export(model, data, **settings)

    monkeypatch.setattr(metric_search, "export", stopping)
    if stop is SystemExit:
        with pytest.raises(SystemExit):
            run(tmp_path)
    else:
        report = run(tmp_path).report
        assert [trial.name for trial in report.trials] == list(THROUGHOUT[:2])
        assert report.stopped == "the search was interrupted"
    assert len(list(tmp_path.glob("trial-*.json"))) == 2


def test_a_goal_that_cannot_be_reached_is_a_sentence(folder: Path, found: SearchResult) -> None:
    report = run(folder, max_size=10).report
    assert not report.reached
    assert report.sentence.startswith(
        "no plan loses at most 0 of accuracy, takes at most 100 of float's time and has at most 10 "
        f"bytes; the nearest of {len(report.trials)} plans tried: {report.best.name} has accuracy"
    )
    assert report.best.drop == min(trial.drop for trial in report.working)


def test_time_that_is_up_ends_it(folder: Path, found: SearchResult) -> None:
    report = run(folder, max_minutes=1e-9).report
    assert [bool(trial.error) for trial in report.trials] == [False]
    assert report.stopped == "the time was up before dynamic_int8 and what comes after it"


def test_no_trial_begins_that_may_end_too_late(
    folder: Path, found: SearchResult, tmp_path: Path
) -> None:
    """Of trials of 10 s each there is time for five in a minute, and for the export of the best."""
    shutil.copytree(folder, tmp_path / "slow")
    for path in (tmp_path / "slow").glob("trial-*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 10.0}))
    report = run(tmp_path / "slow", max_minutes=1).report
    assert [trial.name for trial in report.trials] == [t.name for t in found.report.trials[:5]]


def test_a_folder_of_another_search_is_refused(folder: Path, found: SearchResult) -> None:
    with pytest.raises(DataError, match=r"holds trials of another search \(metric differ\)"):
        run(folder, metric="top5")
    with pytest.raises(DataError, match=r"holds trials of another search \(eval_data differ\)"):
        run(folder, labels=1 - float_answers() % 2)


@pytest.mark.parametrize(
    ("limit", "value"), [("max_drop", -1), ("max_minutes", "ten"), ("max_latency_ratio", True)]
)
def test_a_limit_is_a_number(limit: str, value: object) -> None:
    message = f"{limit} must be a number from 0 on. Received: {value!r}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        run(**{limit: value})


def test_the_command_writes_the_model_and_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(MODEL)
    for name, array in (("data", IMAGES), ("test", TEST), ("labels", float_answers())):
        np.save(tmp_path / f"{name}.npy", array)
    asked = ["export", "model.tflite", "--data", "data.npy", "-o", "made.tflite"]
    goal = ["--eval-data", "test.npy", "--labels", "labels.npy", "--max-drop", "0.01"]
    refused = process(*asked, *goal, "--recipe", "int8", cwd=tmp_path)
    assert "--eval-data searches for the recipe by itself: leave out --recipe" in refused.stderr
    made = process(*asked, *goal, "--max-minutes", "0", "--max-latency-ratio", "9", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "1 plan tried" in made.stdout
    assert "made.recipe.json" in made.stdout
    recipe = tmp_path / "made.recipe.json"
    again = edgeq.export(MODEL, IMAGES, recipe=recipe, progress=False)
    assert again.tflite == (tmp_path / "made.tflite").read_bytes()


def trial(name: str, drop: float, time: float, size: int = 100) -> Trial:
    mode = Mode.FLOAT if name == "float" else Mode.STATIC_INT8
    recipe = edgeq.Recipe(name, default=mode)
    return Trial(
        name, recipe.to_json(), 1 - drop, 1.0, drop, latency_ratio=time, size_bytes=size,
        size_ratio=size / 400,
    )  # fmt: skip


def test_a_metric_that_rose_is_better() -> None:
    goal = Goal("accuracy", 0.01)
    sentences = [SearchReport(goal, (trial("int8", d, 0.5),)).sentence for d in (-0.002, 0.002)]
    assert "(better by 0.0020)" in sentences[0]
    assert "(worse by 0.0020)" in sentences[1]


def test_the_front_is_what_no_other_beats() -> None:
    fast, exact, beaten = trial("fast", 0.1, 0.3), trial("exact", 0, 0.9), trial("beaten", 0.2, 0.5)
    small, failed = trial("small", 0.3, 0.95, 10), Trial("failed", "{}", error="refused")
    report = SearchReport(Goal("accuracy", 0.05), (beaten, exact, fast, small, failed))
    assert [t.name for t in report.front] == ["fast", "exact", "small"]
    assert (report.best.name, report.reached) == ("exact", True)
    wide = SearchReport(Goal("accuracy", 0.15), report.trials)
    assert wide.best.name == "fast"
    assert Goal("accuracy", 0.01).is_reached(trial("just", 0.772 - 0.762, 0.5))
    assert Trial.from_json(small.to_json()) == small
    with pytest.raises(DataError, match="it is no trial of a search"):
        Trial.from_json("[]")


def test_the_best_plans_with_static_ops_are_changed() -> None:
    trials = [trial("bad", 0.5, 0.2), trial("float", 0, 1), trial("good", 0, 0.5)]
    names = [recipe.name for recipe in changed_recipes(trials, Goal("accuracy", 0.01))]
    assert names[0].startswith("good, ")
    assert not any(name.startswith("float") for name in names)
    assert "good, channels as they are" in names
    assert len(names) == 5
