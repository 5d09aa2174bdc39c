"""Weights of loops, and loops that keep the rows which their weights are multiplied with.

A weight that each round multiplies with is an operand of the loop; the rows are inside its body.
What is added keeps those of the last rounds. Knows loops, nothing of how a weight is rounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.convert.loop_weights import Loop, main_loops
from edgeq.export.round.exact import Matrix
from edgeq.export.round.weighted_ops import AnyQParams, Site
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.subgraphs import loop_graphs, readers
from edgeq.ops import Kind

BUFFER_BYTES = 1 << 20
"""What the rows of one dense layer of a body may take, as every round copies them."""


class LoopSite(Site):
    """A weight of loops and the loops that multiply with it.

    Args:
        graph: Of the float model.
        uses: `(loop, operand slot)` of each.
        qparams: How the weight is stored.
    """

    def __init__(
        self, graph: Graph, uses: Sequence[tuple[Operator, int]], qparams: AnyQParams
    ) -> None:
        loop, slot = uses[0]
        super().__init__(graph, (), qparams, loop.inputs[slot], Kind.DENSE)
        self.uses = tuple(uses)

    @property
    def first_op(self) -> Operator:
        return self.uses[0][0]

    @property
    def bytes_needed(self) -> int:
        return super().bytes_needed + BUFFER_BYTES


@dataclass(frozen=True)
class _Tap:
    """Tensors of the main graph that hold what a dense layer of a body has read.

    Attributes:
        count: How many rounds there were.
        rows: What was read in the last of them, `(kept, rows, columns)`.
    """

    count: int
    rows: int


class LoopTaps:
    """A model whose loops keep what some weights are multiplied with.

    Args:
        tree: Object tree of the float model, which is not changed.
        sites: The weights.
        wanted: Rows that are wanted of each in one run, at most.

    Attributes:
        tree: That of the model with these loops.
    """

    def __init__(self, tree: Any, sites: Sequence[LoopSite], wanted: int) -> None:
        self.tree = tree
        self._wanted = wanted
        self._taps: dict[object, list[_Tap]] = defaultdict(list)
        asked = {use: site.key for site in sites for use in _places(site)}
        for loop, places in main_loops(tree):
            slots = {slot: asked[place, slot] for place, slot in asked if place in places}
            if slots:
                self._tap(loop, places, slots)

    @property
    def outputs(self) -> list[int]:
        """Tensors of the main graph that `rows` looks at."""
        taps = (tap for found in self._taps.values() for tap in found)
        return list(dict.fromkeys(t for tap in taps for t in (tap.count, tap.rows)))

    def rows(self, site: LoopSite, view: Callable[[int], Any]) -> Matrix:
        """What a weight was multiplied with in a run, `(1, positions, columns)`.

        Args:
            site: The weight.
            view: Gives what a tensor holds.
        """
        found = []
        for tap in self._taps[site.key]:
            kept = view(tap.rows)[: int(view(tap.count))]
            found.append(kept.reshape(1, -1, kept.shape[-1]))
        return np.concatenate(found, axis=1)

    def _tap(self, loop: Loop, places: Sequence[int], slots: Mapping[int, object]) -> None:
        """Has one body keep rows, and all loops that run it pass them on."""
        cond, body = loop
        editor = GraphEditor(self.tree, body)
        graph = self.tree.subgraphs[body]
        read = [
            (key, int(op.inputs[0]))
            for slot, key in slots.items()
            for op, _ in readers(graph, int(graph.inputs[slot]))
        ]
        shapes = [self._kept(graph.tensors[tensor].shape, len(read)) for _, tensor in read]
        self.tree = _keeping(editor, [tensor for _, tensor in read], shapes)
        editor = GraphEditor(self.tree, cond)
        more = [editor.typed("edgeq/round", (), "int32")]
        more += [editor.tensor("edgeq/rows", shape) for shape in shapes]
        self.tree = _with_ports(editor, more, [])
        editor = GraphEditor(self.tree)
        start = [editor.constant("edgeq/round", np.zeros((), np.int32))]
        start += [editor.constant("edgeq/rows", np.zeros(shape, np.float32)) for shape in shapes]
        made: dict[int, Any] = {}
        for place in places:
            op = self.tree.subgraphs[0].operators[place]
            count = editor.typed("edgeq/rounds", (), "int32")
            kept = [editor.tensor("edgeq/rows", shape) for shape in shapes]
            made[place] = editor.copied(place, [*op.inputs, *start], [*op.outputs, count, *kept])
            for (key, _), tensor in zip(read, kept, strict=True):
                self._taps[key].append(_Tap(count, tensor))
        editor.replace(lambda index: [made[index]] if index in made else None)
        self.tree = editor.tree

    def _kept(self, shape: Sequence[int], layers: int) -> tuple[int, int, int]:
        """Shape of what is kept of the rows that a dense layer reads."""
        columns, rows = int(shape[-1]), math.prod(map(int, shape[:-1]))
        room = BUFFER_BYTES // (4 * rows * columns)
        rounds = min(math.ceil(self._wanted / (rows * layers)), room)
        return max(1, rounds), rows, columns


def is_tappable(tree: Any, op: Operator, slot: int) -> bool:
    """Whether what a loop multiplies an operand with can be kept: its sizes are known.

    Args:
        tree: Object tree of the model.
        op: The loop.
        slot: Of the operand.
    """
    loop = loop_graphs(tree.subgraphs[0].operators[op.index])
    if loop not in dict(main_loops(tree)):
        return False
    body = tree.subgraphs[loop[1]]
    read = [body.tensors[o.inputs[0]] for o, _ in readers(body, int(body.inputs[slot]))]
    return all(_has_sizes(tensor) for tensor in read)


def _has_sizes(tensor: Any) -> bool:
    sizes, signature = tensor.shape, tensor.shapeSignature
    known = sizes is not None and len(sizes) > 0 and min(sizes) > 0
    return known and (signature is None or min(signature, default=1) > 0)


def _places(site: LoopSite) -> list[tuple[int, int]]:
    return [(op.index, slot) for op, slot in site.uses]


def _keeping(editor: GraphEditor, read: Sequence[int], shapes: Sequence[Sequence[int]]) -> Any:
    """The tree with a body that counts its rounds and keeps tensors of the last ones."""
    count, following = (editor.typed("edgeq/round", (), "int32") for _ in range(2))
    one = editor.constant("edgeq/one", np.ones((), np.int32))
    editor.append(editor.op("ADD", [count, one], [following], fusedActivationFunction=0))
    given, kept = [count], [following]
    for tensor, shape in zip(read, shapes, strict=True):
        before, after = (editor.tensor("edgeq/rows", shape) for _ in range(2))
        row = editor.tensor("edgeq/row", (1, *shape[1:]))
        editor.append(editor.reshape(tensor, row, (1, *shape[1:])))
        start = _start(editor, count, shape[0])
        editor.append(editor.op("DYNAMIC_UPDATE_SLICE", [before, row, start], [after]))
        given.append(before)
        kept.append(after)
    return _with_ports(editor, given, kept)


def _start(editor: GraphEditor, count: int, rounds: int) -> int:
    """Where the rows of a round go: in place of those that are the oldest."""
    most = editor.constant("edgeq/rounds", np.asarray(rounds, np.int32))
    zero = editor.constant("edgeq/zero", np.zeros((), np.int32))
    place, start = editor.typed("edgeq/place", (), "int32"), editor.typed("edgeq/at", (3,), "int32")
    editor.append(editor.op("FLOOR_MOD", [count, most], [place]))
    editor.append(editor.op("PACK", [place, zero, zero], [start], valuesCount=3, axis=0))
    return start


def _with_ports(editor: GraphEditor, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """The tree of an editor with more inputs and outputs of its graph."""
    before = editor.ports
    editor.set_ports([*before[0], *inputs], [*before[1], *outputs])
    return editor.tree
