"""An integer model seen layer by layer beside its float model: `Parts` runs them, `Seen` collects.

Three runs of each sample: the float model with every result kept, the integer model likewise, and
the integer model taken apart, in which each op reads the float model's values.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.observers import Histogram, Percentile
from edgeq.converter import check_runs
from edgeq.data.rep_dataset import Sample
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.fidelity.paired_run import Link
from edgeq.fidelity.sqnr import Fidelity
from edgeq.files import Content
from edgeq.flatbuffer import Operator, Tensor
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY, OPS, storable
from edgeq.qtypes import QParams, dequantize, quantize, unpack_bits
from edgeq.report.diagnosis import Spread
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]

BINS_SHOWN = 64
"""Most bins of a histogram."""


@dataclass
class Seen:
    """Errors of one layer's result over the samples.

    Attributes:
        qparams: Its parameters in the edge model; None where it is real.
        added: How far it is from the float model's if the layer reads float values.
        accumulated: The same in the edge model as it runs.
        values: The float model's values.
        low: The lowest of them, at most 0.
        high: The highest of them, at least 0.
        clipped: Number of those that lie outside the integers' range.
        count: Number of all.
        loudest: Largest absolute value of each channel, `(channels,)`.
    """

    qparams: QParams | None
    added: Fidelity = field(default_factory=Fidelity)
    accumulated: Fidelity = field(default_factory=Fidelity)
    values: Percentile = field(default_factory=Percentile)
    low: float = 0.0
    high: float = 0.0
    clipped: int = 0
    count: int = 0
    loudest: Array = field(default_factory=lambda: np.zeros(1, np.float32))

    def add(self, real: Array, fed: Array, whole: Array) -> None:
        """Takes in a sample: of the float model, of the layer fed with it, of the edge model."""
        finite = np.isfinite(real)  # masks hold -inf
        flat = real[finite]  # no score vectors, whose rankings would cost time
        self.added = self.added.observe(flat, self._real(fed)[finite])
        self.accumulated = self.accumulated.observe(flat, self._real(whole)[finite])
        real = np.where(finite, real, 0)
        self.values = self.values.observe(real)
        self.count += real.size
        self.low = min(self.low, float(real.min(initial=0)))
        self.high = max(self.high, float(real.max(initial=0)))
        channels = np.abs(real).reshape(-1, real.shape[-1] if real.ndim > 1 else 1)
        self.loudest = np.maximum(self.loudest, channels.max(axis=0))
        if self.qparams is not None:
            bottom, top = self.qparams.range()
            half = self.qparams.scale[0] / 2
            self.clipped += int(np.count_nonzero((real < bottom - half) | (real > top + half)))

    def _real(self, held: Array) -> Array:
        return held if self.qparams is None else dequantize(held, self.qparams)

    def spread(self) -> Spread | None:
        """How the values lie in the range of their integers; None where there are none."""
        if self.qparams is None or not self.count:
            return None
        bottom, top = self.qparams.range()

        def share(low: float, high: float) -> float:
            return (min(max(high, 0.0), top) - max(min(low, 0.0), bottom)) / (top - bottom)

        loud = self.loudest[self.loudest > 0]
        return Spread(
            low=bottom,
            high=top,
            clipped=self.clipped / self.count,
            used=share(self.low, self.high),
            usual=share(*(self.values.range() or (0.0, 0.0))),
            channel_ratio=float(loud.max() / np.median(loud)) if loud.size else 1.0,
            loudest_channel=int(self.loudest.argmax()),
        )

    def histogram(self) -> tuple[tuple[float, int], ...]:
        """`(centre, count)` of the filled bins."""
        merged = functools.reduce(Histogram.merge, self.values.groups, Histogram())
        centres, counts = merged.coarse(BINS_SHOWN).points()
        return tuple(zip(centres.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Part:
    """One layer: an op of the edge model, or an input that is rounded.

    Attributes:
        op: The op; None for an input.
        origin: The float model's op; None for an input.
        name: Layer path, or the input's name.
        result: The edge model's tensor that holds the result.
        real: The float model's tensor of the same numbers.
    """

    op: Operator | None
    origin: Operator | None
    name: str
    result: Tensor
    real: int


class Parts:
    """A float model and an integer model of it, layer by layer.

    Args:
        reference: The float model.
        edge: The integer model.
        exported: Both side by side; None goes by the names of tensors.

    Attributes:
        reference: The float model.
        exported: Both side by side.
        parts: The layers whose results both have, in order.
    """

    def __init__(
        self, reference: LiteModel, edge: LiteModel, exported: ExportedGraph | None = None
    ) -> None:
        self.reference = reference
        self.exported = exported or ExportedGraph.by_name(reference, edge.graph)
        self._real = self.exported.float_tensors()
        self.parts = (*self._inputs(), *self._ops())
        self._edge = edge
        read = {t for part in self.parts if part.op is not None for t in part.op.inputs}
        inputs = set(edge.graph.inputs)
        self._cut = sorted(t for t in read & self._real.keys() if t not in inputs)
        wanted = {part.real for part in self.parts} | {self._real[t] for t in self._cut}
        self._inner = sorted(wanted - set(reference.graph.inputs))

    @functools.cached_property
    def _link(self) -> Link:
        return Link.between(self.reference, self._edge)

    @functools.cached_property
    def _files(self) -> tuple[Content, Content, Content]:
        """The three models that are run, with what is looked at as outputs."""
        computed = [part.result.index for part in self.parts if part.op is not None]
        return (
            _rebuilt(self.reference, (), self._inner),
            _rebuilt(self._edge, (), computed),
            _rebuilt(self._edge, self._cut, computed),
        )

    @property
    def in_common(self) -> int:
        """Number of layers besides those that write the model's outputs."""
        ports = {*self.reference.graph.inputs, *self.reference.graph.outputs}
        return sum(part.real not in ports for part in self.parts)

    def _inputs(self) -> Iterator[Part]:
        graph = self.exported.graph
        names = {index: name for name, index in self.reference.signature.inputs}
        for index in graph.inputs:
            readers = [op for op, _ in graph.uses.get(index, []) if op.name == "QUANTIZE"]
            result = graph.tensors[readers[0].outputs[0] if readers else index]
            real = self._real.get(index)
            if real is not None and result.qparams is not None:
                yield Part(None, None, f"input {names.get(real, '')!r}", result, real)

    def _ops(self) -> Iterator[Part]:
        graph = self.exported.graph
        for op in graph.operators:
            results = [t for t in op.outputs if t in self._real]
            origin = self.exported.counterpart(op)
            if op.name in BOUNDARY or origin is None or not results:
                continue
            real = self._real[results[0]]
            if self.reference.graph.tensors[real].dtype == "float32":
                layer = self.reference.layer(origin)
                yield Part(op, origin, layer, graph.tensors[results[0]], real)

    def check_runs(self, worker: Worker, sample: Sample) -> None:
        """Runs all three in the child, as a model may kill its process.

        Raises:
            ModelError: The runtime refuses one, or dies on it.
        """
        reference, whole, apart = self._files
        check_runs(worker, reference, sample, "the float model")
        stored = tuple(self._link.stored(sample))
        check_runs(worker, whole, stored, "the edge model")
        with Session(reference, trusted=True) as session:
            values = self._values(session, sample)
            check_runs(worker, apart, (*stored, *self._fed(values)), "the edge model, taken apart")

    def run(self, samples: Sequence[Sample], advance: Callable[[], None]) -> list[Seen]:
        """Runs the samples; returns the errors of each layer."""
        seen = [Seen(part.result.qparams) for part in self.parts]
        with contextlib.ExitStack() as stack:
            reference, whole, apart = (
                stack.enter_context(Session(f, trusted=True)) for f in self._files
            )
            for sample in samples:
                values, stored = self._values(reference, sample), self._link.stored(sample)
                whole.invoke(stored)
                apart.invoke([*stored, *self._fed(values)])
                for part, one in zip(self.parts, seen, strict=True):
                    real = values[part.real]
                    if part.op is None:
                        rounded = _rounded(real, one.qparams)
                        one.add(real, rounded, rounded)
                    else:
                        views = [s.view(part.result.index) for s in (apart, whole)]
                        one.add(real, *views)
                        del views  # no name may hold a view when the session runs again
                advance()
        return seen

    def _values(self, session: Session, sample: Sample) -> dict[int, Array]:
        """The float model's values of a sample, by tensor."""
        session.invoke(sample)
        values = dict(zip(self.reference.graph.inputs, sample, strict=True))
        return {**values, **{t: session.view(t).copy() for t in self._inner}}

    def _fed(self, values: Mapping[int, Array]) -> list[Array]:
        """Values for the inputs of the model taken apart."""
        tensors = self.exported.graph.tensors
        return [_rounded(values[self._real[t]], tensors[t].qparams) for t in self._cut]

    def plan(self) -> Plan:
        """The parameters that the edge model has, for the float model's tensors and ops."""
        graph = self.exported.graph
        ports = {*graph.inputs, *graph.outputs}  # may be of another type than what they hold
        tensors = {
            real: qparams
            for index, real in sorted(self._real.items(), key=lambda pair: pair[0] not in ports)
            if (qparams := graph.tensors[index].qparams) is not None
        }
        operands = {
            (part.origin.index, weight.slot): qparams
            for part in self.parts
            if part.op is not None and part.origin is not None
            if part.op.name == part.origin.name and (qparams := self.weight(part.op)) is not None
            if (weight := storable(part.op.name)) is not None
        }
        return Plan(tensors, operands, {})

    def rounded(self) -> Rounded:
        """The edge model's weights and biases in real numbers, for the float model's ops."""
        weights, biases = {}, {}
        for part in self.parts:
            stored = None if part.op is None else self._weight(part.op)
            weight = None if part.op is None else storable(part.op.name)
            if part.op is None or part.origin is None or stored is None or weight is None:
                continue
            own = self.reference.graph.tensors[part.origin.inputs[weight.slot]]
            if part.op.name == part.origin.name and own.shape == stored.shape:
                weights[part.origin.index] = _real(stored)
                bias = self._bias(part.op)
                if bias is not None:
                    biases[part.origin.index] = _real(bias)
        return Rounded(weights, biases, len(weights))

    def _bias(self, op: Operator) -> Tensor | None:
        """The constant that is added to what an op's weight makes."""
        slot = OPS[op.name].bias_slot if op.name in OPS else None
        if slot is None or slot >= len(op.inputs) or op.inputs[slot] < 0:
            return None
        bias = self.exported.graph.tensors[op.inputs[slot]]
        known = bias.dtype == "float32" or bias.qparams is not None
        return bias if bias.is_constant and known else None

    def weight(self, op: Operator) -> QParams | None:
        """Parameters of an op's weight; None where it has none, or not in integers."""
        tensor = self._weight(op)
        return None if tensor is None else tensor.qparams

    def _weight(self, op: Operator) -> Tensor | None:
        """The constant that an op's weight is stored as, if it is stored as integers."""
        graph, weight = self.exported.graph, storable(op.name)
        if weight is None or weight.slot >= len(op.inputs):
            return None
        tensor = graph.tensors[op.inputs[weight.slot]]
        producer = graph.producers.get(tensor.index)
        if producer is not None and producer.name == "DEQUANTIZE":
            tensor = graph.tensors[producer.inputs[0]]
        return tensor if tensor.is_constant and tensor.qparams is not None else None


def _real(tensor: Tensor) -> Array:
    assert tensor.data is not None
    if tensor.qparams is None:
        return tensor.data
    held, dtype = tensor.data, tensor.qparams.dtype
    integers = unpack_bits(held, tensor.shape, dtype) if dtype.bits < 8 else held
    return dequantize(integers, tensor.qparams)


def _rebuilt(model: LiteModel, cut: Sequence[int], kept: Sequence[int]) -> Content:
    """A model in which readers of some tensors read new inputs, and some tensors are outputs."""
    editor = GraphEditor(model.tree)
    editor.cut(cut)
    editor.add_outputs(kept)
    return editor.finish()


def _rounded(real: Array, qparams: QParams | None) -> Array:
    return real if qparams is None else quantize(real, qparams)
