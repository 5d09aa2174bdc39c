"""`edgeq check`: thresholds, baselines, exit codes, forms of the verdict; the pytest plugin."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sabotage import sabotaged
from typer.testing import CliRunner

import edgeq
from edgeq import DataError, RecipeError, Thresholds, demo
from edgeq.cli import app
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel
from edgeq.recipe import Recipe
from edgeq.report.comparison import Comparison, MetricChange
from edgeq.report.thresholds import Tolerances
from edgeq.report.verdict import Facts, drops, judged

pytest_plugins = ["pytester"]

COUNT = 80
IMAGES, LABELS = demo.load_data().test[:COUNT], demo.load_data().labels[:COUNT]
ROOT = Path(__file__).resolve().parents[2]

GOOD = Facts(30.0, 0.99, {"accuracy": 0.93}, {"accuracy": 0.002}, 100_000, 0.5, 40, 40, ())


def facts(**changes: Any) -> Facts:
    return replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("threshold", "kept", "broken"),
    [
        ({"min_sqnr_db": 20.0}, {"sqnr_db": 20.0}, {"sqnr_db": 19.99}),
        ({"min_sqnr_db": 20.0}, {"sqnr_db": math.inf}, {"sqnr_db": math.nan}),
        ({"max_metric_drop": 0.01}, {"drops": {"a": 0.01}}, {"drops": {"a": 0.011}}),
        ({"min_agreement": 0.98}, {"agreement": 0.98}, {"agreement": 0.97}),
        ({"min_agreement": 0.98}, {}, {"agreement": None}),
        ({"max_size_kb": 100}, {"size_bytes": 100_000}, {"size_bytes": 100_001}),
        ({"max_latency_ratio": 1.0}, {"latency_ratio": 1.0}, {"latency_ratio": 1.01}),
        ({"full_delegation": True}, {}, {"delegated_ops": 39}),
        ({"zero_float_ops": True}, {}, {"float_ops": ("SOFTMAX at head (op 3)",)}),
    ],
)
def test_each_threshold_has_two_sides(
    threshold: dict[str, Any], kept: dict[str, Any], broken: dict[str, Any]
) -> None:
    wanted = Thresholds(**threshold)
    for changes in (kept, broken):
        changes.setdefault("metrics", dict.fromkeys(changes.get("drops", GOOD.drops), 0.9))
    (good,) = judged(facts(**kept), wanted, None)
    (bad,) = judged(facts(**broken), wanted, None)
    assert (good.kept, bad.kept) == (True, False)
    assert next(iter(threshold)) in bad.message
    assert "but" in bad.message
    assert judged(facts(**broken), Thresholds(), None) == ()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("max_sqnr_loss_db", {"sqnr_db": 28.9}),
        ("max_metric_drop: accuracy", {"drops": {"accuracy": 0.008}}),
        ("max_size_growth", {"size_bytes": 102_001}),
        ("max_latency_growth", {"latency_ratio": 0.56}),
        ("delegation", {"delegated_ops": 39}),
        ("float ops", {"float_ops": ("SOFTMAX at head (op 3)",)}),
    ],
)
def test_what_is_worse_than_the_baseline_is_told(name: str, changes: dict[str, Any]) -> None:
    wanted = Thresholds(baseline=Tolerances(max_latency_growth=0.1))
    assert all(promise.kept for promise in judged(GOOD, wanted, GOOD))
    broken = [p.name for p in judged(facts(**changes), wanted, GOOD) if not p.kept]
    assert broken == [f"baseline: {name}"]


def test_a_drop_is_what_is_worse() -> None:
    change = MetricChange(0.5, 0.75, 0.25, 0.0, 0.5)
    both = Comparison(1, (), {"error": change, "accuracy": change}, "runtime")
    found = drops(both, {"error": "mae", "accuracy": "accuracy"})
    assert found == {"error": 0.25, "accuracy": -0.25}


def test_a_baseline_comes_back_as_it_was() -> None:
    for one in (GOOD, facts(sqnr_db=math.inf, agreement=None, float_ops=("a", "b"))):
        assert Facts.from_json(one.to_json()) == one
    for text in ("{}", "[]", "x", '{"sqnr_db": 3}'):
        with pytest.raises(DataError, match="it is no baseline of edgeq check"):
            Facts.from_json(text)


def test_settings_come_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Thresholds.read() == Thresholds()
    Path("pyproject.toml").write_text(
        "[tool.edgeq]\nmin_sqnr_db = 20\nzero_float_ops = true\n"
        "[tool.edgeq.baseline]\nmax_size_growth = 0.1\n"
    )
    expected = Thresholds(
        min_sqnr_db=20, zero_float_ops=True, baseline=Tolerances(max_size_growth=0.1)
    )
    assert Thresholds.read() == expected
    Path("edgeq.toml").write_text("min_agreement = 0.9\n")
    assert Thresholds.read() == Thresholds(min_agreement=0.9)
    assert Thresholds.read(Path("pyproject.toml")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "min_sqnr = 20",
            r"edgeq.toml: no threshold is called 'min_sqnr'; did you mean min_sqnr_db",
        ),
        ("min_sqnr_db = 'high'", "min_sqnr_db is a number. Received: 'high'"),
        ("min_sqnr_db = true", "min_sqnr_db is a number. Received: True"),
        ("full_delegation = 1", "full_delegation is true or false. Received: 1"),
        ("baseline = 3", "baseline is a table. Received: 3"),
        ("[baseline]\nmax_size = 3", "no threshold is called 'max_size'; did you mean"),
        ("= 3", "cannot read the settings edgeq.toml"),
    ],
)
def test_settings_that_make_no_sense(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edgeq.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        Thresholds.read()


def test_the_facts_are_those_of_the_files(exported: EdgeModel) -> None:
    found = edgeq.check(exported, exported.tflite, IMAGES, labels=LABELS)
    expected = edgeq.compare(exported, exported, IMAGES, labels=LABELS)
    assert (found.passed, found.promises) == (True, ())
    assert found.comparison == expected
    assert found.facts.sqnr_db == expected.sqnr_db
    assert found.facts.drops == {"accuracy": -expected.metrics["accuracy"].difference}
    assert found.facts.size_bytes == len(exported.tflite)
    report = exported.report
    assert (found.facts.delegated_ops, found.facts.total_ops) == (
        report.delegated_ops, report.total_ops,
    )  # fmt: skip
    assert found.facts.float_ops == ()
    with pytest.raises(RecipeError, match="max_metric_drop needs something to measure"):
        edgeq.check(exported, exported, IMAGES, Thresholds(max_metric_drop=0.1))


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, exported: EdgeModel, demo_model: LiteModel
) -> Path:
    """A float model, its good export, and what becomes of a sabotaged one in int8."""
    path = tmp_path_factory.mktemp("check")
    (path / "model.tflite").write_bytes(demo_model.tflite)
    exported.save(path / "good.tflite")
    data = demo.load_data().calibration[:20]
    # With scaled channels, or the layer float, the spoilt one would cost nothing.
    recipe = Recipe("int8", equalize=False, strict=True)
    bad = edgeq.export(sabotaged(demo_model), data, recipe=recipe, min_sqnr_db=None)
    bad.save(path / "bad.tflite")
    np.save(path / "images.npy", IMAGES)
    np.save(path / "labels.npy", LABELS)
    return path


PROMISES = (
    "--min-sqnr-db", "20", "--max-metric-drop", "0.05", "--min-agreement", "0.9",
    "--max-size-kb", "300", "--max-latency-ratio", "50", "--full-delegation", "--zero-float-ops",
)  # fmt: skip


def run(edge: str, *options: str) -> Any:
    files = ["model.tflite", edge, "--data", "images.npy", "--labels", "labels.npy"]
    return CliRunner(env={"GITHUB_ACTIONS": None}).invoke(app, ["check", *files, *options])


def test_the_good_model_passes_and_becomes_the_baseline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = run(
        "good.tflite", *PROMISES, "--junit", "good.xml", "--json", "good.json",
        "--write-baseline", "baseline.json", "--github",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "all promises hold" in found.stdout
    assert "::error" not in found.stdout
    assert json.loads(Path("good.json").read_text())["passed"] is True
    suite = ElementTree.parse("good.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("7", "0")
    again = run("good.tflite", "--baseline", "baseline.json")
    assert again.exit_code == 0, again.output


def test_the_bad_model_ends_with_1_and_says_why_in_every_form(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junitparser = pytest.importorskip("junitparser")
    monkeypatch.chdir(folder)
    (folder / "old.json").write_text(GOOD.to_json())
    found = run(
        "bad.tflite", *PROMISES, "--junit", "bad.xml", "--baseline", "old.json", "--github",
        "--write-baseline", "new.json", "--json", "bad.json",
    )  # fmt: skip
    assert found.exit_code == 1, found.output
    assert not Path("new.json").exists()
    fields = json.loads(Path("bad.json").read_text())
    broken = [p["name"] for p in fields["promises"] if not p["kept"]]
    assert {"min_sqnr_db", "max_metric_drop: accuracy", "min_agreement"} <= set(broken)
    assert "baseline: max_sqnr_loss_db" in broken
    assert "zero_float_ops" not in broken
    notes = [line for line in found.stdout.splitlines() if line.startswith("::error title=edgeq ")]
    assert len(notes) == len(broken)
    (suite,) = junitparser.JUnitXml.fromfile("bad.xml")
    cases = {case.name: case for case in suite}
    assert [name for name, case in cases.items() if case.is_failure] == broken
    assert suite.failures == len(broken)
    assert "dB, but min_sqnr_db asks for 20 dB" in cases["min_sqnr_db"].result[0].message


UNREADABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "no model": (("no.tflite", "--min-sqnr-db", "3"), "cannot read the model no.tflite"),
    "no .tflite": (("labels.npy", "--min-sqnr-db", "3"), "not a .tflite file"),
    "no baseline": (("good.tflite", "--baseline", "no.json"), "cannot read the baseline no.json"),
    "another baseline": (("good.tflite", "--baseline", "labels.npy"), "cannot read the baseline"),
    "no settings": (("good.tflite", "--config", "no.toml"), "cannot read the settings no.toml"),
    "nothing asked": (("good.tflite",), "there is nothing to check: pass a threshold"),
    "an unknown metric": (
        ("good.tflite", "--min-sqnr-db", "3", "--metric", "f1"), "metric 'f1' must be one of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_judged_ends_with_2(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    arguments, message = UNREADABLE[case]
    found = run(*arguments)
    assert found.exit_code == 2, found.output
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_annotations_stay_on_one_line(exported: EdgeModel) -> None:
    made = edgeq.check(exported, exported, IMAGES[:3], Thresholds(min_sqnr_db=500))
    (promise,) = made.promises
    odd = replace(made, promises=(replace(promise, found="50 %\nof a::b"),))
    (line,) = odd.annotations()
    assert line.startswith("::error title=edgeq min_sqnr_db::50 %25%0Aof a::b, but")


def test_the_workflow_of_the_docs_uses_options_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs" / "ci.md").read_text()
    workflow = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    steps = workflow["jobs"]["model"]["steps"]
    (command,) = (step["run"] for step in steps if "edgeq check" in step.get("run", ""))
    known = CliRunner().invoke(app, ["check", "--help"], terminal_width=300, color=False).stdout
    options = [word for word in command.split() if word.startswith("--")]
    assert len(options) >= 4
    assert all(option in known for option in options)


PLUGIN_TEST = """
import numpy as np
import pytest

