"""Rounds weights by what they compute on real data, and biases make up for what is left on average.

What comes out is a float model whose weights are numbers of the plan's grid: whoever stores them
rounds to the nearest integer, which is the one that was chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeq.calibrate.data import Sample
from edgeq.editor import GraphEditor
from edgeq.export.gptq import Grid, Matrix, fit
from edgeq.export.modes import Choices
from edgeq.export.plan import Plan
from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.model import FloatModel
from edgeq.ops import OPS, WEIGHTS
from edgeq.qtypes import (
    BlockQParams,
    FloatArray,
    IntArray,
    QParams,
    all_finite,
    broadcast,
    dequantize,
    dequantize_blocks,
    quantize,
    quantize_blocks,
)
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

MOST_SAMPLES = 32
"""Samples that weights are rounded by."""

MOST_ROWS = 4096
"""Rows that one op contributes, from all samples."""

MOST_COLUMNS = 4608
"""Wider weights are rounded in parts, as if their inputs had nothing to do with each other."""

MEMORY_BYTES = 256 << 20
"""About what activations and their squares may take at once; the model runs as often as it takes.
"""

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Rounded:
    """Constants on the grid of a plan.

    Attributes:
        weights: The weight of each op that has one.
        biases: The bias of each op whose bias changes.
        count: Number of different weights.
    """

    weights: Mapping[int, FloatArray]
    biases: Mapping[int, FloatArray]
    count: int

    def model(self, float_model: FloatModel) -> FloatModel:
        """The float model with these constants; tensors and ops keep their indices."""
        if not self.weights:
            return float_model
        graph, editor = float_model.graph, GraphEditor(float_model.tree)
        rewired: dict[int, dict[int, int]] = {}
        stored = {weight_of(graph.operators[i]): values for i, values in self.weights.items()}
        for tensor, values in stored.items():
            _store(editor, tensor, values)
        for index, values in self.biases.items():
            op = graph.operators[index]
            slot = bias_slot(op)
            bias = op.inputs[slot]
            if len(graph.uses[bias]) == 1:
                _store(editor, bias, values)
            else:
                name = f"{graph.tensors[bias].name}/{index}"
                rewired[index] = {slot: editor.constant(name, values)}
        editor.rewire(rewired)
        return replace(float_model, tflite=editor.finish())


def _store(editor: GraphEditor, tensor: int, values: FloatArray) -> None:
    content = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
    editor.retyped(tensor, "float32", content, None)


class Rounder:
    """Rounds the weights of one float model for any plan; what it has once rounded it keeps.

    Args:
        model: The float model that plans speak of. One that brought or learned its scales was
            trained with weights rounded to nearest, which they stay.
        choices: Of each op; tells which weights are rounded to nearest.
        samples: Inputs to run.
        threads: Samples that run side by side; None takes what this process may use.
    """

    def __init__(
        self,
        model: FloatModel,
        choices: Choices,
        samples: Sequence[Sample],
        threads: int | None = None,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._samples = samples[:MOST_SAMPLES]
        self._threads = threads
        trained = bool(model.given or model.learned)
        self._nearest = {i for i, c in choices.items() if trained or c.rounding == "nearest"}
        self._known: dict[tuple[int, AnyQParams], tuple[IntArray, FloatArray]] = {}

    def round(self, plan: Plan, advance: Callable[[], None] = lambda: None) -> Rounded:
        """Every weight that the plan stores as integers.

        Args:
            plan: Whose grids the weights are put on.
            advance: Called after each sample that has run.
        """
        sites = list(self._sites(plan))
        new = [site for site in sites if site.key not in self._known]
        for some in _batches(new):
            self._fit(some, advance)
        weights: dict[int, FloatArray] = {}
        biases: dict[int, FloatArray] = {}
        for site in sites:
            integers, shift = self._known[site.key]
            values = _real(integers, site.qparams)
            for op in site.ops:
                weights[op.index] = values
                bias = self._bias(op)
                if bias is not None:
                    biases[op.index] = self._moved(op, bias, shift, plan, site.qparams)
        return Rounded(weights, biases, len(sites))

    def runs(self, plan: Plan) -> int:
        """How often `round` will run a sample."""
        new = [site for site in self._sites(plan) if site.key not in self._known]
        return len(self._samples) * sum(1 for _ in _batches(new))

    def _sites(self, plan: Plan) -> Iterator[_Site]:
        """The weights of a plan that all their readers want on the same grid."""
        wanted: dict[tuple[int, int], AnyQParams] = {k: s.qparams for k, s in plan.stored.items()}
        wanted.update(plan.operands)
        seen = set()
        for op in self._graph.operators:
            if op.name not in _SLOTS:
                continue
            weight = weight_of(op)
            tensor = self._graph.tensors[weight]
            if weight in seen or not tensor.is_constant or tensor.dtype != "float32":
                continue
            seen.add(weight)
            uses = self._graph.uses[weight]
            grids = {wanted.get((o.index, slot)) for o, slot in uses}
            qparams = next(iter(grids))
            plain = all(o.name == op.name and self._is_fitted(o) for o, _ in uses)
            if plain and len(grids) == 1 and qparams is not None and all_finite(_data(tensor)):
                yield _Site(self._graph, tuple(o for o, _ in uses), qparams)

    def _is_fitted(self, op: Operator) -> bool:
        """Whether an op's weight is to be rounded by what the op reads at run time."""
        read = self._graph.tensors[op.inputs[_SLOTS[op.name]]]
        computed = read.dtype == "float32" and not read.is_constant
        return computed and op.index not in self._nearest

    def _fit(self, sites: Sequence[_Site], advance: Callable[[], None]) -> None:
        """Runs the samples and rounds the weights of these sites."""
        read = [t for site in sites for t in site.inputs]
        editor = GraphEditor(self._model.tree)
        editor.add_outputs([t for t in dict.fromkeys(read) if t not in self._graph.inputs])
        tflite = editor.finish()
        share = math.ceil(MOST_ROWS / max(1, len(self._samples)))

        def rows(session: Session, sample: Any) -> list[Matrix]:
            session.invoke(sample)
            return [site.rows(session.view, share) for site in sites]

        moments = [_Moments() for _ in sites]
        with Crew(lambda: Session(tflite, threads=1), self._threads) as crew:
            for found in crew.map(self._samples, rows):
                for one, seen in zip(found, moments, strict=True):
                    seen.add(one)
                advance()
        for site, seen in zip(sites, moments, strict=True):
            seen.flush()
            centred = all(self._bias(op) is not None for op in site.ops)
            self._known[site.key] = site.rounded(seen, centred)

    def _bias(self, op: Operator) -> FloatArray | None:
        slot = bias_slot(op)
        missing = slot >= len(op.inputs) or op.inputs[slot] < 0
        if missing or op.name == "TRANSPOSE_CONV":  # its taps meet where the strides are short
            return None
        return self._graph.tensors[op.inputs[slot]].data

    def _moved(
        self, op: Operator, bias: FloatArray, shift: FloatArray, plan: Plan, qparams: AnyQParams
    ) -> FloatArray:
        """A bias that makes up for its weight's mean error, within what int32 can hold."""
        moved: FloatArray = (bias + shift.reshape(bias.shape)).astype(np.float32)
        activation = plan.tensors.get(op.inputs[0])
        if activation is None or (op.index, 1) in plan.stored or not isinstance(qparams, QParams):
            return moved
        most = np.asarray(qparams.scale) * activation.scale[0] * _INT32_MAX * (1 - 1e-6)
        bounded: FloatArray = np.clip(moved, -most, most).astype(np.float32)
        return bounded


