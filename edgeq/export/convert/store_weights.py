"""Writes the weights of ops that read and write float as integers or float16.

The converter is not asked: it would make some of these ops static and leave others alone. What it
gets to see of them are custom ops (see `hide`); this edits the file that it gives back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.export.convert.tensor_identity import origins
from edgeq.export.exported_graph import ROWS, ExportedGraph
from edgeq.export.plan.quantization_plan import Plan, Stored
from edgeq.flatbuffer import Operator, Tensor, parse_tree
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import BlockQParams, QParams, pack_bits, quantize, quantize_blocks
from edgeq.versions import dequantize_version, stored_weight_version


def store_weights(model: LiteModel, plan: Plan, tree: Any) -> Any:
    """The object tree of a converted file with the weights stored as planned.

    Args:
        model: The float model that the plan speaks of.
        plan: Its `stored` weights are written; nothing else is changed.
        tree: Of the converted file, or of the float model itself where nothing had to be converted;
            its tensors are numbered.
    """
    if not plan.stored:
        return tree
    graph = parse_tree(tree).graphs[0]
    exported = ExportedGraph(model, graph, origins(graph))
    return _Writer(GraphEditor(tree), exported, plan).write()


class _Writer:
    """Replaces the float constants of one file by stored ones."""

    def __init__(self, editor: GraphEditor, exported: ExportedGraph, plan: Plan) -> None:
        self._editor = editor
        self._graph = exported.graph
        self._wanted = dict(_wanted(exported, plan))
        self._weights: dict[tuple[int, Stored], int] = {}

    def write(self) -> Any:
        self._editor.replace(self._replacement)
        return self._editor.tree

    def _replacement(self, index: int) -> Sequence[Any] | None:
        op = self._graph.operators[index]
        if index not in self._wanted:
            return None
        before: list[Any] = []
        inputs, version, chosen = list(op.inputs), op.version, dict[str, Any]()
        for slot, stored in self._wanted[index].items():
            weight = self._graph.tensors[op.inputs[slot]]
            if op.name == "GATHER" and stored.dynamic:
                return self._lookup(op, self._constant(weight, stored))
            if (weight.index, stored) not in self._weights:
                source = self._constant(weight, stored)
                if not stored.dynamic:
                    made, source = self._dequantized(weight, source, stored)
                    before += made
                self._weights[weight.index, stored] = source
            inputs[slot] = self._weights[weight.index, stored]
            if stored.dynamic:
                version = max(_version(op.name, stored), version)
                chosen = {k: v for k, v in DYNAMIC_OPTIONS.items() if hasattr(op.options, k)}
        return [*before, self._editor.copied(index, inputs, op.outputs, version, **chosen)]

    def _constant(self, weight: Tensor, stored: Stored) -> int:
        """Index of the stored constant; it takes the float one's place if that has no other use."""
        values, kind = _stored_bytes(weight, stored)
        readers = [(op.index, slot) for op, slot in self._graph.uses[weight.index]]
        if all(self._wanted.get(i, {}).get(slot) == stored for i, slot in readers):
            return self._editor.retyped(weight.index, kind, values, stored.qparams)
        return self._editor.stored(weight.name, weight.shape, kind, values, stored.qparams)

    def _dequantized(self, weight: Tensor, source: int, stored: Stored) -> tuple[list[Any], int]:
        """The op that makes a stored weight float, and the tensor that it writes."""
        made = self._editor.tensor(f"{weight.name}/float", weight.shape)
        version = dequantize_version(_kind(stored))
        return [self._editor.op("DEQUANTIZE", [source], [made], version)], made

    def _lookup(self, op: Operator, table: int) -> Sequence[Any]:
        """A GATHER of rows as EMBEDDING_LOOKUP, whose kernel makes only the picked rows float."""
        indices, output = (self._graph.tensors[t] for t in (op.inputs[1], op.outputs[0]))
        count, width = math.prod(indices.shape), output.shape[-1]
        flat = self._editor.typed(f"{output.name}/indices", (count,), indices.dtype)
        rows = self._editor.tensor(f"{output.name}{ROWS}", (count, width))
        lookup = "EMBEDDING_LOOKUP"
        version = stored_weight_version(lookup, "int8", True)
        return [
            self._editor.reshape(indices.index, flat, (count,)),
            self._editor.op(lookup, [flat, table], [rows], version),
            self._editor.reshape(rows, output.index, output.shape),
        ]


DYNAMIC_OPTIONS = {"asymmetricQuantizeInputs": True}
"""Options of a dynamic-range op, where its options table has them."""


def _wanted(exported: ExportedGraph, plan: Plan) -> Iterator[tuple[int, Mapping[int, Stored]]]:
    """How weights of each op of the file are to be stored, by operand slot."""
    places: dict[int, dict[int, Stored]] = {}
    for (index, slot), stored in plan.stored.items():
        places.setdefault(index, {})[slot] = stored
    for op in exported.graph.operators:
        origin = exported.counterpart(op)
        if origin is not None and origin.index in places and origin.name == op.name:
            yield op.index, places[origin.index]


def _version(name: str, stored: Stored) -> int:
    """From which an op reads such weights beside float activations."""
    one_scale = isinstance(stored.qparams, QParams) and stored.qparams.axis is None
    return stored_weight_version(name, _kind(stored), one_scale)


def _kind(stored: Stored) -> str:
    return "float16" if stored.qparams is None else stored.qparams.dtype.type_name


def _stored_bytes(weight: Tensor, stored: Stored) -> tuple[npt.NDArray[np.uint8], str]:
    """Stored numbers of a weight, and their type."""
    assert weight.data is not None
    if stored.qparams is None:
        half = weight.data.astype(np.float16)
        return half.reshape(-1).view(np.uint8), "float16"
    if isinstance(stored.qparams, BlockQParams):
        integers = quantize_blocks(weight.data, stored.qparams)
    else:
        integers = quantize(weight.data, stored.qparams)
    return pack_bits(integers, stored.qparams.dtype), stored.qparams.dtype.type_name
