"""Puts an exported classifier into the Android demo app, beside its float form to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeq.data.readers import ImageLayout
from edgeq.errors import DataError, EdgeqError, RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.files import write_whole
from edgeq.ports import IO, read_io

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
    _check_classifier(made.io, labels)
    described = made.describe(labels, image)
    plain = replace(described, io=read_io(made.float_model.tflite), recipe="float")
    for name, tflite, metadata in (
        ("quantized", made.tflite, described),
        ("float", made.float_model.tflite, plain),
    ):
        write_whole(folder / name / "model.tflite", tflite)
        write_whole(folder / name / "model.json", metadata.to_json().encode())


def _check_classifier(io: IO, labels: Sequence[str]) -> None:
    if len(io.inputs) != 1 or len(io.inputs[0].shape) != 4 or len(io.outputs) != 1:
        shapes = [list(port.shape) for port in (*io.inputs, *io.outputs)]
        raise DataError(
            "an image classifier has one input of four dimensions and one output. Received inputs "
            f"and outputs of shapes {shapes}"
        )
    classes = io.outputs[0].shape[-1]
    if len(labels) != classes:
        raise DataError(
            f"the model tells {classes} classes apart, but there are {len(labels)} class names"
        )


def _check_types(made: EdgeModel) -> None:
    for port in (*made.io.inputs, *made.io.outputs):
        if port.dtype not in TYPES:
            raise RecipeError(
                f"{port.name} is {port.dtype}; the Android app passes {' or '.join(TYPES)}, as "
                "LiteRT's Kotlin interface does: export with --inputs int8 --outputs int8"
            )
