"""What Python computes for the JVM tests of `android_demo/` to compare with, as plain files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from android.assets import LAYOUT, original_test_pixels
from PIL import Image

from edgeq import demo
from edgeq.data.readers import ImageLayout, open_data
from edgeq.ports import read_io
from edgeq.qtypes import DType, QParams, dequantize, quantize
from edgeq.runtime.session import Session

IMAGES = 200

PHOTOS: dict[str, tuple[tuple[int, int, int], ImageLayout]] = {
    "demo": ((28, 28, 1), LAYOUT),
    "smaller": ((321, 200, 3), LAYOUT),
    "imagenet": (
        (333, 517, 3),
        ImageLayout(size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406),
                    std=(0.229, 0.224, 0.225)),
    ),
    "portrait": ((517, 333, 3), ImageLayout(size=(96, 160), layout="nhwc")),
    "larger": ((17, 23, 3), ImageLayout(size=(64, 48), layout="nhwc", mean=(0.5,), std=(0.25,))),
    "stretched": ((40, 90, 3), ImageLayout(size=(32, 32), crop="none", layout="nhwc")),
    "grey to colours": ((50, 60, 1), ImageLayout(size=(32, 32), layout="nhwc")),
    "bytes": ((30, 30, 3), ImageLayout(size=(32, 32), resize=33, layout="nhwc")),
}  # fmt: skip
"""Shape of a random photo (height, width, channels) and what becomes of it."""


def write_vectors(folder: Path, assets: Path) -> None:
    """Writes all of them.

    Args:
        folder: Where to.
        assets: The app's assets, whose models compute the logits.
    """
    (folder / "assets").symlink_to(assets)
    _write_classifier(folder, assets)
    _write_photos(folder)
    _write_numbers(folder)
    _write_camera_frame(folder)


def _write_classifier(folder: Path, assets: Path) -> None:
    labels = demo.load_data().labels[:: 1000 // IMAGES]
    pixels = original_test_pixels()[:: 1000 // IMAGES]
    (folder / "images.bin").write_bytes(pixels.tobytes())
    (folder / "labels.bin").write_bytes(labels.astype(np.uint8).tobytes())
    right = {}
    for name in ("quantized", "float"):
        logits = _logits((assets / name / "model.tflite").read_bytes(), pixels)
        (folder / f"{name}.logits").write_bytes(logits.tobytes())
        right[f"{name}.right"] = int((logits.argmax(axis=1) == labels).sum())
    (folder / "expected.json").write_text(json.dumps(right))


def _logits(tflite: bytes, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Of each image on the interpreter, as real numbers `(N, 10)`."""
    io = read_io(tflite)
    rows = []
    with Session(tflite, threads=1) as session:
        for image in pixels:
            held = io.inputs[0].quantize(LAYOUT.normalised(image[..., None]))
            (output,) = session.run(held).values()
            rows.append(io.outputs[0].dequantize(output)[0])
    return np.asarray(rows, np.float32)


def _write_photos(folder: Path) -> None:
    random = np.random.default_rng(0)
    cases = []
    for index, (name, (shape, layout)) in enumerate(PHOTOS.items()):
        pixels = random.integers(0, 256, shape, np.uint8)
        photos = folder / f"photo{index}"
        photos.mkdir()
        Image.fromarray(pixels.squeeze()).save(photos / "photo.png")
        values = open_data(photos, layout)[0]
        (folder / f"{index}.pixels").write_bytes(pixels.tobytes())
        (folder / f"{index}.values").write_bytes(values.tobytes())
        height, width, channels = shape
        cases.append({
            "name": name, "width": width, "height": height, "channels": channels,
            "pixels": f"{index}.pixels", "values": f"{index}.values",
            "metadata": _metadata(layout, values.shape),
        })  # fmt: skip
    (folder / "photos.json").write_text(json.dumps({"cases": cases}))


def _metadata(layout: ImageLayout, shape: tuple[int, ...]) -> dict[str, object]:
    image = {"name": "image", "shape": shape, "dtype": "float32", "layout": layout.layout,
             "mean": layout.mean, "std": layout.std, "crop": layout.crop,
             "resize": layout.resize}  # fmt: skip
    score = {"name": "score", "shape": [1, 1], "dtype": "float32"}
    return {"edgeq": "0", "recipe": "float", "inputs": [image], "outputs": [score], "labels": ["a"]}


def _write_numbers(folder: Path) -> None:
    random = np.random.default_rng(1)
    qparams = QParams(DType.INT8, (0.007843137718737125,), (-3,))
    real = random.normal(0, 1, 10000).astype(np.float32)
    held = quantize(real, qparams)
    (folder / "quantize.json").write_text(json.dumps({"scale": qparams.scale[0]}))
    (folder / "quantize.real").write_bytes(real.tobytes())
    (folder / "quantize.int8").write_bytes(held.tobytes())
    (folder / "quantize.back").write_bytes(dequantize(held, qparams).tobytes())
    logits = random.normal(0, 5, (100, 10)).astype(np.float32)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    (folder / "softmax.logits").write_bytes(logits.tobytes())
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    (folder / "softmax.probabilities").write_bytes(probabilities.tobytes())


def _write_camera_frame(folder: Path) -> None:
    """16 x 16 luma with 8 x 8 colour differences, as cameras give them."""
    random = np.random.default_rng(2)
    luma = random.integers(0, 256, (16, 16), np.uint8)
    blue, red = random.integers(0, 256, (2, 8, 8), np.uint8)
    full = [luma, *(plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (blue, red))]
    rgb = Image.merge("YCbCr", [Image.fromarray(plane) for plane in full]).convert("RGB")
    for name, content in (("y", luma), ("u", blue), ("v", red), ("rgb", np.asarray(rgb))):
        (folder / f"yuv.{name}").write_bytes(content.tobytes())
