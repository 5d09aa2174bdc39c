"""The portable target: the constraints of the XNNPACK delegate and the Edge TPU together."""

from __future__ import annotations

from edgeq.targets.edgetpu import EDGETPU
from edgeq.targets.target import Purpose, Target
from edgeq.targets.xnnpack import XNNPACK

PORTABLE = Target(
    name="portable",
    title="the portable subset",
    about="What XNNPACK and the Edge TPU both run: their rules together.",
    premises=(*XNNPACK.premises, *EDGETPU.premises),
    constraints=(*XNNPACK.constraints, *EDGETPU.constraints),
    mixes_float=False,
    rewrites=frozenset(
        {Purpose.FEWER_OPS, Purpose.DELEGATION, Purpose.MAPPING, Purpose.COMMON_OPS}
    ),
    advice={**EDGETPU.advice, **XNNPACK.advice},
)
