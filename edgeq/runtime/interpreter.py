"""Makes an interpreter of a model, and says in a sentence why it refuses or fails."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import DataError, DelegateError, EdgeqError, ModelError
from edgeq.files import Content, MappedFile, size_of_file
from edgeq.flatbuffer import builtin_name
from edgeq.runtime.backend import Backend, load_backend
from edgeq.runtime.delegates import Options, load_delegate
from edgeq.versions import first_runtime, written

EDGETPU_OP = "edgetpu-custom-op"
"""The custom op that the Edge TPU's compiler makes of what it maps; its run time takes no other."""

_OLD_OP = re.compile(r"builtin opcode '(\w+)' version '(\d+)'")
_UNKNOWN_OP = re.compile(r"builtin_code out of range: (\d+)")
_HELD = "reference to internal data"
"""Part of an interpreter's message when arrays still refer to its memory."""


def read_model(model: Content | bytearray | str | os.PathLike[str]) -> Content:
    """Content of a model that is given as bytes or as the path of a file.

    Raises:
        ModelError: It cannot be read.
    """
    if isinstance(model, bytes | MappedFile):
        return model
    if isinstance(model, bytearray | memoryview):
        return bytes(model)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"a model is the bytes or the path of a .tflite file. Received: {type(model).__name__}"
        )
    try:
        size_of_file(model)  # refuses devices
        return Path(model).read_bytes()
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise ModelError(f"cannot read the model {os.fspath(model)!r}: {error}") from None


def model_argument(content: Content) -> dict[str, Any]:
    """How an interpreter is given a model; a mapped one it maps itself."""
    if isinstance(content, MappedFile) and content.is_there:
        return {"model_path": str(content.path)}
    return {"model_content": bytes(content)}


def make_interpreter(
    backend: Backend, content: Content, delegate: str, threads: int, options: Options
) -> Any:
    """An interpreter of the model with that delegate; memory is not allocated yet."""
    kinds = backend.module.OpResolverType
    arguments: dict[str, Any] = {**model_argument(content), "num_threads": threads}
    if delegate == "none":
        arguments["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    elif delegate == "reference":
        arguments["experimental_op_resolver_type"] = kinds.BUILTIN_REF
    elif delegate != "xnnpack":
        arguments["experimental_delegates"] = [load_delegate(backend, delegate, options)]
    try:
        return backend.module.Interpreter(**arguments)
    except (RuntimeError, ValueError) as error:
        if "experimental_delegates" in arguments and isinstance(error, RuntimeError):
            raise DelegateError(
                f"the delegate {delegate} failed on the model: {_one_line(error)}"
            ) from None
        raise unloadable(backend, error, "read") from None


def plain_interpreter(tflite: Content, **settings: Any) -> Any:
    """An interpreter of one thread without the default delegate; memory is allocated.

    Its kernels check their operands, and leave all tensors where their details say.
    """
    runtime = load_backend().module
    interpreter = runtime.Interpreter(
        **model_argument(tflite),
        num_threads=1,
        experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        **settings,
    )
    interpreter.allocate_tensors()
    return interpreter


def nodes(interpreter: Any) -> list[Mapping[str, Any]]:
    """Ops of the main graph, those of delegates at the end, with the tensors that they touch.

    The interpreter's own `_get_ops_details` describes every tensor besides, which for a graph of a
    thousand ops takes as long as all else that loading it does.
    """
    own = interpreter._interpreter
    return [
        {"op_name": own.NodeName(i), "inputs": own.NodeInputs(i), "outputs": own.NodeOutputs(i)}
        for i in range(own.NumNodes())
    ]


def unloadable(backend: Backend, error: Exception, verb: str) -> EdgeqError:
    """Why the runtime does not take a model."""
    text = _one_line(error)
    old, unknown = _OLD_OP.search(text), _UNKNOWN_OP.search(text)
    if old is not None or unknown is not None:
        name = old[1] if old else builtin_name(int(unknown[1])) if unknown else ""
        version = int(old[2]) if old else 1
        return ModelError(
            f"{backend.describe()} is too old for the model: it does not know {name} version "
            f"{version}, which came with {written(first_runtime(name, version))}. Install a newer "
            f"one, or export the model with min_runtime={backend.min_runtime!r}"
        )
    if EDGETPU_OP in text:
        return ModelError(
            "the model was compiled for the Edge TPU and runs nowhere else: load it with "
            "delegate='edgetpu', or load the file that it was compiled from"
        )
    return ModelError(f"the runtime cannot {verb} the model: {text}")


def failed_run(error: Exception) -> EdgeqError:
    """Why a run failed."""
    text = _one_line(error)
    if _HELD in text:
        return DataError(
            "an array of input_view, output_view or view still shows the model's memory: "
            "`del` it before the next run"
        )
    return ModelError(f"the runtime failed to run the model: {text}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
