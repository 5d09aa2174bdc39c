"""Targets: which ops a delegate or accelerator runs in which form, and what it wants otherwise.

Knows single ops and their tensors; nothing of calibration, plans or runtimes.
"""

from __future__ import annotations

from edgeq.errors import RecipeError
from edgeq.targets.constraints import Constraint, Effect
from edgeq.targets.edgetpu import EDGETPU
from edgeq.targets.portable import PORTABLE
from edgeq.targets.target import Placement, Purpose, Target
from edgeq.targets.views import OpView, TensorView, op_view
from edgeq.targets.xnnpack import XNNPACK

__all__ = [
    "HOST",
    "TARGETS",
    "Constraint",
    "Effect",
    "OpView",
    "Placement",
    "Purpose",
    "Target",
    "TensorView",
    "as_target",
    "op_view",
]

TARGETS: dict[str, Target] = {t.name: t for t in (XNNPACK, EDGETPU, PORTABLE)}
"""Target by the name that users write."""

HOST = XNNPACK
"""The target that stands for this machine, where every file is verified."""


def as_target(name: str) -> Target:
    """The target of that name.

    Raises:
        RecipeError: There is none.
    """
    if name not in TARGETS:
        raise RecipeError(f"target must be one of {', '.join(TARGETS)}. Received: {name!r}")
    return TARGETS[name]
