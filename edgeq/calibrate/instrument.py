"""Min-max measured inside the graph: reductions are added to a float .tflite as extra outputs.

Only scalars leave the graph, and the delegate runs the reductions on its own threads. Knows the
file format, nothing of observers or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.files import Content
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor


@dataclass(frozen=True)
class Probe:
    """One tensor to be measured.

    Attributes:
        tensor: Index in the graph.
        minimum: Whether the lowest value is wanted; False where it cannot be below 0.
        sum: Whether the sum is wanted, which tells of NaN.
    """

    tensor: int
    minimum: bool
    sum: bool = False


@dataclass(frozen=True)
class Instrumented:
    """A graph with reductions.

    Attributes:
        tflite: The file; its first outputs are the original ones.
        measured: Index of the one tensor that holds all reductions, `(n,)`.
        minima: Place in it of each probe's minimum, -1 where it is not measured.
        maxima: Place in it of each probe's maximum.
        sums: Place in it of each probe's sum, -1 where it is not measured.
    """

    tflite: Content
    measured: int
    minima: tuple[int, ...]
    maxima: tuple[int, ...]
    sums: tuple[int, ...]


def instrument(
    tree: Any, graph: Graph, probes: Sequence[Probe], kept: Sequence[int] = ()
) -> Instrumented:
    """Adds REDUCE_MIN, REDUCE_MAX and SUM of probed tensors to a float model.

    Args:
        tree: The float file's object tree.
        graph: Its main graph.
        probes: What to measure; tensors of any rank.
        kept: Tensors to keep whole, as outputs.
    """
    editor = GraphEditor(tree)
    scalars: list[int] = []
    # Right behind its producer a reduction finds the values in the cache; at the end of the graph
    # all activations would have to be kept, and be read from memory again.
    behind: dict[int, list[Any]] = {}

    def measure(name: str, probe: Probe, wanted: bool) -> int:
        if not wanted:
            return -1
        producer = graph.producers.get(probe.tensor)
        ops = behind.setdefault(producer.index if producer else -1, [])
        rank = len(graph.tensors[probe.tensor].shape)
        scalars.append(_reduced(editor, ops, name, probe.tensor, rank))
        return len(scalars) - 1

    minima = tuple(measure("REDUCE_MIN", probe, probe.minimum) for probe in probes)
    maxima = tuple(measure("REDUCE_MAX", probe, True) for probe in probes)
    sums = tuple(measure("SUM", probe, probe.sum) for probe in probes)
    editor.insert(behind)
    measured = editor.tensor("edgeq/measured", (len(scalars),))
    if scalars:
        editor.append(editor.op("PACK", scalars, [measured], valuesCount=len(scalars), axis=0))
        editor.add_outputs([measured, *kept])
    return Instrumented(editor.finish(), measured, minima, maxima, sums)


def _reduced(editor: GraphEditor, ops: list[Any], name: str, tensor: int, rank: int) -> int:
    """Index of a scalar: the reduction of `tensor` over all its axes, by an op put into `ops`."""
    if rank == 0:
        return tensor
    axes = editor.constant("edgeq/axes", np.arange(rank, dtype=np.int32))
    result = editor.tensor(f"edgeq/{name}/{tensor}", ())
    ops.append(editor.op(name, [tensor, axes], [result], keepDims=False))
    return result
