"""Whether a file of unknown origin may be loaded: it is read and run once in a child process.

The runtime trusts a file more than it checks it, and a damaged one may end the process. Knows what
has passed here before, by content; nothing of sessions.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeq.errors import EdgeqError, ModelError
from edgeq.files import Content, release
from edgeq.flatbuffer import NO_SUCH_OP, Tensor, parse, schema
from edgeq.flatbuffer.kernel_shapes import settle_shapes
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.runtime.backend import Backend, load_backend
from edgeq.runtime.delegates import EDGETPU, is_library
from edgeq.runtime.entry import entry
from edgeq.runtime.interpreter import make_interpreter, plain_interpreter, unloadable
from edgeq.targets.constraints import MALFORMED

JOB = "edgeq.runtime.file_check:try_file"
LIMIT_S = 60.0
"""Seconds for a file of up to 1 GB, and again as many for each further one."""

MEMORY_BYTES = 4 << 30
"""Bytes that a child may take besides its copies of the file."""

REMEMBERED = 1000

_ANY = ("",)

_BROKEN = ("failed to prepare", "is damaged")
"""Parts of messages about a file whose ops have other operands than their kernels compute with."""


class _Passed:
    """Checks that passed, by SHA-256 and the way it was loaded; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, ...], None] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: tuple[str, ...]) -> bool:
        with self._lock:
            return key in self._keys or (key[0], *_ANY) in self._keys

    def add(self, key: tuple[str, ...]) -> None:
        with self._lock:
            self._keys[key] = None
            while len(self._keys) > REMEMBERED:
                del self._keys[next(iter(self._keys))]


_passed = _Passed()


def remember(tflite: Content) -> None:
    """Lets a file that was made and verified in this process be loaded without a check."""
    _passed.add((_digest(tflite), *_ANY))


def check_file(
    tflite: Content, delegate: str = "xnnpack", signature: str | None = None,
    backend: str | None = None,
) -> None:  # fmt: skip
    """Has a child process read, load and run a file, unless it has passed here before.

    Raises:
        ModelError: It is damaged, or ends the process that loads it.
    """
    key = (_digest(tflite), delegate, signature or "", backend or "")
    if key not in _passed:
        with Worker((__name__,)) as worker:
            check_in(worker, tflite, delegate, signature, backend)
        _passed.add(key)


def check_in(
    worker: Worker, tflite: Content, delegate: str = "xnnpack", signature: str | None = None,
    backend: str | None = None,
) -> None:  # fmt: skip
    """`check_file` in a child that is there already.

    Raises:
        ModelError: As for `check_file`.
    """
    try:
        _try(worker, tflite, delegate, signature, backend)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(
            "the .tflite file is damaged or needs more than this machine has: a child process that "
            f"tried it {_one_line(error.reason)}. It is not loaded here, where it might end the "
            "program. Make it again with its converter"
        ) from None


@contextlib.contextmanager
def damage_told(tflite: Content) -> Iterator[None]:
    """Has the runtime say what is wrong with a file in which something is not as it always is.

    Raises:
        ModelError: An op lacks operands or options that any such op has.
    """
    try:
        yield
    except MALFORMED:
        check_file(tflite)
        raise


def fatal_end(tflite: Content) -> str | None:
    """How a process ends that loads a file, or why no kernel takes it; None where neither is so.

    A run time that lacks an op refuses a file that others may take.
    """
    with Worker((__name__,)) as worker:
        try:
            _try(worker, tflite, "xnnpack", None, None)
        except JobCrashed as error:
            return _one_line(error.reason)
        except JobFailed:
            return None
        except EdgeqError as error:
            return str(error) if any(sign in str(error) for sign in _BROKEN) else None
    return None


def _try(
    worker: Worker, tflite: Content, delegate: str, signature: str | None, backend: str | None
) -> None:
    seconds = LIMIT_S * (1 + len(tflite) // 10**9)
    memory = MEMORY_BYTES + 8 * len(tflite)
    worker.call(JOB, tflite, delegate, signature, backend, timeout_s=seconds, memory_bytes=memory)


def _digest(tflite: Content) -> str:
    found = hashlib.sha256(tflite).hexdigest()
    release(tflite)
    return found


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:300].rstrip(":. ")


def try_file(
    tflite: Content, delegate: str, signature: str | None, backend_name: str | None
) -> None:
    """Job: reads a file, has its kernels check it, and runs it once on zeros.

    What a delegate's library makes of it is not tried: the device may serve one process alone.

    Raises:
        ModelError: It is damaged, or the runtime refuses it.
        DataError: It has no such signature.
    """
    backend = load_backend(backend_name)
    _read(tflite)
    if delegate == EDGETPU or is_library(delegate):
        return
    settled = _settled(tflite)
    _check_tensors(settled, _loaded(backend, settled, "none"))
    interpreter = _loaded(backend, tflite, delegate)
    found = entry(interpreter, signature)
    # Zeros may be no input that the model can run on; only how the process fares is of interest.
    with contextlib.suppress(RuntimeError, ValueError, MemoryError):
        found.invoke([np.zeros(port.shape, port.dtype) for port in found.io.inputs])


def _read(tflite: Content) -> None:
    """Reads it in Python, as far as this machine can; ops that are too new the runtime names."""
    if schema is None:
        return
    try:
        parse(tflite)
    except ModelError as error:
        if NO_SUCH_OP not in str(error):
            raise


def _loaded(backend: Backend, tflite: Content, delegate: str) -> Any:
    interpreter = make_interpreter(backend, tflite, delegate, 1, {})
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise unloadable(backend, error, "load") from None
    return interpreter


def check_kernels(tflite: Content) -> None:
    """Job: has every op's own kernel check its operands, and compute its output's shape and type.

    The delegate trusts more than it checks: given a bias that is too short, it reads behind it.

    Raises:
        ModelError: A kernel computes another shape or type than the file gives the tensor.
    """
    settled = _settled(tflite)
    _check_tensors(settled, plain_interpreter(settled))


def _settled(tflite: Content) -> Content:
    """The file without a slip of the converter's that no runtime dies of."""
    return tflite if schema is None else settle_shapes(tflite)


def _check_tensors(tflite: Content, interpreter: Any) -> None:
    if schema is None:
        return
    tensors = parse(tflite).graphs[0].tensors
    for detail in interpreter.get_tensor_details()[: len(tensors)]:
        shape = tuple(int(d) for d in detail["shape"])
        _check_tensor(tensors[detail["index"]], shape, np.dtype(detail["dtype"]).name)


def _check_tensor(tensor: Tensor, shape: tuple[int, ...], dtype: str) -> None:
    same_shape = len(tensor.shape) == len(shape) and all(
        claimed in (-1, found) for claimed, found in zip(tensor.shape, shape, strict=True)
    )
    same_dtype = tensor.dtype == dtype or not hasattr(np, tensor.dtype)
    if not (same_shape and same_dtype):
        raise ModelError(
            f"the .tflite file is damaged: tensor {tensor.name!r} is {tensor.dtype} of shape "
            f"{tensor.shape}, but its op makes {dtype} of shape {shape}. Make it again with its "
            "converter"
        )
