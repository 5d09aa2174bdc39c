"""A really trained model keeps its task through an export, and the numbers are shown."""

from __future__ import annotations

import cifar10
import numpy as np
import pytest
import tables
from numpy.typing import NDArray

import edgeq
from edgeq.runtime.session import Session


@pytest.fixture
def case() -> cifar10.TrainedCase:
    try:
        return cifar10.load()
    except cifar10.Unavailable as error:
        pytest.skip(str(error))


def test_int8_export_keeps_the_task(case: cifar10.TrainedCase) -> None:
    made = edgeq.export(case.model, case.representative, recipe="int8")
    before = _accuracy(made.float_model.tflite, case)
    after = _accuracy(made.tflite, case)
    tables.add_row(
        "trained models",
        {
            "model": f"MobileNetV2, {cifar10.TEST_IMAGES} images of CIFAR-10, int8",
            "float top-1 %": before * 100,
            "int8 top-1 %": after * 100,
            "points": (after - before) * 100,
            "SQNR dB": made.report.sqnr_db,
            "size ratio": made.report.size_ratio,
            "latency ratio": made.report.latency_ratio,
        },
    )
    assert not made.report.float_ops
    assert before >= 0.78
    assert after > 0.60
    assert made.report.sqnr_db > 5.0
    assert made.report.size_ratio <= 0.30


def _accuracy(tflite: bytes, case: cifar10.TrainedCase) -> float:
    """Share of the test images whose highest logit is that of the right class, from 0 to 1."""
    with Session(tflite) as session:
        guesses = [_guess(session, case.test[i : i + 1]) for i in range(len(case.test))]
    return float(np.mean(guesses == case.labels))


def _guess(session: Session, image: NDArray[np.float32]) -> int:
    """Class that a model gives `(1, 3, 96, 96)`."""
    (logits,) = session.run(image).values()
    return int(logits.argmax())
