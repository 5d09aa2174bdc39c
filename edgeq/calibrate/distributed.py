"""Calibration on many machines: Ray tasks run shards of the data, their calibrations are merged.

Only row indices travel with a task; the model and what the data are read from lie in the object
store once. Ray is imported here and nowhere else, and only when it is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.data import InputSpec, RepDataset, Sample, to_numpy
from edgeq.calibrate.run import Calibrator, input_specs
from edgeq.errors import DataError, DependencyError, EdgeqError
from edgeq.model import FloatModel

MAX_RETRIES = 5
"""How often a shard is run again after its worker or machine died."""

SHARDS_PER_WORKER = 4
"""More shards even out unequal machines and lose less with one; each loads the model once."""

TASKS_PER_WORKER = 2
"""So that the next task is there when one ends, and a cluster that can grow sees the demand."""

_INDEX = re.compile(r"\Asample (\d+)")


class Rows:
    """The items of an indexable data set; picklable, and small if the data set itself is.

    Args:
        source: An array `(N, ...)`; a dict of such arrays by input name; or anything else with
            `__len__` and `__getitem__`, such as a list or a reader of files.

    Raises:
        DataError: `source` can only be read from front to back.
    """

    def __init__(self, source: object) -> None:
        self._columns: dict[Any, Any] | None = None
        self._items: Any = None
        if isinstance(source, Mapping):
            self._columns = {name: _array(column) for name, column in source.items()}
        elif hasattr(source, "__array__"):
            self._columns = {None: _array(source)}
        else:
            self._items = _indexable(source)
        self._length = _length(self._columns.values() if self._columns else [self._items])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if self._columns is None:
            return self._items[index]
        row = {name: column[index : index + 1] for name, column in self._columns.items()}
        return row.get(None, row)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        columns = self._columns and {n: _Mapped.of(c) or c for n, c in self._columns.items()}
        return {**vars(self), "_columns": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._columns:
            opened = {
                n: c.open() if isinstance(c, _Mapped) else c for n, c in self._columns.items()
            }
            self._columns = opened


def _array(value: Any) -> npt.NDArray[Any]:
    """The array that a column is; as it is if it is mapped from a file."""
    try:
        array = value if isinstance(value, np.ndarray) else to_numpy(value)
    except ValueError as error:
        raise DataError(f"{type(value).__name__} is not an array: {error}") from None
    if array.ndim == 0:
        raise DataError("the representative data is a single number; give an array (N, ...)")
    return array


def _indexable(source: object) -> Any:
    kind = type(source)
    if hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and kind not in (str, bytes):
        return source
    advice = "a list, an array, or an object with __len__ and __getitem__ that reads one item"
    if hasattr(source, "dataset"):
        advice = "the data set that the loader reads from (its .dataset)"
    elif hasattr(source, "take_all"):
        advice = "its rows (.take_all())"
    raise DataError(
        f"engine='ray' reads items by index on several machines, which {kind.__name__} cannot "
        f"give: pass {advice}, or calibrate with engine='local'"
    )


def _length(parts: Any) -> int:
    lengths = {len(part) for part in parts}
    if len(lengths) != 1:
        raise DataError(f"the arrays of the representative data differ in length: {lengths}")
    return int(lengths.pop())


@dataclass(frozen=True)
class _Mapped:
    """Where the content of a memory-mapped array is, which stands for it when it is sent."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    fortran: bool

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> _Mapped | None:
        """None if the array is not a file's content from end to end, without private changes."""
        if not isinstance(array, np.memmap) or isinstance(array.base, np.ndarray):
            return None
        if array.filename is None or array.mode == "c":
            return None
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return cls(str(array.filename), array.dtype, array.shape, array.offset, fortran)

    def open(self) -> npt.NDArray[Any]:
        order = "F" if self.fortran else "C"
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)  # type: ignore[call-overload,no-any-return]
        except (OSError, ValueError) as error:
            raise DataError(
                f"a worker cannot map {self.path}: {error}. Put the file where every machine sees "
                "it, or read it into memory first"
            ) from None


