"""What several test files start from: the bundled demo model, calibrated and exported once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lent_workers
import numpy as np
import numpy.typing as npt
import pytest
from lent_workers import Lender
from traces import Traces

import edgeq
from edgeq import demo
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator
from edgeq.converter import start_converter
from edgeq.export.edge_model import EdgeModel
from edgeq.isolation import Worker
from edgeq.model import LiteModel

pytest_plugins = ["tables"]

# Fixed for a process when Keras is first imported, which other packages do too.
os.environ.setdefault("KERAS_BACKEND", "jax")

# Programs for other interpreters, for atheris and for the Android tests, which have no doctests.
collect_ignore = ["support/android_vectors.py", "support/external", "support/guided_view.py"]

SAMPLES = 20


@pytest.fixture(scope="session", autouse=True)
def lender() -> Iterator[Lender]:
    """Exports of one test after the other use the same children; see `lent_workers`."""
    with lent_workers.in_use() as made:
        yield made


@pytest.fixture(scope="session")
def converter(lender: Lender) -> Iterator[Worker]:
    """The converter's child process."""
    with start_converter() as worker:
        yield worker


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that the processes of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def traces(run_folder: Path, converter: Worker) -> Traces:
    """Architectures as float files, which the processes of a run share."""
    return Traces(run_folder / "traces", converter)


@pytest.fixture(scope="session")
def demo_images() -> npt.NDArray[np.float32]:
    """`(20, 1, 28, 28)` calibration images of the demo."""
    return demo.load_data().calibration[:SAMPLES]


@pytest.fixture(scope="session")
def demo_model() -> LiteModel:
    """The demo's float model."""
    return LiteModel(demo.float_model_path().read_bytes(), "tflite")


@pytest.fixture(scope="session")
def demo_calibration(demo_model: LiteModel, demo_images: npt.NDArray[np.float32]) -> Calibration:
    """The demo model's ranges over all of `demo_images`."""
    return Calibrator(demo_model, threads=1).run((image[None],) for image in demo_images)


@pytest.fixture(scope="session")
def exported(demo_model: LiteModel, demo_images: npt.NDArray[np.float32]) -> EdgeModel:
    """The demo model in int8 throughout, exported with `demo_images`."""
    return edgeq.export(demo_model.tflite, demo_images, recipe="int8")


@pytest.fixture(scope="session")
def for_edgetpu(demo_model: LiteModel, demo_images: npt.NDArray[np.float32]) -> EdgeModel:
    """The demo model as the Edge TPU compiler takes it."""
    return edgeq.export(demo_model.tflite, demo_images, target="edgetpu", progress=False)


@pytest.fixture
def demo_files(tmp_path: Path, demo_model: LiteModel, demo_images: npt.NDArray[np.float32]) -> Path:
    """A folder with the float model as `model.tflite` and its images as `images.npy`."""
    (tmp_path / "model.tflite").write_bytes(demo_model.tflite)
    np.save(tmp_path / "images.npy", demo_images)
    return tmp_path
