"""`Session`: a .tflite model on the real interpreter, arrays in and named arrays out.

Knows the interpreter and what its delegates took; nothing of quantization plans.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.files import Content
from edgeq.ports import IO, read_states
from edgeq.runtime.backend import load_backend
from edgeq.runtime.coverage import Coverage, coverage_of, delegate_nodes
from edgeq.runtime.delegates import EDGETPU, PLAIN, Options, check_delegate
from edgeq.runtime.entry import Array
from edgeq.runtime.feeding.bucket_entry import BucketEntry, first_entry
from edgeq.runtime.feeding.port_arrays import filled, fits, stored, way_in, whole_numbers
from edgeq.runtime.file_check import check_file
from edgeq.runtime.interpreter import (
    EDGETPU_OP,
    failed_run,
    make_interpreter,
    nodes,
    read_model,
    unloadable,
)
from edgeq.runtime.isolated_session import IsolatedSession
from edgeq.runtime.streaming.stream import Stream

Inputs = Array | Sequence[Array] | Mapping[str, Array]


class Session:
    """A loaded model.

    Args:
        model: .tflite bytes, or the path of a file.
        delegate: `"xnnpack"` (the default CPU delegate), `"none"` (plain kernels), `"reference"`
            (the slow kernels that define the results), the Edge TPU target's name, or the path of
            a library with an external delegate, which leaves the rest to XNNPACK.
        threads: Threads for one run; None takes what this process may use.
        options: What the delegate's library is told, for example `{"device": "usb:0"}`.
        signature: Key of the entry point; None is the first, or, in a file of buckets, for each
            run the shortest that holds the inputs.
        backend: Which of the installed interpreters; None is the first of `BACKENDS`.
        trusted: Whether the file is known to be sound. Any other is first read and run once in a
            child process, unless that was done before or the file was made here.
        isolated: Whether it runs in a child process for good, which it may end without harm.

    Attributes:
        input_names: Names of the inputs, from the signature where there is one.
        output_names: Names of the outputs, likewise.
        signatures: Keys of all entry points.

    Raises:
        ModelError: The file cannot be read, or the runtime refuses it.
        DelegateError: The delegate cannot be loaded, or fails on the model.
        DependencyError: There is no interpreter.
    """

    def __init__(
        self,
        model: Content | str | os.PathLike[str],
        delegate: str = "xnnpack",
        threads: int | None = None,
        options: Options | None = None,
        *,
        signature: str | None = None,
        backend: str | None = None,
        trusted: bool = False,
        isolated: bool = False,
    ) -> None:
        check_delegate(delegate, options)
        self._content = read_model(model)
        self._key = signature
        self._backend = load_backend(backend)
        self._delegate = delegate
        threads = threads or available_cpus()
        if isolated:
            self._load_isolated(threads, options, signature, backend)
            return
        if not trusted:
            check_file(self._content, delegate, signature, backend)
        self._interpreter = make_interpreter(
            self._backend, self._content, delegate, threads, options or {}
        )
        ops = self._ops()
        if delegate == EDGETPU and EDGETPU_OP not in {op["op_name"] for op in ops}:
            raise ModelError(
                "the model was not compiled for the Edge TPU, so that all of it would run on the "
                "CPU: compile it with `edgeq compile`, and load what that writes"
            )
        # XNNPACK takes its ops only when memory is allocated: what is there now is the library's.
        self._pieces_of_library = len(delegate_nodes(ops))
        try:
            self._interpreter.allocate_tensors()
            self._entry = first_entry(self._content, self._interpreter, signature)
        except (RuntimeError, ValueError) as error:
            raise unloadable(self._backend, error, "load") from None
        self._name(self._interpreter._get_full_signature_list())

    def _load_isolated(
        self, threads: int, options: Options | None, signature: str | None, backend: str | None
    ) -> None:
        arguments = (self._delegate, threads, options, signature, backend)
        self._interpreter = self._entry = child = IsolatedSession(self._content, arguments)
        self._pieces_of_library = child.pieces_of_library
        self._name(child.signatures)

    def _name(self, signatures: Iterable[str]) -> None:
        self.signatures = tuple(signatures)
        self.input_names = tuple(port.name for port in self._entry.io.inputs)
        self.output_names = tuple(port.name for port in self._entry.io.outputs)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the interpreter."""
        if isinstance(self._entry, IsolatedSession):
            self._entry.close()
        self._interpreter = self._entry = _Closed()

    @property
    def io(self) -> IO:
        """Names, shapes, types and scales of the inputs and outputs."""
        return self._entry.io

    @property
    def bucket(self) -> str | None:
        """Key of the bucket that the last run took; None where the file has none."""
        entry = self._entry
        return entry.key if isinstance(entry, BucketEntry | IsolatedSession) else None

    def run(self, inputs: Inputs, *, real: bool = False) -> dict[str, Array]:
        """One inference, or as many as the rows of the inputs fill.

        Args:
            inputs: The array of the only input, arrays in order, or arrays by input name. Where
                the first dimension is another than the model's, it is a number of rows: they run
                batch by batch, the last one filled up. A dynamic dimension may have any size.
            real: Whether inputs and outputs are real numbers where the model has integers with a
                scale; they are converted on the way.

        Returns:
            Output arrays by name.

        Raises:
            DataError: Wrong number, names, shape or dtype of the inputs.
            ModelError: The run fails.
        """
        arrays = self._ordered(inputs)
        if real:
            self._fit_sizes(arrays)
            arrays = [stored(p, a) for p, a in zip(self.io.inputs, arrays, strict=True)]
        if self._is_one_run(arrays):
            self.invoke(arrays)
            results = self.outputs()
        else:
            results = self._run_rows(arrays)
        if real:
            return self.io.dequantize(results)
        return {name: results[place] for place, name in enumerate(self.output_names)}

    def stream(
        self, states: Mapping[str, str] | None = None, start: Mapping[str, Array] | None = None
    ) -> Stream:
        """The model run step by step, its states kept inside; see `Stream`."""
        if states is None:
            states = dict(read_states(self._content, self._key))
        return Stream(self, self.io.state_places(states), start)

    def invoke(self, sample: Sequence[Array] | None = None) -> None:
        """Runs one sample; `outputs`, `output_view` and `view` see the result.

        Args:
            sample: Arrays in input order; None runs what `input_view` was filled with.

        Raises:
            ModelError: The run fails.
        """
        try:
            self._entry.invoke(sample)
        except (RuntimeError, ValueError) as error:
            raise failed_run(error) from None

    def outputs(self) -> list[Array]:
        """Copies of all outputs of the last run, in order."""
        return self._entry.outputs()

    def input_view(self, name: str) -> Array:
        """The memory of an input, to be filled without a copy; `del` it before the run.

        Raises:
            DataError: There is no such input.
            ModelError: The signature is not that of the main graph.
        """
        return self._entry.input(_place(self.input_names, name, "input"))

    def output_view(self, name: str) -> Array:
        """An output of the last run without a copy; `del` it before the next run.

        Raises:
            DataError: There is no such output.
        """
        return self._entry.output(_place(self.output_names, name, "output"))

    def view(self, tensor: int) -> Array:
        """An output tensor of the last run by index, without a copy; gone with the next run."""
        return np.asarray(self._interpreter.tensor(tensor)())

    def coverage(self) -> Coverage:
        """Which ops of the main graph the session's delegate took."""
        return next(iter(self.placement().values()), Coverage(frozenset(), len(self._ops()), 0))

    def placement(self) -> dict[str, Coverage]:
        """The ops of the main graph that each delegate took, the session's own delegate first.

        Ops that are in none run on plain kernels.
        """
        ops = self._ops()
        pieces = delegate_nodes(ops)
        own, rest = pieces[: self._pieces_of_library], pieces[self._pieces_of_library :]
        if self._delegate in PLAIN:
            return {}
        if self._delegate == "xnnpack":
            return {"xnnpack": coverage_of(ops, pieces)}
        return {self._delegate: coverage_of(ops, own), "xnnpack": coverage_of(ops, rest)}

    def describe(self) -> str:
        """Says in one sentence which ops run where."""
        names = [op["op_name"] for op in self._ops() if op["op_name"] != "DELEGATE"]
        parts, taken = [], set[int]()
        for delegate, coverage in self.placement().items():
            taken |= coverage.delegated
            pieces = f" in {coverage.partitions} piece(s)" if coverage.partitions else ""
            parts.append(f"{delegate} {len(coverage.delegated)}{pieces}")
        left = collections.Counter(name for i, name in enumerate(names) if i not in taken)
        listed = ", ".join(f"{name} {count}" for name, count in left.most_common())
        parts.append(f"plain kernels {left.total()}" + (f" ({listed})" if listed else ""))
        return f"{len(names)} ops on {self._backend.describe()}: {', '.join(parts)}"

    def _ops(self) -> list[Mapping[str, Any]]:
        """Ops of the main graph, those of delegates at the end."""
        if isinstance(self._interpreter, IsolatedSession):
            return self._interpreter.nodes()
        return nodes(self._interpreter)

    def _ordered(self, inputs: Inputs) -> list[Array]:
        # The check for an array is the quickest, and arrays are most of what comes.
        if isinstance(inputs, np.ndarray):
            arrays = [inputs]
        elif isinstance(inputs, Mapping):
            if set(inputs) != set(self.input_names):
                raise DataError(
                    f"the model takes the inputs {', '.join(self.input_names)}"
                    f"{self._said_of_states()}. Received: {', '.join(map(str, inputs))}"
                )
            return [np.asarray(inputs[name]) for name in self.input_names]
        elif isinstance(inputs, Iterable):
            arrays = [np.asarray(a) for a in inputs]
        else:
            kind = type(inputs).__name__
            raise DataError(
                f"inputs are an array, or arrays in a list or by name. Received: {kind}"
            )
        if len(arrays) != len(self.input_names):
            raise DataError(
                f"the model takes {len(self.input_names)} inputs ({', '.join(self.input_names)})"
                f"{self._said_of_states()}. Received: {len(arrays)}"
            )
        return arrays

    def _said_of_states(self) -> str:
        states = [name for name, _ in read_states(self._content, self._key)]
        return f", of which session.stream() feeds back {', '.join(states)}" if states else ""

    def _is_one_run(self, arrays: list[Array]) -> bool:
        """Whether the arrays are what one run takes; rows for several runs otherwise.

        Whole numbers of another width, such as int64 token ids, become those that the file takes.

        Raises:
            DataError: They are neither.
        """
        if [(a.shape, a.dtype) for a in arrays] == self._entry.fed:
            return True
        ports = self.io.inputs
        arrays[:] = [whole_numbers(port, a) for port, a in zip(ports, arrays, strict=True)]
        is_typed = all(a.dtype == port.dtype for port, a in zip(ports, arrays, strict=True))
        if is_typed and self._fit_sizes(arrays):
            return True
        for port, array in zip(ports, arrays, strict=True):
            rows = len(port.shape) == array.ndim > 0 and array.shape[1:] == port.shape[1:]
            if not rows or array.dtype != port.dtype:
                raise DataError(
                    f"input {port.name!r} is {port.dtype} of shape {port.shape}. "
                    f"Received: {array.dtype.name} of shape {array.shape}" + way_in(port, array)
                )
        if len({len(a) for a in arrays}) > 1 or len({p.shape[0] for p in ports}) > 1:
            listed = ", ".join(f"{p.name} {a.shape}" for p, a in zip(ports, arrays, strict=True))
            raise DataError(
                f"inputs that run batch by batch need equally many rows. Received: {listed}"
            )
        return False

    def _fit_sizes(self, arrays: Sequence[Array]) -> bool:
        """Gives dynamic inputs the sizes of what is fed; False where other sizes differ."""
        found = all(fits(s, a.shape) for s, a in zip(self._entry.dynamic, arrays, strict=True))
        if found:
            self._resize([a.shape for a in arrays])
        return found

    def _resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        try:
            self._entry.resize(shapes)
        except (RuntimeError, ValueError) as error:
            raise failed_run(error) from None

    def _run_rows(self, arrays: Sequence[Array]) -> list[Array]:
        """All rows, batch by batch, written straight into the results."""
        rows, batch = len(arrays[0]), self.io.inputs[0].shape[0]
        for port in self.io.outputs:
            if port.shape[:1] != (batch,):
                raise DataError(
                    f"output {port.name!r} of shape {port.shape} has not one row for each of the "
                    f"{batch} that the model takes: run one batch at a time"
                )
        results = [np.empty((rows, *port.shape[1:]), port.dtype) for port in self.io.outputs]
        for start in range(0, rows, batch):
            stop = min(start + batch, rows)
            self.invoke([filled(array[start:stop], batch) for array in arrays])
            for place, result in enumerate(results):
                result[start:stop] = self._entry.output(place)[: stop - start]
        return results


class _Closed:
    """Stands in for the interpreter of a closed session."""

    def __getattr__(self, name: str) -> Any:
        raise ModelError("the session is closed")


def available_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _place(names: Sequence[str], name: str, kind: str) -> int:
    if name not in names:
        raise DataError(f"the model has no {kind} {name!r}; it has {', '.join(names)}")
    return names.index(name)


def outputs_of(tflite: Content, sample: Sequence[Array]) -> dict[str, Array]:
    """Job: outputs of a sample by name; a model that kills its host kills a child here."""
    with Session(tflite, threads=1, trusted=True) as session:
        session.invoke(sample)
        return dict(zip(session.output_names, map(np.array, session.outputs()), strict=True))
