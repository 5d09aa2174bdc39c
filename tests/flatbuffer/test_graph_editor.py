"""Changes of graphs with many ops and constants: what is done for each of them stays little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_op import OneOp, Step, Value

from edgeq.flatbuffer import pack, parse, schema, unpack
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree
from edgeq.flatbuffer.object_tree import excerpt
from edgeq.runtime.session import Session

COUNT = 60


class Counted(schema.TensorT):  # type: ignore[misc, name-defined]
    """A tensor that counts how often it is asked for its buffer."""

    asked = 0

    @property
    def buffer(self) -> int:
        Counted.asked += 1
        return int(vars(self)["_buffer"])

    @buffer.setter
    def buffer(self, value: int) -> None:
        vars(self)["_buffer"] = value


def constants() -> tuple[Any, list[int]]:
    editor = GraphEditor(empty_tree())
    made = [editor.constant(f"c{i}", np.full(4, i, np.float32)) for i in range(COUNT)]
    editor.set_ports([], made)
    for tensor in editor.tree.subgraphs[0].tensors:
        vars(tensor)["_buffer"] = vars(tensor).pop("buffer")
        tensor.__class__ = Counted
    return editor.tree, made


def test_constants_get_other_values_without_a_look_at_all_others_for_each() -> None:
    tree, made = constants()
    editor, halves = GraphEditor(tree), np.full(4, 0.5, np.float32)
    Counted.asked = 0
    for tensor in made:
        editor.retyped(tensor, "float32", halves.view(np.uint8), None)
    assert editor.tree.buffers[1].data is None
    assert Counted.asked <= 6 * COUNT
    graph = parse(editor.finish()).graphs[0]
    assert all(np.array_equal(graph.tensors[t].data, halves) for t in made)


def test_a_constant_that_two_tensors_share_stays_for_the_other() -> None:
    tree, made = constants()
    shared = tree.subgraphs[0].tensors
    shared[made[1]].buffer = shared[made[0]].buffer
    editor = GraphEditor(tree)
    editor.feed([made[0]])
    graph = parse(editor.finish()).graphs[0]
    assert np.array_equal(graph.tensors[made[1]].data, np.zeros(4))
    editor.feed([made[1]])
    assert len(editor.finish()) < len(GraphEditor(tree).finish())


def test_a_constant_that_another_graph_shares_stays_where_none_reads_it_here() -> None:
    tree, made = constants()
    body = empty_tree().subgraphs[0]
    body.tensors = tree.subgraphs[0].tensors[made[1] : made[1] + 1]
    tree.subgraphs.append(body)
    editor = GraphEditor(tree)
    editor.set_ports([], made[2:])
    editor.prune()
    graphs = parse(editor.finish()).graphs
    assert np.array_equal(graphs[1].tensors[0].data, np.ones(4))
    assert graphs[0].tensors[made[0]].data is None


def test_an_excerpt_holds_what_its_ops_read_and_nothing_else() -> None:
    value = Value((1, 4))
    weights = [np.full(4, i, np.float32) for i in range(COUNT)]
    names = ["x", *(f"t{i}" for i in range(COUNT))]
    steps = [Step("ADD", (names[i], weights[i]), {names[i + 1]: value}) for i in range(COUNT)]
    tree = unpack(OneOp("chain", {"x": value}, tuple(steps)).build())
    before = pack(tree)
    part, places = excerpt(tree, range(20, 22))
    assert len(part.subgraphs[0].tensors) == 5
    assert len(part.buffers) == 3
    assert len(part.operatorCodes) <= 2 < COUNT
    old = {tensor.name: index for index, tensor in enumerate(tree.subgraphs[0].tensors)}
    editor = GraphEditor(part)
    editor.set_ports([places[old[b"t19"]]], [places[old[b"t21"]]])
    with Session(editor.finish()) as session:
        (found,) = session.run(np.ones((1, 4), np.float32)).values()
    assert found == pytest.approx(1 + 20 + 21)
    assert pack(tree) == before
