"""Entry points of a loaded model: how arrays get into the interpreter and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError, ModelError
from edgeq.ports import IO, Port
from edgeq.qtypes import DType, QParams

Array = npt.NDArray[Any]
Details = Sequence[Mapping[str, Any]]


class Entry(Protocol):
    """One signature of a loaded model."""

    io: IO
    fed: list[tuple[tuple[int, ...], np.dtype[Any]]]
    """Shape and type of what one run takes, in input order."""
    dynamic: tuple[tuple[int, ...], ...]
    """Shape of each input, with -1 where any size will do."""

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Gives dynamic inputs the shapes of what is fed."""
        ...

    def invoke(self, sample: Sequence[Array] | None) -> None:
        """Runs a sample; None runs what the inputs hold."""
        ...

    def input(self, place: int) -> Array:
        """The memory of an input."""
        ...

    def output(self, place: int) -> Array:
        """An output of the last run, without a copy where that can be."""
        ...

    def outputs(self) -> list[Array]:
        """Copies of all outputs of the last run."""
        ...


def entry(interpreter: Any, key: str | None) -> Entry:
    """The entry point of a signature, the first one without a key.

    Raises:
        DataError: There is no such signature.
    """
    signatures = interpreter._get_full_signature_list()
    if key is None:
        return MainGraph(interpreter, next(iter(signatures.values()), {}))
    if key not in signatures:
        raise DataError(
            f"the model has no signature {key!r}; it has {', '.join(signatures) or 'none'}"
        )
    runner = interpreter.get_signature_runner(key)
    if runner._subgraph_index == 0:
        return MainGraph(interpreter, signatures[key])
    return OtherGraph(runner, signatures[key])


class MainGraph:
    """A signature of the main graph, whose memory can be reached without copies."""

    def __init__(self, interpreter: Any, signature: Mapping[str, Mapping[str, int]]) -> None:
        self._interpreter = interpreter
        self._signature = signature
        self._read()

    def _read(self) -> None:
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self._inputs = [int(d["index"]) for d in inputs]
        self._outputs = [int(d["index"]) for d in outputs]
        self.dynamic = _dynamic(inputs)
        self.io = IO(
            _ports(inputs, _names(inputs, self._signature.get("inputs", {}))),
            _ports(outputs, _names(outputs, self._signature.get("outputs", {}))),
        )
        self.fed = _fed(self.io)

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        now = [port.shape for port in self.io.inputs]
        if now == list(shapes):
            return
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._read()

    def invoke(self, sample: Sequence[Array] | None) -> None:
        if sample is not None:
            if len(sample) != len(self._inputs):
                raise ValueError(f"it takes {len(self._inputs)} inputs. Received: {len(sample)}")
            # Right after a model has swept the caches, `zip(strict=True)` takes 6 microseconds.
            for place, index in enumerate(self._inputs):
                self._interpreter.set_tensor(index, sample[place])
        self._interpreter.invoke()

    def input(self, place: int) -> Array:
        return self.view(self._inputs[place])

    def output(self, place: int) -> Array:
        return self.view(self._outputs[place])

    def outputs(self) -> list[Array]:
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def view(self, tensor: int) -> Array:
        return np.asarray(self._interpreter.tensor(tensor)())


class OtherGraph:
    """A signature with a graph of its own, which interpreters only run from copies."""

    def __init__(self, runner: Any, signature: Mapping[str, Mapping[str, int]]) -> None:
        self._runner = runner
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        # Interpreters list them by name; graphs mostly number what is fed in the order of feeding.
        order = sorted(signature["inputs"], key=signature["inputs"].__getitem__)
        names = tuple(order), tuple(signature["outputs"])
        self.dynamic = _dynamic([inputs[name] for name in names[0]])
        self.io = IO(
            _ports([inputs[name] for name in names[0]], names[0]),
            _ports([outputs[name] for name in names[1]], names[1]),
        )
        self.fed = _fed(self.io)
        self._results: list[Array] = []

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Every run of the interpreter's runner does so."""

    def invoke(self, sample: Sequence[Array] | None) -> None:
        if sample is None:
            raise ModelError("a signature beside the main graph has no memory to fill: pass arrays")
        names = [port.name for port in self.io.inputs]
        made = self._runner(**dict(zip(names, sample, strict=True)))
        self._results = [made[port.name] for port in self.io.outputs]

    def input(self, place: int) -> Array:
        name = self.io.inputs[place].name
        raise ModelError(f"input {name!r} is beside the main graph, where nothing can be filled")

    def output(self, place: int) -> Array:
        return self._results[place]

    def outputs(self) -> list[Array]:
        return self._results


def _dynamic(details: Details) -> tuple[tuple[int, ...], ...]:
    """Older interpreters do not know dynamic dimensions; an empty signature means none."""
    found = []
    for detail in details:
        signature = detail.get("shape_signature", ())
        found.append(tuple(int(d) for d in (signature if len(signature) else detail["shape"])))
    return tuple(found)


def _fed(io: IO) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    return [(port.shape, np.dtype(port.dtype)) for port in io.inputs]


def _ports(details: Details, names: Sequence[str]) -> tuple[Port, ...]:
    return tuple(
        Port(name, tuple(int(n) for n in d["shape"]), np.dtype(d["dtype"]).name, _qparams(d))
        for name, d in zip(names, details, strict=True)
    )


def _qparams(detail: Mapping[str, Any]) -> QParams | None:
    """How a port stores real numbers; None where it stores them as they are."""
    found = detail["quantization_parameters"]
    types = {kind.type_name: kind for kind in DType}
    dtype = types.get(np.dtype(detail["dtype"]).name)
    if dtype is None or len(found["scales"]) == 0:
        return None
    scale = tuple(float(s) for s in found["scales"])
    zero_point = tuple(int(z) for z in found["zero_points"])
    axis = int(found["quantized_dimension"]) if len(scale) > 1 else None
    return QParams(dtype, scale, zero_point, axis)


def _names(details: Details, signature: Mapping[str, int]) -> tuple[str, ...]:
    """Signature names in the order of `details`; one tensor may be there under several names."""
    left: dict[int, list[str]] = {}
    for name, index in signature.items():
        left.setdefault(int(index), []).append(name)
    return tuple(
        left[d["index"]].pop(0) if left.get(d["index"]) else str(d["name"]) for d in details
    )
