"""Older LiteRT run times, each in an environment of its own, and what they make of files.

An environment is made once, in the cache directory of the tests, by the pip that this machine has
set up. Knows nothing of what is tested.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packages import Unavailable, cache_directory
from run_models import Arrays, Models, run_models

ROOT = Path(__file__).resolve().parents[2]
PIP_TIMEOUT_S = 300


@dataclass(frozen=True)
class OldRuntime:
    """A tflite-runtime of another age.

    Attributes:
        version: Of the package; it is the TensorFlow version that it was built from.
        pythons: Minor versions of Python 3 that it has wheels for.
        also: What else the environment holds.
    """

    version: str
    pythons: tuple[int, ...]
    also: tuple[str, ...] = ()

    def python(self) -> Path:
        """The environment's Python.

        Raises:
            Unavailable: No such Python is on this machine, or pip cannot fetch the packages.
        """
        base = self._base()
        folder = cache_directory() / f"tflite-runtime-{self.version}"
        python = folder / "bin" / "python"
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([base, "-m", "venv", "--without-pip", folder])
            (packages,) = folder.glob("lib/python3.*/site-packages")
            minor = packages.parent.name.removeprefix("python")
            wanted = [f"tflite-runtime=={self.version}", *self.also]
            _run([
                sys.executable, "-m", "pip", "install", "--quiet", "--target", packages,
                "--only-binary=:all:", "--implementation=cp", f"--python-version={minor}",
                f"--platform=manylinux2014_{platform.machine()}", *wanted,
            ])  # fmt: skip
            (folder / "ready").touch()
        return python

    def _base(self) -> Path:
        for minor in self.pythons:
            places = [
                *(Path(p) / f"python3.{minor}" for p in os.environ["PATH"].split(os.pathsep)),
                *Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python3.{minor}"),
            ]
            for place in places:
                if place.is_file() and _works(place):
                    return place
        wanted = ", ".join(f"3.{minor}" for minor in self.pythons)
        raise Unavailable(f"tflite-runtime {self.version} has wheels for Python {wanted} alone")

    def run(self, folder: Path, models: Models) -> dict[str, Arrays | str]:
        """Outputs of each model by name, or what the run time said to it."""
        found = run_models([self.python()], folder, models)
        return {name: results["AUTO"] for name, results in found.items()}

    def call(self, source: str, *arguments: object) -> str:
        """What a program prints that runs there and finds edgeq."""
        done = subprocess.run(
            [self.python(), "-c", source, *map(str, arguments)],
            capture_output=True, text=True, check=True, timeout=PIP_TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return done.stdout


def _works(python: Path) -> bool:
    """Whether it is more than a launcher of a Python that is not set up."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def _run(command: Sequence[object]) -> None:
    try:
        subprocess.run(
            [str(word) for word in command],
            check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[-1]} was not installed in {PIP_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        found = re.findall(r"ERROR: (.*)", error.stderr)
        raise Unavailable(f"{command[-1]} cannot be installed: {found[:1]}") from None


LAST = OldRuntime(
    "2.14.0", tuple(m for m in (11, 10) if m <= sys.version_info.minor),
    ("numpy==1.26.4", "flatbuffers==25.12.19", "rich==14.2.0"),
)  # fmt: skip
"""The last tflite-runtime that there is; what edgeq.runtime needs is beside it."""

OLD = OldRuntime("2.7.0", (9, 8, 7), ("numpy<1.25",))
"""The nearest that can be had to the run time inside the Edge TPU compiler, which is 2.5."""
