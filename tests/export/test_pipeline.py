"""The order of an export's stages, which stands in the code, its page and the guide."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edgeq
from edgeq.export import pipeline
from edgeq.export.edge_model import EdgeModel
from edgeq.export.pipeline import STAGES
from edgeq.model import LiteModel

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def test_the_module_and_the_guide_list_the_stages_in_order() -> None:
    assert re.findall(r"^\d\. (\w+)", pipeline.__doc__ or "", re.M) == list(STAGES)
    first_section = GUIDE.read_text().split("\n## ")[1]
    assert re.findall(r"^\d\. \*\*(\w+)\*\*", first_section, re.M) == list(STAGES)


def test_an_export_runs_these_stages_and_no_other(
    demo_model: LiteModel, demo_images: npt.NDArray[np.float32], exported: EdgeModel
) -> None:
    searched = edgeq.export(demo_model.tflite, demo_images, progress=False).report.seconds
    assert list(searched) == [s for s in STAGES if s not in ("plan", "build")]
    assert list(exported.report.seconds) == [s for s in STAGES if s != "search"]
