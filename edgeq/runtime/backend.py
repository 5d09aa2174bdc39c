"""Which LiteRT interpreter this machine has, and its version. Nothing else imports one."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from edgeq.errors import DependencyError

_CANDIDATES = (
    ("ai_edge_litert", "ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime", "tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite", "tensorflow.lite.python.interpreter", "tensorflow"),
)


@dataclass(frozen=True)
class Backend:
    """An installed interpreter.

    Attributes:
        name: `"ai_edge_litert"`, `"tflite_runtime"` or `"tensorflow.lite"`.
        version: Version of the package.
        module: Its interpreter module.
    """

    name: str
    version: str
    module: Any

    def describe(self) -> str:
        """For example `ai_edge_litert 2.3.0`."""
        return f"{self.name} {self.version}"


@functools.cache
def load_backend() -> Backend:
    """The first of ai_edge_litert, tflite_runtime and tensorflow.lite that is installed.

    Raises:
        DependencyError: None of them is.
    """
    for name, module, package in _CANDIDATES:
        try:
            loaded = importlib.import_module(module)
        except ImportError:
            continue
        return Backend(name, _version(package), loaded)
    raise DependencyError(
        "no LiteRT runtime is installed: `pip install ai-edge-litert` "
        "(or tflite-runtime on an older board)"
    )


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"