AnyQParams = QParams | BlockQParams | None

_SLOTS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 2}
"""Operand slot of what the weight is multiplied with, of each op that has such weights."""


def weight_of(op: Operator) -> int:
    """The tensor that is the weight of an op that has one."""
    return op.inputs[WEIGHTS[op.name].slot]


def bias_slot(op: Operator) -> int:
    """Operand slot of the bias of an op that has a weight."""
    slot = OPS[op.name].bias
    assert slot is not None
    return slot


def _data(tensor: Tensor) -> FloatArray:
    assert tensor.data is not None
    data: FloatArray = tensor.data
    return data


class _Site:
    """A weight and the ops that read it."""

    def __init__(self, graph: Graph, ops: tuple[Operator, ...], qparams: AnyQParams) -> None:
        self.ops = ops
        self.qparams = qparams
        self.inputs = tuple(op.inputs[_SLOTS[op.name]] for op in ops)
        weight = weight_of(ops[0])
        self.key = weight, qparams
        self._weight = _data(graph.tensors[weight])
        self._shapes = [graph.tensors[t].shape for t in self.inputs]

    @property
    def bytes_needed(self) -> int:
        """About how many bytes its data and their squares take."""
        groups, _, columns = map(int, self._laid_out(self._weight).shape)
        return 4 * (sum(map(_elements, self._shapes)) + groups * columns**2)

    def rows(self, view: Callable[[int], Any], most: int) -> Matrix:
        """What a sample multiplies the weight with, `(groups, positions, columns)`."""
        each = max(1, most // len(self.ops))
        found = [self._rows(op, view(t), each) for op, t in zip(self.ops, self.inputs, strict=True)]
        return np.concatenate(found, axis=1)

    def _rows(self, op: Operator, values: FloatArray, most: int) -> Matrix:
        if op.name in ("FULLY_CONNECTED", "TRANSPOSE_CONV"):
            flat = values.reshape(-1, self._weight.shape[-1])
            picked = flat[_spread(len(flat), most)]
            parts = self._parts
            return np.ascontiguousarray(
                picked.reshape(len(picked), parts, -1).transpose(1, 0, 2), np.float32
            )
        patches = _patches(op, values, self._weight.shape[1:3], most)
        count, taps, depth = patches.shape
        groups = self._groups
        parted = patches.reshape(count, taps, groups, depth // groups)
        return np.ascontiguousarray(
            parted.transpose(2, 0, 1, 3).reshape(groups, count, -1), np.float32
        )

    @property
    def _groups(self) -> int:
        """Parts of the channels that do not see each other."""
        depth = self._shapes[0][-1]
        return depth if self._is_depthwise else depth // self._weight.shape[-1]

    @property
    def _is_depthwise(self) -> bool:
        return self.ops[0].name == "DEPTHWISE_CONV_2D"

    @property
    def _parts(self) -> int:
        """Into how many parts the columns of a wide weight are taken."""
        columns = self._weight.shape[-1]
        least = math.ceil(columns / MOST_COLUMNS)
        return next(n for n in range(least, columns + 1) if columns % n == 0)

    def _laid_out(self, weight: FloatArray) -> FloatArray:
        """The weight as `(groups, rows, columns)`."""
        if self._is_depthwise:
            taps = weight.shape[1] * weight.shape[2]
            return weight.reshape(taps, self._groups, -1).transpose(1, 2, 0)
        if self.ops[0].name == "CONV_2D":
            return weight.reshape(self._groups, len(weight) // self._groups, -1)
        return weight.reshape(-1, self._parts, weight.shape[-1] // self._parts).transpose(1, 0, 2)

    def _restored(self, laid_out: FloatArray) -> FloatArray:
        """The opposite of `_laid_out`."""
        if self._is_depthwise:
            laid_out = laid_out.transpose(2, 0, 1)
        elif self.ops[0].name != "CONV_2D":
            laid_out = laid_out.transpose(1, 0, 2)
        return np.ascontiguousarray(laid_out.reshape(self._weight.shape), np.float32)

    def rounded(self, seen: _Moments, centred: bool) -> tuple[IntArray, FloatArray]:
        """The weight as integers, and the mean of what each channel puts out less than before."""
        weight = self._laid_out(self._weight)
        found = fit(weight, seen.squares(centred), self._grid())
        lost = ((weight - found) * seen.mean[:, None]).sum(axis=-1)
        if self.ops[0].name == "FULLY_CONNECTED":
            lost = lost.sum(axis=0)
        finite = bool(np.isfinite(lost).all())
        return (
            _integers(self._restored(found), self.qparams),
            lost.reshape(-1) if finite else np.zeros(lost.size),
        )

    def _grid(self) -> Grid:
        qparams, shape = self.qparams, self._weight.shape
        assert qparams is not None
        if isinstance(qparams, BlockQParams):
            scale = np.repeat(np.asarray(qparams.scale), qparams.block_size, axis=1)
            zero_point = np.zeros_like(scale)
            limits = qparams.dtype.limits(narrow_range=True)
        else:
            scale, zero_point = (
                np.broadcast_to(broadcast(v, qparams.axis, len(shape)), shape)
                for v in (qparams.scale, qparams.zero_point)
            )
            limits = qparams.dtype.limits(qparams.narrow_range)
        return Grid(self._laid_out(scale), self._laid_out(zero_point), *limits)


def _integers(real: FloatArray, qparams: AnyQParams) -> IntArray:
    assert qparams is not None
    if isinstance(qparams, BlockQParams):
        return quantize_blocks(real, qparams)
    return quantize(real, qparams)


def _real(integers: IntArray, qparams: AnyQParams) -> FloatArray:
    assert qparams is not None
    if isinstance(qparams, BlockQParams):
        return dequantize_blocks(integers, qparams)
    return dequantize(integers, qparams)


class _Moments:
    """Mean and squares of rows `(groups, positions, columns)`, added up sample by sample."""

    def __init__(self) -> None:
        self._count = 0
        self._waiting: list[Matrix] = []
        self._origin: Matrix = np.zeros(0)
        self._sum: Matrix = np.zeros(0)
        self._squares: Matrix = np.zeros(0)

    def add(self, rows: Matrix) -> None:
        """Takes rows into account; many at once, as the squares are large."""
        self._waiting.append(rows)
        if sum(r.shape[1] for r in self._waiting) >= rows.shape[-1]:
            self.flush()

    def flush(self) -> None:
        """Adds up the rows that wait; around the mean of the first ones: little cancels so."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting.clear()
        if not self._count:
            self._origin = rows.mean(axis=1)
            self._sum = np.zeros(self._origin.shape)
            self._squares = np.zeros((*self._origin.shape, rows.shape[-1]), np.float32)
        rows -= self._origin[:, None]
        self._sum += rows.sum(axis=1)
        self._squares += rows.transpose(0, 2, 1) @ rows
        self._count += rows.shape[1]

    @property
    def mean(self) -> Matrix:
        """`(groups, columns)`."""
        mean: Matrix = self._origin + self._sum / self._count
        return mean

    def squares(self, centred: bool) -> Matrix:
        """Mean of `x @ x.T`, `(groups, columns, columns)`; around the mean if `centred`."""
        offset = (self._sum / self._count).astype(np.float32)
        found = self._squares / np.float32(self._count)
        found -= offset[:, :, None] * offset[:, None]
        _shrink(found, self._count)
        if not centred:
            mean = self.mean.astype(np.float32)
            found += mean[:, :, None] * mean[:, None]
        return found


def _shrink(covariance: Matrix, count: int) -> None:
    """Draws what few rows say of how columns go together towards nothing, in place.

    Source:
        Schaefer and Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation",
        2005, target D, with the variances of normal data.
    """
    own = np.einsum("gii->gi", covariance).copy()
    all_squares = np.einsum("gij,gij->g", covariance, covariance, dtype=np.float64)
    between = all_squares - np.square(own, dtype=np.float64).sum(axis=1)
    expected = np.square(own.sum(axis=1), dtype=np.float64) - np.square(own).sum(axis=1) + between
    share = np.minimum(1.0, expected / np.maximum(count * between, np.finfo(np.float32).tiny))
    covariance *= (1.0 - share)[:, None, None].astype(np.float32)
    np.einsum("gii->gi", covariance)[:] = own


def _batches(sites: Sequence[_Site]) -> Iterator[list[_Site]]:
    """Neighbours that fit into memory together."""
    batch: list[_Site] = []
    for site in sites:
        if batch and sum(s.bytes_needed for s in batch) + site.bytes_needed > MEMORY_BYTES:
            yield batch
            batch = []
        batch.append(site)
    if batch:
        yield batch


def _elements(shape: Sequence[int]) -> int:
    """Of a tensor; an open dimension counts as 1."""
    return math.prod(max(1, size) for size in shape)


def _spread(count: int, most: int) -> Any:
    """Indices of at most `most` of `count`, spread over all of them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _patches(op: Operator, values: FloatArray, kernel: Sequence[int], most: int) -> FloatArray:
    """What a kernel sees at some of its positions, `(positions, taps, channels)`."""
    options = op.options
    strides = options.strideH, options.strideW
    dilations = options.dilationHFactor, options.dilationWFactor
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = values.shape[1:3]
    if options.padding == _SAME:
        counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        short = [
            max((c - 1) * s + span - n, 0)
            for c, s, span, n in zip(counts, strides, spans, sizes, strict=True)
        ]
        around = [(n // 2, n - n // 2) for n in short]
        values = np.pad(values, [(0, 0), *around, (0, 0)])
    else:
        counts = [(n - span) // s + 1 for n, span, s in zip(sizes, spans, strides, strict=True)]
    images, height, width = len(values), *counts
    picked = _spread(images * height * width, most)
    image, y, x = np.unravel_index(picked, (images, height, width))
    tap_y, tap_x = (
        taps.reshape(-1) * d for taps, d in zip(np.indices(tuple(kernel)), dilations, strict=True)
    )
    found: FloatArray = values[
        image[:, None],
        y[:, None] * strides[0] + tap_y,
        x[:, None] * strides[1] + tap_x,
    ]
    return found


_SAME = 0
"""`Padding.SAME` of the schema."""
