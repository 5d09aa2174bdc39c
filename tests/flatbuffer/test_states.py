"""Tensors that last from one run to the next."""

from __future__ import annotations

import pytest

from edgeq.errors import ModelError
from edgeq.flatbuffer import parse
from edgeq.flatbuffer.graph_editor import GraphEditor, empty_tree


def test_a_state_is_written_once_at_most() -> None:
    editor = GraphEditor(empty_tree())
    source, state, result = (
        editor.tensor("x", (1, 2)),
        editor.state("state", (1, 2)),
        editor.tensor("y", (1, 2)),
    )
    editor.set_ports([source], [result])
    editor.append(editor.op("ABS", [source], [state]))
    editor.append(editor.op("NEG", [state], [result]))
    assert [t.is_variable for t in parse(editor.finish()).graphs[0].tensors] == [False, True, False]
    editor.append(editor.op("ABS", [source], [state]))
    with pytest.raises(ModelError, match=r"op 2 \(ABS\) writes tensor 1 a second time"):
        parse(editor.finish())
