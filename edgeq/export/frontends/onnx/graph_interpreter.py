"""Runs an ONNX graph on a sample and writes down what depends on the input.

Everything that is the same for every input of these shapes is computed here and now: shapes and
what is computed of them, branches, numbers of turns of a loop. What is left is a straight line of
steps, each a function of PyTorch tensors.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from edgeq.errors import ModelError, UnsupportedOpError
from edgeq.export.frontends.arguments import first_line
from edgeq.export.frontends.onnx.definitions import definition_of, with_defaults, without_form
from edgeq.export.frontends.onnx.onnx_file import (
    MOST_NODES,
    Body,
    OnnxModel,
    read_body,
    read_nodes,
)
from edgeq.export.frontends.onnx.op_table import Node, Row, find, find_flow
from edgeq.export.frontends.onnx.operators.integer_ops import Grid, Gridded, Weights, taken_apart
from edgeq.isolation import is_out_of_memory

MOST_TURNS = 4096
"""A loop with more turns is refused: each turn becomes ops of its own."""

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Value:
    """Results of a node.

    Attributes:
        tensor: Its numbers for the sample; of a quantized value those that its integers stand for.
        depends: The model's inputs that it depends on; a value that depends on none is known.
        index: Its number among those that steps compute; -1 where it is known.
        grid: What its integers stand for, of a quantized value.
        weights: The integers that a constant was stored in.
    """

    tensor: Tensor
    depends: frozenset[str] = NOTHING
    index: int = -1
    grid: Grid | None = None
    weights: Grid | None = None

    @property
    def plain(self) -> Tensor:
        """Its numbers, integers where it is quantized."""
        return self.tensor if self.grid is None else self.grid.integers(self.tensor)


@dataclass(frozen=True)
class Operand:
    """An input of a step: a constant, or a value that an earlier one computes."""

    value: Value
    take: Callable[[Tensor], Any]


@dataclass(frozen=True)
class Step:
    """One function of tensors.

    Attributes:
        node: The node that it computes.
        arguments: What the function takes: operands, arrays and None.
        compute: The function.
        outputs: Numbers of the values that it computes; -1 for those that are known.
    """

    node: Node
    arguments: tuple[Any, ...]
    compute: Callable[..., Any]
    outputs: tuple[int, ...]

    def operands(self) -> list[Operand]:
        """Those of its inputs that are tensors."""
        return [a for a in self.arguments if isinstance(a, Operand)]

    def run(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Runs the node on the tensors of its operands."""
        given = iter(tensors)
        arguments = [a.take(next(given)) if isinstance(a, Operand) else a for a in self.arguments]
        made = self.compute(self.node, *arguments)
        return tuple(made) if isinstance(made, tuple | list) else (made,)


@dataclass
class Program:
    """A model for inputs of fixed shapes.

    Attributes:
        inputs: The values of the model's inputs, by name.
        steps: What is computed, in order.
        outputs: The values of the model's outputs, by name.
        notes: What was taken from the sample.
        trail: The values of the main graph, by name.
        fixed: The values of inputs that decide over shapes or branches, by name.
    """

    inputs: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trail: Mapping[str, Value] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)


class NotKnown(Exception):  # noqa: N818  # the interpreter may find a way around it
    """A node needs a value that differs between inputs. `.depends` are the model's inputs."""

    def __init__(self, node: Node, what: str, depends: frozenset[str]) -> None:
        super().__init__(what)
        self.node = node
        self.depends = depends

    def as_error(self) -> UnsupportedOpError:
        """The same as an error for the user."""
        names = ", ".join(repr(name) for name in sorted(self.depends))
        return self.node.refused(
            f"needs {self}, but the values of {names} decide over that; the runtime has fixed "
            "shapes and no branches: export the parts of the model before and behind it"
        )


def specialised(model: OnnxModel, arguments: Mapping[str, Tensor]) -> Program:
    """The model for inputs of the shapes of a sample.

    An input of one element that decides over shapes or branches keeps the sample's value.

    Raises:
        UnsupportedOpError: An op is unknown, or needs what is not known beforehand.
        ModelError: The graph is damaged.
    """
    fixed: set[str] = set()
    while True:
        try:
            return Interpreter(model, arguments, fixed).run()
        except NotKnown as found:
            single = {name for name in found.depends if arguments[name].numel() == 1}
            if single != found.depends or not single - fixed:
                raise found.as_error() from None
            fixed |= single


