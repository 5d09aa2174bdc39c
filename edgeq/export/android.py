"""Puts an exported classifier into the Android demo app, beside its float form to compare with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgeq.calibrate.readers import ImageLayout
from edgeq.errors import DataError, EdgeqError, RecipeError
from edgeq.export.edgemodel import EdgeModel
from edgeq.export.sidecar import sidecar
from edgeq.files import write_whole
from edgeq.ports import read_io

ASSETS = Path("app", "src", "main", "assets")
TYPES = ("float32", "int8")


def check_project(project: Path) -> None:
    """Raises an `EdgeqError` for a folder that is not the demo app's project."""
    if not (project / ASSETS.parent).is_dir():
        raise EdgeqError(
            f"{project} is no Android project: it has no {ASSETS.parent}; name the folder "
            "android_demo of edgeq, or a copy of it"
        )


def write_assets(folder: Path, made: EdgeModel, image: ImageLayout, labels: Sequence[str]) -> None:
    """Writes `quantized/` and `float/`, each with `model.tflite` and `model.json`.

    Args:
        folder: The app's assets.
        made: The exported classifier.
        image: How images became its samples.
        labels: Names of the classes, in the order of the scores.

    Raises:
        DataError: It is no image classifier, or has another number of classes.
        RecipeError: Its inputs or outputs are of a type that the app does not take.
    """
    _check_types(made)
    models = {
        "quantized": (made.tflite, made.io, made.report.recipe),
        "float": (made.float_model.tflite, read_io(made.float_model.tflite), "float"),
    }
    described = {
        name: json.dumps(sidecar(io, image, labels, recipe), indent=2, ensure_ascii=False) + "\n"
        for name, (_, io, recipe) in models.items()
    }
    for name, (tflite, _, _) in models.items():
        write_whole(folder / name / "model.tflite", tflite)
        write_whole(folder / name / "model.json", described[name].encode())


def _check_types(made: EdgeModel) -> None:
    for port in (*made.io.inputs, *made.io.outputs):
        if port.dtype not in TYPES:
            raise RecipeError(
                f"{port.name} is {port.dtype}; the Android app passes {' or '.join(TYPES)}, as "
                "LiteRT's Kotlin interface does: export with --inputs int8 --outputs int8"
            )


def read_labels(path: Path) -> list[str]:
    """The class names in a text file, one a line.

    Raises:
        DataError: The file cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names {path}: {error}") from None
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise DataError(f"{path} holds no class names; write one a line")
    return labels
