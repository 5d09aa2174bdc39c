"""What several tests of faults start from."""

from __future__ import annotations

import signal
from collections.abc import Iterator

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
def signals_are_heard() -> Iterator[None]:
    """A test run in the background, or under nohup, is started deaf to some; its children too."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in heard}
    for number, handler in heard.items():
        if before[number] is signal.SIG_IGN:
            signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
