"""The .tflite front end: a float file or its bytes, from any converter.

A file from outside may be damaged, and the native code dies on damage; it is read in Python and in
a child process before anything native sees it here.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeq.errors import ModelError
from edgeq.export.convert import check_imports
from edgeq.flatbuffer import Tensor, completed, parse
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import FloatModel
from edgeq.runtime.backend import load_backend

CHECK_LIMIT_S = 60.0
CHECK_MEMORY_BYTES = 4 << 30
"""What a check may take besides the copies of the file itself that it makes."""


def handles(model: object) -> bool:
    """Whether `model` is a path or the bytes of a file."""
    return isinstance(model, bytes | bytearray | str | os.PathLike)


def trace(model: bytes | bytearray | str | os.PathLike[str], worker: Worker) -> FloatModel:
    """Reads and checks a float .tflite.

    Raises:
        ModelError: No such file, not a .tflite file, damaged, or with several subgraphs.
    """
    tflite = bytes(model) if isinstance(model, bytes | bytearray) else _read(Path(model))
    _check(worker, "edgeq.flatbuffer:parse_only", tflite, "reading it")
    found = FloatModel(completed(tflite), "tflite")
    _check(worker, "edgeq.export.frontends.tflite:check_shapes", found.tflite, "the runtime")
    check_imports(worker, found.tflite)
    return found


def check_shapes(tflite: bytes) -> None:
    """Job: has every op's own kernel check its operands and compute its output's shape.

    The delegate trusts more than it checks: given a bias that is too short, it reads behind it.

    Raises:
        ModelError: The file's shape of a tensor is not the one that its op computes.
    """
    runtime = load_backend().module
    interpreter = runtime.Interpreter(
        model_content=tflite,
        num_threads=1,
        experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    tensors = parse(tflite).graphs[0].tensors
    for detail in interpreter.get_tensor_details()[: len(tensors)]:
        _check_shape(tensors[detail["index"]], tuple(int(d) for d in detail["shape"]))


def _check_shape(tensor: Tensor, computed: tuple[int, ...]) -> None:
    claimed = tensor.shape
    if len(claimed) != len(computed) or any(
        c >= 0 and c != d for c, d in zip(claimed, computed, strict=True)
    ):
        raise ModelError(
            f"the .tflite file is damaged: it gives tensor {tensor.name!r} the shape {claimed}, "
            f"but the op that computes it makes {computed}. Make it again with its converter"
        )


def _check(worker: Worker, job: str, tflite: bytes, what: str) -> None:
    limit = CHECK_MEMORY_BYTES + 8 * len(tflite)
    try:
        worker.call(job, tflite, timeout_s=CHECK_LIMIT_S, memory_bytes=limit)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(
            f"the .tflite file is damaged, or needs more than this version knows: {what} "
            f"{' '.join(error.reason.split())}"
        ) from None


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; edgeq reads .tflite files")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None
