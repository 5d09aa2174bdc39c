"""Processors that a search can plan for by name, each with its cost table and where that is from.

Knows tables alone. What a table does not say of a processor is what the nearest one has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from edgeq.errors import RecipeError
from edgeq.export.search.costs import (
    DYNAMIC,
    PADDED_ELEMENTS,
    WITH_DOT_PRODUCT,
    WITHOUT_DOT_PRODUCT,
    Costs,
    Rates,
)


@dataclass(frozen=True)
class Device:
    """A processor to plan for.

    Attributes:
        costs: Its table.
        source: Where the rates are from, with the date.
    """

    costs: Costs
    source: str


_KINDS = {
    "convolution": (1.0, 1.0),
    "transposed convolution": (1.0, 1.0),
    "depthwise": (3.0, 1.0),
    "large depthwise": (10.0, 1.0),
    "dense": (1.0, 1.0),
    "matmul": (1.2, 1.0),
    "nonlinear": (1.0, 1.7),
    "elementwise": (1.0, 1.0),
    "move": (1.0, 0.33),
}
"""What multiplications and elements of each kind of op take over those of a convolution: about what
they do on x86-64, for cores that nothing is published of but convolutional networks."""


def _arm(name: str, float32: Rates, int8: Rates, byte_ns: float) -> Costs:
    """A table of an ARM core from its rates of convolutions.

    Dynamic range multiplies as int8 does, and reads and writes float.
    """

    padded_ns = PADDED_ELEMENTS * float32.element_ns * _KINDS["move"][1]

    def table(own: Rates) -> dict[str, Rates]:
        rates = {
            kind: Rates(own.mac_ns * macs, own.element_ns * elements)
            for kind, (macs, elements) in _KINDS.items()
        }
        return {**rates, "move": replace(rates["move"], pixel_ns=padded_ns)}

    dynamic = Rates(int8.mac_ns, float32.element_ns + int8.element_ns)
    return Costs(
        name,
        table(float32),
        table(int8),
        dict.fromkeys(DYNAMIC, dynamic),
        weight_byte_ns=byte_ns,
        far_byte_ns=byte_ns,
        boundary_ns=int8.element_ns / 2,
        launch_ns=1000.0,
    )


DEVICES = {
    "x86-vnni": Device(
        WITH_DOT_PRODUCT,
        "edgeq bench --fit on a Xeon with AVX-512 VNNI, and one-op models and chains of ops on one "
        "with AMX, with its kernels and without, LiteRT 2.3, November 2026",
    ),
    "x86-avx2": Device(
        WITHOUT_DOT_PRODUCT,
        "edgeq bench --fit on an AMD EPYC with AVX2 and chains of ops on it, LiteRT 2.3, November "
        "2026",
    ),
    "cortex-a53": Device(
        _arm("cortex-a53", Rates(0.160, 1.73), Rates(0.0683, 0.471), 0.5),
        "MobileNet v1 and v2 in float and int8 on a Raspberry Pi 3+ with all four cores, in the "
        "README of XNNPACK, February 2022",
    ),
    "phone": Device(
        _arm("phone", Rates(0.135, 0.613), Rates(0.0339, 0.408), 0.1),
        "float: MobileNet v1 and v2 on a Pixel 3a, one thread, in the README of XNNPACK, March "
        "2020; int8: a quarter of that for each multiplication, as SDOT does four in the place of "
        "one FMLA (Arm Cortex-A76 Software Optimization Guide), and for each element what a "
        "Raspberry Pi 4 takes in the same README, February 2022",
    ),
}
"""Processors by name.

The ARM rates solve the published times of MobileNet v1 and v2 for the time of a multiplication
(three of them in a depthwise convolution) and of an element that is read or written. They were
not measured here.
"""

DEFAULT = "x86-vnni"
"""The processor that is planned for where nothing is said: one with int8 dot products."""


def as_costs(device: str | os.PathLike[str]) -> Costs:
    """The table of a processor by its name, or of a file that `edgeq bench --fit` wrote.

    Raises:
        RecipeError: There is neither.
    """
    if not isinstance(device, str | os.PathLike):
        raise RecipeError(
            f"device must be one of {', '.join(DEVICES)}, or the path of a cost table. "
            f"Received: {type(device).__name__}"
        )
    if isinstance(device, str) and device in DEVICES:
        return DEVICES[device].costs
    if not Path(device).exists():
        raise RecipeError(
            f"device must be one of {', '.join(DEVICES)}, or the path of a cost table that "
            f"edgeq bench --fit wrote. Received: {os.fspath(device)!r:.80}"
        )
    return Costs.load(device)
