"""Float files of the architectures, traced from PyTorch once for all tests and processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.data.rep_dataset import RepDataset
from edgeq.export.frontends import trace
from edgeq.files import write_whole
from edgeq.isolation import Worker


@dataclass(frozen=True)
class Traces:
    """Files of one run of the tests.

    Attributes:
        folder: Where all processes of the run find them.
        converter: Traces what is not there yet.
    """

    folder: Path
    converter: Worker

    def keep(self, name: str, tflite: bytes) -> None:
        """Leaves a float file for other tests."""
        write_whole(self._path(name), tflite)

    def get(self, name: str, samples: int) -> tuple[bytes, npt.NDArray[np.float32]]:
        """The float file of an architecture, and `samples` inputs for it."""
        torch = pytest.importorskip("torch")
        pytest.importorskip("litert_torch")
        architectures = pytest.importorskip("architectures")
        torch.set_num_threads(1)
        architecture = architectures.ARCHITECTURES[name]
        data = architectures.samples(architecture, samples)
        if not self._path(name).exists():
            model = architectures.perturbed(architecture)
            self.keep(name, trace(model, data[:1], RepDataset(data), self.converter).tflite)
        return self._path(name).read_bytes(), data

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.tflite"
