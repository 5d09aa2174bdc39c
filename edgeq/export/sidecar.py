"""`model.json`: what an app has to know of a classifier's .tflite to feed it and read its scores.

A plain dict, so that what is written is one place; knows no files and no Android.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from edgeq.calibrate.readers import ImageLayout
from edgeq.errors import DataError
from edgeq.ports import IO, Port


def sidecar(io: IO, image: ImageLayout, labels: Sequence[str], recipe: str) -> dict[str, object]:
    """Describes an image classifier, ready for JSON.

    Args:
        io: Inputs and outputs of the file.
        image: How images became the samples that it was calibrated with.
        labels: Names of the classes, in the order of the scores.
        recipe: Name of the recipe it was exported with.

    Raises:
        DataError: It is no image classifier, or has another number of classes.
    """
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
    return {
        "edgeq": version("edgeq"),
        "recipe": recipe,
        "inputs": [{**io.inputs[0].to_dict(), **_normalisation(io.inputs[0], image)}],
        "outputs": [io.outputs[0].to_dict()],
        "labels": list(labels),
    }


def _normalisation(port: Port, image: ImageLayout) -> dict[str, object]:
    """Mean and deviation of pixels from 0 to 1, whatever range `image` speaks of."""
    unit = 255 * image.scale
    return {
        "layout": "nhwc" if port.shape[3] in (1, 3) else "nchw",
        "mean": [mean / unit for mean in image.mean],
        "std": [std / unit for std in image.std],
        "crop": image.crop,
        "resize": image.resize,
    }
