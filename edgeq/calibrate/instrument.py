"""Min-max measured inside the graph: reductions are appended to a float .tflite as extra outputs.

Only scalars leave the graph, and the delegate runs the reductions on its own threads. Knows the
file format, nothing of observers or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.editor import GraphEditor
from edgeq.flatbuffer import Graph


@dataclass(frozen=True)
class Probe:
    """What to measure of one tensor.

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
        minima: Tensor index of each probe's minimum, None where it is not measured.
        maxima: Tensor index of each probe's maximum.
        sums: Tensor index of each probe's sum, None where it is not measured.
    """

    tflite: bytes
    minima: tuple[int | None, ...]
    maxima: tuple[int, ...]
    sums: tuple[int | None, ...]


def instrument(tflite: bytes, graph: Graph, probes: Sequence[Probe]) -> Instrumented:
    """Appends REDUCE_MIN and REDUCE_MAX of each probed tensor to a float model.

    Args:
        tflite: The float file.
        graph: Its main graph.
        probes: What to measure; tensors of any rank, scalars are passed out as they are.
    """
    editor = GraphEditor(tflite)
    minima: list[int | None] = []
    maxima: list[int] = []
    sums: list[int | None] = []
    for probe in probes:
        rank = len(graph.tensors[probe.tensor].shape)
        lowest = _reduced(editor, "REDUCE_MIN", probe.tensor, rank) if probe.minimum else None
        minima.append(lowest)
        maxima.append(_reduced(editor, "REDUCE_MAX", probe.tensor, rank))
        sums.append(_reduced(editor, "SUM", probe.tensor, rank) if probe.sum else None)
    editor.add_outputs([t for t in (*minima, *maxima, *sums) if t is not None])
    return Instrumented(editor.finish(), tuple(minima), tuple(maxima), tuple(sums))


def _reduced(editor: GraphEditor, name: str, tensor: int, rank: int) -> int:
    """Index of a scalar: the reduction of `tensor` over all its axes."""
    if rank == 0:
        return tensor
    axes = editor.constant("edgeq/axes", np.arange(rank, dtype=np.int32))
    result = editor.tensor(f"edgeq/{name}/{tensor}", ())
    editor.append(editor.op(name, [tensor, axes], [result], keepDims=False))
    return result
