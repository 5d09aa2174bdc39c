"""`Stream`: a model run step by step that is fed its own states; the caller never sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError, ModelError
from edgeq.ports import IO, Port

Array = npt.NDArray[Any]


class Runs(Protocol):
    """What a stream needs of a session."""

    @property
    def io(self) -> IO:
        """Its inputs and outputs."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, arrays by name."""
        ...


class Stream:
    """A session that carries the model's states from one run to the next.

    Integer states whose two ports have one scale are fed back as they are; others are converted.

    Args:
        session: The loaded model.
        places: `(place among the inputs, place among the outputs)` of each state.
        start: What states begin with, by input name; others begin with zeros. Real numbers, or
            what an output of the same scale gave: integers of the input's own type are taken as
            they are.

    Attributes:
        states: What the next step takes, by input name, as the file's inputs hold it.

    Raises:
        ModelError: There are no states.
        DataError: `start` names no state, or has another shape.
    """

    def __init__(
        self,
        session: Runs,
        places: Sequence[tuple[int, int]],
        start: Mapping[str, Array] | None = None,
    ) -> None:
        if not places:
            raise ModelError(
                "the file does not say which outputs are fed back: pass states={input: output}, or "
                "export the model with edgeq.Sequences, which puts it into the file"
            )
        self._session = session
        io = session.io
        self._pairs = [(io.inputs[taken], io.outputs[given]) for taken, given in places]
        self._start = dict(start or {})
        self._check_start()
        self.reset()

    def _check_start(self) -> None:
        shapes = {port.name: port.shape for port, _ in self._pairs}
        for name, array in self._start.items():
            if name not in shapes:
                raise DataError(
                    f"start has {name!r}, which is no state; these are {_names(shapes)}"
                )
            if np.shape(array) != shapes[name]:
                raise DataError(
                    f"start {name!r}: the state has the shape {shapes[name]}. "
                    f"Received: {np.shape(array)}"
                )

    def reset(self) -> None:
        """Begins a new sequence."""
        self.states = {port.name: self._first(port) for port, _ in self._pairs}

    def _first(self, port: Port) -> Array:
        start = np.asarray(self._start.get(port.name, np.zeros(port.shape)))
        if start.dtype == port.dtype:
            return start.copy()
        return port.quantize(start).astype(port.dtype)

    def run(self, inputs: Any, *, real: bool = False) -> dict[str, Array]:
        """One step.

        Args:
            inputs: What the model takes besides its states: the array of the only such input,
                arrays in order, or arrays by input name, of one run.
            real: Whether inputs and outputs are real numbers where the model has integers with a
                scale; they are converted on the way.

        Returns:
            Output arrays by name, without those that are fed back.

        Raises:
            DataError: Wrong number, names, shape or dtype of the inputs.
            ModelError: The run fails.
        """
        io = self._session.io
        ports = [port for port in io.inputs if port.name not in self.states]
        given = self._named(inputs, [port.name for port in ports])
        for port in ports if real else ():
            given[port.name] = port.quantize(given[port.name])
        for port in ports:
            if given[port.name].shape != port.shape:
                raise DataError(
                    f"input {port.name!r}: a step takes the shape {port.shape}. "
                    f"Received: {given[port.name].shape}"
                )
        made = self._session.run({**given, **self.states})
        self.states = {taken.name: _fed(made[out.name], out, taken) for taken, out in self._pairs}
        back = {out.name for _, out in self._pairs}
        return {
            port.name: port.dequantize(made[port.name]) if real else made[port.name]
            for port in io.outputs
            if port.name not in back
        }

    def _named(self, inputs: Any, names: Sequence[str]) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise DataError(f"a step takes {_names(names)}. Received: {_names(inputs)}")
            return {name: np.asarray(inputs[name]) for name in names}
        arrays = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
        if len(arrays) != len(names):
            raise DataError(f"a step takes {_names(names)}. Received: {len(arrays)} arrays")
        return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _names(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"


def _fed(array: Array, given: Port, taken: Port) -> Array:
    """What an output gave as the input takes it."""
    if given.qparams == taken.qparams:
        return array
    return taken.quantize(given.dequantize(array))
