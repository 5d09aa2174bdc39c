"""`ExportedGraph`: an exported graph beside the float graph that it came from. Checks nothing."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.model import FloatModel
from edgeq.ops import BOUNDARY
from edgeq.qtypes import DType

"""Ops between float and integer, which no float model has."""

ROWS = "/rows"
"""Ends the name of a looked-up table's rows, which a RESHAPE gives their final shape."""


class ExportedGraph:
    """The exported graph beside the float one; tensors correspond by name."""

    def __init__(self, model: FloatModel, graph: Graph) -> None:
        self.graph = graph
        self.model = model
        self._by_name = {t.name: t for t in graph.tensors}
        self._float_op = {
            model.graph.tensors[t].name: op for op in model.graph.operators for t in op.outputs
        }

    def counterpart(self, op: Operator) -> Operator | None:
        """The float model's op that an exported op came from."""
        for output in op.outputs:
            for name in self._known_names(output):
                if name in self._float_op:
                    return self._float_op[name]
        return None

    def _known_names(self, tensor: int) -> Iterator[str]:
        yield self.graph.tensors[tensor].name.removesuffix(ROWS)
        for user, _ in self.graph.uses.get(tensor, []):
            if user.name in BOUNDARY:
                yield from self._known_names(user.outputs[0])

    def float_tensors(self) -> dict[int, int]:
        """For each computed tensor that the float model has too, its index there."""
        known = {t.name: t for t in self.model.graph.tensors if not t.is_constant}
        found = {}
        for tensor in self.graph.tensors:
            names = (name for name in self._related_names(tensor.index) if name in known)
            origin = known.get(next(names, ""))
            if origin is not None and not tensor.is_constant and origin.shape == tensor.shape:
                found[tensor.index] = origin.index
        return found

    def _related_names(self, tensor: int) -> Iterator[str]:
        """Names of a tensor and of what holds the same numbers in another type."""
        yield from self._known_names(tensor)
        producer = self.graph.producers.get(tensor)
        if producer is not None and producer.name in BOUNDARY:
            yield from self._related_names(producer.inputs[0])

    def where(self, op: Operator) -> str:
        """How reports name an op."""
        return f"{op.name} at {self.layer(op)} (op {op.index})"

    def layer(self, op: Operator) -> str:
        """Layer path of an op, or the name of its result where the float model has no such op."""
        origin = self.counterpart(op)
        return self.model.layer(origin) if origin else self.graph.tensors[op.outputs[0]].name

    def op_counts(self) -> dict[str, int]:
        """Number of ops by what they compute in, the most frequent first."""
        counts: dict[str, int] = {}
        for op in self.graph.operators:
            kind = self.kind(op)
            counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def kind(self, op: Operator) -> str:
        """What an op is counted as, for example `"float32 with int8 weights"`."""
        if op.name in BOUNDARY:
            stored = self.graph.tensors[op.inputs[0]].is_constant
            return "dequantize of weights" if stored else "quantize/dequantize"
        weights = {t.dtype for _, t in self.graph.operands(op) if t.is_constant}
        dynamic = next((k for k in ("int8", "int4", "int2") if k in weights), "")
        kind = self.dtype(op)
        return f"float32 with {dynamic} weights" if dynamic and kind == "float32" else kind

    def dtype(self, op: Operator) -> str:
        """What an op computes in: float32 as soon as one of its tensors is."""
        tensors = [self.graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
        kinds = [t.dtype for t in tensors]
        return next((k for k in ("float32", "int16", "int8") if k in kinds), kinds[-1])

    def integer_tensor(self, name: str, dtype: DType) -> Tensor | None:
        """What a tensor of the float model became; None if the converter folded it away.

        Args:
            name: Its name in the float model.
            dtype: What it was planned to become; ports may be of another type than what they hold.
        """
        tensor = self._by_name.get(name)
        if tensor is None or (tensor.qparams is not None and tensor.qparams.dtype is dtype):
            return tensor
        producer = self.graph.producers.get(tensor.index)
        if producer is not None and producer.name in BOUNDARY:
            return self.graph.tensors[producer.inputs[0]]
        readers = [op for op, _ in self.graph.uses.get(tensor.index, []) if op.name == "QUANTIZE"]
        return self.graph.tensors[readers[0].outputs[0]] if readers else None