class _ItemError(DataError):
    """Of one item, by its index in the whole data set."""


class _SampleError(DataError):
    """Of one sample, counted from its shard's first; how many are before it the driver knows."""


@dataclass(frozen=True)
class _Job:
    """What is the same for all shards."""

    model: FloatModel
    rows: Rows
    observers: Mapping[int, Any]
    threads: int


def calibrate(
    model: FloatModel,
    rows: Rows,
    observers: Mapping[int, Any] | None = None,
    threads: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Calibration:
    """Measures every sample, on all machines of the Ray cluster that this process belongs to.

    Where it belongs to none, Ray is started as `ray.init()` does it, without its usage reports, and
    stopped at the end. The result is that of one process, bit for bit, if the machines' processors
    are alike and the observers do not depend on the order; that of a `MovingAverage` may differ in
    the last bits, as sums of floats are then grouped otherwise.

    Args:
        model: The float model.
        rows: The representative data.
        observers: As for `Calibrator`.
        threads: Threads, and so CPUs, of one task; None is one.
        advance: Called for each item that has been run.

    Raises:
        DataError: As for `Calibrator` and `RepDataset`; or the data cannot be sent, or are cut in
            a way that the model's batch cannot be made up within a shard.
        DependencyError: Ray is not installed.
        EdgeqError: A shard's workers died again and again.
    """
    ray = check_installed()
    with _connected(ray):
        job = _Job(model, rows, dict(observers or {}), threads or 1)
        cpus = _reserved_cpus(ray, job.threads)
        workers = int(ray.cluster_resources().get("CPU", 1)) // cpus
        shards = _shards(len(rows), _batch(input_specs(model)), SHARDS_PER_WORKER * workers)
        stored = _store(ray, job)
        run = ray.remote(_run_shard).options(
            num_cpus=cpus, max_retries=MAX_RETRIES, retry_exceptions=False
        )
        submit = functools.partial(run.remote, stored)
        parts = _results(ray, submit, shards, TASKS_PER_WORKER * workers, advance)
        return _merged(parts)


def check_installed() -> Any:
    """The module `ray`.

    Raises:
        DependencyError: Ray is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise DependencyError(
            f"engine='ray' needs Ray: pip install 'edgeq[distributed]' ({error})"
        ) from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Leaves a connection of the user's as it is, and makes one for as long as needed otherwise."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _reserved_cpus(ray: Any, threads: int) -> int:
    """CPUs for a task: never more than a machine has, or the task would wait for ever."""
    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return max(1, min(threads, most))


def _store(ray: Any, job: _Job) -> Any:
    try:
        return ray.put(job)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise DataError(
            "the data set or an observer cannot be sent to other processes, as it cannot be "
            f"pickled: {error}. Open files in __getitem__ rather than in __init__"
        ) from None


def _batch(inputs: Sequence[InputSpec]) -> int:
    return inputs[0].shape[0] if inputs[0].shape else 1


def _shards(count: int, batch: int, wanted: int) -> list[range]:
    """Cuts `count` items into runs of about the same length.

    All but the last have a multiple of `batch` items, so that items with equally many rows make up
    the model's batch within each shard.
    """
    units = max(1, count // batch)
    number = max(1, min(wanted, units))
    ends = [units * i // number * batch for i in range(number)] + [count]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def _merged(parts: Iterator[Calibration]) -> Calibration:
    """One calibration of all; errors name items and samples as one process would."""
    merged: Calibration | None = None
    try:
        for part in parts:
            merged = merged.merge(part) if merged else part
    except _ItemError as error:
        raise DataError(str(error)) from None
    except _SampleError as error:
        raise DataError(_shifted(error, merged.samples if merged else 0)) from None
    assert merged is not None
    return merged


def _results(
    ray: Any,
    submit: Callable[[range], Any],
    shards: Sequence[range],
    most: int,
    advance: Callable[[], None],
) -> Iterator[Calibration]:
    """The shards' results in order, so that the first error is the one with the lowest index."""
    # Few tasks are under way at a time, so that few go on after an error: cancelling them may end
    # this process (ray 2.60 fails a check in CompletePendingTask when the task is just done).
    queue = iter(shards)
    running: dict[Any, range] = {}
    finished: dict[range, Any] = {}
    for shard in shards:
        while shard not in finished:
            added = itertools.islice(queue, most - len(running))
            running.update((submit(one), one) for one in added)
            ready, _ = ray.wait(list(running), num_returns=1)
            done = running.pop(ready[0])
            finished[done] = ready[0]
            for _ in done:
                advance()
        yield _result(ray, finished.pop(shard), shard)


def _result(ray: Any, task: Any, shard: range) -> Calibration:
    try:
        found: Calibration | EdgeqError = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if cause is not None and not isinstance(cause, ray.exceptions.RayError):
            raise cause from error  # what the user's own data set or observer raised
        raise EdgeqError(
            f"items {shard.start} to {shard.stop - 1} could not be calibrated in up to "
            f"{MAX_RETRIES + 1} attempts, as Ray lost what ran them: {error}"
        ) from error
    if isinstance(found, EdgeqError):
        raise found
    return found


def _run_shard(job: _Job, shard: range) -> Calibration | EdgeqError:
    """Task: calibrates some of the items.

    Errors are results: Ray would print those that nobody asks for, as after another's error.
    """
    try:
        return _calibration(job, shard)
    except EdgeqError as error:
        return error


def _calibration(job: _Job, shard: range) -> Calibration:
    model, inputs = job.model, input_specs(job.model)
    items = _Shard(job.rows, shard, inputs)
    samples = _named(RepDataset(items).samples(inputs), shard.start)
    try:
        found = Calibrator(model, job.threads, job.observers).run(samples)
    except _ItemError:
        raise
    except DataError as error:
        raise _SampleError(str(error)) from None
    items.check_end()
    return found


class _Shard:
    """The items of one shard, counting their rows."""

    def __init__(self, rows: Rows, shard: range, inputs: Sequence[InputSpec]) -> None:
        self._rows = rows
        self._shard = shard
        self._input = inputs[0]
        self._batch = _batch(inputs)
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        for index in self._shard:
            item = self._rows[index]
            self._count += _row_count(item, self._input)
            yield item

    def check_end(self) -> None:
        """Raises a `DataError` if rows are left that belong to the next shard's first sample."""
        if self._count % self._batch and self._shard.stop < len(self._rows):
            raise DataError(
                f"the items differ in their number of rows, and items {self._shard.start} to "
                f"{self._shard.stop - 1} do not make up the model's batch of {self._batch}: give "
                "items of equally many rows, or calibrate with engine='local'"
            )


def _row_count(item: Any, first_input: InputSpec) -> int:
    """Rows that an item brings; 1 for what is no item, which `RepDataset` refuses."""
    if isinstance(item, Mapping):
        item = item.get(first_input.name)
    elif isinstance(item, tuple | list) and item:
        item = item[0]
    try:
        shape = to_numpy(item).shape
    except (TypeError, ValueError):
        return 1
    return int(shape[0]) if shape and len(shape) == len(first_input.shape) else 1


def _named(samples: Iterator[Sample], before: int) -> Iterator[Sample]:
    """The samples; errors about an item name its index in the whole data set."""
    try:
        yield from samples
    except DataError as error:
        raise _ItemError(_shifted(error, before)) from None


def _shifted(error: DataError, before: int) -> str:
    """The message, with `before` added to the index that it begins with."""
    return _INDEX.sub(lambda found: f"sample {int(found[1]) + before}", str(error))
