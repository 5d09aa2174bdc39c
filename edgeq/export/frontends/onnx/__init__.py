"""The ONNX front end: a file, its bytes or a `ModelProto` becomes a float LiteRT model.

The graph is interpreted once on a sample, in a child process, and what depends on the input becomes
a PyTorch module that is traced like any other. ONNX is imported in the child alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.data.as_numpy import to_numpy
from edgeq.errors import ConversionError, DependencyError, ModelError
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel

_JOB = "edgeq.export.frontends.onnx.child:traced"
_FIRST_BYTE = b"\x08"
"""With which ONNX files begin: the field of the version of their format."""

TRACE_SECONDS_MAX = 1800.0


def handles(model: object) -> bool:
    """Whether `model` is the path of an .onnx file, its bytes, or a `ModelProto`."""
    if isinstance(model, str | os.PathLike):
        return Path(model).suffix.lower() == ".onnx"
    if isinstance(model, bytes | bytearray):
        return bytes(model[:1]) == _FIRST_BYTE and bytes(model[4:8]) != b"TFL3"
    kind = type(model)
    return kind.__name__ == "ModelProto" and kind.__module__.startswith("onnx")


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    """Interprets, traces and lowers an ONNX model.

    Args:
        model: Path, bytes or `onnx.ModelProto`. Data beside a file are found by its path.
        sample: One input: an array, a tuple of them in the order of the model's inputs, or a dict
            of them by name. What the model leaves open of its shapes is taken from it.
        worker: The converter's child process; ONNX is read in one of its own.

    Raises:
        DependencyError: onnx or litert-torch is not installed.
        ModelError: The file is damaged, or cannot be traced.
        UnsupportedOpError: A node has no form here.
        DataError: `sample` does not fit.
        ConversionError: The model computes other numbers than in ONNX's own runtime.
    """
    missing = [name for name in ("onnx", "torch", "litert_torch") if not _is_installed(name)]
    if missing:
        raise DependencyError(
            f"exporting an ONNX model needs {' and '.join(missing).replace('_', '-')}: "
            "pip install 'edgeq[onnx]'"
        )
    with Worker() as reader:
        try:
            found: LiteModel = reader.call(
                _JOB, _source(model), _arrays(sample), timeout_s=TRACE_SECONDS_MAX
            )
        except (JobCrashed, JobFailed) as error:
            raise ConversionError(
                f"reading the ONNX model: the process {error.reason.splitlines()[0]}"
            ) from None
    return found


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _source(model: Any) -> Any:
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if not path.is_file():
            raise ModelError(f"cannot read the ONNX model {path}: no such file")
        return str(path.resolve())
    return bytes(model) if isinstance(model, bytes | bytearray) else model.SerializeToString()


def _arrays(sample: Any) -> Any:
    """The sample as numpy arrays, which need no framework in the child."""
    if isinstance(sample, Mapping):
        return {str(name): to_numpy(value) for name, value in sample.items()}
    if isinstance(sample, tuple | list):
        return tuple(map(to_numpy, sample))
    return to_numpy(sample)
