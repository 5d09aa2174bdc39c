"""Takes what the build needs out of the wheels that scripts/android_packages fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

JARS = {"kotlin-jupyter-kernel-": "kotlin-compiler.jar", "kotlin-stdlib-": "kotlin-stdlib.jar"}
ABIS = {"android_23_arm64_v8a": "arm64-v8a", "android_23_x86_64": "x86_64", "manylinux": "host"}
LITERT = "liblitert-lm.so"


def place_of(wheel: str, member: str) -> Path | None:
    """Where a file of a wheel goes, relative to the packages' folder; None where it is not used."""
    name = Path(member).name
    if name == LITERT:
        (abi,) = (abi for tag, abi in ABIS.items() if tag in wheel)
        return Path("lib", abi, name)
    for start, jar in JARS.items():
        if name.startswith(start) and name.endswith(".jar"):
            return Path(jar)
    return None


def unpack(downloads: Path, target: Path) -> None:
    """Unpacks all wheels of a folder."""
    for path in downloads.glob("*.whl"):
        with ZipFile(path) as wheel:
            for member in wheel.namelist():
                place = place_of(path.name, member)
                if place is not None:
                    (target / place).parent.mkdir(parents=True, exist_ok=True)
                    (target / place).write_bytes(wheel.read(member))


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
