"""A 64-bit ARM machine of packages alone: Debian's Python and qemu, LiteRT's own ARM wheel.

No root, container or binfmt is needed. The packages are pinned, checked by hash and kept in the
tests' cache directory. Knows nothing of what is run there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packages import Archive, cache_directory, deb, foreign_debs, wheel
from run_models import RUN_TIMEOUT_S, Models, Results, run_models

RESOLVERS = {"AUTO": "XNNPACK", "BUILTIN_REF": "reference kernels"}
"""The kernels that compute the same bits on every processor, but for rare products on XNNPACK.

It multiplies int8 tensors in float32 on x86 and in integers on ARM: a product closer than 0.00001
to half a step can be rounded to either side. Ops that it leaves run on the plain
optimised kernels, some of which compute otherwise on ARM, SOFTMAX for one.
"""

_DEBS = {
    "python3.11-minimal_3.11.2-6+deb12u9_arm64.deb":
        "617855dbf3299e03873926c75d61feaf3d36924586aecc1951a0b965a95bc694",
    "libpython3.11-minimal_3.11.2-6+deb12u9_arm64.deb":
        "dd9847d2f77c5a924b1d3dd953b81f161db9374c94d03b9216191925350928c3",
    "libpython3.11-stdlib_3.11.2-6+deb12u9_arm64.deb":
        "9937cbe3f647aa89a590fec647438ce02098c113d1c6f70e4cb1230c368d42a4",
    "libc6_2.36-9+deb12u14_arm64.deb":
        "01f4330719fd4f65580e16ea5a0527f372fca750e8f588d26deaf09f2d3b1cf4",
    "libgcc-s1_12.2.0-14+deb12u1_arm64.deb":
        "576926b283613db80168ddf76380a3bd877602778cf0d226caa7bfbfa71eacf3",
    "libstdc++6_12.2.0-14+deb12u1_arm64.deb":
        "26e138c677a985775331373828a6c286c551ff397cb735d00e2383cb273d1cb2",
    "zlib1g_1%3a1.2.13.dfsg-1_arm64.deb":
        "52b8b8a145bbe1956bba82034f77022cbef0c3d0885c9e32d9817a7932fe1913",
    "libexpat1_2.5.0-1+deb12u5_arm64.deb":
        "4a733e7f636de4a4483e3e5d7b02dc8e788b115361a04dd58df89461ce2ae65a",
    "libffi8_3.4.4-1_arm64.deb":
        "80b5c36177dc0e29d531c7eddbed3cc7355cb490e49f8cfa5959572d161f27b3",
}  # fmt: skip
_QEMU = deb(
    "qemu-user-static_1%3a7.2+dfsg-7+deb12u18+b3_amd64.deb", "qemu-user-static",
    "1:7.2+dfsg-7+deb12u18+b3", "c3e3ba2bd87f8c5b9a5da5ef21b5a3b82d7c63b89dd448d9ddaa4eabc5b6e402",
)  # fmt: skip
_WHEELS = (
    wheel(
        "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64.whl", "ai-edge-litert", "2.3.0",
        "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae", "aarch64",
    ),
    wheel(
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", "numpy",
        "2.4.6", "0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47", "aarch64",
    ),
)  # fmt: skip

_EMULATOR = "usr/bin/qemu-aarch64-static"
_SYSTEM = ("etc", "lib", "usr")


@dataclass(frozen=True)
class Processor:
    """One kind of ARM processor.

    Attributes:
        name: As qemu calls it.
        part: Its number in /proc/cpuinfo.
        features: What it has, likewise. This qemu shows the host's file, which LiteRT trusts: it
            would crash on an instruction that the processor lacks.
    """

    name: str
    part: str
    features: str

    def cpuinfo(self) -> str:
        """Its /proc/cpuinfo."""
        return (
            f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {self.features}\n"
            "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
            f"CPU part\t: {self.part}\nCPU revision\t: 1\n"
        )


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
PROCESSORS = (
    Processor("cortex-a53", "0xd03", f"{_BASE} cpuid"),
    Processor(
        "cortex-a76", "0xd0b",
        f"{_BASE} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
)  # fmt: skip
"""One of a Raspberry Pi 3, without int8 dot products, and that of a Raspberry Pi 5, with them."""


class Machine:
    """The packages, unpacked.

    Raises:
        Unavailable: They cannot be fetched, or are not the files that are meant.
    """

    def __init__(self) -> None:
        archives = [*foreign_debs("arm64", _DEBS), _QEMU, *_WHEELS]
        paths = [archive.path() for archive in archives]
        pins = hashlib.sha256("".join(a.sha256 for a in archives).encode()).hexdigest()[:12]
        self._root = cache_directory() / f"arm64-{pins}"
        if not (self._root / "ready").exists():
            shutil.rmtree(self._root, ignore_errors=True)
            self._unpack(archives, paths)
            (self._root / "ready").touch()

    def _unpack(self, archives: list[Archive], paths: list[Path]) -> None:
        self._root.mkdir(parents=True)
        for archive, path in zip(archives, paths, strict=True):
            if archive is _QEMU:
                emulator = self._root / _EMULATOR
                emulator.write_bytes(archive.read_one(_EMULATOR))
                emulator.chmod(0o755)
            elif path.suffix == ".whl":
                with zipfile.ZipFile(path) as content:
                    content.extractall(self._root / "packages")
            else:
                command = ["dpkg-deb", "-x", str(path), str(self._root)]
                subprocess.run(command, check=True, capture_output=True)

    def run(
        self,
        processor: Processor,
        folder: Path,
        models: Models,
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Results:
        """Outputs of each model with each of `RESOLVERS`, or what LiteRT said to it.

        Processors may run side by side, each with a folder of its own.
        """
        root = folder / "root"
        self._link(root, processor)
        command = [
            self._root / _EMULATOR, "-cpu", processor.name, "-L", root,
            root / "usr/bin/python3.11",
        ]  # fmt: skip
        # Compiling numpy is slow there: once is enough.
        environment = {
            "PYTHONPATH": str(self._root / "packages"),
            "PYTHONHOME": "",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return run_models(command, folder, models, tuple(RESOLVERS), environment, timeout_s)

    def _link(self, root: Path, processor: Processor) -> None:
        """A root with the unpacked packages and one processor's /proc/cpuinfo."""
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(processor.cpuinfo())
        for name in _SYSTEM:
            (root / name).symlink_to(self._root / name)


def differences(here: Results, there: Results) -> dict[tuple[str, str], str]:
    """Where two machines differ, by model and resolver: in how many values, and by how much."""
    found = {}
    for name, results in here.items():
        for resolver, one in results.items():
            other = there[name][resolver]
            if isinstance(one, str) or isinstance(other, str):
                if one != other:
                    found[name, resolver] = f"{one if isinstance(one, str) else other}"
                continue
            for first, second in zip(one, other, strict=True):
                if first.tobytes() != second.tobytes():
                    gap = np.abs(first.astype(np.float64) - second.astype(np.float64))
                    count = int((gap > 0).sum())
                    found[name, resolver] = f"{count} of {gap.size} values, by up to {gap.max():g}"
    return found
