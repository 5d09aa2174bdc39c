"""A function whose ops without a form in the runtime became others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edgeq.export.frontends.tensorflow_graph import tensor_forms
from edgeq.export.frontends.tensorflow_graph.elementwise_forms import FORMS

_OWN = "_own"
"""Ends the names of nodes of forms; another node may be called as they would be."""


def with_own_forms(function: Any, kinds: Sequence[str]) -> Any:
    """A concrete function that computes the same without some ops; None where one has no form.

    Its variables become constants.

    Args:
        function: A concrete function of tensors by name.
        kinds: Kinds of ops that it shall not have.
    """
    if any(kind not in FORMS and kind not in tensor_forms.kinds() for kind in kinds):
        return None
    try:
        frozen = convert_variables_to_constants_v2(function)
    except Exception:  # TensorFlow raises many kinds, as of variables that are written
        return None
    graph = frozen.graph.as_graph_def()
    for node in [node for node in graph.node if node.op in kinds]:
        op = frozen.graph.get_operation_by_name(node.name)
        form = FORMS.get(node.op) or tensor_forms.form_of(op)
        if form is None:
            return None
        graph.node.extend(_replaced(node, op, form))
    specs = function.structured_input_signature[1]
    places = {name: spec.name or name for name, spec in specs.items()}
    outputs = function.structured_outputs
    names = sorted(outputs) if isinstance(outputs, Mapping) else []

    def imported(**inputs: Any) -> dict[str, Any]:
        given = {f"{places[name]}:0": tensor for name, tensor in inputs.items()}
        fetched = [tensor.name for tensor in frozen.outputs]
        made = tf.graph_util.import_graph_def(graph, given, fetched, name="")
        return dict(zip(names, made, strict=True))

    return tf.function(imported, autograph=False).get_concrete_function(**specs)


def _replaced(node: Any, op: Any, compute: Callable[..., Any]) -> list[Any]:
    """The nodes that compute what one did, which becomes their result."""
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in op.inputs]
    form = tf.function(compute, autograph=False).get_concrete_function(*specs)
    given: dict[str, str] = {
        tensor.op.name: own for tensor, own in zip(form.inputs, node.input, strict=False)
    }

    def moved(source: str) -> str:
        name, colon, place = source.partition(":")
        if name in given:
            return given[name]
        return f"{node.name}/{name}{_OWN}{colon}{place}"

    made = [part for part in form.graph.as_graph_def().node if part.name not in given]
    for part in made:
        part.name = f"{node.name}/{part.name}{_OWN}"
        part.input[:] = [moved(source) for source in part.input if not source.startswith("^")]
    (result,) = form.outputs
    node.op, node.input[:] = "Identity", [moved(result.name)]
    node.attr.clear()
    node.attr["T"].type = result.dtype.as_datatype_enum
    return made