class Interpreter:
    """Runs a model's nodes, one after the other.

    Args:
        model: The model.
        arguments: A sample by input name.
        fixed: Inputs that are taken as constants.
    """

    def __init__(self, model: OnnxModel, arguments: Mapping[str, Tensor], fixed: set[str]) -> None:
        self._model = model
        self._arguments = arguments
        self._fixed = fixed
        self._count = 0
        self._run = 0
        self._is_cut = False
        self.program = Program()

    def run(self) -> Program:
        """Runs the whole graph."""
        scope: MutableMapping[str, Value] = {}
        for port in self._model.inputs:
            tensor = self._arguments[port.name]
            given = Value(tensor, frozenset([port.name]), self._next())
            self.program.inputs[port.name] = given
            scope[port.name] = Value(tensor) if port.name in self._fixed else given
        for name in sorted(self._fixed):
            value = float(self._arguments[name].reshape(()))
            self.program.fixed[name] = value
            self.program.notes.append(_fixed_note(name, value))
        self.program.trail = scope
        with torch.no_grad():
            self.run_body(self._model.body, scope)
        for name in self._model.outputs:
            found = self.value(scope, name, "the model's output")
            if not isinstance(found, Value):
                raise ModelError(
                    f"output {name!r} of the ONNX model is a sequence, and a file returns tensors "
                    "alone: return its parts (SequenceAt) or join them (ConcatFromSequence)"
                )
            self.program.outputs[name] = found
        return self.program

    def run_body(self, body: Body, scope: MutableMapping[str, Value]) -> None:
        """Runs the nodes of a graph or a body, whose values go into `scope`."""
        scope.update({name: Value(tensor) for name, tensor in body.constants.items()})
        for node in body.nodes:
            self.run_node(node, scope)

    def nested(
        self, graph: Any, scope: MutableMapping[str, Value], given: Sequence[Value]
    ) -> list[Value]:
        """Runs a body in an attribute; it also sees the values around it."""
        body = read_body(graph, self._model.opsets)
        own = ChainMap[str, Value]({}, scope)
        own.update(dict(zip(body.inputs, given, strict=False)))
        self.run_body(body, own)
        return [self.value(own, name, "the result of a body") for name in body.outputs]

    def value(self, scope: Mapping[str, Value], name: str, reader: str) -> Value:
        """A value by name.

        Raises:
            ModelError: Nothing has computed it.
        """
        if name not in scope:
            raise ModelError(
                f"the ONNX graph is damaged: {reader} is {name!r}, which no node before computes"
            )
        return scope[name]

    def known(self, node: Node, what: str, value: Value) -> Any:
        """The numbers of a value that must not differ between inputs, as an array."""
        if value.depends:
            raise NotKnown(node, what, value.depends)
        return value.plain.numpy()

    def differs(self, value: Value) -> bool:
        """Whether a value depends on an input that the sample's value cannot stand for."""
        return any(self._arguments[name].numel() != 1 for name in value.depends)

    def run_node(self, node: Node, scope: MutableMapping[str, Value]) -> None:
        """Runs one node, or those that it stands for."""
        self._run += 1
        if self._run > MOST_NODES:
            raise node.refused(
                f"is reached after {MOST_NODES:,} others have run: loops and functions are written "
                "out, and these are too many"
            )
        given = [
            self.value(scope, name, f"an input of {node.where}") if name else None
            for name in node.inputs
        ]
        flow = find_flow(node)
        if flow is None and not all(isinstance(v, Value) for v in given if v is not None):
            raise node.refused("reads a sequence of tensors, where a file has tensors alone")
        if flow is not None:
            made = flow(self, node, given, scope)
        elif (row := find(node)) is not None:
            made = self.compute(node, row, given)
        else:
            made = self._parts(node, given, scope)
        scope.update({n: v for n, v in zip(node.outputs, made, strict=False) if n})

    def _parts(
        self, node: Node, given: Sequence[Value | None], scope: MutableMapping[str, Value]
    ) -> list[Value]:
        """Runs the nodes that a node without a row of its own stands for."""
        parts = taken_apart(node)
        if parts is not None:
            own = ChainMap[str, Value]({}, scope)
            for part in parts:
                self.run_node(part, own)
            return [own[name] for name in node.outputs]
        function = definition_of(node, [None if v is None else v.plain for v in given])
        if function is None:
            raise node.refused(without_form(node))
        opsets = {entry.domain: entry.version for entry in function.opset_import}
        inside: dict[str, Value] = {
            name: value for name, value in zip(function.input, given, strict=False)
            if value is not None
        }  # fmt: skip
        missing = [name for name in function.input if name not in inside]
        for part in read_nodes(function.node, opsets, with_defaults(node), node.name):
            kept = tuple("" if name in missing else name for name in part.inputs)
            self.run_node(_with_inputs(part, kept), inside)
        wanted = zip(node.outputs, function.output, strict=False)
        nothing = Value(torch.empty(0))
        return [self.value(inside, n, node.where) if own else nothing for own, n in wanted]

    def compute(self, node: Node, row: Row, given: Sequence[Value | None]) -> list[Value]:
        """Runs a node by its row of the table; a step is kept where its inputs are not known."""
        node = replace(node, is_cut=self._is_cut)
        arguments = [self._argument(node, row, slot, v) for slot, v in enumerate(given)]
        step = Step(node, tuple(arguments), row.compute, ())
        operands = step.operands()
        read = [a for i, a in enumerate(arguments) if i not in row.typed]
        depends = NOTHING.union(*(a.value.depends for a in read if isinstance(a, Operand)))
        try:
            made = step.run([operand.value.tensor for operand in operands])
        except UnsupportedOpError:
            raise
        except Exception as error:  # PyTorch refuses what the file asks for
            shapes = ", ".join(str(tuple(o.value.tensor.shape)) for o in operands) or "none"
            why = first_line(error)
            if is_out_of_memory(why):
                why = "it asks for more memory than edgeq gives a model of this size"
            raise ModelError(
                f"ONNX op {node.where} cannot be computed of inputs {shapes}: {why}"
            ) from None
        values = [self._made(row, slot, v, depends, given) for slot, v in enumerate(made)]
        if depends:
            numbers = tuple(value.index for value in values)
            self.program.steps.append(Step(node, tuple(arguments), row.compute, numbers))
        return values

    def _argument(self, node: Node, row: Row, slot: int, value: Value | None) -> Any:
        """Argument of a row's function for an input."""
        if value is None:
            return None
        if slot in row.known and not (value.depends and slot in row.either):
            if value.depends and slot in row.sampled:
                self._note_sampled(node)
                return value.plain.numpy()
            return self.known(node, f"its input {slot} beforehand", value)
        grid = value.grid
        if grid is None or (row.keeps_grid and slot == 0):
            return Operand(value, lambda tensor: tensor)
        if row.takes_grid:
            return Operand(value, lambda tensor: Gridded(tensor, grid))
        return Operand(value, grid.integers)

    def _made(
        self, row: Row, slot: int, made: Any, depends: frozenset[str], given: Sequence[Value | None]
    ) -> Value:
        """The value of an output."""
        depends = NOTHING if slot in row.fixed else depends
        index = self._next() if depends else -1
        if isinstance(made, Gridded):
            return Value(made.real, depends, index, made.grid)
        if isinstance(made, Weights):
            return Value(made.real, depends, index, weights=None if depends else made.grid)
        source = given[0] if given else None
        grid = source.grid if row.keeps_grid and source is not None else None
        return Value(made, depends, index, grid)

    def _next(self) -> int:
        self._count += 1
        return self._count - 1

    def _note_sampled(self, node: Node) -> None:
        self._is_cut = True
        note = (
            f"the number of values of {node.where} depends on the input; in the file it is that of "
            "the sample, and inputs that want another are cut or filled up"
        )
        if note not in self.program.notes:
            self.program.notes.append(note)


def _with_inputs(node: Node, inputs: tuple[str, ...]) -> Node:
    return Node(node.name, node.op, node.domain, node.version, node.attributes, inputs,
                node.outputs, node.proto)  # fmt: skip


def _fixed_note(name: str, value: float) -> str:
    return (
        f"input {name!r} decides over shapes or branches; in the file it is always {value:g}, as "
        "in the sample"
    )


def turns(node: Node, count: float) -> int:
    """The number of turns of a loop.

    Raises:
        UnsupportedOpError: They are too many to be ops of their own.
    """
    if count > MOST_TURNS:
        many = "without end" if math.isinf(count) else f"{count:.0f} times"
        raise node.refused(f"runs {many}; up to {MOST_TURNS} turns are unrolled")
    return int(count)
