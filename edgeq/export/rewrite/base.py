"""`Rewrite`, and the view of the graph that it decides and builds with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import Graph, Operator, schema
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.subgraph_adder import SubgraphAdder
from edgeq.model import layer
from edgeq.ops import OPS, is_non_negative
from edgeq.targets import Purpose
from edgeq.versions import OLDEST, Version

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

COMPARED_MAX = 1 << 12
"""Constants of more bytes are not compared by value."""


class Site:
    """The graph as it is at the start of a pass, and the editor that makes what comes after.

    Attributes:
        graph: What is matched.
        editor: What the new ops, tensors and constants are made with.
        same: Tensors that are not needed any more, each with the one that takes its place.
        gone: Ops further on that go, by index: what they compute is among `same`.
        subgraphs: Adds graphs that new ops run.
    """

    def __init__(self, graph: Graph, editor: GraphEditor) -> None:
        self.graph = graph
        self.editor = editor
        self.same: dict[int, int] = {}
        self.gone: set[int] = set()
        self.subgraphs = SubgraphAdder(editor.tree)
        self._non_negative: dict[int, bool] = {}

    def shape(self, tensor: int) -> Shape:
        """Shape of a tensor that was there at the start of the pass."""
        return self.graph.tensors[tensor].shape

    def value(self, tensor: int) -> Array | None:
        """Value of a constant; None for a computed or absent tensor."""
        return self.graph.tensors[tensor].data if tensor >= 0 else None

    def producer(self, tensor: int, *names: str) -> Operator | None:
        """The op that computes a tensor, if it is one of these."""
        op = self.graph.producers.get(tensor)
        return op if op is not None and op.name in names else None

    def is_read_once(self, tensor: int) -> bool:
        """Whether one op alone reads a tensor, once."""
        return len(self.graph.uses.get(tensor, ())) == 1 and tensor not in self.graph.outputs

    def is_non_negative(self, tensor: int) -> bool:
        """Whether a tensor is known to have no value below 0."""
        if tensor not in self._non_negative:
            self._non_negative[tensor] = self._cannot_be_negative(tensor)
        return self._non_negative[tensor]

    def _cannot_be_negative(self, tensor: int) -> bool:
        data, op = self.value(tensor), self.graph.producers.get(tensor)
        if data is not None:
            return bool((data >= 0).all())
        if op is None:
            return False
        if is_non_negative(op.name, op.fused_activation) or _is_magnitude(op):
            return True
        real = [t.index for _, t in self.graph.operands(op) if t.dtype == "float32"]
        keeps_sign = op.name in OPS and OPS[op.name].keeps_sign
        return keeps_sign and all(self.is_non_negative(t) for t in real)

    def is_non_positive(self, tensor: int) -> bool:
        """Whether a tensor is known to be the negative of one without values below 0."""
        op = self.producer(tensor, "NEG", "MUL")
        if op is None or op.fused_activation != "NONE":
            return False
        if op.name == "NEG":
            return self.is_non_negative(op.inputs[0])
        found = self.constant_operand(op)
        return found is not None and self.is_non_negative(found[0]) and bool((found[1] <= 0).all())

    def twin(self, op: Operator) -> Operator | None:
        """The first op of the graph, if another, that computes the same."""
        first = self._firsts[self._key(op)]
        return None if first is op else first

    @functools.cached_property
    def _firsts(self) -> dict[object, Operator]:
        return {self._key(op): op for op in reversed(self.graph.operators)}

    def _key(self, op: Operator) -> object:
        """Equal for ops that compute the same."""
        if any(self.graph.tensors[t].is_variable for t in op.outputs):
            return op.index
        is_plain = op.options is None or op.name == "RESHAPE"  # whose shape is an operand
        options = {} if is_plain else vars(op.options)
        return op.name, tuple(self._operand(t) for t in op.inputs), len(op.outputs), repr(options)

    def _operand(self, tensor: int) -> object:
        value = self.value(tensor)
        if value is None or value.nbytes > COMPARED_MAX:
            return tensor
        return value.dtype.str, value.shape, value.tobytes()

    def constant_operand(self, op: Operator) -> tuple[int, Array] | None:
        """`(computed operand, constant)` of a binary op that has one of each, of equal shape."""
        if len(op.inputs) != 2:
            return None
        for computed, constant in (op.inputs, op.inputs[::-1]):
            data = self.value(constant)
            if (
                data is not None
                and self.value(computed) is None
                and self.shape(computed) == self.shape(op.outputs[0])
            ):
                return computed, data
        return None

    def tensor(self, op: Operator, shape: Sequence[int]) -> int:
        """A new tensor in the layer of `op`."""
        return self.editor.tensor(layer(self.graph, op), shape)

    def constant(self, op: Operator, name: str, values: object, dtype: Any = np.float32) -> int:
        """A constant in the layer of `op`."""
        array = np.ascontiguousarray(np.asarray(values, dtype))
        return self.editor.constant(f"{layer(self.graph, op)}/{name}", array)

    def alias(self, op: Operator, tensor: int) -> Sequence[Any] | None:
        """Lets `tensor`, which has the same values, stand for what `op` computes.

        None where the graph puts both out, and neither name may go.
        """
        output = op.outputs[0]
        if tensor in self.same:
            return None
        if output not in self.graph.outputs:
            self.same[output] = tensor
        elif tensor in self.graph.producers and tensor not in self.graph.outputs:
            self.same[tensor] = output
        else:
            return None
        return []

    def binary(self, name: str, one: int, other: int, output: int, activation: str = "NONE") -> Any:
        """A new ADD, SUB or MUL."""
        fused = getattr(schema.ActivationFunctionType, activation)
        return self.editor.op(name, [one, other], [output], fusedActivationFunction=fused)

    def reshape(self, op: Operator, source: int, output: int, shape: Sequence[int]) -> Any:
        """A new RESHAPE."""
        return self.editor.op("RESHAPE", [source, self.ints(op, "shape", shape)], [output])

    def transpose(self, op: Operator, source: int, output: int, order: Sequence[int]) -> Any:
        """A new TRANSPOSE."""
        return self.editor.op("TRANSPOSE", [source, self.ints(op, "order", order)], [output])

    def slice(
        self, op: Operator, source: int, output: int, begin: Sequence[int], size: Sequence[int]
    ) -> Any:
        """A new SLICE."""
        places = [self.ints(op, "begin", begin), self.ints(op, "size", size)]
        return self.editor.op("SLICE", [source, *places], [output])

    def ints(self, op: Operator, name: str, values: object) -> int:
        """An int32 constant in the layer of `op`."""
        return self.constant(op, name, values, np.int32)


def _is_magnitude(op: Operator) -> bool:
    return op.name == "LEAKY_RELU" and op.options.alpha <= 0


Apply = Callable[[Site, Operator], "Sequence[Any] | None"]
"""Gives the ops that take an op's place, or None where it stays; they write all its outputs that
are not in `Site.same`. Ops before it whose results are not read any more go by themselves."""


@dataclass(frozen=True)
class Rewrite:
    """One row of the table of rewrites.

    Attributes:
        name: What the documents call it.
        ops: Builtin operator names of the ops that it may take the place of.
        to: What takes their place, in words.
        why: Why that is better.
        exact: Whether the float numbers stay the same bit for bit; otherwise up to rounding.
        apply: Does it.
        purpose: What it is for; targets list the purposes that serve them.
        since: The first run time that computes right what it gives.
        said: What a report says of so many ops that it was applied to; None is nothing.
    """

    name: str
    ops: tuple[str, ...]
    to: str
    why: str
    exact: bool
    apply: Apply
    purpose: Purpose = Purpose.FEWER_OPS
    since: Version = OLDEST
    said: Callable[[int], str] | None = None
