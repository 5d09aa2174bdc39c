"""What several tests of faults start from."""

from __future__ import annotations

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
