"""Runs representative data through the float model and returns each tensor's range.

The model runs on its real delegate with the measuring built into the graph. Knows which tensors
need a range (from the op table), nothing of what is planned with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.calibrate.data import InputSpec, Sample
from edgeq.calibrate.instrument import Instrumented, Probe, instrument
from edgeq.calibrate.observers import MinMax, Vector
from edgeq.errors import DataError, ModelError
from edgeq.flatbuffer import Graph, Operator
from edgeq.model import FloatModel
from edgeq.ops import MAKES_NAN, NON_NEGATIVE_OUTPUT, OPS, ScaleRule
from edgeq.runtime.session import Session


@dataclass(frozen=True)
class Calibration:
    """What the representative data showed.

    Attributes:
        model: SHA-256 of the float model that it belongs to.
        samples: Number of samples that were run.
        ranges: `(lowest, highest)` by tensor index, for every tensor whose scale the data decides.
    """

    model: str
    samples: int
    ranges: Mapping[int, tuple[float, float]]


def input_specs(model: FloatModel) -> tuple[InputSpec, ...]:
    """What each input of the model takes.

    Raises:
        ModelError: An input has a dynamic dimension, or the model has no input.
    """
    specs = []
    for name, tensor in model.input_tensors():
        if any(d < 0 for d in tensor.shape):
            raise ModelError(
                f"input {name!r} has the dynamic shape {tensor.shape}; export the model with "
                "every dimension fixed (batch 1 for a device)"
            )
        if not hasattr(np, tensor.dtype) and tensor.dtype != "bool":
            raise ModelError(
                f"input {name!r} is of type {tensor.dtype}, which has no numpy form; export the "
                "part of the model behind it"
            )
        specs.append(InputSpec(name, tensor.shape, tensor.dtype))
    if not specs:
        raise ModelError("the model has no input, so there is nothing to calibrate")
    return tuple(specs)


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
        threads: Threads for one run; None takes what this process may use.
    """

    def __init__(self, model: FloatModel, threads: int | None = None) -> None:
        self._model = model
        self._probes = probes(model.graph)
        self._threads = threads
        self.instrumented: Instrumented = instrument(model.tflite, model.graph, self._probes)

    def run(self, samples: Iterable[Sample]) -> Calibration:
        """Measures every sample.

        Raises:
            DataError: A tensor became NaN or infinite; the message names the sample and layer.
        """
        observer, count = MinMax(), 0
        with Session(self.instrumented.tflite, threads=self._threads) as session:
            for sample in samples:
                session.invoke(sample)
                low, high = self._read(session)
                if not (np.isfinite(low).all() and np.isfinite(high).all()):
                    raise self._not_finite(low, high, count)
                observer = observer.observe(low, high)
                count += 1
        ranges = observer.ranges()
        found = {p.tensor: r for p, r in zip(self._probes, ranges, strict=bool(ranges))}
        return Calibration(self._model.digest, count, found)

    def _read(self, session: Session) -> tuple[Vector, Vector]:
        high = session.read(self.instrumented.maxima)
        low = _spread(session, self.instrumented.minima)
        high[np.isnan(_spread(session, self.instrumented.sums))] = np.nan
        return low, high

    def _not_finite(self, low: Vector, high: Vector, sample: int) -> DataError:
        position = int(np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))[0])
        tensor = self._probes[position].tensor
        producer = self._model.graph.producers.get(tensor)
        where = self._model.where(producer) if producer else "an input"
        return DataError(
            f"sample {sample}: {where} gives values between {low[position]} and {high[position]} "
            "in the float model itself; calibration needs finite numbers"
        )


def _spread(session: Session, tensors: Sequence[int | None]) -> Vector:
    """Scalars of the last run, with 0 in place of those that are not measured."""
    found = np.zeros(len(tensors), np.float32)
    measured = [i for i, t in enumerate(tensors) if t is not None]
    found[measured] = session.read([t for t in tensors if t is not None])
    return found
