"""`Session`: a .tflite model on the real interpreter, arrays in and named arrays out.

Knows the interpreter and what its delegate took; nothing of quantization plans.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError, ModelError
from edgeq.runtime.backend import load_backend

Array = npt.NDArray[Any]

DELEGATES = ("xnnpack", "none")


@dataclass(frozen=True)
class Coverage:
    """What the delegate of a loaded model took.

    Attributes:
        delegated: Indices of the ops that run in the delegate.
        total: Number of ops of the graph.
        partitions: Number of pieces that the delegate runs.
    """

    delegated: frozenset[int]
    total: int
    partitions: int


class Session:
    """A loaded model.

    Args:
        model: .tflite bytes, or the path of a file.
        delegate: `"xnnpack"` (the default CPU delegate) or `"none"` (plain kernels).
        threads: Threads for one run; None takes what this process may use.

    Attributes:
        input_names: Names of the inputs, from the signature where there is one.
        output_names: Names of the outputs, likewise.

    Raises:
        ModelError: The file cannot be read, or the runtime refuses it.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        delegate: str = "xnnpack",
        threads: int | None = None,
    ) -> None:
        if delegate not in DELEGATES:
            raise ModelError(f"delegate must be one of {DELEGATES}. Received: {delegate!r}")
        self._content = model if isinstance(model, bytes) else read_model(model)
        self._interpreter = _interpreter(self._content, delegate, threads or available_cpus())
        try:
            self._interpreter.allocate_tensors()
            self._inputs = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
            signature = _first_signature(self._interpreter)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"the runtime cannot load the model: {_one_line(error)}") from None
        self.input_names = _names(self._inputs, signature.get("inputs", {}))
        self.output_names = _names(self._outputs, signature.get("outputs", {}))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the interpreter."""
        self._interpreter = None

    def run(self, inputs: Array | Sequence[Array] | Mapping[str, Array]) -> dict[str, Array]:
        """One inference.

        Args:
            inputs: The array of the only input, arrays in order, or arrays by input name.

        Returns:
            Output arrays by name.

        Raises:
            DataError: Wrong number, names, shape or dtype of the inputs.
        """
        self.invoke(self._ordered(inputs))
        return dict(zip(self.output_names, self.outputs(), strict=True))

    def invoke(self, sample: Sequence[Array]) -> None:
        """Runs one sample of arrays in input order; `outputs()` and `view()` see the result."""
        try:
            for detail, array in zip(self._inputs, sample, strict=True):
                self._interpreter.set_tensor(detail["index"], array)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"the runtime failed to run the model: {_one_line(error)}") from None

    def outputs(self) -> list[Array]:
        """Copies of all outputs of the last run, in order."""
        return [self._interpreter.get_tensor(d["index"]) for d in self._outputs]

    def view(self, tensor: int) -> Array:
        """An output tensor of the last run by index, without a copy; gone with the next run."""
        return np.asarray(self._interpreter.tensor(tensor)())

    def coverage(self) -> Coverage:
        """Which ops the delegate took, by walking back from what each delegate node computes."""
        nodes = self._interpreter._get_ops_details()
        pieces = [node for node in nodes if node["op_name"] == "DELEGATE"]
        ops = [node for node in nodes if node["op_name"] != "DELEGATE"]
        producer = {int(t): i for i, op in enumerate(ops) for t in op["outputs"]}
        delegated: set[int] = set()
        for piece in pieces:
            stop = {int(t) for t in piece["inputs"]}
            delegated |= _walk_back(ops, producer, [int(t) for t in piece["outputs"]], stop)
        return Coverage(frozenset(delegated), len(ops), len(pieces))

    def _ordered(self, inputs: Array | Sequence[Array] | Mapping[str, Array]) -> list[Array]:
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self.input_names):
                raise DataError(
                    f"the model takes the inputs {', '.join(self.input_names)}. "
                    f"Received: {', '.join(inputs)}"
                )
            arrays = [np.asarray(inputs[name]) for name in self.input_names]
        elif isinstance(inputs, np.ndarray):
            arrays = [inputs]
        else:
            arrays = [np.asarray(a) for a in inputs]
        if len(arrays) != len(self._inputs):
            raise DataError(
                f"the model takes {len(self._inputs)} inputs ({', '.join(self.input_names)}). "
                f"Received: {len(arrays)}"
            )
        for name, detail, array in zip(self.input_names, self._inputs, arrays, strict=True):
            shape = tuple(int(d) for d in detail["shape"])
            if array.shape != shape or array.dtype != detail["dtype"]:
                raise DataError(
                    f"input {name!r} is {np.dtype(detail['dtype']).name} of shape {shape}. "
                    f"Received: {array.dtype.name} of shape {array.shape}"
                )
        return arrays


def available_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_model(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a model's file; raises a `ModelError` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model: {error}") from None


def _interpreter(content: bytes, delegate: str, threads: int) -> Any:
    module = load_backend().module
    options: dict[str, Any] = {"model_content": content, "num_threads": threads}
    if delegate == "none":
        kind = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options["experimental_op_resolver_type"] = kind
    try:
        return module.Interpreter(**options)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the runtime cannot read the model: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _first_signature(interpreter: Any) -> dict[str, dict[str, int]]:
    """Tensor index by name, for `inputs` and `outputs`; empty without a signature."""
    signatures = interpreter._get_full_signature_list()
    first: dict[str, dict[str, int]] = next(iter(signatures.values()), {})
    return first


def _names(details: Sequence[Mapping[str, Any]], signature: Mapping[str, int]) -> tuple[str, ...]:
    """Signature names in the order of `details`; one tensor may be there under several names."""
    left: dict[int, list[str]] = {}
    for name, index in signature.items():
        left.setdefault(int(index), []).append(name)
    return tuple(
        left[d["index"]].pop(0) if left.get(d["index"]) else str(d["name"]) for d in details
    )


def _walk_back(
    ops: Sequence[Mapping[str, Any]],
    producer: Mapping[int, int],
    tensors: list[int],
    stop: set[int],
) -> set[int]:
    """Ops that lead to `tensors`, not going past the tensors in `stop`."""
    found: set[int] = set()
    while tensors:
        tensor = tensors.pop()
        if tensor in stop or tensor not in producer or producer[tensor] in found:
            continue
        found.add(producer[tensor])
        tensors += [int(t) for t in ops[producer[tensor]]["inputs"] if t >= 0]
    return found


def smoke_run(tflite: bytes, sample: Sequence[Array]) -> None:
    """Job: loads a model and runs one sample; a model that kills its host kills a child here."""
    with Session(tflite, threads=1) as session:
        session.invoke(sample)