@pytest.fixture(scope="module")
def checked(edgeq_check):
    images, labels = np.load("images.npy"), np.load("labels.npy")
    return edgeq_check("model.tflite", "{edge}", images, labels=labels)

def test_accuracy(checked):
    assert checked.accuracy_drop < 0.05

def test_fidelity(checked):
    assert 20 < checked.sqnr_db

def test_others(checked):
    assert checked.size_ratio < 0.4
    assert checked.agreement >= 0
    assert checked.latency_ratio > 0
    assert checked.float_ops == ()
    assert checked.is_fully_delegated
    with pytest.raises(KeyError, match="f1 was not measured"):
        checked.drop("f1")

def test_project(edgeq_check):
    images = np.load("images.npy")[:10]
    edgeq_check("model.tflite", "{edge}", images, thresholds="project")
"""


@pytest.mark.parametrize(("edge", "failed"), [("good", 0), ("bad", 3)])
def test_the_plugin_explains_a_failure(
    edge: str, failed: int, folder: Path, pytester: pytest.Pytester
) -> None:
    for name in ("model.tflite", f"{edge}.tflite", "images.npy", "labels.npy"):
        (pytester.path / name).write_bytes((folder / name).read_bytes())
    pytester.makepyprojecttoml("[tool.edgeq]\nmin_sqnr_db = 20")
    pytester.makepyfile(PLUGIN_TEST.format(edge=f"{edge}.tflite"))
    installed = any(e.name == "edgeq" for e in entry_points(group="pytest11"))
    arguments = [] if installed else ["-p", "edgeq.pytest_plugin"]
    found = pytester.runpytest_inprocess(*arguments)
    found.assert_outcomes(passed=4 - failed, failed=failed)
    if failed:
        found.stdout.re_match_lines([r"E .*assert drop of accuracy: 0\.\d+ < 0\.05 does not hold"])
        found.stdout.re_match_lines([r"E +output .*: SQNR .* dB, cosine"])
        found.stdout.fnmatch_lines(["E *to find the layer that costs it: edgeq debug*"])
        found.stdout.fnmatch_lines(["*FAIL*min_sqnr_db*20 dB*"])


def test_the_plugin_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\nedgeq = "edgeq.pytest_plugin"' in text
