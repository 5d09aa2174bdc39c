"""What several tests of faults start from."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import CheckResult


@pytest.fixture(scope="session")
def judged(exported: EdgeModel, demo_images: np.ndarray) -> CheckResult:
    """A verdict on the demo that breaks a promise."""
    return edgeq.check(exported, exported, demo_images[:3], Thresholds(min_sqnr_db=500))


@pytest.fixture(autouse=True)
def signals_as_in_a_new_process() -> Iterator[None]:
    """Under nohup a test is deaf to some, and a library of an earlier test may answer others."""
    fresh: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        if handler is not None:  # one that Python did not set cannot be set again
            signal.signal(number, handler)
