"""`Subject`: a graph with its quantization parameters as the file has them, sound or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeq.files import Content
from edgeq.flatbuffer import Graph, Model, Operator, Tensor, parse_tree, unpack

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""Lowest and highest integer of the types of activations."""


@dataclass(frozen=True)
class Stored:
    """Quantization parameters of one tensor, unchecked.

    Attributes:
        scale: As many as the file has, at least one.
        zero_point: As many as the file has.
        axis: `quantizedDimension`.
        is_custom: Whether they are of another kind than affine, such as blockwise.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    is_custom: bool

    def wrong_scale(self) -> float | None:
        """A scale that no tensor can have."""
        return next((s for s in self.scale if not (math.isfinite(s) and s > 0)), None)

    def wrong_zero_point(self, dtype: str) -> int | None:
        """A zero point that the type cannot hold."""
        low, high = LIMITS.get(dtype, (0, 0))
        return next((z for z in self.zero_point if not low <= z <= high), None)

    def wrong_count(self, shape: tuple[int, ...]) -> str | None:
        """Checks the number of scales and zero points; None where it is right."""
        count = len(self.scale)
        if len(self.zero_point) not in (0, 1, count):
            return f"{len(self.zero_point)} zero points for {count} scales"
        if count == 1 or self.is_custom:
            return None
        if not 0 <= self.axis < len(shape):
            return f"{count} scales along axis {self.axis} of {len(shape)}"
        fits = shape[self.axis] == count
        return None if fits else f"{count} scales for {shape[self.axis]} channels"


@dataclass(frozen=True)
class Subject:
    """One graph to be judged; `graph` leaves out parameters that are wrong in themselves.

    Attributes:
        graph: The graph.
        stored: What the file says, by tensor.
    """

    graph: Graph
    stored: dict[int, Stored]

    def operands(self, op: Operator) -> Iterator[tuple[int, Tensor]]:
        """`(slot, tensor)` of every operand that is present."""
        return self.graph.operands(op)

    def operand(self, op: Operator, slot: int | None) -> Tensor | None:
        """The operand of a slot; None where there is none."""
        if slot is None or slot >= len(op.inputs) or op.inputs[slot] < 0:
            return None
        return self.graph.tensors[op.inputs[slot]]

    def results(self, op: Operator) -> list[Tensor]:
        """Tensors that the op computes."""
        return [self.graph.tensors[t] for t in op.outputs]

    def tensors(self, op: Operator) -> list[Tensor]:
        """Operands and results."""
        return [t for _, t in self.operands(op)] + self.results(op)


def read(tflite: Content) -> tuple[Model, tuple[Subject, ...]]:
    """Reads a file whose quantization parameters may be wrong.

    Raises:
        ModelError: Not a .tflite file, or damaged elsewhere.
    """
    tree = unpack(tflite)
    stored = [_all_stored(graph) for graph in tree.subgraphs or ()]
    for graph, parameters in zip(tree.subgraphs or (), stored, strict=True):
        for index, found in parameters.items():
            _drop_wrong(graph.tensors[index], found)
    model = parse_tree(tree, len(tflite))
    return model, tuple(Subject(g, s) for g, s in zip(model.graphs, stored, strict=True))


def _all_stored(graph: Any) -> dict[int, Stored]:
    found = {index: _stored(tensor) for index, tensor in enumerate(graph.tensors or ())}
    return {index: stored for index, stored in found.items() if stored is not None}


def _stored(tensor: Any) -> Stored | None:
    entry = tensor.quantization
    if entry is None or entry.scale is None or len(entry.scale) == 0:
        return None
    points = () if entry.zeroPoint is None else entry.zeroPoint
    return Stored(
        tuple(float(s) for s in entry.scale), tuple(int(z) for z in points),
        int(entry.quantizedDimension), entry.details is not None,
    )  # fmt: skip


def _drop_wrong(tensor: Any, stored: Stored) -> None:
    """Takes parameters away that the parser would refuse the whole file for."""
    shape = tuple(() if tensor.shape is None else tensor.shape)
    is_wide = stored.wrong_zero_point("int8") is not None
    if stored.wrong_scale() is not None or stored.wrong_count(shape) or is_wide:
        tensor.quantization = None
