"""Ops with weights: the rows that a weight is multiplied with, which decide its rounding.

A weight is looked at as `(groups, rows, columns)`: each row of a group is multiplied with columns
that the op reads together. Knows how each kind of op lays that out, nothing of plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.export.round.exact import Matrix
from edgeq.export.round.gptq import Grid, fit
from edgeq.export.round.moments import Missing, Moments
from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.ops import OPS, Bias, Kind, Weight
from edgeq.qtypes import (
    BlockQParams,
    FloatArray,
    IntArray,
    QParams,
    broadcast,
    dequantize,
    dequantize_blocks,
    quantize,
    quantize_blocks,
)

MOST_COLUMNS = 4608
"""Wider weights are rounded in parts, as if their inputs had nothing to do with each other."""

AnyQParams = QParams | BlockQParams | None
_Pair: TypeAlias = tuple[int, int]

ROWS_EACH = 64
"""Rows of data that are enough for each column of a weight: a few columns need few."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it fill what is between two whole numbers evenly, however many there are."""

LAID_OUT = (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.TRANSPOSED_CONVOLUTION, Kind.DENSE)
"""Kinds of ops whose weights are known as rows and columns here."""


def is_laid_out(op: Operator) -> bool:
    """Whether an op has a weight whose rows and columns are known."""
    return op.name in OPS and OPS[op.name].kind in LAID_OUT


def weight_slot(op: Operator) -> int:
    """Operand slot of the weight of an op that has one."""
    return _weight(op).slot


def weight_of(op: Operator) -> int:
    """The tensor that is the weight of an op that has one."""
    return op.inputs[weight_slot(op)]


def source_of(op: Operator) -> int:
    """The tensor that the weight of an op is multiplied with."""
    return op.inputs[_weight(op).source]


def is_fed(graph: Graph, op: Operator) -> bool:
    """Whether an op that has a weight multiplies it with real numbers that are computed."""
    read = graph.tensors[source_of(op)]
    return read.dtype == "float32" and not read.is_constant


def bias_slot(op: Operator) -> int:
    """Operand slot of the bias of an op that has a weight."""
    bias: Bias | None = OPS[op.name].bias
    assert bias is not None
    return bias.slot


def bias_of(graph: Graph, op: Operator) -> FloatArray | None:
    """The bias of an op, if it has one that can make up for what its weight is short of."""
    slot = bias_slot(op)
    missing = slot >= len(op.inputs) or op.inputs[slot] < 0
    taps_meet = OPS[op.name].kind is Kind.TRANSPOSED_CONVOLUTION  # where strides are short
    if missing or taps_meet:
        return None
    return graph.tensors[op.inputs[slot]].data


def _weight(op: Operator) -> Weight:
    weight = OPS[op.name].weight
    assert weight is not None
    return weight


def constant(tensor: Tensor) -> FloatArray:
    """The value of a constant."""
    assert tensor.data is not None
    data: FloatArray = tensor.data
    return data


