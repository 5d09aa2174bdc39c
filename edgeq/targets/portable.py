"""What runs on both the XNNPACK delegate and the Edge TPU: their constraints together."""

from __future__ import annotations

from edgeq.targets.constraints import Target
from edgeq.targets.edgetpu import EDGETPU
from edgeq.targets.xnnpack import XNNPACK

PORTABLE = Target(
    "portable",
    "the portable subset",
    (*XNNPACK.premises, *EDGETPU.premises),
    (*XNNPACK.constraints, *EDGETPU.constraints),
)
