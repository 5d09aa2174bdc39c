"""`Metadata`: what an app has to know of a file to feed it and to read its answers.

Written into the .tflite as TFLite metadata, which tools of Android and MediaPipe read, and beside
it as JSON. Knows nothing of how the values came about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeq.data.readers import ImageLayout
from edgeq.errors import DataError
from edgeq.export.deploy.tflite_metadata import TensorEntry, embed
from edgeq.files import Content
from edgeq.ports import IO, Port


@dataclass(frozen=True)
class Metadata:
    """Facts about a file that an app needs.

    Attributes:
        io: Its inputs and outputs.
        recipe: Name of the recipe that it was exported with.
        calibration: SHA-256 of the ranges that its scales come from.
        labels: Names of the classes, in the order of the scores; empty without any.
        images: How images become what the input holds in real numbers; None if it takes no images.
        nhwc: Inputs that the file takes as NHWC, though `images` makes NCHW.

    Raises:
        DataError: The names or the images do not fit the file.
    """

    io: IO
    recipe: str
    calibration: str
    labels: tuple[str, ...] = ()
    images: ImageLayout | None = None
    nhwc: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = [port.shape[-1] for port in self.io.outputs if port.shape]
        if self.labels and len(self.labels) not in counts:
            raise DataError(
                f"there are {len(self.labels)} class names, but no output has as many scores: the "
                f"last axes are {', '.join(map(str, counts)) or 'none'}"
            )
        if self.images is not None and self._image_input is None:
            shapes = ", ".join(str(port.shape) for port in self.io.inputs)
            raise DataError(
                f"no input takes {self.images.color} images with {self.images.channels} channels "
                f"in {self.images.layout}. Received inputs of shape {shapes}"
            )

    @property
    def _image_input(self) -> str | None:
        """Name of the first input that takes the images."""
        if self.images is None:
            return None
        for port in self.io.inputs:
            axis = 3 if self._layout(port) == "nhwc" else 1
            if len(port.shape) == 4 and port.shape[axis] == self.images.channels:
                return port.name
        return None

    def _layout(self, port: Port) -> str | None:
        """Order of an image input's axes."""
        if self.images is None:
            return None
        return "nhwc" if port.name in self.nhwc else self.images.layout

    @property
    def _scores(self) -> str | None:
        """Name of the first output that the class names are of."""
        fitting = (p.name for p in self.io.outputs if p.shape and p.shape[-1] == len(self.labels))
        return next(fitting, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the mean and deviation are those of pixels from 0 to 1."""
        return {
            "edgeq": version("edgeq"),
            "recipe": self.recipe,
            "calibration": self.calibration,
            "inputs": [{**port.to_dict(), **self._preprocessing(port)} for port in self.io.inputs],
            "outputs": [port.to_dict() for port in self.io.outputs],
            "states": self.io.to_dict()["states"],
            "labels": list(self.labels),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def _preprocessing(self, port: Port) -> dict[str, object]:
        """How an image becomes real numbers: `(pixel / 255 - mean) / std`."""
        if self.images is None or port.name != self._image_input:
            return dict.fromkeys(("layout", "mean", "std", "crop", "resize"))
        unit = 255 * self.images.scale
        return {
            "layout": self._layout(port),
            "mean": [mean / unit for mean in self.images.mean],
            "std": [std / unit for std in self.images.std],
            "crop": self.images.crop,
            "resize": self.images.resize,
        }

    def embedded(self, tflite: bytes) -> Content:
        """A .tflite with this as its metadata."""
        name, images = self._image_input, self.images
        inputs = [
            TensorEntry(port.name, images=images if port.name == name else None)
            for port in self.io.inputs
        ]
        outputs = [
            TensorEntry(port.name, labels=self.labels if port.name == self._scores else ())
            for port in self.io.outputs
        ]
        described = f"exported by edgeq {version('edgeq')}, recipe {self.recipe}"
        return embed(tflite, described, inputs, outputs, self.to_json().encode())


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line.

    Raises:
        DataError: The file cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names {path}: {error}") from None
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise DataError(f"{path} holds no class names; write one a line")
    return labels
