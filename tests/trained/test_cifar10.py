"""A really trained model keeps its task through an export, and the numbers are shown."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import cifar10
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import edgeq
from edgeq.runtime.session import Session


@dataclass(frozen=True)
class Measured:
    """What came of one export.

    Attributes:
        float_accuracy: Top-1 of the float .tflite on the test images, from 0 to 1.
        int8_accuracy: The same of the exported .tflite.
        sqnr_db: SQNR of the output in dB.
        size_ratio: Exported size over float size.
        latency_ratio: Exported latency over float latency.
    """

    float_accuracy: float
    int8_accuracy: float
    sqnr_db: float
    size_ratio: float
    latency_ratio: float

    @property
    def difference_points(self) -> float:
        """Change of accuracy in percentage points; below 0 the export is worse."""
        return 100 * (self.int8_accuracy - self.float_accuracy)

    def text(self) -> str:
        """The numbers as a table of plain text."""
        table = Table(title=f"MobileNetV2 on {cifar10.TEST_IMAGES} images of CIFAR-10, int8")
        for heading in (
            "float top-1", "int8 top-1", "difference", "SQNR", "size ratio", "latency ratio",
        ):  # fmt: skip
            table.add_column(heading, justify="right")
        table.add_row(
            f"{self.float_accuracy:.1%}", f"{self.int8_accuracy:.1%}",
            f"{self.difference_points:+.1f} points", f"{self.sqnr_db:.1f} dB",
            f"{self.size_ratio:.2f}", f"{self.latency_ratio:.2f}",
        )  # fmt: skip
        buffer = io.StringIO()
        Console(file=buffer, width=100, color_system=None).print(table)
        return buffer.getvalue()


@pytest.fixture
def case() -> cifar10.TrainedCase:
    try:
        return cifar10.load()
    except cifar10.Unavailable as error:
        pytest.skip(str(error))


def test_int8_export_keeps_the_task(
    case: cifar10.TrainedCase,
    show: Callable[[str], None],
    record_property: Callable[[str, object], None],
) -> None:
    made = edgeq.export(case.model, case.representative, recipe="int8")
    measured = _measure(made, case)
    show(measured.text())
    for name, value in {**vars(measured), "difference_points": measured.difference_points}.items():
        record_property(name, value)
    assert not made.report.float_ops
    assert measured.float_accuracy >= 0.78
    assert measured.int8_accuracy > 0.60
    assert measured.sqnr_db > 5.0
    assert measured.size_ratio <= 0.30


def _measure(made: edgeq.EdgeModel, case: cifar10.TrainedCase) -> Measured:
    return Measured(
        float_accuracy=_accuracy(made.float_model.tflite, case),
        int8_accuracy=_accuracy(made.tflite, case),
        sqnr_db=made.report.sqnr_db,
        size_ratio=made.report.size_ratio,
        latency_ratio=made.report.latency_ratio,
    )


def _accuracy(tflite: bytes, case: cifar10.TrainedCase) -> float:
    """Share of the test images whose highest logit is that of the right class, from 0 to 1."""
    with Session(tflite) as session:
        guesses = [_guess(session, case.test[i : i + 1]) for i in range(len(case.test))]
    return float(np.mean(guesses == case.labels))


def _guess(session: Session, image: NDArray[np.float32]) -> int:
    """Class that a model gives `(1, 3, 96, 96)`."""
    (logits,) = session.run(image).values()
    return int(logits.argmax())
