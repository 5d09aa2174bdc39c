"""The .tflite front end: a float file or its bytes, from any converter.

A file from outside may be damaged, and the native code dies on damage; it is read in Python and in
a child process before anything native sees it here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias, TypeGuard

from edgeq.errors import ModelError
from edgeq.export.convert.shield_float_ops import hide_ops, opaque_ops
from edgeq.export.frontends import keras, onnx, torch
from edgeq.export.importing import SizeSource, import_file, with_fixed_sizes
from edgeq.export.importing.small_file import without_large_constants
from edgeq.files import Content, MappedFile, read_content
from edgeq.flatbuffer import with_signature
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel

CHECK_LIMIT_S = 60.0
KERNEL_CHECK = "edgeq.runtime.file_check:check_kernels"
CHECK_MEMORY_BYTES = 2 << 30
"""Bytes that a check may take besides its copies of the file itself."""

Source: TypeAlias = bytes | bytearray | MappedFile | str | os.PathLike[str]


def handles(model: object) -> TypeGuard[Source]:
    """Whether `model` is a path or the bytes of a file, and of no other framework's."""
    is_file = isinstance(model, bytes | bytearray | MappedFile | str | os.PathLike)
    others = (onnx.handles, keras.is_file, torch.is_file)
    return is_file and not any(is_other(model) for is_other in others)


def trace(model: Source, sizes: SizeSource, worker: Worker) -> LiteModel:
    """Reads and checks a float .tflite that is to be exported.

    Args:
        model: The file or its bytes.
        sizes: What the sizes that it leaves open are taken from.
        worker: The converter's child process.

    Raises:
        ModelError: No such file, not a .tflite file, damaged, or with several signatures.
        DataError: The sample does not fit.
    """
    tflite, notes = import_file(with_signature(read_file(model, worker)), sizes, worker)
    found = LiteModel(tflite, "tflite", notes)
    _check(worker, KERNEL_CHECK, found.tflite, "the runtime")
    _check(worker, "edgeq.mlir:import_only", _as_converted(found), "the converter's importer")
    return found


def _as_converted(model: LiteModel) -> Content:
    """A model as the converter will see it, without its large constants."""
    opaque = opaque_ops(model.tree, model.graph)
    return without_large_constants(hide_ops(model.tree, opaque) if opaque else model.tree)


def load(model: Source, sizes: SizeSource, worker: Worker) -> LiteModel:
    """Reads and checks a .tflite that is only to be run, and may be quantized.

    Args:
        model: The file or its bytes.
        sizes: As for `trace`.
        worker: A child process.

    Raises:
        ModelError: As for `trace`.
        DataError: The sample does not fit.
    """
    tflite, notes = with_fixed_sizes(with_signature(read_file(model, worker)), sizes, worker)
    found = LiteModel(tflite, "tflite", notes)
    _check(worker, KERNEL_CHECK, found.tflite, "the runtime")
    return found


def read_file(model: Source, worker: Worker) -> Content:
    """The content of a .tflite file that Python can read without harm.

    Raises:
        ModelError: No such file, not a .tflite file, or damaged.
    """
    if isinstance(model, bytes | MappedFile):
        tflite: Content = model
    else:
        tflite = bytes(model) if isinstance(model, bytearray) else _read(_path(model))
    _check(worker, "edgeq.flatbuffer:parse_only", tflite, "its reader")
    return tflite


def _check(worker: Worker, job: str, tflite: Content, who: str) -> None:
    """Runs a job that only a sound file survives."""
    limit = CHECK_MEMORY_BYTES + 8 * len(tflite)
    try:
        worker.call(job, tflite, timeout_s=CHECK_LIMIT_S, memory_bytes=limit)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(
            "the .tflite file is damaged, too large, or from an unknown version: "
            f"{who} {' '.join(error.reason.split()).rstrip(':')}. Make it again with its converter"
        ) from None


def _path(model: str | os.PathLike[str]) -> Path:
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"a model is the bytes or the path of a .tflite file. Received: {type(model).__name__}"
        )
    return Path(model)


def _read(path: Path) -> Content:
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder without a saved_model.pb; edgeq reads .tflite files and "
            "SavedModel folders"
        )
    try:
        return read_content(path)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read the model {path}: {reason}") from None
