"""Runs representative data through the float model and returns what its tensors hold.

The model runs on its real delegate with the measuring of extremes built into the graph; observers
that look at values get them from the tensors themselves. Knows which tensors need a range (from the
op table), nothing of what is planned with it.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.calibration import Beyond, Calibration, Extremes
from edgeq.calibrate.instrument import Instrumented, Probe, instrument
from edgeq.calibrate.observers import MinMax, extremes_suffice
from edgeq.calibrate.peaks import Peaks, Stretches
from edgeq.data.rep_dataset import Sample
from edgeq.data.steps import Step
from edgeq.errors import DataError
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import LiteModel
from edgeq.ops import OPS, Holds, ScaleRule, is_non_negative, pole
from edgeq.qtypes import STAND_IN_FOR_INFINITY
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

Checkpoint = Callable[[Callable[[], Calibration]], None]
"""Called after each sample with a function that gives what has been seen so far."""

Vector = npt.NDArray[np.float32]
Truths = npt.NDArray[np.bool_]


def probes(graph: Graph) -> tuple[Probe, ...]:
    """The tensors whose range the data decides: inputs, and outputs that have a scale of their own.

    What a same-scale op puts out lies within its inputs' range, so it is not measured; but a choice
    may leave out what no integer holds. Where a kernel dictates a scale, the op may be float yet.
    Of what is divided by, how near it comes to 0 matters, whatever computes it.
    """
    near_zero = {op.inputs[s] for op in graph.operators if (s := pole(op.name)) is not None}
    wanted = [Probe(i, True) for i in graph.inputs if graph.tensors[i].dtype == "float32"]
    for op in graph.operators:
        row = OPS.get(op.name)
        is_moved = row is not None and row.rule is ScaleRule.SAME and row.holds is not Holds.CHOSEN
        for output in op.outputs:
            if is_moved and output not in near_zero:
                continue
            tensor = graph.tensors[output]
            is_open = -1 in tensor.shape  # of a size that is known when it runs: it stays float
            if tensor.dtype == "float32" and not tensor.is_variable and not is_open:
                negative = not is_non_negative(op.name, op.fused_activation)
                wanted.append(Probe(output, negative or output in near_zero, _may_be_nan(op)))
    return tuple(wanted)


def _may_be_nan(op: Operator) -> bool:
    """Whether finite numbers may give NaN; a choice may also let that of its operands through."""
    row = OPS.get(op.name)
    return row is None or row.makes_nan or row.holds is Holds.CHOSEN


def scores(graph: Graph) -> tuple[int, ...]:
    """Inputs of a softmax, of which nothing matters that is far below the largest of its row."""
    read = (op.inputs[0] for op in graph.operators if op.name in ("SOFTMAX", "LOG_SOFTMAX"))
    tensors = (graph.tensors[t] for t in dict.fromkeys(read))
    real = (t for t in tensors if t.dtype == "float32" and t.shape)
    return tuple(t.index for t in real if -1 not in t.shape)


class Calibrator:
    """The float model with its measuring built in, ready to run samples.

    Args:
        model: The float model.
        threads: Samples that run side by side; None takes what this process may use.
        observers: An unused observer for each tensor by index; tensors without one get `MinMax`.
    """

    def __init__(
        self,
        model: LiteModel,
        threads: int | None = None,
        observers: Mapping[int, Any] | None = None,
    ) -> None:
        self._model = model
        self._probes = probes(model.graph)
        self._threads = threads
        given = observers or {}
        self._fresh = {p.tensor: given.get(p.tensor, MinMax()) for p in self._probes}
        self._valued = [t for t, o in self._fresh.items() if not extremes_suffice(o)]
        self._plain = np.asarray([type(o) is MinMax for o in self._fresh.values()], bool)
        self._scores = scores(model.graph)
        self._filtering = threading.Lock()
        self._filtered: frozenset[int] = frozenset()
        self.instrumented = self._instrumented()

    def _instrumented(self) -> Instrumented:
        """The model with its measuring; finite values apart where others have been seen."""
        probes = [replace(p, finite=p.tensor in self._filtered) for p in self._probes]
        made = instrument(self._model.tree, self._model.graph, probes, self._valued, self._scores)
        self._model.release()
        return made

    def _filter(self, tensors: Sequence[int]) -> None:
        """From now on, tells these tensors' finite values from the others."""
        with self._filtering:
            if not self._filtered.issuperset(tensors):
                self._filtered = self._filtered.union(tensors)
                self.instrumented = self._instrumented()

    def run(
        self,
        samples: Iterable[Sample],
        start: Calibration | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Calibration:
        """Measures every sample.

        Args:
            samples: What to run.
            start: What samples before these have shown, to go on from.
            checkpoint: Called after each sample.

        Raises:
            DataError: An input or output is NaN or infinite; the message names the sample and
                layer.
            DataError: Or `start` was made with other observers.
            ModelError: `start` was made from another model.
        """
        if start is not None:
            start.check_model(self._model)
            start = Calibration(start.model, 0, self._fresh).merge(start)
        seen = _Seen(self, start)
        places: collections.deque[int | None] = collections.deque()
        with Crew(lambda: _Member(self), self._threads) as crew:
            for one in crew.map(_noted(samples, places), self._measure):
                self._check_ports(one, seen.count)
                seen.add(one, places.popleft())
                if checkpoint is not None:
                    checkpoint(seen.calibration)
        return seen.calibration()

    def _measure(self, member: _Member, sample: Sequence[npt.NDArray[Any]]) -> _Sample:
        """Measures one sample; called on several threads at once."""
        tensors = np.asarray([p.tensor for p in self._probes], int)
        while True:
            session, places = member.ready()
            session.invoke(sample)
            # A place of -1 reads the 0 behind the last measured value.
            has_any = bool(places.maxima or places.tops)
            view = session.view(places.measured) if has_any else np.zeros(0, np.float32)
            measured = np.append(view, np.float32(0))
            low, high = measured[list(places.minima)], measured[list(places.maxima)]
            nan = np.isnan(measured[list(places.sums)]) | np.isnan(low) | np.isnan(high)
            beyond = np.stack([low <= -STAND_IN_FOR_INFINITY, high >= STAND_IN_FOR_INFINITY, nan])
            apart = np.asarray(places.lowest, int) >= 0
            mixed = beyond.any(axis=0) & ~apart
            if not mixed.any():
                break
            self._filter(tensors[mixed].tolist())
        wrong = np.stack([low == -np.inf, high == np.inf, nan])
        low[apart], high[apart] = (
            measured[list(p)][apart] for p in (places.lowest, places.highest)
        )
        filtered = set(tensors[apart].tolist())
        observed = {t: self._observed(session, t, t in filtered) for t in self._valued}
        return _Sample(low, high, beyond, wrong, measured[list(places.tops)], observed)

    def _observed(self, session: Session, tensor: int, is_filtered: bool) -> Any:
        """An observer that has seen one tensor of the last run."""
        observer = self._fresh[tensor]
        wanted = getattr(observer, "values_wanted", None)
        values = session.view(tensor)
        some = values.copy() if wanted is None else thinned(values, wanted)
        if is_filtered:
            some = some[np.abs(some) < STAND_IN_FOR_INFINITY]
        return observer.observe(some) if some.size else observer

    def _check_ports(self, one: _Sample, sample: int) -> None:
        """Raises a `DataError` for infinite inputs, and for inputs and outputs that are NaN."""
        graph = self._model.graph
        for position in np.flatnonzero(one.beyond.any(axis=0)):
            tensor, wrong = self._probes[position].tensor, one.wrong[:, position]
            infinite = tensor in graph.inputs and wrong.any()
            if not infinite and not (wrong[-1] and tensor in graph.outputs):
                continue
            producer = graph.producers.get(tensor)
            where = self._model.where(producer) if producer else "an input"
            words = [w for w, is_so in zip(("-inf", "inf", "NaN"), wrong, strict=True) if is_so]
            raise DataError(
                f"sample {sample}: {where} gives {' and '.join(words)} in the float model itself; "
                "calibration needs finite numbers"
            )


class _Member:
    """A thread's session with the model; loaded again when more is to be measured."""

    def __init__(self, engine: Calibrator) -> None:
        self._engine = engine
        self._load()

    def _load(self) -> None:
        self._places = self._engine.instrumented
        self._session = Session(self._places.tflite, threads=1, trusted=True)

    def ready(self) -> tuple[Session, Instrumented]:
        """The session, and what is where in it."""
        if self._places is not self._engine.instrumented:
            self.close()
            self._load()
        return self._session, self._places

    def close(self) -> None:
        """Lets go of the session."""
        self._session.close()


@dataclass(frozen=True)
class _Sample:
    """Extremes and values of one sample.

    Attributes:
        low: Lowest value of each probe, `(n,)`; what stands for infinity is left out.
        high: Highest value of each probe, likewise.
        beyond: Whether values stand for -infinity, for infinity, or are NaN, `(3, n)`.
        wrong: The same of what is infinite itself, or NaN.
        tops: Lowest row maximum of each tensor that a softmax reads.
        observed: An observer that has seen this sample, for each tensor whose values are wanted.
    """

    low: Vector
    high: Vector
    beyond: Truths
    wrong: Truths
    tops: Vector
    observed: Mapping[int, Any]


class _Seen:
    """State of a run: min-max is kept in two vectors, for all tensors at once."""

    def __init__(self, engine: Calibrator, start: Calibration | None) -> None:
        self._engine = engine
        self._observers = dict(start.observers) if start else dict(engine._fresh)
        self._tensors = [p.tensor for p in engine._probes]
        self._others = [
            (i, t)
            for i, t in enumerate(self._tensors)
            if not engine._plain[i] and extremes_suffice(self._observers[t])
        ]
        self._extremes = dict(start.extremes) if start else {}
        # Two rows each: of the sample that reaches farthest, and of the next one.
        self._low = np.full((2, len(self._tensors)), np.inf, np.float32)
        self._high = -self._low
        self._beyond = np.zeros((3, len(self._tensors)), bool)
        self._tops = np.full(len(engine._scores), np.inf, np.float32)
        self._stretches = Stretches(self._tensors, start.peaks if start else Peaks())
        self._start = start
        self.count = start.samples if start else 0

    def add(self, sample: _Sample, place: int | None) -> None:
        """Takes the next sample into account, and its place in a sequence if it is of one."""
        if place is not None:
            self._stretches.add(place, sample.low, sample.high)
        _insert(self._low, sample.low, np.minimum, np.maximum)
        _insert(self._high, sample.high, np.maximum, np.minimum)
        self._beyond |= sample.beyond
        self._tops = np.minimum(self._tops, sample.tops)
        for i, tensor in self._others:
            pair = _finite(np.asarray([sample.low[i], sample.high[i]]))
            self._observers[tensor] = self._observers[tensor].observe(pair)
        for tensor, observer in sample.observed.items():
            self._observers[tensor] = self._observers[tensor].merge(observer)
        self.count += 1

    def calibration(self) -> Calibration:
        """Everything seen, as a value."""
        observers, extremes = dict(self._observers), dict(self._extremes)
        for i, tensor in enumerate(self._tensors):
            low, high = self._low[:, i], self._high[:, i]
            found = Extremes(*(tuple(_finite(v).tolist()) for v in (low, high)))
            extremes[tensor] = extremes.get(tensor, Extremes()).merge(found)
            if self._engine._plain[i] and found.low:
                observers[tensor] = observers[tensor].merge(MinMax(found.low[0], found.high[0]))
        columns = zip(self._tensors, self._beyond.T.tolist(), strict=True)
        tops = zip(self._engine._scores, self._tops.tolist(), strict=True)
        seen = Calibration(
            self._engine._model.digest, self.count, observers, extremes,
            beyond={tensor: Beyond(*column) for tensor, column in columns if any(column)},
            tops={tensor: top for tensor, top in tops if top < STAND_IN_FOR_INFINITY},
            peaks=self._stretches.peaks(),
        )  # fmt: skip
        return seen if self._start is None else seen.also_beyond(self._start)


def _noted(samples: Iterable[Sample], places: collections.deque[int | None]) -> Iterator[Sample]:
    """The samples, whose places in sequences are noted as they pass."""
    for sample in samples:
        places.append(sample.place if isinstance(sample, Step) else None)
        yield sample


def _finite(values: Vector) -> Vector:
    """Without what stands for infinity."""
    return values[np.abs(values) < STAND_IN_FOR_INFINITY]


def _insert(rows: Vector, new: Vector, outer: np.ufunc, inner: np.ufunc) -> None:
    """Keeps the two outermost of `(2, n)` and `(n,)`, the outer one first."""
    outer(rows[1], inner(rows[0], new), out=rows[1])
    outer(rows[0], new, out=rows[0])


def thinned(values: npt.NDArray[Any], wanted: int) -> npt.NDArray[Any]:
    """About `wanted` values at the same places each time, with a share of every channel."""
    step = max(1, values.size // wanted)
    channels = values.shape[-1] if values.ndim else 1
    while math.gcd(step, channels) > 1:
        step += 1
    return values.reshape(-1)[::step]
