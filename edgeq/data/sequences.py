"""`Sequences`: data of a model with states, which outputs give and inputs of the next step take.

A sequence's samples come without the states. Knows how samples are made whole, nothing of what they
are for; the one who runs a model carries its states by `Step.behind`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from edgeq.data.as_numpy import Array, array_of, is_tensor
from edgeq.data.buckets import Buckets
from edgeq.data.input_spec import InputSpec
from edgeq.data.labels import Labelled, Labels
from edgeq.data.rep_dataset import (
    RepDataset,
    Sample,
    arrays_of,
    item_iterator,
    source_length,
)
from edgeq.data.steps import (
    Places,
    PlainData,
    Step,
    io_of,
    with_states,
    without_states,
    zeros,
)
from edgeq.errors import DataError
from edgeq.model import LiteModel
from edgeq.ports import States

_INDEX = re.compile(r"\Asample \d+")


class Sequences:
    """Representative data of a model that is run step by step and fed its own states.

    Args:
        sequences: The sequences, each what `rep_dataset` can be: an array `(steps, ...)`, a dict of
            such arrays by input name, or an iterable of samples. Samples have no states.
        states: For each input that is a state, the output that it is fed with, by their names in
            the model's file or by their places. None is for a model that keeps them by itself, as
            a module in its buffers.
        start: Values of states, by the input as in `states`, that every sequence begins with.
            Others begin with zeros; a model that is traced, such as a PyTorch module, needs them
            for all states, as nothing else tells their shapes.

    Raises:
        DataError: `states` or `start` is no such mapping.
    """

    def __init__(
        self,
        sequences: Iterable[Any],
        states: Mapping[str, str] | Mapping[int, int] | Mapping[Any, Any] | None = None,
        start: Mapping[Any, Any] | None = None,
    ) -> None:
        if states is not None and (not isinstance(states, Mapping) or not states):
            raise DataError(
                "states is a dict of outputs by the input that each is fed to, such as "
                f"{{'h_in': 'h_out'}}. Received: {states!r:.80}"
            )
        if start is not None and not isinstance(start, Mapping):
            raise DataError(
                f"start is a dict of arrays by input, or None. Received: {type(start).__name__}"
            )
        unknown = [name for name in start or {} if name not in (states or {})]
        if unknown:
            raise DataError(
                f"start has {unknown[0]!r}, which is no state; these are "
                f"{', '.join(map(repr, states or ())) or 'not named'}"
            )
        self.sequences = sequences
        self.states = dict(states or {})
        self.start = {name: array_of(a, f"start {name!r}") for name, a in (start or {}).items()}

    def __iter__(self) -> Iterator[Any]:
        """The sequences one by one."""
        return _each(self.sequences)

    def repeatable(self) -> Sequences:
        """The same data, to be read many times: iterators are read into lists."""
        kept = [repeatable(sequence) for sequence in self]
        return Sequences(kept, self.states or None, self.start)


def repeatable(data: Any) -> Any:
    """Data that can be read many times: an iterator is read into a list."""
    if isinstance(data, Sequences):
        return data.repeatable()
    return list(data) if isinstance(data, Iterator) and not is_tensor(data) else data


class _Placed(NamedTuple):
    """An item and where it is: the number of its sequence, and its place in that."""

    item: Any
    sequence: int
    step: int


class _Steps:
    """The items of all sequences, one behind the other."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        is_stored = isinstance(self._sequences.sequences, list | tuple | np.ndarray)
        lengths = [source_length(s) for s in self._sequences] if is_stored else []
        if not lengths or None in lengths:
            raise TypeError("its length is not known")
        return sum(length or 0 for length in lengths)

    def __iter__(self) -> Iterator[_Placed]:
        for number, sequence in enumerate(self._sequences):
            index = -1
            for index, item in enumerate(_items(sequence, number)):
                yield _Placed(item, number, index)
            if index < 0:
                raise DataError(f"sequence {number} is empty: give at least one sample in each")


def _each(sequences: Any) -> Iterator[Any]:
    """The sequences one by one; those of an array along its first axis."""
    if isinstance(sequences, Mapping):
        raise DataError("sequences are a list of them, or another iterable. Received: a dict")
    if is_tensor(sequences):
        return iter(array_of(sequences, "sequences"))
    return item_iterator(sequences)


def _items(sequence: object, number: int) -> Iterator[Any]:
    try:
        return item_iterator(sequence)
    except DataError as error:
        raise DataError(f"sequence {number}: {error}") from None


