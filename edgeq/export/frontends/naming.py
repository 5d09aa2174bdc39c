"""Names tensors by the layers of the framework that the model comes from.

The converter names what it computes by where the framework said it came from, joins the names of
what it fuses, in no fixed order, and names an output by the signature alone. How a layer is written
in such a name differs between frameworks; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, parse, rename_tensors
from edgeq.ops import OPS


def named_by_layer(
    tflite: Content,
    layers_in: Callable[[str], list[str]],
    layers: Iterable[str] = (),
    outputs: Mapping[str, str] | None = None,
) -> Content:
    """The same file with every tensor of the main graph named by its layer.

    Args:
        tflite: The float model as the converter wrote it.
        layers_in: The layer paths that a tensor's name is made of.
        layers: Layer paths in the order they run, as far as it is known.
        outputs: The layer that computes each output, by its name; by default the name itself.
    """
    model = parse(tflite)
    ends = model.signatures[0].outputs if model.signatures else ()
    named = {tensor: (outputs or {}).get(name, name) for name, tensor in ends}
    return rename_tensors(tflite, _Naming(model.graphs[0], layers_in, layers, named).name)


class _Naming:
    """Names every tensor by the layer that computes or owns it, `#n` where it has several."""

    def __init__(
        self,
        graph: Graph,
        layers_in: Callable[[str], list[str]],
        layers: Iterable[str],
        outputs: Mapping[int, str],
    ) -> None:
        self._graph = graph
        self._layers_in = layers_in
        self._order = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
        self._outputs = outputs
        self._taken: dict[str, int] = {}
        self._names = {i: graph.tensors[i].name for i in graph.inputs}
        for op in graph.operators:
            self._add(op)

    def name(self, tensor: int, old: str) -> str:
        """The new name of a tensor."""
        return self._names.get(tensor, old)

    def _add(self, op: Operator) -> None:
        layer = self._layer(op)
        self._names.update({tensor: self._unique(layer) for tensor in op.outputs})
        for slot, tensor in self._graph.operands(op):
            if tensor.is_constant and tensor.index not in self._names:
                self._names[tensor.index] = self._unique(f"{layer}/operand_{slot}")

    def _unique(self, name: str) -> str:
        name = name.replace(",", "_")  # by which the converter separates the names of outputs
        self._taken[name] = self._taken.get(name, -1) + 1
        return f"{name}#{self._taken[name]}" if self._taken[name] else name

    def _layer(self, op: Operator) -> str:
        """The layer that owns an op's weight; without one, the layer that computes its output."""
        constants = (t.index for _, t in self._graph.operands(op) if t.is_constant)
        # Some converters name what is an output by the signature alone.
        named = (found for t in (*op.outputs, *constants) if (found := self._joined(t)))
        computing = next(named, [])
        row = OPS.get(op.name)
        if row is not None and row.weight is not None:
            owning = self._joined(op.inputs[row.weight.slot])
            # Equal weights of several layers become one tensor, with the name of one of them.
            owning = [layer for layer in owning if layer in computing] if computing else owning
            if owning or computing:
                return min(owning or computing, key=self._position)
        if computing or not op.outputs:
            return computing[-1] if computing else op.name.lower()
        output = op.outputs[0]
        return self._outputs.get(output, self._graph.tensors[output].name)

    def _position(self, layer: str) -> int:
        return self._order.get(layer, len(self._order))

    def _joined(self, tensor: int) -> list[str]:
        return self._layers_in(self._graph.tensors[tensor].name) if tensor >= 0 else []


def named_parts(result: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What is inside dicts, lists and tuples, by keys and places that `_` joins; but no None."""
    if isinstance(result, Mapping):
        parts = [(str(key), part) for key, part in result.items()]
    elif isinstance(result, list | tuple):
        parts = [(str(place), part) for place, part in enumerate(result)]
    else:
        if result is not None:
            yield "_".join(path), result
        return
    for name, part in parts:
        yield from named_parts(part, (*path, name))
