"""The .tflite front end: a float file or its bytes, from any converter.

A file from outside may be damaged, and the native code dies on damage; it is read in Python and in
a child process before anything native sees it here.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeq.errors import ModelError
from edgeq.export.convert import check_imports
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import FloatModel


def handles(model: object) -> bool:
    """Whether `model` is a path or the bytes of a file."""
    return isinstance(model, bytes | bytearray | str | os.PathLike)


def trace(model: bytes | bytearray | str | os.PathLike[str], worker: Worker) -> FloatModel:
    """Reads and checks a float .tflite.

    Raises:
        ModelError: No such file, not a .tflite file, damaged, or with several subgraphs.
    """
    tflite = bytes(model) if isinstance(model, bytes | bytearray) else _read(Path(model))
    try:
        worker.call("edgeq.flatbuffer:parse_only", tflite, timeout_s=60.0)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(f"the .tflite file is damaged: reading it {error.reason}") from None
    found = FloatModel(tflite, "tflite")
    check_imports(worker, tflite)
    return found


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; edgeq reads .tflite files")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None
