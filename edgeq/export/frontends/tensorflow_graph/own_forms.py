"""A function whose ops without a form in the runtime became others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edgeq.export.frontends.tensorflow_graph import complex_forms, tensor_forms
from edgeq.export.frontends.tensorflow_graph.branches import choices_kept
from edgeq.export.frontends.tensorflow_graph.complex_forms import Parts, is_complex
from edgeq.export.frontends.tensorflow_graph.elementwise_forms import FORMS
from edgeq.export.frontends.tensorflow_graph.static_values import all_nodes

_OWN = "_own"
"""Ends the names of nodes of forms; another node may be called as they would be."""

_PART = "#"
"""Between the name of a complex result and the number of its part; no node's name has it."""

_MISREAD = frozenset({"Case", "FFT", "FFT2D", "IFFT", "IFFT2D", "StatelessCase"})
"""Ops of which TensorFlow's converter (2.21) makes files that do not run, or nothing at all."""

_OF_VARIABLES = frozenset({"AssignVariableOp", "ReadVariableOp", "VarHandleOp"})
"""Ops that are gone when variables are constants: the converter leaves them in branches."""

_MADE_OF = {"Relu": "Maximum", "Relu6": "Minimum"}
"""Ops that TensorFlow's converter makes of others, by theirs: of whole numbers it has no such."""


def misread_kinds(function: Any) -> list[str]:
    """Kinds of a function's ops that must become others before it is converted."""
    return sorted({node.op for node in all_nodes(function)} & _MISREAD)


def with_own_forms(function: Any, kinds: Collection[str]) -> Any:
    """A concrete function that computes the same without some ops; None where one has no form.

    Its variables become constants. Where ops on complex numbers are among them, all numbers are
    real afterwards.

    Args:
        function: A concrete function of tensors by name.
        kinds: Kinds of ops that it shall not have.
    """
    try:
        with choices_kept():
            frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception:  # TensorFlow raises many kinds, as of variables that are written
        return None
    graph = frozen.graph.as_graph_def()
    present = {op.type for op in frozen.graph.get_operations()}
    wanted = [k for k in kinds if k in present or k not in {*_OF_VARIABLES, *_MADE_OF}]
    wanted += [made for k, made in _MADE_OF.items() if k in kinds and made in present]
    forms = _forms(frozen.graph, wanted)
    if forms is None:
        return None
    if any(is_complex(tensor) for tensor in frozen.outputs):
        return None
    names = _Names()
    for node in [node for node in graph.node if node.name in forms]:
        op = frozen.graph.get_operation_by_name(node.name)
        graph.node.extend(_replaced(node, op, forms[node.name], names))
    for node in graph.node:
        node.input[:] = [names.now(name) for name in node.input]
    fetched = [names.now(tensor.name) for tensor in frozen.outputs]
    return as_function(graph, function, fetched)


def as_function(graph: Any, like: Any, fetched: Sequence[str]) -> Any:
    """A concrete function of a graph, with the inputs and outputs of another.

    Args:
        graph: A `GraphDef` with the placeholders of `like`, and no variables.
        like: A concrete function of tensors by name.
        fetched: Names of what is returned, in the order of its flat outputs.
    """
    specs = like.structured_input_signature[1]
    places = {name: spec.name or name for name, spec in specs.items()}
    outputs = like.structured_outputs
    keys = sorted(outputs) if isinstance(outputs, Mapping) else []

    def imported(**inputs: Any) -> dict[str, Any]:
        given = {f"{places[name]}:0": tensor for name, tensor in inputs.items()}
        wanted = [_numbered(name) for name in fetched]
        made = tf.graph_util.import_graph_def(graph, given, wanted, name="")
        return dict(zip(keys, made, strict=True))

    return tf.function(imported, autograph=False).get_concrete_function(**specs)


def _numbered(name: str) -> str:
    """A result's name as a tensor's."""
    return name if ":" in name else f"{name}:0"


def _has_complex(op: Any) -> bool:
    return any(is_complex(tensor) for tensor in (*op.inputs, *op.outputs))


