"""Overlays for Model Explorer: what each op of an integer model loses, as its node data JSON.

Source:
    Model Explorer's "custom node data": values by node id, which of a .tflite is the op's index.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from edgeq.report.diagnosis import Diagnosis, LayerError

WORST, BEST = "#d9480f", "#ffffff"
MOST_DB = 100.0
"""Value shown for a layer that loses nothing, in dB."""

KINDS = {"float32": "#ffd8a8", "int8": "#a5d8ff", "int16": "#d0bfff"}
"""Background of ops by what they compute in; of the longer names, the first word counts."""


def overlays(diagnosis: Diagnosis) -> dict[str, str]:
    """JSON text by the name that Model Explorer shows; it colours the graph by the last one."""
    return {
        "computes in": _kinds(diagnosis),
        "SQNR added (dB)": _numbers(diagnosis, lambda x: x.added_db),
        "SQNR so far (dB)": _numbers(diagnosis, lambda x: x.accumulated_db),
        "SQNR if alone rounded (dB)": _numbers(diagnosis, lambda x: x.cost_db),
    }


def _numbers(diagnosis: Diagnosis, value: Callable[[LayerError], float]) -> str:
    found = {
        str(line.index): {"value": round(min(value(line), MOST_DB), 2)}
        for line in diagnosis.layers
        if line.index is not None and not math.isnan(value(line))
    }
    gradient = [{"stop": 0, "bgColor": WORST}, {"stop": 1, "bgColor": BEST}]
    return _json({"results": found, "gradient": gradient})


def _kinds(diagnosis: Diagnosis) -> str:
    found = {
        str(line.index): {"value": line.kind, "bgColor": KINDS.get(line.kind.split()[0], BEST)}
        for line in diagnosis.layers
        if line.index is not None
    }
    return _json({"results": found})


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
