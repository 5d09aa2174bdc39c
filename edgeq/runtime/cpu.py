"""Features of this machine's processor, and settings that slow it down."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_DOT_PRODUCT_FLAGS = {
    "x86_64": {"avx512_vnni", "avx_vnni", "avx512vnni"},
    "aarch64": {"asimddp", "i8mm"},
}


def has_int8_dot_product() -> bool | None:
    """Whether it multiplies and adds int8 in one instruction; None where that cannot be told.

    Source:
        The flags of /proc/cpuinfo. XNNPACK's int8 kernels are several times as fast with it.
    """
    wanted = _DOT_PRODUCT_FLAGS.get(platform.machine())
    if wanted is None or not _CPU_INFO.exists():
        return None
    return bool(wanted & set(_CPU_INFO.read_text().split()))


HOT_MARGIN_C = 10.0
"""Degrees Celsius below the point where a system slows its processor down."""

_THROTTLED = Path("sys/devices/platform/soc/soc:firmware/get_throttled")
_PI_STATES = {
    0: "the supply voltage is too low now",
    1: "the clock is capped now",
    2: "it is throttled now",
    3: "it is near its soft temperature limit now",
    16: "the supply voltage was too low since it started",
    18: "it was throttled since it started",
}
"""Bits of a Raspberry Pi's firmware, as `vcgencmd get_throttled` shows them."""


def speed_hints(root: Path = Path("/")) -> tuple[str, ...]:
    """Lists settings that make latencies here slower or less steady, one sentence each.

    Args:
        root: Folder with the system's `sys` and `proc`.

    Source:
        Linux' cpufreq and thermal interfaces under /sys.
    """
    return (*_governors(root), *_temperatures(root), *_raspberry_pi(root), *_load(root))


def _governors(root: Path) -> tuple[str, ...]:
    found = root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    slow = sorted({_text(path) for path in found} - {"performance", ""})
    if not slow:
        return ()
    return (
        f"the CPU governor is {', '.join(slow)}, which lowers the clock between runs: "
        "`sudo cpupower frequency-set -g performance` keeps it up",
    )


def _temperatures(root: Path) -> tuple[str, ...]:
    hints = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        now = _celsius(zone / "temp")
        kinds = zone.glob("trip_point_*_type")
        points = [
            _celsius(path.with_name(path.name.replace("_type", "_temp")))
            for path in kinds
            if _text(path) in ("passive", "hot")
        ]
        limit = min((p for p in points if p is not None and p > 0), default=None)
        if now is not None and limit is not None and now > limit - HOT_MARGIN_C:
            hints.append(
                f"{_text(zone / 'type') or zone.name} is at {now:.0f} C, and slows down from "
                f"{limit:.0f} C on: cool it, or measure after a pause"
            )
    return tuple(hints)


def _raspberry_pi(root: Path) -> tuple[str, ...]:
    text = _text(root / _THROTTLED)
    bits = int(text, 16) if text else 0
    states = [state for bit, state in _PI_STATES.items() if bits >> bit & 1]
    return (f"the Raspberry Pi's firmware says: {'; '.join(states)}",) if states else ()


def _load(root: Path) -> tuple[str, ...]:
    text = _text(root / "proc/loadavg")
    busy, cpus = float(text.split()[0]) if text else 0.0, os.cpu_count() or 1
    if busy <= cpus / 2:
        return ()
    return (f"about {busy:.0f} processes want the {cpus} CPUs: results will vary",)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def _celsius(path: Path) -> float | None:
    text = _text(path)
    return int(text) / 1000 if text.lstrip("-").isdigit() else None
