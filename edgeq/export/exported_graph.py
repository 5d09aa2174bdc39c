"""`ExportedGraph`: an exported graph beside the float graph that it came from. Checks nothing."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.model import LiteModel, layer
from edgeq.ops import BOUNDARY
from edgeq.qtypes import DType

"""Ops between float and integer, which no float model has."""

ROWS = "/rows"
"""Ends the name of a looked-up table's rows, which a RESHAPE gives their final shape."""

TWIN = "/int8"
"""Ends the name of what a tensor that the converter left float became in integers."""


class ExportedGraph:
    """The exported graph beside the float one.

    Args:
        model: The float model.
        graph: The exported graph.
        origins: For tensors of the exported graph, the float model's tensor that each came from.
    """

    def __init__(self, model: LiteModel, graph: Graph, origins: Mapping[int, int]) -> None:
        self.graph = graph
        self.model = model
        self._origins = origins

    @classmethod
    def by_name(cls, model: LiteModel, graph: Graph) -> ExportedGraph:
        """For a file of which nothing is known: tensors correspond by names that only one has."""
        own = {name: t.index for name, t in _unique_names(model.graph).items()}
        other = _unique_names(graph).items()
        names = {t.index: name.removesuffix(ROWS).removesuffix(TWIN) for name, t in other if name}
        return cls(model, graph, {i: own[name] for i, name in names.items() if name in own})

    def counterpart(self, op: Operator) -> Operator | None:
        """The float model's op that an exported op came from."""
        producers = self.model.graph.producers
        for output in op.outputs:
            for origin in self._known(output):
                if origin in producers:
                    return producers[origin]
        return None

    def _known(self, tensor: int) -> Iterator[int]:
        """Source of a tensor, and of the same numbers in another type behind it."""
        if tensor in self._origins:
            yield self._origins[tensor]
        for user, _ in self.graph.uses.get(tensor, []):
            if user.name in BOUNDARY:
                yield from self._known(user.outputs[0])

    def float_tensors(self) -> dict[int, int]:
        """For each computed tensor that the float model has too, its index there."""
        tensors = self.model.graph.tensors
        found = {}
        for tensor in self.graph.tensors:
            if tensor.is_variable:  # by the end of a run it holds something else
                continue
            related = (tensors[t] for t in self._related(tensor.index))
            origin = next((t for t in related if not t.is_constant), None)
            if origin is not None and not tensor.is_constant and origin.shape == tensor.shape:
                found[tensor.index] = origin.index
        return found

    def _related(self, tensor: int) -> Iterator[int]:
        """Source of a tensor, and of all that holds the same numbers in another type."""
        yield from self._known(tensor)
        producer = self.graph.producers.get(tensor)
        if producer is not None and producer.name in BOUNDARY:
            yield from self._related(producer.inputs[0])

    def where(self, op: Operator) -> str:
        """How reports name an op."""
        return f"{op.name} at {self.layer(op) or '?'} (op {op.index})"

    def layer(self, op: Operator) -> str:
        """Layer path of an op, or the name of its result where the float model has no such op."""
        origin = self.counterpart(op)
        return self.model.layer(origin) if origin else layer(self.graph, op)

    def op_counts(self) -> dict[str, int]:
        """Number of ops by what they compute in, the most frequent first."""
        counts: dict[str, int] = {}
        for op in self.graph.operators:
            kind = self.kind(op)
            counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def kind(self, op: Operator) -> str:
        """Kind that an op is counted as, for example `"float32 with int8 weights"`."""
        if op.name in BOUNDARY:
            source = self.graph.tensors[op.inputs[0]]
            if not source.is_constant:
                return "quantize/dequantize"
            return f"dequantize of {'float16 ' * (source.dtype == 'float16')}weights"
        weights = {t.dtype for _, t in self.graph.operands(op) if t.is_constant}
        dynamic = next((k for k in ("int8", "int4", "int2") if k in weights), "")
        kind = self.dtype(op)
        return f"float32 with {dynamic} weights" if dynamic and kind == "float32" else kind

    def dtype(self, op: Operator) -> str:
        """Type that an op computes in: float32 as soon as one of its tensors is."""
        tensors = [self.graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
        kinds = [t.dtype for t in tensors]
        known = (k for k in ("float32", "int16", "int8", *kinds[-1:]) if k in kinds)
        return next(known, "nothing")

    @functools.cached_property
    def _made(self) -> dict[int, Tensor]:
        """Counterpart of each tensor of the float model; of several, the one that is made last."""
        producers = self.graph.producers
        order = {t: producers[t].index if t in producers else -1 for t in self._origins}
        made = sorted(self._origins, key=lambda t: order[t])
        return {self._origins[t]: self.graph.tensors[t] for t in made}

    def integer_tensor(self, origin: int, dtype: DType) -> Tensor | None:
        """Counterpart of a tensor of the float model; None if the converter folded it away.

        Args:
            origin: Its index in the float model.
            dtype: What it was planned to become; ports may be of another type than what they hold.
        """
        tensor = self._made.get(origin)
        if tensor is None or (tensor.qparams is not None and tensor.qparams.dtype is dtype):
            return tensor
        producer = self.graph.producers.get(tensor.index)
        if producer is not None and producer.name in BOUNDARY:
            return self.graph.tensors[producer.inputs[0]]
        readers = [op for op, _ in self.graph.uses.get(tensor.index, []) if op.name == "QUANTIZE"]
        return self.graph.tensors[readers[0].outputs[0]] if readers else None


def _unique_names(graph: Graph) -> dict[str, Tensor]:
    """The tensors of a graph whose name no other has."""
    counts = Counter(tensor.name for tensor in graph.tensors)
    return {t.name: t for t in graph.tensors if counts[t.name] == 1}
