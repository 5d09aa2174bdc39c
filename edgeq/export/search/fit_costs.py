"""Cost tables of this machine: one-op models of each kind and form, timed and fitted.

What is fitted is what `edgeq.export.search.costs` estimates with: the two cannot drift apart.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.export.search.costs import (
    DYNAMIC,
    KINDS,
    WITH_DOT_PRODUCT,
    Costs,
    Rates,
    Workload,
)
from edgeq.files import Content
from edgeq.flatbuffer import parse, schema
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree
from edgeq.ops import OPS, OpRow
from edgeq.qtypes import DType, QParams
from edgeq.runtime.benchmark import interleaved_latency, random_sample
from edgeq.runtime.session import Session

Shape = tuple[int, ...]

SECONDS = 0.25
"""How long the models of one kind and form run in turn."""

ROUNDS = 200
"""Most runs of each; the fastest counts."""

_QPARAMS = QParams(DType.INT8, (0.05,), (0,))
_WEIGHT = QParams(DType.INT8, (0.01,), (0,))

CONVOLUTIONS: tuple[Shape, ...] = (
    (32, 1, 16, 16), (32, 1, 8, 96), (16, 1, 64, 64), (8, 1, 256, 256), (16, 3, 32, 32),
    (8, 3, 96, 96), (24, 3, 64, 64), (12, 3, 192, 192), (64, 3, 32, 32), (96, 3, 16, 16),
    (64, 5, 3, 24), (64, 3, 3, 16), (64, 1, 24, 24),
)  # fmt: skip
"""Height and width, taps a side, input and output channels; the others are as telling.

