"""Joins what the converter left float: an op between DEQUANTIZE and QUANTIZE reads the integers.

The converter quantizes an op only where every result goes into a quantization and where no other
reader of its input stands in the way; this finishes the ops that the plan makes int8 all the same.
What float ops compute for one another never was an integer, whoever else reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edgeq.export.convert.tensor_identity import origins
from edgeq.export.exported_graph import TWIN, ExportedGraph
from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Operator, op_name, parse_tree, schema
from edgeq.flatbuffer.object_tree import op_code, quantization
from edgeq.model import LiteModel
from edgeq.ops import OPS
from edgeq.qtypes import QParams

_DEQUANTIZE_VERSION = 2
"""Version from which the op reads int8."""


def join_integers(
    model: LiteModel, plan: Plan, tree: Any, integer_ports: Collection[int] = ()
) -> None:
    """Changes an object tree so that every planned int8 op reads the integers around it.

    Args:
        model: The float model.
        plan: What becomes an integer.
        tree: The tree, which is changed.
        integer_ports: Tensors of the float model that come in or go out as integers.
    """
    graph = parse_tree(tree).graphs[0]
    found = origins(graph)
    exported = ExportedGraph(model, graph, found)
    joiner = _Joiner(tree)
    for op in exported.graph.operators:
        origin = exported.counterpart(op)
        planned_float = plan.with_float_activations
        if op.name in OPS and origin is not None and origin.index not in planned_float:
            joiner.join(op, [plan.tensors.get(t) for t in origin.outputs])
    if joiner.joined:
        joiner.finish()
    given, asked = model.given_qparams, frozenset(integer_ports)
    joiner.read_floats(
        {tensor for tensor, origin in found.items() if origin in given},
        {tensor for tensor, origin in found.items() if origin in asked},
    )


def widen_biases(tree: Any) -> None:
    """Makes the biases of int16 ops int64 in an object tree where their kernels read that."""
    graph = tree.subgraphs[0]
    for op in graph.operators:
        name, _ = op_name(tree.operatorCodes[op.opcodeIndex])
        slots = _wide_bias(name)
        if slots is None or len(op.inputs) <= max(slots):
            continue
        activation, bias = (graph.tensors[op.inputs[slot]] for slot in slots)
        kinds = activation.type, bias.type
        if kinds == (schema.TensorType.INT16, schema.TensorType.INT32):
            buffer = schema.BufferT()
            content = np.asarray(tree.buffers[bias.buffer].data, np.uint8).view(np.int32)
            buffer.data = content.astype(np.int64).view(np.uint8)
            tree.buffers.append(buffer)
            bias.type, bias.buffer = schema.TensorType.INT64, len(tree.buffers) - 1


def _wide_bias(name: str) -> tuple[int, int] | None:
    """Operand slots of the activation and the bias of an op whose int16 form has an int64 one."""
    row = OPS.get(name)
    if row is None or row.weight is None or row.bias is None or not row.bias.is_int64:
        return None
    return row.weight.source, row.bias.slot


class _Joiner:
    """Edits the main graph of a schema object tree."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._after: dict[int, list[Any]] = {}
        self._integers = {int(op.outputs[0]): int(op.inputs[0]) for op in self._ops("DEQUANTIZE")}
        self.joined = False

    def _ops(self, name: str) -> list[Any]:
        wanted = getattr(schema.BuiltinOperator, name)
        codes = self._tree.operatorCodes
        return [
            op
            for op in self._graph.operators
            if max(codes[op.opcodeIndex].builtinCode, codes[op.opcodeIndex].deprecatedBuiltinCode)
            == wanted
        ]

    def _is_float(self, tensor: int) -> bool:
        return tensor >= 0 and self._graph.tensors[tensor].type == schema.TensorType.FLOAT32

    def join(self, op: Operator, planned: list[QParams | None]) -> None:
        """Makes one op read and write integers, if all it reads comes from integers."""
        reads = [int(t) for t in op.inputs if self._is_float(t)]
        writes = [t for t in op.outputs if self._is_float(t)]
        if not (reads or writes) or any(t not in self._integers for t in reads):
            return
        entry = self._graph.operators[op.index]
        entry.inputs = np.asarray([self._integers.get(t, t) for t in op.inputs], np.int32)
        outputs = list(op.outputs)
        for slot, tensor in enumerate(op.outputs):
            qparams = planned[slot]
            if self._is_float(tensor) and qparams is not None:
                outputs[slot] = self._integer_twin(tensor, qparams)
                self._integers[tensor] = outputs[slot]
                self._after.setdefault(op.index, []).append(self._dequantize(outputs[slot], tensor))
        entry.outputs = np.asarray(outputs, np.int32)
        code = self._tree.operatorCodes[entry.opcodeIndex]
        code.version = max(code.version, OPS[op.name].int8_version)
        self.joined = True

    def _integer_twin(self, tensor: int, qparams: QParams) -> int:
        old = self._graph.tensors[tensor]
        twin = schema.TensorT()
        twin.name = old.name + TWIN.encode()
        twin.shape, twin.shapeSignature = old.shape, old.shapeSignature
        twin.type, twin.buffer = schema.TensorType.INT8, 0
        twin.quantization = quantization(qparams)
        self._graph.tensors.append(twin)
        return len(self._graph.tensors) - 1

    def _dequantize(self, source: int, target: int) -> Any:
        op = schema.OperatorT()
        op.opcodeIndex = op_code(self._tree, "DEQUANTIZE", _DEQUANTIZE_VERSION)
        op.inputs = np.asarray([source], np.int32)
        op.outputs = np.asarray([target], np.int32)
        op.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        op.builtinOptions = schema.DequantizeOptionsT()
        return op

    def finish(self) -> None:
        """Puts the changes into the tree, without the conversions that nothing reads any more."""
        operators = []
        for index, op in enumerate(self._graph.operators):
            operators += [op, *self._after.get(index, [])]
        self._graph.operators = operators
        self._skip_round_trips()
        for name in ("QUANTIZE", "DEQUANTIZE"):
            self._drop_unread(name)

    def read_floats(self, kept: Collection[int], asked: Collection[int]) -> None:
        """Float ops and ports have what is float in front, not the integers others make of it.

        Args:
            kept: Tensors whose rounding belongs to the model.
            asked: Tensors that come in or go out as integers.
        """
        made = {int(t): op for op in self._graph.operators for t in op.outputs}
        taken = {int(t) for t in self._graph.inputs} - {*asked}
        undone = {id(op) for op in self._ops("DEQUANTIZE")}
        exact = {}
        for op in self._ops("QUANTIZE"):
            source = int(op.inputs[0])
            is_exact = source in taken or (source in made and id(made[source]) not in undone)
            if is_exact and self._is_float(source) and source not in kept:
                exact[int(op.outputs[0])] = source
        same = {
            int(op.outputs[0]): exact[int(op.inputs[0])]
            for op in self._ops("DEQUANTIZE")
            if int(op.inputs[0]) in exact
        }
        self._reroute(same)
        self._put_out({t: source for t, source in same.items() if not {t, source} & {*asked}})
        for name in ("DEQUANTIZE", "QUANTIZE"):
            self._drop_unread(name)

    def _put_out(self, same: Mapping[int, int]) -> None:
        """Puts some tensors out in place of others."""
        self._graph.outputs = np.asarray(
            [same.get(int(t), int(t)) for t in self._graph.outputs], np.int32
        )
        for signature in self._tree.signatureDefs or ():
            for port in signature.outputs:
                port.tensorIndex = same.get(port.tensorIndex, port.tensorIndex)

    def _reroute(self, same: Mapping[int, int]) -> None:
        """Makes readers of some tensors read others."""
        for op in self._graph.operators:
            op.inputs = np.asarray([same.get(int(t), int(t)) for t in op.inputs], np.int32)

    def _skip_round_trips(self) -> None:
        """Readers of a QUANTIZE that undoes a DEQUANTIZE read the integers behind both."""
        same = {}
        for op in self._ops("QUANTIZE"):
            source = self._integers.get(int(op.inputs[0]))
            if source is None:
                continue
            if self._equal(source, int(op.outputs[0])):
                same[int(op.outputs[0])] = source
            else:
                op.inputs = np.asarray([source], np.int32)
        self._reroute(same)

    def _equal(self, one: int, other: int) -> bool:
        a, b = (self._graph.tensors[t].quantization for t in (one, other))
        return np.array_equal(a.scale, b.scale) and np.array_equal(a.zeroPoint, b.zeroPoint)

    def _drop_unread(self, name: str) -> None:
        read = {int(t) for op in self._graph.operators for t in op.inputs}
        read |= {int(t) for t in self._graph.outputs}
        dead = {id(op) for op in self._ops(name) if int(op.outputs[0]) not in read}
        self._graph.operators = [op for op in self._graph.operators if id(op) not in dead]
