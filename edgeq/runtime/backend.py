"""Which LiteRT interpreter this machine has, and its version. Nothing else imports one."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any

from edgeq.errors import DependencyError
from edgeq.flatbuffer import pack, schema
from edgeq.runtime import native_logs

_CANDIDATES = (
    ("ai_edge_litert", "ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime", "tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite", "tensorflow.lite.python.interpreter", "tensorflow"),
)
BACKENDS = tuple(name for name, _, _ in _CANDIDATES)
"""Names of the interpreters, in the order in which they are preferred."""


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

    @property
    def min_runtime(self) -> str:
        """The `min_runtime=` of an export whose file this interpreter reads."""
        found = re.match(r"\d+\.\d+", self.version)
        return found.group() if found else self.version


@functools.cache
def load_backend(name: str | None = None) -> Backend:
    """The interpreter of that name, or the first of `BACKENDS` that is installed.

    Raises:
        DependencyError: It is not installed, or none is.
    """
    if name is not None and name not in BACKENDS:
        raise DependencyError(f"backend must be one of {', '.join(BACKENDS)}. Received: {name!r}")
    broken: DependencyError | None = None  # one that is there, and fails to load
    for candidate, module, package in _CANDIDATES:
        if name not in (None, candidate):
            continue
        try:
            interpreters = importlib.import_module(module)
        except ImportError as error:
            if name is not None:
                raise _unloadable(name, error, package) from None
            if not isinstance(error, ModuleNotFoundError):
                broken = broken or _unloadable(candidate, error, package)
            continue
        if schema is not None:
            _hear_greeting(interpreters)
        return Backend(candidate, _version(package), interpreters)
    raise broken or DependencyError(
        "no LiteRT runtime is installed: `pip install ai-edge-litert` "
        "(or tflite-runtime on an older board)"
    )


def _unloadable(name: str, error: ImportError, package: str) -> DependencyError:
    return DependencyError(f"{name} cannot be loaded ({error}): pip install {package}")


def _hear_greeting(interpreters: Any) -> None:
    """Loads a model of one op: XNNPACK logs once in a process that it is there."""
    with native_logs.informational_dropped():
        interpreters.Interpreter(model_content=_one_op(), num_threads=1).allocate_tensors()


def _one_op() -> bytes:
    model, graph = schema.ModelT(), schema.SubGraphT()
    kind, op, tensor = schema.OperatorCodeT(), schema.OperatorT(), schema.TensorT()
    kind.builtinCode = kind.deprecatedBuiltinCode = schema.BuiltinOperator.ABS
    kind.version, tensor.shape = 1, [1]
    op.inputs, op.outputs = [0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [tensor, tensor], [op], [0], [1]
    model.version, model.operatorCodes, model.subgraphs = 3, [kind], [graph]
    model.buffers = [schema.BufferT()]
    return bytes(pack(model))


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"