class SequenceData(RepDataset):
    """The steps of sequences, read one by one.

    Args:
        source: The sequences.
        labels: As for `RepDataset`; an array or list has a label for each step of all sequences.
    """

    def __init__(self, source: Sequences, labels: Labels | None = None) -> None:
        super().__init__(_Steps(source))
        self._source = source
        self._labels = labels
        self._places: Places = ()

    def first_sample(self) -> Any:
        """The first sample with the states that it begins with, to trace a model with.

        Returns:
            A dict where the sample is one; else a tuple, states that are named behind the rest.

        Raises:
            DataError: The shape of a state is not known.
        """
        start, states = self._source.start, self._source.states
        lacking = [name for name in states if name not in start]
        if lacking:
            raise DataError(
                f"the shape of the state {lacking[0]!r} is not known before the model is traced: "
                f"pass start={{{lacking[0]!r}: ...}} with the array that sequences begin with"
            )
        first = self._first_item()
        item = first.inputs if isinstance(first, Labelled) else first
        if isinstance(item, Mapping):
            return {**item, **{_name(name): array for name, array in start.items()}}
        arrays = list(item) if isinstance(item, tuple | list) else [item]
        for place in sorted(name for name in start if isinstance(name, int)):
            arrays.insert(place, start[place])
        return (*arrays, *(start[name] for name in states if not isinstance(name, int)))

    def first_row(self, inputs: tuple[InputSpec, ...]) -> Sample | None:
        """The first step, without labels."""
        placed: _Placed = self.first
        step = self._step(placed._replace(item=self._first_item()), inputs, self._start(inputs))
        return step[: len(inputs)]

    def of(self, model: LiteModel) -> SequenceData:
        """The same steps for a model, of which it is known then which inputs are states.

        Raises:
            DataError: The model has no such states.
        """
        made = copy.copy(self)
        made._places = self._places_in(model)
        if not made._places:
            raise DataError(
                "the model keeps no states by itself: say which outputs are fed back, "
                "edgeq.Sequences(..., states={'h_in': 'h_out'})"
            )
        if len(made._places) == len(model.input_tensors()):
            raise DataError("states: every input of the model is a state, which leaves no data")
        return made

    def states_of(self, model: LiteModel) -> States:
        """Names of the input and the output of each state."""
        io = io_of(model)
        places = self._places_in(model)
        return tuple((io.inputs[taken].name, io.outputs[given].name) for taken, given in places)

    def _places_in(self, model: LiteModel) -> Places:
        """The states that were named, and behind them others that the model has by itself."""
        io = io_of(model)
        named = io.state_places(self._source.states)
        own = io.state_places(dict(model.states))
        taken = {place for place, _ in named}
        return (*named, *(pair for pair in own if pair[0] not in taken))

    def samples(
        self, inputs: tuple[InputSpec, ...], item_done: Callable[[], None] = lambda: None
    ) -> Iterator[Sample]:
        """Streams the steps; states are those that sequences begin with, until they are carried.

        Args:
            inputs: What the model takes.
            item_done: Called after each step.

        Raises:
            DataError: As `RepDataset.samples`; the message names the sequence and the step.
        """
        start, count = self._start(inputs), 0
        for count, placed in enumerate(self._items, start=1):
            item = self._labelled(placed.item, count - 1)
            yield self._step(placed._replace(item=item), inputs, start)
            item_done()
        if self._labels is not None:
            self._labels.check(count)

    def _labelled(self, item: Any, number: int) -> Any:
        return item if self._labels is None else self._labels.attach(item, number)

    def _first_item(self) -> Any:
        return self._labelled(self.first.item, 0)

    def _step(
        self, placed: _Placed, inputs: tuple[InputSpec, ...], start: Mapping[int, Array]
    ) -> Step:
        """An item, behind which its labels may be, with the states that sequences begin with."""
        given = without_states(inputs, self._places)
        where = f"sequence {placed.sequence}, step {placed.step}"
        try:
            arrays = arrays_of(placed.item, given, 0)
        except DataError as error:
            raise DataError(_INDEX.sub(where, str(error))) from None
        for spec, array in zip(given, arrays, strict=False):
            if array.shape != spec.shape:
                raise DataError(
                    f"{where}, input {spec.name!r}: a step is one run of the model, which takes "
                    f"{spec.given_shape}. Received: {array.shape}"
                )
        return Step(with_states(arrays, start), placed.step, self._places)

    def _start(self, inputs: tuple[InputSpec, ...]) -> dict[int, Array]:
        """The states that sequences begin with, by the place of the input."""
        start = {place: zeros(inputs[place]) for place, _ in self._places}
        named = zip(self._source.states, self._places, strict=False)
        return start | {place: self._started(name, inputs[place]) for name, (place, _) in named}

    def _started(self, name: Any, spec: InputSpec) -> Array:
        """What sequences begin with in a state."""
        if name not in self._source.start:
            return zeros(spec)
        try:
            (array,) = arrays_of((self._source.start[name],), (spec,), 0)
        except DataError as error:
            raise DataError(_INDEX.sub("start", str(error))) from None
        if array.shape != spec.shape:
            raise DataError(
                f"start, input {spec.name!r}: the model takes shape {spec.shape}. "
                f"Received: {array.shape}"
            )
        return array


def read_data(source: object, labels: Labels | None = None) -> RepDataset:
    """The user's representative data of any kind, as samples.

    Raises:
        DataError: As for `RepDataset`.
    """
    if isinstance(source, Buckets):
        raise DataError(
            "Buckets are data of several lengths, which edgeq.export alone takes: give samples of "
            f"one length, such as those of Buckets.by_key()[{next(iter(source.lengths))!r}]"
        )
    if isinstance(source, Sequences):
        return SequenceData(source, labels)
    return PlainData(source, labels)


def _name(key: object) -> str:
    """The name of a state in samples that are dicts."""
    if isinstance(key, str):
        return key
    raise DataError(
        f"samples name their inputs, and states do not: name the state too. Received: {key!r}"
    )
