"""Integer inputs and outputs: what the user asks of the ports, and the file changed to have them.

The converter leaves ports float32, with a QUANTIZE behind each input and a DEQUANTIZE before each
output. A port of the type that the ops around it compute in takes that op's place: nothing is left
to convert. A port of another integer type keeps one QUANTIZE that changes the integers' type;
XNNPACK has none for that, so it runs outside the delegate.

uint8 has the scale of int8 and a zero point that is 128 higher. int16 has zero point 0 and covers
the same real numbers; it is no finer than the int8 behind it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeq.calibrate.observers import Fixed
from edgeq.errors import RecipeError
from edgeq.export.convert.tensor_identity import origins
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import Choice, Choices, static_obstacle, weight_slot
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.portspec import PortSpec, PortSpecs
from edgeq.flatbuffer import Graph, Operator, parse_tree, schema
from edgeq.flatbuffer.object_tree import op_code, quantization
from edgeq.flatbuffer.tensor_merger import TensorMerger
from edgeq.model import LiteModel
from edgeq.ops import OPS, Holds, ScaleRule
from edgeq.qtypes import DType, QParams, affine, symmetric
from edgeq.recipe import Mode

_QUANTIZE_VERSION = 2
"""From which the op writes int16."""


@dataclass(frozen=True)
class Interface:
    """Requested type and range of each float32 port, by name in the signature."""

    inputs: Mapping[str, PortSpec]
    outputs: Mapping[str, PortSpec]

    @classmethod
    def of(cls, model: LiteModel, inputs: PortSpecs, outputs: PortSpecs) -> Interface:
        """Resolves the requests for one model.

        Raises:
            RecipeError: It does not fit the model's ports.
        """
        signature, tensors = model.signature, model.graph.tensors
        found = cls(
            inputs.resolve({name: tensors[i].dtype for name, i in signature.inputs}),
            outputs.resolve({name: tensors[i].dtype for name, i in signature.outputs}),
        )
        found._check_states(model)
        return found

    def _check_states(self, model: LiteModel) -> None:
        """Raises a `RecipeError` for a state that goes out as another type than it comes in."""
        for taken, given in model.states:
            pair = self.inputs.get(taken, PortSpec()), self.outputs.get(given, PortSpec())
            if pair[0].dtype != pair[1].dtype:
                raise RecipeError(
                    f"inputs, outputs: {given!r} is fed back to {taken!r}, so that both must be of "
                    f"one type. Received: {pair[1].dtype} and {pair[0].dtype}"
                )

    def pinned(self, model: LiteModel, choices: Choices) -> dict[int, Choice]:
        """The choices, with the ops next to integer ports static where `Mode.AUTO` would decide."""
        graph, beside = model.graph, self._beside(model)
        return {
            index: replace(choice, mode=Mode.STATIC_INT8)
            if index in beside and _is_open(graph, index, choice)
            else choice
            for index, choice in choices.items()
        }

    def without_integers(self, model: LiteModel, ops: Collection[int]) -> frozenset[int]:
        """Those of some ops that may be float: none beside a port that shall be an integer."""
        return frozenset(ops).difference(self._beside(model))

    def integer_ports(self, model: LiteModel) -> frozenset[int]:
        """Tensors that come in or go out as integers."""
        return self._taken(model) | self._given(model)

    def _beside(self, model: LiteModel) -> set[int]:
        """Ops next to integer ports."""
        uses, made = model.graph.uses, model.graph.producers
        beside = {op.index for t in self._taken(model) for op, _ in uses.get(t, [])}
        return beside | {made[t].index for t in self._given(model) if t in made}

    def _taken(self, model: LiteModel) -> frozenset[int]:
        inputs = model.signature.inputs
        return frozenset(t for name, t in inputs if _is_integer(self.inputs.get(name)))

    def _given(self, model: LiteModel) -> frozenset[int]:
        outputs = model.signature.outputs
        return frozenset(t for name, t in outputs if _is_integer(self.outputs.get(name)))


def _is_open(graph: Graph, index: int, choice: Choice) -> bool:
    """Whether the search would decide whether an op is static, which it can be."""
    obstacle = static_obstacle(graph, graph.operators[index], Mode.STATIC_INT8)
    return choice.mode is Mode.AUTO and not obstacle


def _is_integer(spec: PortSpec | None) -> bool:
    return spec is not None and spec.dtype != "float32"


def known_ranges(model: LiteModel, interface: Interface) -> dict[int, Fixed]:
    """The observer of each tensor whose range is known beforehand, by tensor index.

    Raises:
        RecipeError: The range of an output cannot be chosen.
    """
    found = dict(_learned(model))
    for name, tensor in model.signature.inputs:
        spec = interface.inputs.get(name)
        if spec is not None and spec.range is not None:
            found[tensor] = Fixed(float(spec.range[0]), float(spec.range[1]))
    for name, tensor in model.signature.outputs:
        spec = interface.outputs.get(name)
        if spec is not None and spec.range is not None:
            known = Fixed(float(spec.range[0]), float(spec.range[1]))
            found.update(dict.fromkeys(_sources(model, name, tensor, known), known))
    return found


def _learned(model: LiteModel) -> Iterator[tuple[int, Fixed]]:
    """Ranges that training found for the activations that layers with a weight read."""
    ranges = {path: Fixed(low, high) for path, low, high in model.learned}
    for op in model.graph.operators if ranges else ():
        known = ranges.get(model.layer(op))
        if known is not None and weight_slot(model.graph, op) is not None:
            read = next(t.index for _, t in model.graph.operands(op) if not t.is_constant)
            with contextlib.suppress(RecipeError):  # behind a pool: calibrated like any other
                sources = _sources(model, model.layer(op), read, known)
                yield from dict.fromkeys(sources, known).items()


def _sources(model: LiteModel, name: str, tensor: int, known: Fixed) -> list[int]:
    """The measured tensors that an output takes its scale from."""
    op = model.graph.producers.get(tensor)
    row = OPS.get(op.name) if op else None
    if op is None or row is None or row.rule is ScaleRule.FREE:
        return [tensor]
    if row.fixed is not None:
        low, high = row.fixed.range()
        step = row.fixed.scale[0]
        if low - step <= known.low and known.high <= high + step:
            return []
        why = f"whose kernel dictates the range {low:g} to {high:g}"
    elif row.holds is Holds.ALL:
        read = [t for _, t in model.graph.operands(op) if t.dtype == "float32"]
        computed = [t.index for t in read if not t.is_constant]
        return [s for t in computed for s in _sources(model, name, t, known)]
    else:
        why = "which has the scale of what it reads, and that may hold other values as well"
    raise RecipeError(
        f"outputs: the range of {name!r} cannot be chosen, as it comes from {model.where(op)}, "
        f"{why}; leave the range out"
    )


def set_interface(model: LiteModel, plan: Plan, tree: Any, interface: Interface) -> None:
    """Gives a converted file the port types that were asked for.

    Args:
        model: The float model that the plan speaks of.
        plan: What became an integer.
        tree: The object tree of the file, its tensors numbered, which is changed.
        interface: What was asked for.

    Raises:
        RecipeError: What stands next to a port computes in float.
    """
    wanted = [*interface.inputs.values(), *interface.outputs.values()]
    if all(spec.dtype == "float32" for spec in wanted):
        return
    editor = _PortEditor(model, plan, tree)
    for name, spec in interface.inputs.items():
        if spec.dtype != "float32":
            editor.set_input(name, _dtype(spec))
    for name, spec in interface.outputs.items():
        if spec.dtype != "float32":
            editor.set_output(name, _dtype(spec))
    editor.finish()


def _dtype(spec: PortSpec) -> DType:
    return next(kind for kind in DType if kind.type_name == spec.dtype)


def _converted(qparams: QParams, dtype: DType) -> QParams:
    """Parameters of another integer type that hold the same real numbers."""
    if dtype is DType.INT16:
        return symmetric(max(map(abs, qparams.range())), dtype)
    if dtype.bits != qparams.dtype.bits:
        return affine(*qparams.range(), dtype)
    shift = dtype.limits()[0] - qparams.dtype.limits()[0]
    return QParams(dtype, qparams.scale, (qparams.zero_point[0] + shift,))


class _PortEditor:
    """Changes the ports of one converted file."""

    def __init__(self, model: LiteModel, plan: Plan, tree: Any) -> None:
        parsed = parse_tree(tree)
        self._graph = parsed.graphs[0]
        self._exported = ExportedGraph(model, self._graph, origins(self._graph))
        self._inputs = dict(parsed.signatures[0].inputs)
        self._outputs = dict(parsed.signatures[0].outputs)
        self._plan = plan
        self._tree = tree
        self._entry = self._tree.subgraphs[0]
        self._merger = TensorMerger(self._tree)

    def set_input(self, name: str, dtype: DType) -> None:
        """Gives an input a type; all that reads it must be a QUANTIZE."""
        tensor = self._inputs[name]
        readers = [op for op, _ in self._graph.uses.get(tensor, [])]
        wrong = [op for op in readers if op.name != "QUANTIZE"]
        if wrong:
            raise _refusal("inputs", name, dtype, f"it is read by {self._float_op(wrong[0])}")
        if not readers or tensor in self._graph.outputs:
            raise _refusal("inputs", name, dtype, "it is an output itself, or no op reads it")
        behind = [self._qparams(op.outputs[0]) for op in readers]
        own = behind[0] if behind[0].dtype is dtype else _converted(behind[0], dtype)
        self._set(tensor, own)
        for op, qparams in zip(readers, behind, strict=True):
            if qparams == own:
                self._merger.merge(tensor, op.outputs[0])
                self._merger.drop(op.index)

    def set_output(self, name: str, dtype: DType) -> None:
        """Gives an output a type; a DEQUANTIZE must compute it."""
        tensor = self._outputs[name]
        op = self._graph.producers.get(tensor)
        if op is None:
            raise _refusal("outputs", name, dtype, "it is an input itself")
        if op.name != "DEQUANTIZE":
            raise _refusal("outputs", name, dtype, f"it comes from {self._float_op(op)}")
        before = self._qparams(op.inputs[0])
        self._take_away(op)
        if before.dtype is dtype:
            self._set(self._merger.merge(op.inputs[0], tensor), before)
        else:
            self._set(tensor, _converted(before, dtype))
            self._quantize(op.inputs[0], tensor)

    def finish(self) -> None:
        """Puts the changes into the tree."""
        self._merger.apply()

    def _float_op(self, op: Operator) -> str:
        origin = self._exported.counterpart(op)
        reason = self._plan.float_ops.get(origin.index) if origin else None
        return f"{self._exported.where(op)}, which is float" + (f" ({reason})" if reason else "")

    def _qparams(self, tensor: int) -> QParams:
        found = self._graph.tensors[tensor].qparams
        assert found is not None  # one side of a QUANTIZE or DEQUANTIZE
        return found

    def _set(self, tensor: int, qparams: QParams) -> None:
        entry = self._entry.tensors[tensor]
        entry.type = getattr(schema.TensorType, qparams.dtype.name)
        entry.quantization = quantization(qparams)

    def _take_away(self, op: Operator) -> None:
        """Lets a DEQUANTIZE write a tensor of its own for float ops; without any it goes."""
        (tensor,) = op.outputs
        readers = [
            self._entry.operators[user.index] for user, _ in self._graph.uses.get(tensor, [])
        ]
        if not readers:
            self._merger.drop(op.index)
            return
        twin = copy.copy(self._entry.tensors[tensor])
        twin.name += b"/float32"
        self._entry.tensors.append(twin)
        own = len(self._entry.tensors) - 1
        self._entry.operators[op.index].outputs = np.asarray([own], np.int32)
        for reader in readers:
            reader.inputs = np.where(reader.inputs == tensor, own, reader.inputs)

    def _quantize(self, source: int, target: int) -> None:
        op = schema.OperatorT()
        op.opcodeIndex = op_code(self._tree, "QUANTIZE", _QUANTIZE_VERSION)
        op.inputs = np.asarray([source], np.int32)
        op.outputs = np.asarray([target], np.int32)
        op.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        op.builtinOptions = schema.QuantizeOptionsT()
        self._entry.operators.append(op)


def _refusal(side: str, name: str, dtype: DType, why: str) -> RecipeError:
    return RecipeError(
        f"{side}: {name!r} cannot be {dtype.numpy_name}: {why}. Leave it float32 with "
        f"{side}={{...}}, or let the ops next to it become int8"
    )