Some are large: where multiplications are nearly free, small ones do not show their time. The last
ones have many pixels and few channels, as the first layers of a network.
"""

TRANSPOSED: tuple[Shape, ...] = ((4, 4, 64, 32), (16, 4, 16, 16), (16, 4, 16, 3), (32, 2, 32, 32),
                                 (32, 4, 32, 32), (32, 3, 64, 64))  # fmt: skip
"""Height and width, taps a side, input and output channels, at a stride of 2."""

DEPTHWISE: tuple[Shape, ...] = ((48, 16, 3, 1), (32, 64, 3, 1), (32, 64, 3, 2), (24, 64, 5, 1))
LARGE_DEPTHWISE: tuple[Shape, ...] = ((32, 32, 7, 1), (16, 128, 7, 1), (32, 64, 7, 2))
"""Height and width, channels, taps a side, stride."""

DENSE: tuple[Shape, ...] = (
    (1, 256, 256),
    (1, 768, 768),
    (64, 64, 64),
    (32, 256, 256),
    (128, 128, 16),
    (128, 384, 1536),
    (197, 192, 768),
)
"""Rows, input and output columns."""

FAR: Shape = (1, 4096, 4096)
"""A dense layer with more weights than the cache of a core holds."""

MATMUL: tuple[Shape, ...] = ((1, 64, 64, 64), (4, 64, 32, 64), (4, 128, 16, 128), (1, 196, 196, 64),
                             (6, 197, 64, 197), (128, 1, 1, 16), (128, 1, 16, 16),
                             (64, 4, 64, 4), (16, 49, 32, 49))  # fmt: skip
"""Batch, rows, inner and output columns; many small ones, as windows and heads of attention."""

IMAGES: tuple[Shape, ...] = ((1, 16, 16, 16), (1, 32, 32, 32), (1, 48, 48, 64))
SPREAD: tuple[Shape, ...] = ((1, 64, 64, 8), (1, 64, 64, 16), (1, 16, 16, 64))
"""What a number for each channel is added to, beside sums of equal shapes."""

PADDED: tuple[Shape, ...] = ((1, 16, 16, 3), (1, 32, 32, 16), (1, 64, 64, 3), (1, 48, 48, 32))
"""What is padded by one pixel around, beside what only moves."""


@dataclass(frozen=True)
class OneOp:
    """A model around one op, in the form that is timed."""

    tflite: Content

    def work(self, costs: Costs, form: str) -> Workload:
        """What its op has to do."""
        graph = parse(self.tflite).graphs[0]
        return Workload.of(costs, graph, graph.operators[-1], form)


class _Builder:
    """Builds one-op models in one form: `"float32"`, `"int8"` or `"dynamic"`."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._editor = GraphEditor(empty_tree())
        self._random = np.random.default_rng(0)

    def _activation(self, name: str, shape: Shape) -> int:
        if self._form == "int8":
            return self._editor.typed(name, shape, "int8", _QPARAMS)
        return self._editor.tensor(name, shape)

    def _weight(self, shape: Shape, axis: int) -> int:
        if self._form == "float32":
            return self._editor.constant("weight", self._random.random(shape, np.float32))
        content = self._random.integers(-127, 128, shape, np.int8)
        qparams = replace(
            _WEIGHT, scale=_WEIGHT.scale * shape[axis], zero_point=(0,) * shape[axis], axis=axis
        )
        return self._editor.stored(
            "weight", shape, "int8", content.reshape(-1).view(np.uint8), qparams
        )

    def _bias(self, channels: int) -> int:
        if self._form != "int8":
            return self._editor.constant("bias", np.zeros(channels, np.float32))
        scale = _QPARAMS.scale[0] * _WEIGHT.scale[0]
        qparams = QParams(DType.INT32, (scale,) * channels, (0,) * channels, 0)
        content = np.zeros(channels, np.int32).view(np.uint8)
        return self._editor.stored("bias", (channels,), "int32", content, qparams)

    def _finish(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Shape,
        read: Sequence[int] = (),
        **options: Any,
    ) -> OneOp:
        output = self._activation("y", shape)
        version = self._version(OPS[name])
        self._editor.append(self._editor.op(name, inputs, [output], version, **options))
        self._editor.set_ports(read or inputs[:1], [output])
        return OneOp(self._editor.finish())

    def _version(self, row: OpRow) -> int:
        if self._form == "int8":
            return row.int8_version
        if row.name == "TRANSPOSE_CONV":
            return 3  # the first that adds a bias
        dynamic = row.weight.dynamic if row.weight and self._form == "dynamic" else None
        return 1 if dynamic is None else dynamic.version_by_channel

    def convolution(self, shape: Shape) -> OneOp:
        size, taps, before, after = shape
        source = self._activation("x", (1, size, size, before))
        inputs = [source, self._weight((after, taps, taps, before), 0), self._bias(after)]
        return self._finish(
            "CONV_2D", inputs, (1, size, size, after), padding=schema.Padding.SAME, strideH=1,
            strideW=1, dilationHFactor=1, dilationWFactor=1,
        )  # fmt: skip

    def transposed_convolution(self, shape: Shape) -> OneOp:
        size, taps, before, after = shape
        result = (1, 2 * size, 2 * size, after)
        wanted = self._editor.constant("shape", np.asarray(result, np.int32))
        source = self._activation("x", (1, size, size, before))
        weight = self._weight((after, taps, taps, before), 0)
        return self._finish(
            "TRANSPOSE_CONV", [wanted, weight, source, self._bias(after)], result, [source],
            padding=schema.Padding.SAME, strideH=2, strideW=2,
        )  # fmt: skip

    def depthwise(self, shape: Shape) -> OneOp:
        size, channels, taps, stride = shape
        source = self._activation("x", (1, size, size, channels))
        inputs = [source, self._weight((1, taps, taps, channels), 3), self._bias(channels)]
        return self._finish(
            "DEPTHWISE_CONV_2D", inputs, (1, size // stride, size // stride, channels),
            padding=schema.Padding.SAME, strideH=stride, strideW=stride, dilationHFactor=1,
            dilationWFactor=1, depthMultiplier=1,
        )  # fmt: skip

    def dense(self, shape: Shape) -> OneOp:
        rows, before, after = shape
        source = self._activation("x", (rows, before))
        inputs = [source, self._weight((after, before), 0), self._bias(after)]
        return self._finish(
            "FULLY_CONNECTED", inputs, (rows, after),
            asymmetricQuantizeInputs=self._form == "dynamic",
        )  # fmt: skip

    def matmul(self, shape: Shape) -> OneOp:
        batch, rows, inner, columns = shape
        left = self._activation("left", (batch, rows, inner))
        right = self._activation("right", (batch, inner, columns))
        return self._finish(
            "BATCH_MATMUL", [left, right], (batch, rows, columns), [left, right],
            adjX=False, adjY=False,
        )  # fmt: skip

    def nonlinear(self, shape: Shape) -> OneOp:
        source = self._activation("x", shape)
        if self._form == "int8":
            result = self._editor.typed(
                "z", shape, "int8", QParams(DType.INT8, (1 / 256,), (-128,))
            )
            self._editor.append(self._editor.op("LOGISTIC", [source], [result], 2))
            self._editor.set_ports([source], [result])
            return OneOp(self._editor.finish())
        return self._finish("LOGISTIC", [source], shape)

    def elementwise(self, shape: Shape) -> OneOp:
        both = [self._activation(name, shape) for name in ("left", "right")]
        return self._finish("ADD", both, shape, both, potScaleInt16=False)

    def spread(self, shape: Shape) -> OneOp:
        both = [self._activation("left", shape), self._activation("right", shape[-1:])]
        return self._finish("ADD", both, shape, both, potScaleInt16=False)

    def move(self, shape: Shape) -> OneOp:
        order = (0, 2, 1, 3)
        wanted = self._editor.constant("order", np.asarray(order, np.int32))
        turned = tuple(shape[axis] for axis in order)
        return self._finish("TRANSPOSE", [self._activation("x", shape), wanted], turned)

    def padding(self, shape: Shape) -> OneOp:
        batch, height, width, channels = shape
        around = np.asarray(((0, 0), (1, 1), (1, 1), (0, 0)), np.int32)
        inputs = [self._activation("x", shape), self._editor.constant("around", around)]
        return self._finish("PAD", inputs, (batch, height + 2, width + 2, channels))

    def view(self, shape: Shape) -> OneOp:
        """A RESHAPE, which takes no time but what its input and output do."""
        source = self._activation("x", shape)
        flat = (1, int(np.prod(shape)))
        wanted = self._editor.constant("shape", np.asarray(flat, np.int32))
        return self._finish("RESHAPE", [source, wanted], flat, newShape=list(flat))

    def conversion(self, shape: Shape) -> OneOp:
        """A QUANTIZE between float and integers."""
        source = self._editor.tensor("x", shape)
        result = self._editor.typed("q", shape, "int8", _QPARAMS)
        self._editor.append(self._editor.op("QUANTIZE", [source], [result]))
        self._editor.set_ports([source], [result])
        return OneOp(self._editor.finish())


_SHAPES: Mapping[str, Sequence[Shape]] = {
    "convolution": CONVOLUTIONS,
    "transposed convolution": TRANSPOSED,
    "depthwise": DEPTHWISE,
    "large depthwise": LARGE_DEPTHWISE,
    "dense": DENSE,
    "matmul": MATMUL,
    "nonlinear": IMAGES,
    "elementwise": IMAGES,
    "move": IMAGES,
}


def models(kind: str, form: str) -> list[OneOp]:
    """The models that one kind of op is timed with in one form."""
    made = kind.removeprefix("large ").replace(" ", "_")
    found: list[OneOp] = [getattr(_Builder(form), made)(shape) for shape in _SHAPES[kind]]
    if kind == "elementwise":
        found += [_Builder(form).spread(shape) for shape in SPREAD]
    if kind == "move":
        found += [_Builder(form).padding(shape) for shape in PADDED]
    return found


def fit(name: str, seconds: float = SECONDS, advance: Callable[[], None] = lambda: None) -> Costs:
    """Measures this machine, one thread.

    Args:
        name: What the table is called.
        seconds: How long the models of one kind and form run.
        advance: Called after each of the `STEPS` steps, for a progress bar.

    Returns:
        The rates of this machine. Those of ops outside the delegate, of weights in the cache and of
        launching stay as they were measured elsewhere.
    """
    costs = replace(WITH_DOT_PRODUCT, name=name)
    ports_ns = {form: _ports_ns(form, seconds) for form in ("float32", "int8")}
    advance()

    def rates(form: str, kinds: Sequence[str]) -> dict[str, Rates]:
        port_ns = ports_ns["int8" if form == "int8" else "float32"]
        found = {}
        for kind in kinds:
            found[kind] = _fitted(costs, form, models(kind, form), seconds, port_ns)
            advance()
        return found

    costs = replace(
        costs, float32=rates("float32", KINDS), int8=rates("int8", KINDS),
        dynamic=rates("dynamic", DYNAMIC),
    )  # fmt: skip
    conversions = [_Builder("float32").conversion(shape) for shape in IMAGES]
    port_ns = (ports_ns["float32"] + ports_ns["int8"]) / 2
    rate = _fitted(costs, "float32", conversions, seconds, port_ns).element_ns
    advance()
    # A conversion is priced by the elements that pass, each of which is read and written.
    far_ns = _far_byte_ns(costs, seconds)
    advance()
    return replace(costs, boundary_ns=rate, far_byte_ns=far_ns)


STEPS = 2 * len(KINDS) + len(DYNAMIC) + 3
"""Number of times that `fit` calls `advance`."""


def _far_byte_ns(costs: Costs, seconds: float) -> float:
    """Nanoseconds for each byte of weights that come from beyond the cache."""
    model = _Builder("int8").dense(FAR)
    (taken_ms,) = _times_ms([model], seconds)
    work = model.work(replace(costs, weight_byte_ns=0.0), "int8")
    reading_ns = taken_ms * 1e6 - work.time_ns(costs.int8["dense"])
    return max(costs.weight_byte_ns, reading_ns / (FAR[1] * FAR[2]))


def _ports_ns(form: str, seconds: float) -> float:
    """Nanoseconds for each element that a run is given or gives back, which is no op's time."""
    both = [np.prod(shape) * 2.0 for shape in IMAGES]
    times_ns = [t * 1e6 for t in _times_ms([_Builder(form).view(s) for s in IMAGES], seconds)]
    columns = np.column_stack([both, np.ones(len(both))])
    return non_negative(columns, np.asarray(times_ns), 1 / np.asarray(times_ns))[0]


def _fitted(
    costs: Costs, form: str, timed: Sequence[OneOp], seconds: float, port_ns: float
) -> Rates:
    """The rates that explain the times of one-op models best, what their ports take apart."""
    taken_ns = np.asarray([t * 1e6 for t in _times_ms(timed, seconds)])
    given = np.asarray([work.counts[1] for work in (model.work(costs, form) for model in timed)])
    times_ns = np.maximum(taken_ns - port_ns * given, taken_ns / 10)
    works = [model.work(costs, form) for model in timed]
    # The last unknown is what a run of the interpreter takes besides, the same for all.
    columns = np.asarray([(*work.counts, 1.0) for work in works])
    rest_ns = np.asarray([work.rest_ns for work in works])
    *rates, _ = non_negative(columns, times_ns - rest_ns, 1 / times_ns)
    return Rates(*rates)


def _times_ms(timed: Sequence[OneOp], seconds: float) -> list[float]:
    with contextlib.ExitStack() as stack:
        runs = {}
        for number, model in enumerate(timed):
            session = stack.enter_context(Session(model.tflite, threads=1, trusted=True))
            runs[str(number)] = session, random_sample(session.io)
        latency = interleaved_latency(runs, seconds, ROUNDS)
    return [found.min_ms for found in latency.values()]


def non_negative(
    columns: npt.NDArray[np.float64],
    wanted: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> list[float]:
    """Least squares without negative coefficients, for a handful of unknowns.

    Args:
        columns: `(rows, unknowns)`.
        wanted: `(rows,)`.
        weights: `(rows,)`, which each row's error is multiplied by.

    Returns:
        The coefficients; of all sets of unknowns that may be 0, the one that fits best.
    """
    unknowns = columns.shape[1]
    best, least = [0.0] * unknowns, float(((wanted * weights) ** 2).sum())
    weighted, target = columns * weights[:, None], wanted * weights
    for count in range(1, unknowns + 1):
        for chosen in itertools.combinations(range(unknowns), count):
            part = weighted[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(((part @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least:
                least, best = error, [0.0] * unknowns
                for place, value in zip(chosen, found.tolist(), strict=True):
                    best[place] = value
    return best
