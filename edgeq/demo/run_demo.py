"""Owns the demo's one run: exports the bundled classifier, counts accuracy before and after."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq import demo
from edgeq.compare.compare_models import compare, evaluate
from edgeq.export.edge_model import EdgeModel
from edgeq.export.pipeline import export
from edgeq.files import write_whole


def run_demo(output: Path) -> EdgeModel:
    """Exports the demo model, prints what came of it and leaves the results in `output`.

    Args:
        output: Folder for `model.tflite`, `report.json` and `report.txt`; made if need be.
    """
    console = Console()
    data = demo.load_data()
    model, what = _model()
    console.print(
        f"Exporting a Fashion-MNIST classifier ({what}), calibrated on "
        f"{len(data.calibration)} training images",
        highlight=False,
    )
    made = export(model, data.calibration, recipe="int8")
    made.save(output / "model.tflite")
    write_whole(output / "report.json", made.report.to_json().encode())
    write_whole(output / "report.txt", made.report.text().encode())
    made.report.print(console)
    console.print(_accuracy_table(made, data))
    console.print(
        f"wrote {output}/model.tflite, report.txt and report.json", highlight=False, markup=False
    )
    return made


def _model() -> tuple[Any, str]:
    if importlib.util.find_spec("litert_torch") is None:
        return demo.float_model_path(), "its float .tflite, as PyTorch is not installed"
    from edgeq.demo.network import load_network

    return load_network(), "PyTorch nn.Module"


def model_accuracy(tflite: bytes, data: demo.DemoData) -> float:
    """Share of the bundled test images that a .tflite of the demo model gets right."""
    return evaluate(tflite, data.test, data.labels, progress=False)["accuracy"]


def _accuracy_table(made: EdgeModel, data: demo.DemoData) -> Table:
    found = compare(made, made, data.test, labels=data.labels, progress=False).metrics["accuracy"]
    table = Table(title=f"accuracy on {len(data.labels)} test images", title_style="bold")
    for heading in ("float", "int8", "difference"):
        table.add_column(heading, justify="right")
    difference = f"{found.difference * 100:+.1f} points"
    table.add_row(f"{found.float_value:.1%}", f"{found.edge_value:.1%}", difference)
    return table
