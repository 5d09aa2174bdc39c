"""What surrounds the package: one version, and checks that are the same wherever they run."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import edgeq

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CHECK = (ROOT / "scripts" / "check").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "edgeq.__version__"}
    assert version("edgeq") == edgeq.__version__


def test_the_workflow_runs_the_command_of_contributors() -> None:
    jobs = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    job = jobs["check"]
    assert job["steps"][-1]["run"] == "scripts/check"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest, newest = map(int, re.findall(r"3\.(\d+)", wanted))
    tested = [int(python.partition(".")[2]) for python in job["strategy"]["matrix"]["python"]]
    assert (min(tested), max(tested)) == (oldest, newest - 1)
    assert "scripts/test -m slow" in [step.get("run") for step in jobs["slow"]["steps"]]
    assert ".venv/bin/python scripts/fuzz --minutes 2 --seed 0" in [
        step.get("run") for step in jobs["fuzz"]["steps"]
    ]


def test_hooks_before_a_commit_are_the_first_checks() -> None:
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    commands = {hook["entry"].removesuffix(" --fix") for hook in repository["hooks"]}
    checked = {
        re.sub(r"format --check", "format", line.partition(' "$')[0])
        for line in CHECK.splitlines()
        if line.startswith(".venv/bin/")
    }
    assert commands == checked


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem
)
def test_an_issue_form_asks_for_what_is_needed(form: Path) -> None:
    found = read_yaml(form)
    assert found["name"]
    assert found["description"]
    fields = [field for field in found["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_form_offers_the_targets_that_there_are() -> None:
    from edgeq.targets import TARGETS

    (form,) = (read_yaml(form) for form in FORMS if form.stem == "model")
    (target,) = (field for field in form["body"] if field.get("id") == "target")
    assert target["attributes"]["options"] == list(TARGETS)
