"""Representative data of any form becomes a stream of samples that fit the model's inputs.

Nothing is ever held whole: one item of the user's data is alive at a time. Knows shapes and dtypes
of the inputs, nothing of the model behind them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.data.as_numpy import Array, array_of, is_tensor, to_numpy
from edgeq.data.input_spec import InputSpec
from edgeq.data.labels import Labelled, Labels
from edgeq.data.nested_samples import flattened
from edgeq.errors import DataError
from edgeq.model import LiteModel

Sample = tuple[Array, ...]
"""One array for each input of the model, in the model's order, of exactly its shape and dtype.

Where the data has labels, the array of the sample's labels follows.
"""


class RepDataset:
    """The user's representative data, read item by item.

    Args:
        source: An array `(N, ...)`; a dict of such arrays by input name; a list, iterator or
            generator function of arrays, tuples or dicts; a `torch.utils.data.DataLoader`; or any
            other iterable, such as a `tf.data.Dataset`.
        labels: Where the labels are, if they are wanted; items that are `Labelled` bring them.

    Raises:
        DataError: `source` is none of these, or has not as many items as there are labels.
    """

    def __init__(self, source: object, labels: Labels | None = None) -> None:
        self._batched = any(kind.__name__ == "DataLoader" for kind in type(source).__mro__)
        self._labels = labels
        self._items = item_iterator(source)
        self._length = source_length(source)
        if self._length is None:
            self._items = _ending(self._items)
        if labels is not None:
            if self._length is not None:
                labels.check(self._length)
            self._items = (labels.attach(item, i) for i, item in enumerate(self._items))
        self.first = self._peek()

    @property
    def length(self) -> int | None:
        """Number of items where the source knows it; a batch counts as one item."""
        return self._length

    @property
    def part_steps(self) -> int | None:
        """Steps after which a part of its only sequence may stand for another one."""
        return None

    def of(self, model: LiteModel) -> RepDataset:
        """The data for a model, of which sequences have to know which inputs are states."""
        return self

    def states_of(self, model: LiteModel) -> tuple[tuple[str, str], ...]:
        """Names of the input and the output of each state of a model; none without sequences."""
        return ()

    def _peek(self) -> Any:
        for item in self._items:
            self._items = itertools.chain((item,), self._items)
            return item
        raise DataError("the representative data is empty: give at least one sample")

    def first_sample(self) -> Any:
        """The first item, cut to batch 1 where the source is an array or a `DataLoader`.

        Returns:
            An array, or a tuple, list or dict of them, as the source gives it.
        """
        first = self.first.inputs if isinstance(self.first, Labelled) else self.first
        return _map_arrays(first, lambda a: a[:1]) if self._batched else first

    def first_row(self, inputs: tuple[InputSpec, ...]) -> Sample | None:
        """The first sample that fits `inputs`; None where the first item has too few rows for it.

        Raises:
            DataError: As `samples`, of the first item.
        """
        whole, _ = _split(arrays_of(self.first, inputs, 0), None, inputs, 0)
        return next((sample[: len(inputs)] for sample in whole), None)

    def samples(
        self, inputs: tuple[InputSpec, ...], item_done: Callable[[], None] = lambda: None
    ) -> Iterator[Sample]:
        """Streams samples that fit `inputs`; a larger batch is split into the model's batch.

        Rows left over by a batch that the model's batch does not divide are joined with the next
        item's; what is left at the very end is dropped, unless it is all there is.

        Args:
            inputs: What the model takes.
            item_done: Called after each item, of which there are `length`.

        Raises:
            DataError: An item of a wrong shape, dtype, name or number of arrays, or with NaN or
                infinite values. The message names the item's index and the input.
        """
        rest: Sample | None = None
        found, index = False, -1
        for index, item in enumerate(self._items):
            whole, rest = _split(arrays_of(item, inputs, index), rest, inputs, index)
            found = found or bool(whole)
            yield from whole
            item_done()
        if self._labels is not None:
            self._labels.check(index + 1)
        if not found:
            raise DataError(
                f"the representative data has fewer rows than the model's batch of "
                f"{inputs[0].shape[0]}: give more rows, or trace the model with batch 1"
            )


def arrays_of(item: Any, inputs: tuple[InputSpec, ...], index: int) -> Sample:
    """An item's array for each input, and that of its labels if it has any."""
    values = item.inputs if isinstance(item, Labelled) else item
    arrays = tuple(
        _as_input(value, spec, index)
        for value, spec in zip(select(values, inputs, index), inputs, strict=True)
    )
    if not isinstance(item, Labelled):
        return arrays
    return (*arrays, _label_array(item.label, arrays, inputs, index))


