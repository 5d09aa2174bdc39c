"""Targets: which ops a delegate or accelerator runs in which form, and the written reason if not.

Knows single ops and their tensors; nothing of calibration, plans or runtimes.
"""

from __future__ import annotations

from edgeq.targets.constraints import Constraint, Effect, Target
from edgeq.targets.edgetpu import EDGETPU
from edgeq.targets.portable import PORTABLE
from edgeq.targets.views import OpView, TensorView, op_view
from edgeq.targets.xnnpack import XNNPACK

__all__ = ["TARGETS", "Constraint", "Effect", "OpView", "Target", "TensorView", "op_view"]

TARGETS: dict[str, Target] = {t.name: t for t in (XNNPACK, EDGETPU, PORTABLE)}
"""Target by the name that users write."""
