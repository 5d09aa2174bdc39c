"""A choice between several branches, of which the runtime has none: all run, and one is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from edgeq.export.frontends.tensorflow_graph.static_values import Form


@contextlib.contextmanager
def choices_kept() -> Iterator[None]:
    """Has TensorFlow keep choices as it makes constants of variables, as it keeps loops.

    Its list of what it keeps is not public; without it, choices have no form as before.
    """
    before: frozenset[str] = getattr(convert_to_constants, "_CONTROL_FLOW_OPS", frozenset())
    convert_to_constants._CONTROL_FLOW_OPS = {*before, *MAKERS}
    try:
        yield
    finally:
        convert_to_constants._CONTROL_FLOW_OPS = before


def _case(op: Any) -> Form | None:
    """The results of the branch of a number; another number than these takes the last one."""
    library = {f.signature.name: f for f in op.graph.as_graph_def().library.function}
    names = [branch.name for branch in op.get_attr("branches")]
    if not library.keys() >= set(names):
        return None

    def taken(index: Any, *values: Any) -> list[Any]:
        branches = [_computed(library[name], values) for name in names]
        made = branches[-1]
        for number in reversed(range(len(names) - 1)):
            here = tf.equal(index, number)
            made = [tf.where(here, a, b) for a, b in zip(branches[number], made, strict=True)]
        return made

    return taken


def _computed(function: Any, values: Sequence[Any]) -> list[Any]:
    """What a function of a graph computes, written out."""
    graph = function_def_to_graph(function)
    given = {x.name: value for x, value in zip(graph.inputs, values, strict=True)}
    wanted = [x.name for x in graph.outputs]
    return list(tf.graph_util.import_graph_def(graph.as_graph_def(), given, wanted, name=""))


MAKERS: dict[str, Callable[[Any], Form | None]] = {"Case": _case, "StatelessCase": _case}
"""By the kind of op that they stand for."""
