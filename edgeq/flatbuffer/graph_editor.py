"""`GraphEditor` adds to a graph of a .tflite file.

Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.files import Content
from edgeq.flatbuffer.generated_schema import schema
from edgeq.flatbuffer.object_tree import add_op_code, quantization
from edgeq.flatbuffer.packing import pack
from edgeq.flatbuffer.parsing import decoded_name, op_name
from edgeq.ops import OPS
from edgeq.qtypes import BlockQParams, QParams

AnyQParams: TypeAlias = QParams | BlockQParams | None


def empty_tree() -> Any:
    """The object tree of a file with one graph and nothing in it."""
    tree, graph = schema.ModelT(), schema.SubGraphT()
    tree.version, tree.subgraphs = 3, [graph]
    tree.buffers, tree.operatorCodes = [schema.BufferT()], []
    graph.tensors, graph.operators = [], []
    graph.inputs = graph.outputs = np.zeros(0, np.int32)
    return tree


class GraphEditor:
    """A float .tflite file opened for changes; `finish()` writes the changed one.

    Args:
        tree: The file's object tree, which is not changed: what this adds to is copied, and nothing
            that was there before is touched.
        graph: Index of the graph; 0 is the main one.
    """

    def __init__(self, tree: Any, graph: int = 0) -> None:
        self._tree = copy.copy(tree)
        self._tree.buffers = list(tree.buffers)
        self._tree.operatorCodes = list(tree.operatorCodes)
        self._graph = copy.copy(tree.subgraphs[graph])
        self._graph.tensors = list(self._graph.tensors)
        self._graph.operators = list(self._graph.operators)
        self._tree.subgraphs = list(tree.subgraphs)
        self._tree.subgraphs[graph] = self._graph
        self._names = {tensor.name for tensor in self._graph.tensors}
        self._repeats: dict[str, int] = {}
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._left: set[int] = set()

    def tensor(self, name: str, shape: Sequence[int]) -> int:
        """Index of a new float32 tensor; a name in use gets the next free `#n`."""
        return self._append(name, "float32", shape, 0)

    def typed(self, name: str, shape: Sequence[int], kind: str, qparams: AnyQParams = None) -> int:
        """As `tensor`, of the type with that lower-case name."""
        index = self._append(name, kind, shape, 0)
        self._graph.tensors[index].quantization = self._quantization(name, qparams)
        return index

    def state(self, name: str, shape: Sequence[int]) -> int:
        """Index of a new float32 tensor that an op may change where it reads it."""
        index = self._append(name, "float32", shape, 0)
        self._graph.tensors[index].isVariable = True
        return index

    def stored(
        self, name: str, shape: Sequence[int], kind: str, content: npt.NDArray[np.uint8],
        qparams: AnyQParams,
    ) -> int:  # fmt: skip
        """Index of a new constant of any type, given as the bytes that the file stores."""
        index = self._append(name, kind, shape, self._buffer(content))
        self._graph.tensors[index].quantization = self._quantization(name, qparams)
        return index

    def retyped(
        self, tensor: int, kind: str, content: npt.NDArray[np.uint8], qparams: AnyQParams
    ) -> int:
        """Gives a constant another type and content; returns its index."""
        entry = copy.copy(self._graph.tensors[tensor])
        self._left.add(entry.buffer)
        entry.buffer = self._buffer(content)
        entry.type = getattr(schema.TensorType, kind.upper())
        entry.quantization = self._quantization(decoded_name(entry.name), qparams)
        self._graph.tensors[tensor] = entry
        return tensor

    def constant(self, name: str, values: npt.NDArray[Any]) -> int:
        """Index of a constant; equal ones are made once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            place = self._buffer(np.frombuffer(values.tobytes(), np.uint8))
            self._constants[key] = self._append(name, values.dtype.name, values.shape, place)
        return self._constants[key]

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        version: int = 1,
        **options: object,
    ) -> Any:
        """A new op that is not in the graph yet.

        Args:
            name: Builtin operator name.
            inputs: Tensor indices.
            outputs: Tensor indices.
            version: Op version.
            **options: Fields of the op's options object, which is found by the op's name.
        """
        op = schema.OperatorT()
        op.opcodeIndex = self._code(name, version)
        op.inputs = np.asarray(inputs, np.int32)
        op.outputs = np.asarray(outputs, np.int32)
        if options:
            kind = _options_of(name)
            op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            op.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                setattr(op.builtinOptions, field, value)
        return op

    def reshape(self, source: int, target: int, shape: Sequence[int]) -> Any:
        """A RESHAPE that is not in the graph yet."""
        wanted = self.constant("edgeq/shape", np.asarray(shape, np.int32))
        return self.op("RESHAPE", [source, wanted], [target], newShape=list(shape))

    def copied(
        self, index: int, inputs: Sequence[int], outputs: Sequence[int],
        version: int | None = None, **options: object,
    ) -> Any:  # fmt: skip
        """A copy of the op at `index` that reads and writes other tensors; not in the graph yet.

        Args:
            index: Its place among the ops.
            inputs: Tensor indices.
            outputs: Tensor indices.
            version: Op version, if it is another.
            **options: Fields of its options object that the copy has otherwise.
        """
        op = self._copy(self._graph.operators[index], inputs, outputs)
        code = self._tree.operatorCodes[op.opcodeIndex]
        if version is not None and version != code.version:
            op.opcodeIndex = self._code(op_name(code)[0], version)
        op.builtinOptions = copy.copy(op.builtinOptions)
        for field, value in options.items():
            setattr(op.builtinOptions, field, value)
        return op

    @staticmethod
    def _copy(op: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        op = copy.copy(op)
        op.inputs, op.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        return op

    def append(self, op: Any) -> None:
        """Puts an op behind all others."""
        self._graph.operators.append(op)

    def insert(self, behind: Mapping[int, Sequence[Any]]) -> None:
        """Puts ops behind those with the given indices; -1 puts them in front of all."""
        present = self._graph.operators
        self.replace(lambda index: [present[index], *behind.get(index, ())])
        self._graph.operators[:0] = behind.get(-1, ())

    def replace(self, replacement: Callable[[int], Sequence[Any] | None]) -> None:
        """Puts the ops that `replacement(index)` gives in place of each op; None leaves it."""
        operators: list[Any] = []
        for index, op in enumerate(self._graph.operators):
            new = replacement(index)
            operators.extend([op] if new is None else new)
        self._graph.operators = operators

    def rewire(self, read: Mapping[int, Mapping[int, int]]) -> None:
        """Lets ops read other tensors: by the op's index and the operand slot."""

        def rewired(index: int) -> Sequence[Any] | None:
            if index not in read:
                return None
            op = self._graph.operators[index]
            inputs = [read[index].get(slot, t) for slot, t in enumerate(op.inputs.tolist())]
            return [self._copy(op, inputs, op.outputs)]

        self.replace(rewired)

    def round_trips(self, wanted: Mapping[int, QParams], float_ops: Collection[int] = ()) -> None:
        """Puts a QUANTIZE and a DEQUANTIZE between computed tensors and all that read them.

        Args:
            wanted: The tensors.
            float_ops: Ops that read each other's results as they are, by index.
        """
        exact = {t for i in float_ops for t in self._graph.operators[i].outputs.tolist()}
        rounded: dict[int, int] = {}
        pairs: dict[int, list[Any]] = {}
        for tensor, qparams in wanted.items():
            name = decoded_name(self._graph.tensors[tensor].name)
            shape = self._graph.tensors[tensor].shape
            integers = self.typed(f"{name}/integers", shape, qparams.dtype.type_name, qparams)
            rounded[tensor] = self.tensor(f"{name}/rounded", shape)
            pairs[tensor] = [
                self.op("QUANTIZE", [tensor], [integers]),
                self.op("DEQUANTIZE", [integers], [rounded[tensor]], version=2),
            ]
        behind: list[Any] = []
        for index, op in enumerate(self._graph.operators):
            inputs, outputs = op.inputs.tolist(), op.outputs.tolist()
            read = rounded.keys() - exact if index in float_ops else rounded.keys()
            if not read.isdisjoint(inputs):
                op = self._copy(op, [rounded[t] if t in read else t for t in inputs], outputs)
            behind += [op, *(new for t in outputs for new in pairs.pop(t, ()))]
        self._graph.operators = [*(op for pair in pairs.values() for op in pair), *behind]
        results = [rounded.get(t, t) for t in self._graph.outputs.tolist()]
        self.set_ports(self._graph.inputs, results)

    def cut(self, tensors: Sequence[int]) -> tuple[int, ...]:
        """Makes all that read these tensors read new inputs of the graph instead.

        Returns:
            The new inputs, of the same types and parameters; the tensors are still computed.
        """
        fed: dict[int, int] = {}
        for tensor in dict.fromkeys(tensors):
            entry = copy.copy(self._graph.tensors[tensor])
            entry.name, entry.buffer = self._unique(f"{decoded_name(entry.name)}/fed"), 0
            self._graph.tensors.append(entry)
            fed[tensor] = len(self._graph.tensors) - 1
        for place, op in enumerate(self._graph.operators):
            inputs = op.inputs.tolist()
            if not fed.keys().isdisjoint(inputs):
                read = [fed.get(t, t) for t in inputs]
                self._graph.operators[place] = self._copy(op, read, op.outputs)
        self.set_ports([*self._graph.inputs, *fed.values()], self._graph.outputs)
        return tuple(fed.values())

    def feed(self, constants: Sequence[int]) -> None:
        """Makes constants inputs of the graph."""
        for tensor in constants:
            entry = copy.copy(self._graph.tensors[tensor])
            self._left.add(entry.buffer)
            entry.buffer = 0
            self._graph.tensors[tensor] = entry
        self.set_ports([*self._graph.inputs, *constants], self._graph.outputs)

    def substitute(self, tensors: Mapping[int, int]) -> None:
        """Puts the value of each key of `tensors` in its place, wherever an op reads or writes it.

        A value may be a key itself.
        """
        for place, op in enumerate(self._graph.operators):
            old = op.inputs.tolist(), op.outputs.tolist()
            new = tuple([_last(tensors, t) for t in side] for side in old)
            if new != old:
                self._graph.operators[place] = self._copy(op, *new)

    def prune(self) -> None:
        """Drops the ops whose results nobody reads, and the values of constants likewise."""
        read, kept = set(self._graph.outputs.tolist()), []
        for op in reversed(self._graph.operators):
            if len(op.outputs) == 0 or not read.isdisjoint(op.outputs.tolist()):
                read.update(op.inputs.tolist())
                kept.append(op)
        self._graph.operators = kept[::-1]
        own, graphs = self._graph, self._tree.subgraphs
        places = ((g, i, t.buffer) for g in graphs for i, t in enumerate(g.tensors))
        held = {buffer for g, i, buffer in places if g is not own or i in read}
        for buffer in {t.buffer for t in own.tensors} - held:
            self._tree.buffers[buffer] = schema.BufferT()
        self._constants = {k: t for k, t in self._constants.items() if t in read}

    def strip(self) -> None:
        """Leaves of tensors that nobody reads or makes their place alone."""
        graph = self._graph
        used = {*graph.inputs.tolist(), *graph.outputs.tolist()}
        sides = (s for op in graph.operators for s in (op.inputs, op.outputs, op.intermediates))
        used.update(int(t) for side in sides if side is not None for t in side)
        nothing = schema.TensorT()
        graph.tensors = [t if i in used else nothing for i, t in enumerate(graph.tensors)]

    @property
    def tree(self) -> Any:
        """The object tree as it stands; to be read only."""
        self._drop_unused()
        return self._tree

    @property
    def ports(self) -> tuple[list[int], list[int]]:
        """Inputs and outputs of the graph."""
        return self._graph.inputs.tolist(), self._graph.outputs.tolist()

    def set_ports(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Makes tensors the inputs and outputs of the graph; signatures go."""
        self._graph.inputs = np.asarray(inputs, np.int32)
        self._graph.outputs = np.asarray(outputs, np.int32)
        self._tree.signatureDefs = None

    def first_ops(self, count: int, within: Collection[int] = ()) -> None:
        """Drops all ops behind the first `count`; what none reads is put out, but for `within`."""
        self._graph.operators = self._graph.operators[:count]
        read = {int(t) for op in self._graph.operators for t in op.inputs}
        made = [int(t) for op in self._graph.operators for t in op.outputs]
        read, wanted = read | set(within), {int(t) for t in self._graph.outputs}
        self.set_ports(self._graph.inputs, [t for t in made if t not in read or t in wanted])

    def add_outputs(self, tensors: Sequence[int]) -> None:
        """Makes tensors outputs of the graph; signatures go, since they do not name them."""
        known = set(self._graph.outputs.tolist())
        extra = [t for t in dict.fromkeys(tensors) if t not in known]
        self.set_ports(self._graph.inputs, [*self._graph.outputs, *extra])

    def keep_first(self, count: int) -> None:
        """Drops all but the first so many ops; the results of the last of them are the outputs."""
        self._graph.operators = self._graph.operators[:count]
        self.set_ports(self._graph.inputs, self._graph.operators[-1].outputs)

    def finish(self) -> Content:
        """The changed file."""
        return pack(self.tree)

    def _buffer(self, content: npt.NDArray[np.uint8]) -> int:
        """Index of a new buffer."""
        buffer = schema.BufferT()
        buffer.data = content
        self._tree.buffers.append(buffer)
        return len(self._tree.buffers) - 1

    def _drop_unused(self) -> None:
        """Empties the buffers of constants that are others now, if no tensor has them any more.

        All at once: a look at each tensor for each of them takes minutes in a graph of thousands.
        """
        used = {t.buffer for g in self._tree.subgraphs for t in g.tensors} if self._left else set()
        for buffer in self._left - used:
            self._tree.buffers[buffer] = schema.BufferT()
        self._left.clear()

    def _append(self, name: str, kind: str, shape: Sequence[int], buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = self._unique(name)
        tensor.type = getattr(schema.TensorType, kind.upper())
        tensor.shape, tensor.hasRank = np.asarray(shape, np.int32), len(shape) == 0
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _unique(self, name: str) -> bytes:
        candidate, number = name.encode(), self._repeats.get(name, 0)
        while candidate in self._names:
            number += 1
            candidate = f"{name}#{number}".encode()
        self._repeats[name] = number  # thousands of steps may share a name
        self._names.add(candidate)
        return candidate

    def _code(self, name: str, version: int) -> int:
        if (name, version) not in self._codes:
            self._codes[name, version] = add_op_code(self._tree, name, version)
        return self._codes[name, version]

    def _quantization(self, name: str, qparams: AnyQParams) -> Any:
        """The schema's form of the quantization parameters of the tensor of that name."""
        if not isinstance(qparams, BlockQParams):
            return qparams and quantization(qparams)
        scales = np.asarray(qparams.scale, np.float16)
        blocks = schema.BlockwiseQuantizationT()
        blocks.blockSize = qparams.block_size
        blocks.scales = self.constant(f"{name}/scales", scales)
        blocks.zeroPoints = -1
        entry = schema.QuantizationParametersT()
        entry.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        entry.details = blocks
        return entry


def _last(tensors: Mapping[int, int], tensor: int) -> int:
    while tensor in tensors:
        tensor = tensors[tensor]
    return tensor


def _options_of(name: str) -> str:
    """Class name of an op's options without the schema's final `T`, by builtin operator name."""
    row = OPS.get(name)
    if row is not None and row.options:
        return row.options
    wanted = f"{name.replace('_', '')}options".lower()
    kinds: list[str] = [kind for kind in vars(schema.BuiltinOptions) if kind.lower() == wanted]
    return kinds[0]
