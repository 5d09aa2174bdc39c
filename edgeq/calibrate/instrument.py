"""Min-max measured inside the graph: reductions are added to a float .tflite as extra outputs.

Only scalars leave the graph, and the delegate runs the reductions on its own threads. Knows the
file format, nothing of observers or data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeq.files import Content
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.qtypes import STAND_IN_FOR_INFINITY

Shape: TypeAlias = tuple[int, ...]

NO_VALUE = 3e38
"""A minimum without any value; the negative of it is such a maximum."""

MASKED = -5e3
"""A row of scores none of which is higher is masked as a whole and says nothing of the others."""


@dataclass(frozen=True)
class Probe:
    """One tensor to be measured.

    Attributes:
        tensor: Index in the graph.
        minimum: Whether the lowest value is wanted; False where it cannot be below 0.
        sum: Whether the sum is wanted, which tells of NaN.
        finite: Whether the lowest and highest value are wanted besides of those values alone that
            neither are NaN nor stand for infinity.
    """

    tensor: int
    minimum: bool
    sum: bool = False
    finite: bool = False


@dataclass(frozen=True)
class Instrumented:
    """A graph with reductions.

    Attributes:
        tflite: The file; its first outputs are the original ones.
        measured: Index of the one tensor that holds all reductions, `(n,)`.
        minima: Place in it of each probe's minimum, -1 where it is not measured.
        maxima: Place in it of each probe's maximum.
        sums: Place in it of each probe's sum, -1 where it is not measured.
        lowest: Place in it of each probe's lowest finite value, likewise.
        highest: Place in it of each probe's highest finite value, likewise.
        tops: Place in it of the lowest row maximum of each tensor where that is wanted.
    """

    tflite: Content
    measured: int
    minima: tuple[int, ...]
    maxima: tuple[int, ...]
    sums: tuple[int, ...]
    lowest: tuple[int, ...]
    highest: tuple[int, ...]
    tops: tuple[int, ...]


def instrument(
    tree: Any,
    graph: Graph,
    probes: Sequence[Probe],
    kept: Sequence[int] = (),
    scores: Sequence[int] = (),
) -> Instrumented:
    """Adds REDUCE_MIN, REDUCE_MAX and SUM of probed tensors to a float model.

    Args:
        tree: The float file's object tree.
        graph: Its main graph.
        probes: What to measure; tensors of any rank.
        kept: Tensors to keep whole, as outputs.
        scores: Tensors of whose largest values along the last axis the lowest is wanted.
    """
    writer = _Writer(GraphEditor(tree), graph)
    minima = [writer.extreme("REDUCE_MIN", p.tensor, p.minimum) for p in probes]
    maxima = [writer.extreme("REDUCE_MAX", p.tensor, True) for p in probes]
    sums = [writer.extreme("SUM", p.tensor, p.sum) for p in probes]
    lowest = [writer.finite("REDUCE_MIN", p.tensor, p.finite) for p in probes]
    highest = [writer.finite("REDUCE_MAX", p.tensor, p.finite) for p in probes]
    tops = [writer.top(tensor) for tensor in scores]
    measured = writer.gathered(kept)
    return Instrumented(
        writer.editor.finish(), measured,
        *map(tuple, (minima, maxima, sums, lowest, highest, tops)),
    )  # fmt: skip


class _Writer:
    """Puts measuring ops into a graph and counts the scalars that they make."""

    def __init__(self, editor: GraphEditor, graph: Graph) -> None:
        self.editor = editor
        self._graph = graph
        self._scalars: list[int] = []
        # Right behind its producer a reduction finds the values in the cache; at the end of the
        # graph all activations would have to be kept, and be read from memory again.
        self._behind: dict[int, list[Any]] = {}

    def extreme(self, name: str, tensor: int, wanted: bool) -> int:
        """Place of the reduction of a tensor over all its axes, -1 if it is not wanted."""
        if not wanted:
            return -1
        rank = len(self._graph.tensors[tensor].shape)
        return self._kept(self._reduced(self._ops(tensor), name, tensor, range(rank)))

    def finite(self, name: str, tensor: int, wanted: bool) -> int:
        """As `extreme`, of the finite values alone."""
        if not wanted:
            return -1
        ops, size = self._ops(tensor), math.prod(self._graph.tensors[tensor].shape)
        flat, magnitude = (self._made(tensor, word, (size,)) for word in ("flat", "magnitude"))
        ops += [
            self.editor.reshape(tensor, flat, (size,)),
            self.editor.op("ABS", [flat], [magnitude]),
        ]
        bound = self._number(STAND_IN_FOR_INFINITY)
        otherwise = self._number(NO_VALUE if name == "REDUCE_MIN" else -NO_VALUE)
        kept = self._chosen(ops, (magnitude, bound), flat, otherwise, (size,))
        return self._kept(self._reduced(ops, name, kept, (0,)))

    def top(self, tensor: int) -> int:
        """Place of the lowest of the largest values along the last axis."""
        ops, shape = self._ops(tensor), self._graph.tensors[tensor].shape
        maxima = self._reduced(ops, "REDUCE_MAX", tensor, (len(shape) - 1,), shape[:-1])
        rows = math.prod(shape[:-1])
        flat = self._made(tensor, "rows", (rows,))
        ops.append(self.editor.reshape(maxima, flat, (rows,)))
        kept = self._chosen(
            ops, (self._number(MASKED), flat), flat, self._number(NO_VALUE), (rows,)
        )
        return self._kept(self._reduced(ops, "REDUCE_MIN", kept, (0,)))

    def gathered(self, kept: Sequence[int]) -> int:
        """One tensor of all scalars, which is made an output beside the kept ones."""
        self.editor.insert(self._behind)
        count = len(self._scalars)
        measured = self.editor.tensor("edgeq/measured", (count,))
        if count:
            pack = self.editor.op("PACK", self._scalars, [measured], valuesCount=count, axis=0)
            self.editor.append(pack)
            self.editor.add_outputs([measured, *kept])
        return measured

    def _ops(self, tensor: int) -> list[Any]:
        """The ops that are put behind the one that computes a tensor."""
        producer = self._graph.producers.get(tensor)
        return self._behind.setdefault(producer.index if producer else -1, [])

    def _kept(self, scalar: int) -> int:
        self._scalars.append(scalar)
        return len(self._scalars) - 1

    def _made(self, tensor: int, word: str, shape: Sequence[int]) -> int:
        return self.editor.tensor(f"edgeq/{word}/{tensor}", shape)

    def _number(self, value: float) -> int:
        return self.editor.constant("edgeq/number", np.asarray(value, np.float32))

    def _chosen(
        self, ops: list[Any], less: tuple[int, int], values: int, otherwise: int, shape: Shape
    ) -> int:
        """Values where the one tensor is less than the other."""
        truth = self.editor.typed(f"edgeq/less/{values}", shape, "bool")
        chosen = self._made(values, "chosen", shape)
        ops += [
            self.editor.op("LESS", less, [truth]),
            self.editor.op("SELECT_V2", [truth, values, otherwise], [chosen]),
        ]
        return chosen

    def _reduced(
        self, ops: list[Any], name: str, tensor: int, axes: Sequence[int], shape: Shape = ()
    ) -> int:
        """The reduction of a tensor over axes, by an op put into `ops`."""
        if not axes:
            # What a delegate makes of a scalar may have an axis, which PACK holds against others.
            flat = self._made(tensor, f"{name}/flat", (1,))
            ops.append(self.editor.reshape(tensor, flat, (1,)))
            tensor, axes = flat, (0,)
        places = self.editor.constant("edgeq/axes", np.asarray(axes, np.int32))
        result = self._made(tensor, name, shape)
        ops.append(self.editor.op(name, [tensor, places], [result], keepDims=False))
        return result