def _label_array(label: Any, arrays: Sample, inputs: tuple[InputSpec, ...], index: int) -> Array:
    """The labels of an item, `(rows, ...)`."""
    array = array_of(label, f"sample {index}, label")
    if array.dtype.kind not in "biufUS":
        raise DataError(f"sample {index}: a label must be numbers or text. Received: {array.dtype}")
    rows = arrays[0].shape[:1]
    if array.ndim and array.shape[:1] == rows:
        return array
    if rows == (1,) or all(a.shape == s.shape for a, s in zip(arrays, inputs, strict=True)):
        return array[None]
    raise DataError(
        f"sample {index} has {rows[0]} rows, but its labels have the shape {array.shape}; give one "
        "label for each row"
    )


def joined(parts: Sequence[Array], what: str) -> Array:
    """Arrays one behind the other, along their first axis.

    Raises:
        DataError: They differ in their other axes.
    """
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = ", ".join(sorted({str(part.shape[1:]) for part in parts}))
        raise DataError(
            f"{what} must have one shape; a row of them has the shapes {shapes}"
        ) from None


def item_iterator(source: object) -> Iterator[Any]:
    """The items of data in any form; rows of arrays keep their first axis.

    Raises:
        DataError: It is no data.
    """
    if isinstance(source, np.ndarray) or is_tensor(source):
        array = array_of(source, "the representative data")
        if array.ndim == 0:
            raise DataError("the representative data is a single number; give an array (N, ...)")
        return (array[i : i + 1] for i in range(len(array)))
    if isinstance(source, Mapping):
        return _column_rows(source)
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        try:
            return iter(source)
        except TypeError as error:  # a ray.data.Dataset says here what to iterate instead
            raise DataError(f"the representative data cannot be iterated: {error}") from None
    if isinstance(source, Callable):  # type: ignore[arg-type]  # typing asks for its parameters
        made = source()  # type: ignore[operator]
        if isinstance(made, Iterable):
            return iter(made)
        raise DataError(
            f"the representative data function must return an iterable. "
            f"Received: {type(made).__name__}"
        )
    raise DataError(
        "rep_dataset must be an array (N, ...), a dict of arrays, an iterable of samples, a "
        f"generator function or a DataLoader. Received: {type(source).__name__}"
    )


MOST_ITEMS = 200_000
"""Items of data that do not tell their number; more are taken for a generator without an end."""


def _ending(items: Iterator[Any]) -> Iterator[Any]:
    """The items, of which there is an end.

    Raises:
        DataError: There is none in sight.
    """
    for index, item in enumerate(items):
        if index == MOST_ITEMS:
            raise DataError(
                f"the data has not ended after {MOST_ITEMS:,} items: let the generator end, for "
                "example by itertools.islice, or pass data that has a length"
            )
        yield item


def _column_rows(columns: Mapping[Any, Any]) -> Iterator[dict[Any, Array]]:
    if not columns:
        raise DataError("the representative data is an empty dict: give an array for each input")
    arrays = {name: array_of(value, f"input {name!r}") for name, value in columns.items()}
    numbers = [name for name, a in arrays.items() if a.ndim == 0]
    if numbers:
        raise DataError(f"input {numbers[0]!r} is a single number; give an array (N, ...)")
    counts = {name: len(a) for name, a in arrays.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"the arrays of the representative data differ in length: {counts}")
    count = next(iter(counts.values()))
    return ({name: a[i : i + 1] for name, a in arrays.items()} for i in range(count))


def source_length(source: object) -> int | None:
    """Number of items where the data knows it."""
    if isinstance(source, Mapping):
        return min((len(value) for value in source.values()), default=0)
    try:
        return len(source)  # type: ignore[arg-type]
    except TypeError:
        return None