def _forms(graph: Any, kinds: Collection[str]) -> dict[str, Callable[..., Any]] | None:
    """The form of each op that becomes another, by its name; None where one has none."""
    ops = graph.get_operations()
    wanted = [op for op in ops if op.type in kinds]
    if any(_has_complex(op) for op in wanted):
        wanted = [op for op in ops if op.type in kinds or _has_complex(op)]
    if not {op.type for op in wanted}.issuperset(kinds):
        return None
    also_complex = {op.type for op in wanted if _has_complex(op)}
    forms: dict[str, Callable[..., Any]] = {}
    for op in wanted:
        if _has_complex(op):
            form = complex_forms.form_of(op)
        else:
            form = FORMS.get(op.type) or tensor_forms.form_of(op)
        if form is not None:
            forms[op.name] = form
        elif op.type not in also_complex or _has_complex(op):
            return None
    return forms


class _Names:
    """What the results of nodes are called since they became others: two of a complex one."""

    def __init__(self) -> None:
        self._now: dict[str, list[str]] = {}

    def rename(self, before: str, now: list[str]) -> None:
        """Notes the new names of a result."""
        self._now[before.removesuffix(":0")] = now

    def now(self, name: str) -> str:
        """The name of a result, or of a part of it, as nodes read it."""
        name, _, place = name.removesuffix(":0").partition(_PART)
        return self._now.get(name, [name])[int(place or 0)]


def _replaced(node: Any, op: Any, compute: Callable[..., Any], names: _Names) -> list[Any]:
    """The nodes that compute what one did, which becomes its first result where that is real."""
    form = _flat_form(op, compute)
    read = [
        f"{name.removesuffix(':0')}{_PART}{place}"
        for name, tensor in zip(node.input, op.inputs, strict=False)
        for place in range(_parts(tensor))
    ]
    given = {tensor.op.name: own for tensor, own in zip(form.inputs, read, strict=True)}

    def moved(source: str) -> str:
        name, colon, place = source.partition(":")
        return given.get(name) or f"{node.name}/{name}{_OWN}{colon}{place}"

    made = [part for part in form.graph.as_graph_def().node if part.name not in given]
    for part in made:
        part.name = f"{node.name}/{part.name}{_OWN}"
        part.input[:] = [moved(source) for source in part.input if not source.startswith("^")]
    results = iter(form.outputs)
    node.op, node.input[:] = "NoOp", []  # as which nothing reads it
    node.attr.clear()
    for number, output in enumerate(op.outputs):
        kept = [node.name]
        if number or is_complex(output):
            kept = [f"{node.name}/part_{number}_{i}{_OWN}" for i in range(_parts(output))]
        names.rename(output.name, kept)
        for name in kept:
            result = next(results)
            holder = node if name == node.name else tf.compat.v1.NodeDef(name=name)
            holder.op, holder.input[:] = "Identity", [moved(result.name)]
            holder.attr["T"].type = result.dtype.as_datatype_enum
            made += [] if holder is node else [holder]
    return made


def _parts(tensor: Any) -> int:
    return 2 if is_complex(tensor) else 1


def _flat_form(op: Any, compute: Callable[..., Any]) -> Any:
    """A concrete function of real tensors that gives the parts of all results in order."""
    specs = [
        tf.TensorSpec(tensor.shape, tf.float32 if is_complex(tensor) else tensor.dtype)
        for tensor in op.inputs
        for _ in range(_parts(tensor))
    ]

    def flat(*tensors: Any) -> list[Any]:
        left = iter(tensors)
        inputs = [
            Parts(next(left), next(left)) if is_complex(tensor) else next(left)
            for tensor in op.inputs
        ]
        made = compute(*inputs)
        several = isinstance(made, list | tuple) and not isinstance(made, Parts)
        results = made if several else [made]
        return [part for r in results for part in (r if isinstance(r, Parts) else [r])]

    return tf.function(flat, autograph=False).get_concrete_function(*specs)
