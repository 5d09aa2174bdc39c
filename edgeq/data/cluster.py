"""Work on many machines: Ray tasks run shards of the data, their results come back in order.

Only row indices travel with a task; the work and what the data are read from lie in the object
store once. Knows how shards are cut, run and run again, nothing of what is done with samples. Ray
is imported here and nowhere else, and only when it is asked for.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

import numpy.typing as npt

from edgeq.argument_types import Engine
from edgeq.data.as_numpy import to_numpy
from edgeq.data.input_spec import InputSpec
from edgeq.data.labels import Labelled, Labels
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.data.rows import Rows
from edgeq.errors import DataError, DependencyError, EdgeqError, RecipeError

ENGINES: tuple[str, ...] = get_args(Engine)

MAX_RETRIES = 5
"""How often a shard is run again after its worker or machine died."""

SHARDS_PER_WORKER = 4
"""More shards even out unequal machines and lose less with one; each loads the model once."""

TASKS_PER_WORKER = 2
"""So that the next task is there when one ends, and a cluster that can grow sees the demand."""

_INDEX = re.compile(r"\Asample (\d+)")

Result = TypeVar("Result")

Work = Callable[[Iterator[Sample]], Result]
"""Work on a shard's samples; it must be picklable, and so must its result.

An `EdgeqError` that begins with `sample N` counts from the shard's first sample.
"""


def source(data: object, engine: str, labels: Labels | None = None) -> object:
    """The data in the form that the engine reads: `Rows` with Ray, else as they are.

    Raises:
        RecipeError: No such engine.
        DependencyError: Ray is not installed.
        DataError: Ray cannot read the data by index.
    """
    if engine not in ENGINES:
        raise RecipeError(f"engine must be one of {', '.join(ENGINES)}. Received: {engine!r}")
    if engine == "local":
        return data
    ray = check_installed()
    if type(data).__module__.partition(".data.")[0] == "ray":
        return Rows(_Blocks.of(ray, data), labels)
    return Rows(data, labels)


def map_shards(
    work: Work[Result],
    rows: Rows,
    inputs: tuple[InputSpec, ...],
    threads: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Has every sample worked on once, on all machines of the Ray cluster of this process.

    Where it belongs to none, Ray is started as `ray.init()` does it, without its usage reports, and
    stopped at the end.

    Args:
        work: What is done with the samples of a shard.
        rows: The data.
        inputs: What the model takes, whose batch decides how shards are cut.
        threads: Threads, and so CPUs, of one task; None is one.
        advance: Called for each item that has been worked on.

    Yields:
        The result of each shard, in the order of the data.

    Raises:
        DataError: As for `RepDataset`; or the data cannot be sent, or are cut in a way that the
            model's batch cannot be made up within a shard.
        EdgeqError: Raised by `work`, with the sample's number in the whole data set; or a shard's
            workers died again and again.
    """
    ray = check_installed()
    with _connected(ray):
        cpus = _reserved_cpus(ray, threads or 1)
        workers = int(ray.cluster_resources().get("CPU", 1)) // cpus
        shards = _shards(len(rows), _batch(inputs), SHARDS_PER_WORKER * workers)
        stored = _store(ray, _Job(work, rows, inputs))
        run = ray.remote(_run_shard).options(
            num_cpus=cpus, max_retries=MAX_RETRIES, retry_exceptions=False
        )
        submit = functools.partial(run.remote, stored)
        before = 0
        for part in _results(ray, submit, shards, TASKS_PER_WORKER * workers, advance):
            if isinstance(part, _ItemError):
                raise DataError(str(part))
            if isinstance(part, EdgeqError):
                raise _shifted(part, before)
            before += part.samples
            yield part.result


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


