"""The HTML report, opened in Chromium: one file, no requests, charts that are drawn, a search."""

from __future__ import annotations

import importlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Tab, browser, opened
from sabotage import LAYER, sabotaged
from typer.testing import CliRunner

import edgeq
from edgeq import demo
from edgeq.cli import app
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel
from edgeq.recipe import Recipe
from edgeq.report.diagnosis import Diagnosis, LayerError, Spread
from edgeq.report.page import Page

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

COMMAND = (
    "export", "model.tflite", "--data", "images.npy", "-o", "int8.tflite",
    "--recipe", "recipe.json", "--min-sqnr-db=-inf", "--report", "page.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_model: LiteModel) -> Path:
    """What the command leaves for a model with one spoilt layer."""
    path = tmp_path_factory.mktemp("page")
    (path / "model.tflite").write_bytes(sabotaged(demo_model))
    np.save(path / "images.npy", demo.load_data().calibration[:20])
    # With scaled channels, or the layer float, the spoilt one would cost nothing.
    (path / "recipe.json").write_text(
        Recipe("int8", equalize=False, rounding="gptq_once", strict=True).to_json()
    )
    start = [sys.executable, "-c", "from edgeq.cli import main; main()"]
    found = subprocess.run(
        [*start, *COMMAND], cwd=path, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def desktop(running: Any, folder: Path) -> Tab:
    return opened(running, (folder / "page.html").as_uri(), 1280, 900)


def test_nothing_is_fetched_and_nothing_goes_wrong(desktop: Tab, folder: Path) -> None:
    assert desktop.complaints == []
    assert desktop.requests == [(folder / "page.html").as_uri()]


CHARTS = {
    "layers": ".scatterlayer .trace",
    "histogram": ".barlayer .point",
    "cost": ".barlayer .point",
    "delegate": ".barlayer .point",
    "worst": ".barlayer .point",
}


def test_every_chart_is_drawn(desktop: Tab) -> None:
    drawn = {
        name: desktop.page.locator(f"#{name} {marks}").count() for name, marks in CHARTS.items()
    }
    ops = desktop.page.locator("#plan tbody tr").count()
    assert (drawn["layers"], drawn["cost"], drawn["worst"]) == (3, 4, 10)
    assert drawn["histogram"] > 10
    assert drawn["delegate"] >= ops > 20
    assert desktop.page.locator(".chart").count() == len(CHARTS)


def test_the_summary_comes_first_and_names_the_sensitive_layer(desktop: Tab) -> None:
    text = desktop.page.locator("main section").first.inner_text().lower()
    for word in ("fidelity", "size", "latency", "delegate", "db", "improves conv_2d"):
        assert word in text
    assert LAYER in desktop.page.locator(".cause").inner_text()
    assert (
        "edgeq export model.tflite --data images.npy"
        in desktop.page.locator("#command").inner_text()
    )
    assert desktop.page.locator("#command").inner_text() == "edgeq " + " ".join(COMMAND)


def test_the_search_filters_the_plan(desktop: Tab) -> None:
    page = desktop.page
    total = page.locator("#plan tbody tr").count()
    page.fill("#search", "CLASSIFIER fully")
    assert page.locator("#plan tbody tr:visible").count() == 1
    assert page.locator("#matches").inner_text() == "1"
    page.fill("#search", "no such layer")
    assert page.locator("#plan tbody tr:visible").count() == 0
    page.fill("#search", "")
    assert page.locator("#plan tbody tr:visible").count() == total


def test_another_layer_shows_another_histogram(desktop: Tab) -> None:
    page = desktop.page
    bars = "JSON.stringify(document.getElementById('histogram').data[0].x)"
    before = page.evaluate(bars)
    assert page.locator("#layer option").first.inner_text() == f"CONV_2D at {LAYER}"
    page.select_option("#layer", index=3)
    assert page.evaluate(bars) != before
    assert page.evaluate("document.getElementById('histogram').layout.shapes.length") == 2


def test_it_fits_a_phone_in_the_dark(running: Any, folder: Path, desktop: Tab) -> None:
    phone = opened(running, (folder / "page.html").as_uri(), 390, 844, "dark")
    assert phone.complaints == []
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.page.locator("#layers .scatterlayer .trace").count() == 3
    background = "getComputedStyle(document.body).backgroundColor"
    shown = [tab.page.evaluate(background) for tab in (desktop, phone)]
    assert shown[0] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", shown[1]))) < 150
    axis = phone.page.locator("#layers .xtick text").first
    assert "rgb(232, 234, 237)" in axis.evaluate("node => getComputedStyle(node).fill")
    phone.page.emulate_media(color_scheme="light")
    expect = importlib.import_module("playwright.sync_api").expect
    expect(axis).to_have_css("fill", "rgb(26, 29, 33)")


def test_what_users_name_is_text(running: Any, exported: EdgeModel, tmp_path: Path) -> None:
    bad = "</script><script>document.title = 'broken'</script><b>x</b>"
    images = demo.load_data().test[:4]
    metric = {bad: lambda outputs, targets: math.nan}
    found = edgeq.compare(exported, exported, images, labels=[0, 1, 2, 3], metrics=metric)
    spread = Spread(-1.0, 1.0, 0.0, 1.0, 1.0, 2.0, 0)
    line = LayerError(bad, "ADD", 0, "int8", 0.1, 0.1, 20.0, 20.0, spread, ((0.5, 3),), bad, bad)
    odd = Diagnosis((line,), 20.0, 4, "runtime", sensitive=1, advice=bad)
    path = edgeq.write_report(
        tmp_path / "odd.html", exported, comparison=found, diagnosis=odd, title=bad, command=bad
    )
    tab = opened(running, path.as_uri(), 800, 600)
    assert tab.complaints == []
    assert tab.page.title() == bad
    assert tab.page.locator("#command").inner_text() == bad
    assert bad.lower() in tab.page.locator("#summary").inner_text().lower()


def test_a_page_has_only_what_is_known(exported: EdgeModel, tmp_path: Path) -> None:
    found = edgeq.compare(exported, exported, demo.load_data().test[:4])
    alone = Page("alone", comparison=found).html()
    assert 'id="worst"' in alone
    for name in ("layers", "histogram", "cost", "delegate", "plan", "command"):
        assert f'id="{name}"' not in alone
    charts = re.search(r'id="charts">(.*?)</script>', alone)
    assert charts is not None
    assert json.loads(charts[1]).keys() == {"worst"}
    assert 'id="worst"' not in Page("empty").html()


def test_compare_writes_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    files = ["model.tflite", "int8.tflite", "--data", "images.npy"]
    found = CliRunner().invoke(app, ["compare", *files, "--report", "other.html"])
    assert found.exit_code == 0, found.output
    text = Path("other.html").read_text()
    assert 'id="worst"' in text
    assert 'id="delegate"' in text
