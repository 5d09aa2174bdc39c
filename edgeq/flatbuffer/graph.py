"""Owns what a .tflite file says as plain values: tensors, ops, graphs and signatures.

Knows nothing of how they are read or written.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.flatbuffer.generated_schema import ACTIVATION_NAMES
from edgeq.qtypes import QParams


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        index: Its index in the graph, the same as the interpreter's.
        name: Name in the file.
        shape: Static shape; a dynamic dimension shows as -1.
        dtype: Lower-case type name, for example `"float32"`.
        data: Constant value with `shape`, or None for a computed tensor.
        qparams: Quantization parameters, or None.
        is_variable: Whether it keeps its value between runs.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: npt.NDArray[Any] | None
    qparams: QParams | None
    is_variable: bool

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its value."""
        return self.data is not None


@dataclass(frozen=True)
class Operator:
    """One op of a graph.

    Attributes:
        index: Position in execution order.
        name: Builtin operator name, or `CUSTOM:<code>`.
        inputs: Tensor indices; -1 for an optional input that is absent.
        outputs: Tensor indices.
        options: The schema's own options object, or None.
        version: Op version.
        multiplied: Of a loop, the operand slots of matrices that each round passes on as they are,
            and multiplies with alone.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    version: int
    multiplied: tuple[int, ...] = ()

    @property
    def fused_activation(self) -> str:
        """Name of the activation fused into the op, `"NONE"` without one."""
        return ACTIVATION_NAMES.get(getattr(self.options, "fusedActivationFunction", 0), "NONE")


@dataclass(frozen=True)
class Graph:
    """One subgraph: tensors and ops in execution order."""

    index: int
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """The op that computes each tensor."""
        return {tensor: op for op in self.operators for tensor in op.outputs}

    @functools.cached_property
    def uses(self) -> dict[int, list[tuple[Operator, int]]]:
        """The `(op, operand slot)` pairs that read each tensor."""
        found: dict[int, list[tuple[Operator, int]]] = {}
        for op in self.operators:
            for slot, tensor in enumerate(op.inputs):
                found.setdefault(tensor, []).append((op, slot))
        return found

    def operands(self, op: Operator) -> Iterator[tuple[int, Tensor]]:
        """`(slot, tensor)` of every operand that is present."""
        return ((s, self.tensors[t]) for s, t in enumerate(op.inputs) if t >= 0)


@dataclass(frozen=True)
class Signature:
    """A named entry point: `(name, tensor index)` of inputs and outputs."""

    key: str
    graph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Model:
    """A whole .tflite file."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...]
    size: int