class _Blocks:
    """The rows of a `ray.data.Dataset`, in its order; they stay in the object store.

    Args:
        blocks: References to dicts of equally long columns.
        ends: Number of rows up to the end of each block.
    """

    def __init__(self, blocks: Sequence[Any], ends: Sequence[int]) -> None:
        self._blocks = blocks
        self._ends = ends
        self._open: tuple[int, Mapping[str, npt.NDArray[Any]]] | None = None

    @classmethod
    def of(cls, ray: Any, dataset: Any) -> _Blocks:
        """Runs the data set's own steps on the cluster, and counts the rows of each block."""
        options = dataset.context.execution_options
        before, options.preserve_order = options.preserve_order, True
        try:
            blocks = dataset.to_numpy_refs()
        finally:
            options.preserve_order = before
        counts = ray.get([ray.remote(_row_total).remote(block) for block in blocks])
        return cls(blocks, list(itertools.accumulate(counts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = bisect.bisect_right(self._ends, index)
        if self._open is None or self._open[0] != number:
            self._open = number, check_installed().get(self._blocks[number])
        columns = self._open[1]
        first = self._ends[number - 1] if number else 0
        return {name: column[index - first] for name, column in columns.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": None}


def _row_total(columns: Mapping[str, npt.NDArray[Any]]) -> int:
    """Task: number of rows of a block."""
    return len(next(iter(columns.values()))) if columns else 0


class _ItemError(DataError):
    """Of one item, by its index in the whole data set."""


@dataclass(frozen=True)
class _Job(Generic[Result]):
    """State that all shards share."""

    work: Work[Result]
    rows: Rows
    inputs: tuple[InputSpec, ...]


@dataclass(frozen=True)
class _Part(Generic[Result]):
    """Result of one shard and its number of samples."""

    result: Result
    samples: int


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


def _store(ray: Any, job: _Job[Result]) -> Any:
    try:
        return ray.put(job)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise DataError(
            "the data set, its labels or an observer cannot be sent to other processes, as it "
            f"cannot be pickled: {error}. Open files in __getitem__ rather than in __init__"
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


def _results(
    ray: Any,
    submit: Callable[[range], Any],
    shards: Sequence[range],
    most: int,
    advance: Callable[[], None],
) -> Iterator[_Part[Any] | EdgeqError]:
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


def _result(ray: Any, task: Any, shard: range) -> _Part[Any] | EdgeqError:
    try:
        found: _Part[Any] | EdgeqError = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if cause is not None and not isinstance(cause, ray.exceptions.RayError):
            raise cause from error  # what the user's own data set or observer raised
        raise EdgeqError(
            f"items {shard.start} to {shard.stop - 1} could not be run in up to "
            f"{MAX_RETRIES + 1} attempts, as Ray lost what ran them: {error}"
        ) from error
    return found


def _run_shard(job: _Job[Result], shard: range) -> _Part[Result] | EdgeqError:
    """Task: works on some of the items.

    Errors are results: Ray would print those that nobody asks for, as after another's error.
    """
    items = _Shard(job.rows, shard, job.inputs)
    samples = _Counted(RepDataset(items).samples(job.inputs), shard.start)
    try:
        result = job.work(iter(samples))
        items.check_end()
    except EdgeqError as error:
        return error
    return _Part(result, samples.count)


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
                "items of equally many rows, or use engine='local'"
            )


def _row_count(item: Any, first_input: InputSpec) -> int:
    """Rows that an item brings; 1 for what is no item, which `RepDataset` refuses."""
    if isinstance(item, Labelled):
        item = item.inputs
    if isinstance(item, Mapping):
        item = item.get(first_input.name)
    elif isinstance(item, tuple | list) and item:
        item = item[0]
    try:
        shape = to_numpy(item).shape
    except (TypeError, ValueError):
        return 1
    return int(shape[0]) if shape and len(shape) == len(first_input.shape) else 1


class _Counted:
    """Samples, counted; errors about an item name its index in the whole data set."""

    def __init__(self, samples: Iterator[Sample], before: int) -> None:
        self._samples = samples
        self._before = before
        self.count = 0

    def __iter__(self) -> Iterator[Sample]:
        try:
            for sample in self._samples:
                self.count += 1
                yield sample
        except DataError as error:
            raise _ItemError(str(_shifted(error, self._before))) from None


def _shifted(error: EdgeqError, before: int) -> EdgeqError:
    """The error, with `before` added to the index that its message begins with."""
    text = _INDEX.sub(lambda found: f"sample {int(found[1]) + before}", str(error))
    return type(error)(text)
