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

import numpy as np

from edgeq.data.as_numpy import to_numpy
from edgeq.errors import ConversionError, DependencyError, ModelError
from edgeq.isolation import JobCrashed, JobFailed, Worker, is_out_of_memory
from edgeq.model import LiteModel

_JOB = "edgeq.export.frontends.onnx.child:traced"
_FIRST_BYTE = b"\x08"
"""With which ONNX files begin: the field of the version of their format."""

TRACE_SECONDS_MAX = 1800.0

MEMORY_BYTES, PER_MODEL_BYTE, PER_SAMPLE_BYTE = 8 << 30, 16, 256
"""Most memory that reading and tracing a model may take: a few bytes of a file can ask for any
number, and a machine that gives all it has is lost for minutes."""


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
    source, arrays = _source(model), _arrays(sample)
    memory = _memory_bytes(source, arrays)
    with Worker() as reader:
        try:
            return _traced(reader, source, arrays, memory)
        except (JobCrashed, JobFailed) as error:
            reason = error.reason.splitlines()[0]
            if is_out_of_memory(reason):
                reason = f"took more than {memory / 1e9:.2g} GB of memory, so it was stopped"
            raise ConversionError(f"reading the ONNX model: the process {reason}") from None


def _traced(reader: Worker, source: Any, arrays: Any, memory: int) -> LiteModel:
    """What the child makes of a model, and once more without ONNX's runtime if that may be dead."""
    limits: Any = {"timeout_s": TRACE_SECONDS_MAX, "memory_bytes": memory}
    try:
        found: LiteModel = reader.call(_JOB, source, arrays, **limits)
    except JobCrashed as error:
        if error.hung:
            raise
        found = reader.call(_JOB, source, arrays, False, **limits)
    return found


def _memory_bytes(source: str | bytes, sample: Any) -> int:
    """Most memory for a model, whose weights may lie in any file beside it, and a sample."""
    size = len(source) if isinstance(source, bytes) else _bytes_in(Path(source).parent)
    arrays = sample.values() if isinstance(sample, Mapping) else sample
    read = sum(a.nbytes for a in ([sample] if isinstance(sample, np.ndarray) else arrays))
    return MEMORY_BYTES + PER_MODEL_BYTE * size + PER_SAMPLE_BYTE * read


def _bytes_in(folder: Path) -> int:
    """Size of the files in a folder."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


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
