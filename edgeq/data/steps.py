"""Steps: samples of a model with states, which outputs give and inputs of the next step take.

The one who runs a model carries its states by `Step.behind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from edgeq.data.as_numpy import Array
from edgeq.data.input_spec import InputSpec
from edgeq.data.rep_dataset import RepDataset, Sample, brings
from edgeq.model import LiteModel
from edgeq.ports import IO, Port
from edgeq.runtime.session import Session

Places = tuple[tuple[int, int], ...]
"""`(place among the inputs, place among the outputs)` of each state."""

LEAST_PART = 8
"""Steps of a part of a sequence that can be judged by itself."""


class Step(tuple[Array, ...]):
    """A sample of a sequence, its states among its arrays.

    Attributes:
        place: Its place in the sequence; at 0 the states are those that it begins with.
        states: Its states.
    """

    place: int
    states: Places

    def __new__(cls, arrays: Iterable[Array], place: int, states: Places) -> Step:
        """A step with these arrays."""
        made = super().__new__(cls, arrays)
        made.place, made.states = place, states
        return made

    def behind(self, outputs: Sequence[Array]) -> Step:
        """The step with the states that a model gave in the step before it.

        Args:
            outputs: All that the model gave, in real numbers; not looked at by a first step.
        """
        if not self.place:
            return self
        arrays = list(self)
        for taken, given in self.states:
            arrays[taken] = outputs[given]
        return Step(arrays, self.place, self.states)

    def copied(self, place: int | None = None) -> Step:
        """The step with arrays of its own, at this place or where it is."""
        place = self.place if place is None else place
        return Step((array.copy() for array in self), place, self.states)


def completed(samples: Iterable[Sample], model: LiteModel) -> Iterator[Sample]:
    """Samples, those of sequences with the states that a float model has by then.

    Args:
        samples: Steps of sequences in order, or samples of any other kind, which stay as they are.
        model: The model, known to run.
    """
    session: Session | None = None
    outputs: Sequence[Array] = ()
    try:
        for sample in samples:
            if not isinstance(sample, Step):
                yield sample
                continue
            session = session or Session(model.tflite, threads=1, trusted=True)
            whole = sample.behind(outputs)
            session.invoke(whole[: len(session.input_names)])
            outputs = session.outputs()
            yield whole
    finally:
        if session is not None:
            session.close()


class PlainData(RepDataset):
    """Samples, which are the steps of one sequence for a model that has states by itself."""

    def of(self, model: LiteModel) -> RepDataset:
        """The data for a model."""
        states = dict(model.states)
        names = [name for name, _ in model.input_tensors() if name not in states]
        if not states or brings(self.first, names, list(states)):
            return self
        return OneSequence(self, io_of(model).state_places(states))


class OneSequence(RepDataset):
    """Samples as the steps of one sequence.

    Args:
        data: The samples, which come without states.
        places: The states.
    """

    def __init__(self, data: RepDataset, places: Places) -> None:
        self.__dict__.update(vars(data))
        self._places = places

    @property
    def part_steps(self) -> int | None:
        """A tenth of the steps, where it is known and enough to judge by."""
        steps = (self.length or 0) // 10
        return steps if steps >= LEAST_PART else None

    def first_row(self, inputs: tuple[InputSpec, ...]) -> Sample | None:
        """The first step, without labels."""
        row = super().first_row(self._given(inputs))
        return None if row is None else self._step(row, inputs, 0)

    def samples(
        self, inputs: tuple[InputSpec, ...], item_done: Callable[[], None] = lambda: None
    ) -> Iterator[Sample]:
        """Streams the steps; states are zeros, until they are carried."""
        for place, sample in enumerate(super().samples(self._given(inputs), item_done)):
            yield self._step(sample, inputs, place)

    def _given(self, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
        return without_states(inputs, self._places)

    def _step(self, sample: Sample, inputs: tuple[InputSpec, ...], place: int) -> Step:
        start = {taken: zeros(inputs[taken]) for taken, _ in self._places}
        return Step(with_states(sample, start), place, self._places)


def without_states(inputs: tuple[InputSpec, ...], places: Places) -> tuple[InputSpec, ...]:
    """What samples bring of what a model takes."""
    states = {taken for taken, _ in places}
    return tuple(spec for place, spec in enumerate(inputs) if place not in states)


def with_states(arrays: Iterable[Array], states: Mapping[int, Array]) -> list[Array]:
    """Arrays of a sample with states at their places among the inputs."""
    whole = list(arrays)
    for place, array in sorted(states.items()):
        whole.insert(place, array)
    return whole


def zeros(spec: InputSpec) -> Array:
    """What a state begins with where nothing else is said."""
    return np.zeros(spec.shape, spec.dtype)


def io_of(model: LiteModel) -> IO:
    """The inputs and outputs of a float model."""
    inputs, outputs = (
        tuple(Port(name, t.shape, t.dtype, t.qparams) for name, t in side)
        for side in (model.input_tensors(), model.output_tensors())
    )
    return IO(inputs, outputs)
