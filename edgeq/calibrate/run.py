"""Runs representative data through the float model and returns what its tensors hold.

The model runs on its real delegate with the measuring of extremes built into the graph; observers
that look at values get them from the tensors themselves. Knows which tensors need a range (from the
op table), nothing of what is planned with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.calibration import Calibration, Extremes
from edgeq.calibrate.instrument import Instrumented, Probe, instrument
from edgeq.calibrate.observers import MinMax, extremes_suffice
from edgeq.data.rep_dataset import Sample
from edgeq.errors import DataError
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import FloatModel
from edgeq.ops import MAKES_NAN, NON_NEGATIVE_OUTPUT, OPS, ScaleRule
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

Checkpoint = Callable[[Callable[[], Calibration]], None]
"""Called after each sample with a function that gives what has been seen so far."""

Vector = npt.NDArray[np.float32]


def probes(graph: Graph) -> tuple[Probe, ...]:
    """The tensors whose range the data decides: inputs, and outputs that have a scale of their own.

    What a same-scale op puts out lies within its inputs' range, and a fixed-scale op's output range
    is known, so neither is measured.
    """
    wanted = [Probe(i, True) for i in graph.inputs if graph.tensors[i].dtype == "float32"]
    for op in graph.operators:
        row = OPS.get(op.name)
        if row is not None and row.rule is not ScaleRule.FREE:
            continue
        for output in op.outputs:
            if graph.tensors[output].dtype == "float32":
                makes_nan = row is None or op.name in MAKES_NAN
                wanted.append(Probe(output, not _non_negative(op), makes_nan))
    return tuple(wanted)


def _non_negative(op: Operator) -> bool:
    return op.name in NON_NEGATIVE_OUTPUT or op.fused_activation in NON_NEGATIVE_OUTPUT


class Calibrator:
    """The float model with its measuring built in, ready to run samples.

    Args:
        model: The float model.
        threads: Samples that run side by side; None takes what this process may use.
        observers: An unused observer for each tensor by index; tensors without one get `MinMax`.
    """

    def __init__(
        self,
        model: FloatModel,
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
        self.instrumented: Instrumented = instrument(
            model.tree, model.graph, self._probes, self._valued
        )
        model.release()

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
            DataError: A tensor became NaN or infinite; the message names the sample and layer.
            DataError: Or `start` was made with other observers.
            ModelError: `start` was made from another model.
        """
        if start is not None:
            start.check_model(self._model)
            start = Calibration(start.model, 0, self._fresh).merge(start)
        seen = _Seen(self, start)
        with Crew(self._load, self._threads) as crew:
            for one in crew.map(samples, self._measure):
                if not (np.isfinite(one.low).all() and np.isfinite(one.high).all()):
                    raise self._not_finite(one.low, one.high, seen.count)
                seen.add(one)
                if checkpoint is not None:
                    checkpoint(seen.calibration)
        return seen.calibration()

    def _load(self) -> Session:
        return Session(self.instrumented.tflite, threads=1)

    def _measure(self, session: Session, sample: Sequence[npt.NDArray[Any]]) -> _Sample:
        """Runs one sample; called on several threads at once."""
        session.invoke(sample)
        places = self.instrumented
        # A place of -1 reads the 0 behind the last measured value.
        view = session.view(places.measured) if places.maxima else np.zeros(0, np.float32)
        measured = np.append(view, np.float32(0))
        low, high = measured[list(places.minima)], measured[list(places.maxima)]
        high[np.isnan(measured[list(places.sums)])] = np.nan
        return _Sample(low, high, {t: self._observed(session, t) for t in self._valued})

    def _observed(self, session: Session, tensor: int) -> Any:
        """An observer that has seen one tensor of the last run."""
        observer = self._fresh[tensor]
        wanted = getattr(observer, "values_wanted", None)
        values = session.view(tensor)
        return observer.observe(values.copy() if wanted is None else thinned(values, wanted))

    def _not_finite(self, low: Vector, high: Vector, sample: int) -> DataError:
        position = int(np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))[0])
        tensor = self._probes[position].tensor
        producer = self._model.graph.producers.get(tensor)
        where = self._model.where(producer) if producer else "an input"
        return DataError(
            f"sample {sample}: {where} gives values between {low[position]} and {high[position]} "
            "in the float model itself; calibration needs finite numbers"
        )


@dataclass(frozen=True)
class _Sample:
    """Extremes and values of one sample.

    Attributes:
        low: Lowest value of each probe, `(n,)`.
        high: Highest value of each probe, `(n,)`; NaN where any value is.
        observed: An observer that has seen this sample, for each tensor whose values are wanted.
    """

    low: Vector
    high: Vector
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
        self.count = start.samples if start else 0

    def add(self, sample: _Sample) -> None:
        """Takes the next sample into account."""
        _insert(self._low, sample.low, np.minimum, np.maximum)
        _insert(self._high, sample.high, np.maximum, np.minimum)
        for i, tensor in self._others:
            pair = np.asarray([sample.low[i], sample.high[i]])
            self._observers[tensor] = self._observers[tensor].observe(pair)
        for tensor, observer in sample.observed.items():
            self._observers[tensor] = self._observers[tensor].merge(observer)
        self.count += 1

    def calibration(self) -> Calibration:
        """Everything seen, as a value."""
        observers, extremes = dict(self._observers), dict(self._extremes)
        for i, tensor in enumerate(self._tensors):
            low, high = self._low[:, i], self._high[:, i]
            found = Extremes(*(tuple(v[np.isfinite(v)].tolist()) for v in (low, high)))
            extremes[tensor] = extremes.get(tensor, Extremes()).merge(found)
            if self._engine._plain[i] and found.low:
                observers[tensor] = observers[tensor].merge(MinMax(found.low[0], found.high[0]))
        return Calibration(self._engine._model.digest, self.count, observers, extremes)


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