class Site:
    """A weight and the ops that read it.

    Args:
        graph: Of the float model.
        ops: The ops, all of one kind.
        qparams: How the weight is stored.
        tensor: The weight; None is that of the first op.
        kind: How it is laid out; None is as in the first op.

    Attributes:
        ops: The ops.
        qparams: How the weight is stored.
        tensor: The weight.
        inputs: The tensors that it is multiplied with, one for each op.
        key: Tells it from others.
    """

    def __init__(
        self,
        graph: Graph,
        ops: tuple[Operator, ...],
        qparams: AnyQParams,
        tensor: int | None = None,
        kind: Kind | None = None,
    ) -> None:
        self.ops = ops
        self.qparams = qparams
        self.inputs = tuple(map(source_of, ops))
        self._kind = OPS[ops[0].name].kind if kind is None else kind
        self.tensor = weight_of(ops[0]) if tensor is None else tensor
        self.key = self.tensor, qparams
        self._weight = constant(graph.tensors[self.tensor])
        self._shapes = [graph.tensors[t].shape for t in self.inputs]

    @property
    def first_op(self) -> Operator:
        """An op of the main graph that it goes into."""
        return self.ops[0]

    def has_bias(self, graph: Graph) -> bool:
        """Whether each op has a bias that can make up for what the weight is short of."""
        return bool(self.ops) and all(bias_of(graph, op) is not None for op in self.ops)

    @property
    def bytes_needed(self) -> int:
        """About how many bytes its data and their squares take, of two halves of the samples."""
        groups, _, columns = map(int, self._laid_out(self._weight).shape)
        return 4 * (sum(map(_elements, self._shapes)) + 2 * groups * columns**2)

    @property
    def factor_products(self) -> float:
        """About how many products it takes to factor the squares of its data."""
        groups, _, columns = self._laid_out(self._weight).shape
        return float(groups) * float(columns) ** 3 / 3

    def rows(self, view: Callable[[int], Any], most: int, samples: int, number: int = 0) -> Matrix:
        """Rows of a sample that the weight is multiplied with, `(groups, positions, columns)`.

        Args:
            view: Gives what a tensor holds.
            most: Rows that are wanted from all samples, at most.
            samples: How many samples there are.
            number: Which of them it is; others give rows of other places.
        """
        enough = min(most, ROWS_EACH * self._columns)
        each = max(1, math.ceil(enough / samples) // len(self.ops))
        found = [
            self._rows(op, view(t), each, number * len(self.ops) + place)
            for place, (op, t) in enumerate(zip(self.ops, self.inputs, strict=True))
        ]
        return np.concatenate(found, axis=1)

    def _rows(self, op: Operator, values: FloatArray, most: int, number: int) -> Matrix:
        if self._kind in (Kind.DENSE, Kind.TRANSPOSED_CONVOLUTION):
            flat = values.reshape(-1, self._weight.shape[-1])
            picked: FloatArray = flat[spread_places(len(flat), most, number)]
        else:
            picked = patches(op, values, self._weight.shape[1:3], most, number)
        count, groups = len(picked), self._groups
        parted: FloatArray
        if self._is_in_parts:
            parted = picked.reshape(count, self._parts, -1).transpose(1, 0, 2)
        else:
            channels = picked.shape[-1] // groups
            parted = picked.reshape(count, -1, groups, channels).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(parted.reshape(len(parted), count, -1), np.float32)

    @property
    def _groups(self) -> int:
        """Parts of the channels that do not see each other."""
        depth = self._shapes[0][-1]
        return depth if self._is_depthwise else depth // self._weight.shape[-1]

    @property
    def _columns(self) -> int:
        """Numbers of a row that are multiplied and added up together."""
        return math.prod(self._weight.shape[1:3] if self._is_depthwise else self._weight.shape[1:])

    @property
    def _is_depthwise(self) -> bool:
        return self._kind is Kind.DEPTHWISE

    @property
    def _is_in_parts(self) -> bool:
        """Whether all groups are of the same rows, which are one or parts of a wide one."""
        return not self._is_depthwise and (self._kind is not Kind.CONVOLUTION or self._groups == 1)

    @property
    def _parts(self) -> int:
        """Into how many parts the columns of a wide weight are taken."""
        columns = self._row_columns
        least = math.ceil(columns / MOST_COLUMNS)
        return next(n for n in range(least, columns + 1) if columns % n == 0)

    @property
    def _row_columns(self) -> int:
        """Columns of a whole row, where rows are taken in parts."""
        return self._columns if self._kind is Kind.CONVOLUTION else self._weight.shape[-1]

    def _laid_out(self, weight: FloatArray) -> FloatArray:
        """The weight as `(groups, rows, columns)`."""
        if self._is_depthwise:
            taps = weight.shape[1] * weight.shape[2]
            return weight.reshape(taps, self._groups, -1).transpose(1, 2, 0)
        if not self._is_in_parts:
            return weight.reshape(self._groups, len(weight) // self._groups, -1)
        parts = self._parts
        return weight.reshape(-1, parts, self._row_columns // parts).transpose(1, 0, 2)

    def _restored(self, laid_out: FloatArray) -> FloatArray:
        """The opposite of `_laid_out`."""
        if self._is_depthwise:
            laid_out = laid_out.transpose(2, 0, 1)
        elif self._is_in_parts:
            laid_out = laid_out.transpose(1, 0, 2)
        return np.ascontiguousarray(laid_out.reshape(self._weight.shape), np.float32)

    @property
    def weight(self) -> Matrix:
        """The weight as `(groups, rows, columns)`."""
        return self._laid_out(self._weight)

    def rounded(
        self, seen: Moments, centred: bool, missing: Sequence[Missing] = ()
    ) -> tuple[IntArray, FloatArray]:
        """The weight as integers, and the mean of what each channel puts out less than before.

        Args:
            seen: What the weight is multiplied with.
            centred: Whether a bias takes up what is lost on average.
            missing: What the outputs lack besides, as each half of the rows tells.
        """
        weight = self.weight
        products = [half.products for half in missing]
        found = fit(weight, seen.squares(centred), self._grid_laid_out(), products)
        lost = ((weight - found) * seen.mean[:, None]).sum(axis=-1)
        lost += sum(half.mean for half in missing) / max(1, len(missing))
        if self._is_in_parts and self._kind is not Kind.TRANSPOSED_CONVOLUTION:
            lost = lost.sum(axis=0)
        finite = bool(np.isfinite(lost).all())
        return (
            _integers(self._restored(found), self.qparams),
            lost.reshape(-1) if finite else np.zeros(lost.size),
        )

    def _grid_laid_out(self) -> Grid:
        grid = self.grid
        scale, zero_point = map(self._laid_out, (grid.scale, grid.zero_point))
        return Grid(scale, zero_point, grid.low, grid.high)

    @property
    def grid(self) -> Grid:
        """What each number of the weight may become, in its own shape."""
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
        return Grid(scale, zero_point, *limits)


def _integers(real: FloatArray, qparams: AnyQParams) -> IntArray:
    assert qparams is not None
    if isinstance(qparams, BlockQParams):
        return quantize_blocks(real, qparams)
    return quantize(real, qparams)


def on_grid(integers: IntArray, qparams: AnyQParams) -> FloatArray:
    """The real numbers that a stored weight stands for."""
    assert qparams is not None
    if isinstance(qparams, BlockQParams):
        return dequantize_blocks(integers, qparams)
    return dequantize(integers, qparams)


def _elements(shape: Sequence[int]) -> int:
    """Of a tensor; an open dimension counts as 1."""
    return math.prod(max(1, size) for size in shape)


def spread_places(count: int, most: int, number: int) -> npt.NDArray[np.intp]:
    """At most `most` of `count` places, spread over all of them, others for each sample.

    The same ones in each sample would leave most places out, and a few edges of images would be
    all that a kernel is fitted to where many samples give a few rows each.

    Args:
        count: Places that there are.
        most: Those that are wanted.
        number: Of the sample.
    """
    wanted = min(count, most)
    start = (0.5 + GOLDEN * number) % 1.0
    return ((np.arange(wanted) + start) * count / wanted).astype(np.intp)


def patches(
    op: Operator, values: FloatArray, kernel: Sequence[int], most: int, number: int = 0
) -> FloatArray:
    """Cuts out the patches that a kernel sees, `(positions, taps, channels)`."""
    counts, short = reached(op, values.shape[1:3], kernel)
    images, depth = len(values), values.shape[-1]
    values = padded(values, short)
    seen = spread_places(images * math.prod(counts), most, number)
    places = _pixels(op, values.shape[1:3], kernel, np.unravel_index(seen, (images, *counts)))
    found: FloatArray = values.reshape(-1, depth)[places]
    return found


def strides_of(op: Operator) -> tuple[_Pair, _Pair]:
    """Strides and dilations of a convolution, `(height, width)` each."""
    options = op.options
    strides = options.strideH, options.strideW
    return strides, (options.dilationHFactor, options.dilationWFactor)


def reached(op: Operator, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[_Pair, _Pair]:
    """How often a kernel stands along height and width, and zeros that images lack for it."""
    strides, dilations = strides_of(op)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if op.options.padding != _SAME:
        down, right = (
            (n - span) // s + 1 for n, span, s in zip(sizes, spans, strides, strict=True)
        )
        return (down, right), (0, 0)
    down, right = (-(-n // s) for n, s in zip(sizes, strides, strict=True))
    high, wide = (
        max((c - 1) * s + span - n, 0)
        for c, s, span, n in zip((down, right), strides, spans, sizes, strict=True)
    )
    return (down, right), (high, wide)


def padded(values: FloatArray, short: Sequence[int]) -> FloatArray:
    """Images with so many rows and columns of zeros more, half of them at each side."""
    if not any(short):
        return values
    images, height, width, depth = values.shape
    top, left = (n // 2 for n in short)
    found = np.zeros((images, height + short[0], width + short[1], depth), values.dtype)
    found[:, top : top + height, left : left + width] = values
    return found


def _pixels(op: Operator, size: Sequence[int], kernel: Sequence[int], at: Any) -> Any:
    """Which pixels of all images, padded to `size`, patches hold, `(positions, taps)`.

    Args:
        op: The convolution.
        size: Height and width.
        kernel: Its height and width.
        at: Image, row and column of each position.
    """
    strides, dilations = strides_of(op)
    image, y, x = at
    tap_y, tap_x = (
        taps.reshape(-1) * d for taps, d in zip(np.indices(kernel), dilations, strict=True)
    )
    height, width = size
    rows = image[:, None] * height + y[:, None] * strides[0] + tap_y
    return rows * width + x[:, None] * strides[1] + tap_x


_SAME = 0
"""`Padding.SAME` of the schema."""
