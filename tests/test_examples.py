"""The example programs on files, as their users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import edgeq
from edgeq.demo import CLASS_NAMES
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel

ROOT = Path(__file__).resolve().parent.parent
Images = npt.NDArray[np.float32]


def example(name: str, *arguments: object) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "EDGEQ_EDGETPU": "libedgetpu.so.404"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def classes(demo_model: LiteModel, demo_images: Images, camera_model: EdgeModel) -> list[int]:
    """What the camera's model makes of the images."""
    pixels = pixels_of(demo_images)
    with camera_model.session() as session:
        (scores,) = session.run(pixels[..., None]).values()
    return [int(best) for best in scores.argmax(axis=1)]


@pytest.fixture(scope="module")
def camera_model(demo_model: LiteModel, demo_images: Images) -> EdgeModel:
    return edgeq.export(
        demo_model.tflite, demo_images, recipe="int8", inputs=("uint8", (-1, 1)), layout="nhwc",
        progress=False,
    )  # fmt: skip


def pixels_of(images: Images) -> npt.NDArray[np.uint8]:
    return np.rint((images[:, 0] + 1) * 127.5).astype(np.uint8)


def test_the_camera_loop_names_what_is_in_images(
    camera_model: EdgeModel, demo_images: Images, classes: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(pixels_of(demo_images)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASS_NAMES))
    model = camera_model.save(tmp_path / "model.tflite")
    said = example("camera_loop.py", model, "--labels", tmp_path / "labels.txt", "--images", folder)
    found = [line.split("\t")[1] for line in said.splitlines()]
    assert found == [CLASS_NAMES[best] for best in classes]


def test_the_coral_program_runs_on_the_cpu_without_an_edge_tpu(
    exported: EdgeModel, demo_images: Images, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", demo_images)
    model = exported.save(tmp_path / "model.tflite")
    said = example(
        "coral.py", tmp_path / "compiled.tflite", "--cpu", model, "--images",
        tmp_path / "images.npy",
    )  # fmt: skip
    with exported.session() as session:
        (scores,) = session.run(demo_images).values()
    assert "on the CPU: the Edge TPU's run time libedgetpu.so.404 is not installed" in said
    assert f"classes: {' '.join(map(str, scores.argmax(axis=1)))}" in said


def test_the_batch_job_writes_what_the_model_computes(
    exported: EdgeModel, demo_images: Images, tmp_path: Path
) -> None:
    many = np.concatenate([demo_images] * 8)
    np.save(tmp_path / "inputs.npy", many)
    model = exported.save(tmp_path / "model.tflite")
    said = example("batch_job.py", model, tmp_path / "inputs.npy", tmp_path / "outputs.npy")
    assert said.startswith(f"{len(many)} rows in ")
    with exported.session() as session:
        (expected,) = session.run(many).values()
    assert (np.load(tmp_path / "outputs.npy") == expected).all()
    assert not list(tmp_path.glob("*.partial"))
