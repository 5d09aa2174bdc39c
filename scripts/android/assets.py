"""The demo app's assets: edgeq's bundled classifier, exported, and a few of its test images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import edgeq
from edgeq import demo
from edgeq.data.readers import ImageLayout
from edgeq.export.deploy.android import ASSETS, write_assets

LAYOUT = ImageLayout(size=(28, 28), color="gray", layout="nhwc", mean=(0.5,), std=(0.5,))


def export_demo() -> edgeq.EdgeModel:
    """The demo model as the app takes it: int8 in and out, so that nothing converts twice."""
    data = demo.load_data()
    return edgeq.export(
        demo.float_model_path(), data.calibration, recipe="int8", inputs=("int8", (-1, 1)),
        outputs="int8", layout="nhwc",
    )  # fmt: skip


def original_test_pixels() -> npt.NDArray[np.uint8]:
    """The demo's test images as they were before normalising, `(1000, 28, 28)`."""
    return np.rint((demo.load_data().test[:, 0] + 1) * 127.5).astype(np.uint8)


def write(folder: Path, made: edgeq.EdgeModel) -> None:
    """Writes the models and one sample image of each class, with the images' licence."""
    write_assets(folder, made, LAYOUT, demo.CLASS_NAMES)
    (folder / "samples").mkdir(exist_ok=True)
    labels, pixels = demo.load_data().labels, original_test_pixels()
    for index in range(len(demo.CLASS_NAMES)):
        image = Image.fromarray(pixels[np.flatnonzero(labels == index)[0]])
        image.save(folder / "samples" / f"{index}.png")
    licence = demo.float_model_path().with_name("LICENSE.fashion-mnist")
    (folder / licence.name).write_bytes(licence.read_bytes())


if __name__ == "__main__":
    write(Path(sys.argv[1]) / ASSETS, export_demo())
