"""The documents cannot drift: their Python runs, and generated pages are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import run_blocks

from edgeq.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
JSON_BLOCK = re.compile(r"```json\n(.*?)```", re.DOTALL)


def test_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litert_torch")
    from edgeq.demo import network

    # One block of the bundled network, which is traced three times: what runs is the same.
    monkeypatch.setattr(network, "BLOCKS", network.BLOCKS[:1])
    monkeypatch.setattr(network, "load_network", lambda: network.DemoNetwork().eval())
    monkeypatch.chdir(tmp_path)
    names = run_blocks((ROOT / "README.md").read_text())
    assert (tmp_path / "model_int8.tflite").stat().st_size > 0
    assert names["edge_model"].report.float_ops


def test_the_guides_examples_of_other_frameworks_run() -> None:
    for package in ("jax", "flax", "keras"):
        pytest.importorskip(package)
    text = (ROOT / "docs" / "guide.md").read_text()
    section = text.partition("## Models of other frameworks")[2].partition("\n## ")[0]
    names = run_blocks(section)
    assert names["edge_model"].report.outputs[0].name == "scores"


def test_the_guides_example_of_a_model_with_states_runs() -> None:
    pytest.importorskip("litert_torch")
    text = (ROOT / "docs" / "guide.md").read_text()
    section = text.partition("### Models with states")[2].partition("\n## ")[0]
    names = run_blocks(section)
    assert names["edge_model"].io.states == (("h_in", "h_out"),)
    assert names["y"].shape == (1, 8)


def test_the_recipe_of_the_guide_is_one() -> None:
    (text,) = JSON_BLOCK.findall((ROOT / "docs" / "guide.md").read_text())
    assert Recipe.from_json(text).rules[0].op == "FLOOR"


def test_the_generated_pages_are_those_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_docs"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/guide.md",
        "docs/ci.md",
        "docs/rewrites.md",
        "docs/training.md",
        "docs/files-from-strangers.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link