def _map_arrays(item: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(item, Mapping):
        return {name: _map_arrays(value, function) for name, value in item.items()}
    if isinstance(item, tuple | list):
        return [_map_arrays(value, function) for value in item]
    return function(item) if getattr(item, "ndim", 0) else item


def brings(item: Any, names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether an item has an array for each of some more inputs than `names`, besides labels."""
    values = flattened(item.inputs if isinstance(item, Labelled) else item, [*names, *wanted])
    if isinstance(values, Mapping):
        return any(name in values for name in wanted)
    behind = list(values)[len(names) :] if isinstance(values, tuple | list) else []
    return not all(map(_is_label, behind))


def select(item: Any, inputs: tuple[InputSpec, ...], index: int) -> list[Any]:
    """The item's values in the order of `inputs`."""
    names = [spec.name for spec in inputs]
    item = flattened(item, names)
    if isinstance(item, Mapping):
        missing = [name for name in names if name not in item]
        if missing:
            raise DataError(
                f"sample {index} has no value for input {missing[0]!r}; the model takes "
                f"{', '.join(names)}. Received: {', '.join(map(str, item))}"
            )
        unknown = [name for name in item if name not in names]
        if unknown:
            raise DataError(
                f"sample {index} names the input {str(unknown[0])!r}, which the model does not "
                f"have; it takes {', '.join(names)}"
            )
        return [item[name] for name in names]
    values = list(item) if isinstance(item, tuple | list) else [item]
    if len(values) > len(inputs) and all(_is_label(v) for v in values[len(inputs) :]):
        values = values[: len(inputs)]
    if len(values) != len(inputs):
        raise DataError(
            f"sample {index} has {len(values)} arrays, but the model takes {len(inputs)} "
            f"inputs: {'; '.join(spec.describe() for spec in inputs)}"
        )
    return values


def _is_label(value: Any) -> bool:
    """Whether it looks like the class labels that a labelled data set yields beside its inputs."""
    try:
        array = to_numpy(value)
    except ValueError:
        return False
    return array.ndim <= 1 and array.dtype.kind in "iub"


def _as_input(value: Any, spec: InputSpec, index: int) -> Array:
    where = f"sample {index}, input {spec.name!r}"
    array = array_of(value, where)
    wanted = np.dtype(spec.dtype)
    if array.dtype != wanted:
        array = _cast(array, wanted, where)
    if wanted.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        position = tuple(int(i) for i in bad)
        raise DataError(
            f"{where}: the value at {position} is {array[position]}; calibration needs finite "
            f"numbers. Drop the sample or fix the preprocessing"
        )
    shape = spec.given_shape
    if array.ndim == len(shape) - 1 and array.shape == shape[1:]:
        array = array[None]
    if array.shape[1:] != shape[1:] or array.ndim != len(shape):
        raise DataError(f"{where}: the model takes shape {shape}. Received: {array.shape}")
    _check_fixed(array, spec, where)
    return np.ascontiguousarray(array.transpose(spec.order)) if spec.order else array


def _check_fixed(array: Array, spec: InputSpec, where: str) -> None:
    """Refuses values other than the one that the file computes with whatever is given."""
    if spec.fixed is None or (array == spec.fixed).all():
        return
    raise DataError(
        f"{where}: its value decides over shapes or branches, so the file always computes with "
        f"{spec.fixed:g}, as the first sample has it. Received: "
        f"{array[array != spec.fixed][0]:g}. Export once for each value, with data that have it "
        "alone"
    )


def _cast(array: Array, wanted: np.dtype[Any], where: str) -> Array:
    if array.dtype.kind == wanted.kind and wanted.kind in "fiu":
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            cast = array.astype(wanted)
        if wanted.kind == "f" or np.array_equal(cast, array):
            return cast
        raise DataError(f"{where}: a value does not fit {wanted.name}. Received: {array.dtype}")
    hint = ""
    if wanted.kind == "f" and array.dtype.kind in "iu":
        hint = "; normalise it as for training, for example `x.astype('float32') / 255`"
    raise DataError(f"{where}: the model takes {wanted.name}{hint}. Received: {array.dtype}")


def _split(
    arrays: Sample, rest: Sample | None, inputs: tuple[InputSpec, ...], index: int
) -> tuple[list[Sample], Sample | None]:
    """Cuts an item, and rows left from the one before, into the model's batch.

    Returns:
        The whole samples, and the rows that are left over.
    """
    # Labels, which stand behind the inputs, need not have the batch's shape.
    if rest is None and all(a.shape == s.shape for a, s in zip(arrays, inputs, strict=False)):
        return [arrays], None
    rows = {a.shape[:1] for a in arrays}
    batches = {spec.shape[:1] for spec in inputs}
    if len(rows) != 1 or len(batches) != 1:
        shapes = ", ".join(f"{s.name!r} {a.shape}" for a, s in zip(arrays, inputs, strict=False))
        raise DataError(
            f"sample {index} cannot be split into the model's batch: its inputs have {shapes}, "
            f"the model takes {'; '.join(spec.describe() for spec in inputs)}"
        )
    if rest is not None:
        pairs = zip(rest, arrays, strict=True)
        arrays = tuple(joined(pair, f"sample {index}: the labels") for pair in pairs)
    count, batch = arrays[0].shape[0], inputs[0].shape[0]
    end = count - count % batch
    whole = [
        tuple(np.ascontiguousarray(a[start : start + batch]) for a in arrays)
        for start in range(0, end, batch)
    ]
    # A copy, as the owner of the arrays may write the next item into the same memory.
    return whole, tuple(a[end:].copy() for a in arrays) if end < count else None
