"""The TensorFlow front end: SavedModel folders, `tf.function` and `tf.Module`.

TensorFlow's own converter runs in a child process, on a SavedModel with the shapes of one sample.
For a folder TensorFlow is imported in the child alone; what is in memory is saved for it first.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeq.errors import ConversionError, DependencyError, ModelError, UnsupportedOpError
from edgeq.export.frontends.arguments import (
    Declared,
    bound,
    call_style,
    first_line,
    fixed_sizes,
)
from edgeq.export.frontends.naming import named_by_layer, named_parts
from edgeq.export.frontends.tensorflow_graph.declared_inputs import (
    as_declared,
    by_position,
    shapes_of,
    specs_of,
    traced_with_either,
)
from edgeq.export.frontends.tensorflow_graph.saved_models import (
    SERVING,
    left_out,
    loaded_from,
    served,
)
from edgeq.export.frontends.trace_check import check_trace
from edgeq.export.importing.custom_ops import PREFIX
from edgeq.export.importing.recurrent_layers import with_recurrent_layers
from edgeq.flatbuffer import parse, with_inputs, with_numbered_outputs
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel

_KINDS = frozenset({"AutoTrackable", "Function", "PolymorphicFunction", "ConcreteFunction"})
_JOBS = "edgeq.export.frontends.tensorflow"
_UNSUPPORTED = re.compile(r"(?:TF Select|Custom) ops: ([\w, ]+)")

_WEIGHTED = re.compile(r"/(Conv|conv|depthwise|MatMul|BatchMatMul|einsum)[^/]*$")


def is_saved_model(model: object) -> bool:
    """Whether `model` is the path of a SavedModel folder."""
    return isinstance(model, str | os.PathLike) and (Path(model) / "saved_model.pb").is_file()


def handles(model: object) -> bool:
    """Whether `model` is TensorFlow's, told without importing TensorFlow."""
    return is_saved_model(model) or any(
        kind.__name__ in _KINDS and kind.__module__.startswith("tensorflow.")
        for kind in type(model).__mro__
    )


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    """Converts a SavedModel folder, `tf.function`, concrete function or `tf.Module`.

    Args:
        model: A module is called; of a loaded SavedModel, its signature is.
        sample: One input: an array, a tuple of them in the order of the function's parameters, or
            a dict of them by name, which a SavedModel with several inputs needs.
        worker: The converter's child process.

    Raises:
        DependencyError: TensorFlow is not installed.
        ModelError: The model cannot be loaded, called or saved.
        UnsupportedOpError: An op has no form in the runtime.
        DataError: `sample` does not fit.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DependencyError(
            "exporting a TensorFlow model needs TensorFlow: pip install 'edgeq[tensorflow]'"
        )
    if is_saved_model(model):
        folder = str(model)
        declared, notes = _call(worker, "folder_inputs", folder)
        arguments = bound(_parameters(list(declared)), sample, folder)
        found = _converted(worker, folder, arguments, _scopes, "tensorflow")
        found = replace(found, notes=(*fixed_sizes(declared, arguments), *notes))
        return checked_folder(found, folder, arguments, worker)
    function, signature = _function(model)
    arguments = bound(signature, sample, _name(model))
    specs = specs_of(function, signature)
    notes = fixed_sizes(shapes_of(specs), arguments)
    positional, keywords = call_style(signature, list(arguments))

    def call(**tensors: Any) -> Any:
        named = as_declared(tensors, specs)
        return function(*(named[n] for n in positional), **{n: named[n] for n in keywords})

    found = _saved(worker, call, arguments, model, _name(model), _scopes, "tensorflow")
    return replace(found, notes=notes)


def trace_call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    name: str,
    layers_in: Callable[[str], list[str]],
    origin: str,
    worker: Worker,
) -> LiteModel:
    """Converts what a function computes of TensorFlow tensors by name.

    Args:
        function: `(**inputs)` to a tensor, or a list or dict of them.
        arguments: An array for each input.
        name: How errors call it.
        layers_in: The layers that the name of a TensorFlow op is made of.
        origin: Framework that the model came from.
        worker: The converter's child process.

    Raises:
        EdgeqError: As for `trace`.
    """
    return _saved(worker, function, arguments, None, name, layers_in, origin)


def checked_folder(
    found: LiteModel, folder: str, arguments: Mapping[str, Any], worker: Worker
) -> LiteModel:
    """Holds a trace against what the folder's signature computes in the child process."""

    def own(arrays: Sequence[Any]) -> dict[str, Any]:
        given = dict(zip(arguments, arrays, strict=True))
        return dict(worker.call(f"{_JOBS}:run_folder", folder, given))

    try:
        return check_trace(found, list(arguments.values()), own, worker, folder)
    except (JobCrashed, JobFailed) as error:
        said = error.reason.splitlines()[0]
        note = f"the trace was not held against the SavedModel, which TensorFlow {said}"
        return replace(found, notes=(*found.notes, note))


def run_folder(folder: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Job: what a SavedModel computes of arrays by the names of its inputs.

    Raises:
        ModelError: It cannot be loaded, or has not the signature.
    """
    import tensorflow as tf

    loaded = loaded_from(folder)
    function = served(loaded, folder)
    specs = function.structured_input_signature[1]
    made = function(**{n: tf.constant(a, specs[n].dtype) for n, a in arguments.items()})
    return {name: tensor.numpy() for name, tensor in made.items()}


def folder_inputs(folder: str) -> tuple[dict[str, Declared], tuple[str, ...]]:
    """Job: names of a SavedModel's inputs, sorted, with their shapes as it declares them; notes.

    Raises:
        ModelError: It cannot be loaded, or has not the signature.
    """
    loaded = loaded_from(folder)
    found = shapes_of(served(loaded, folder).structured_input_signature[1])
    # A folder keeps no order, and each process sees another.
    return dict(sorted(found.items())), left_out(loaded, folder)


def convert_folder(folder: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Job: a SavedModel with inputs of these shapes becomes a float .tflite file.

    Raises:
        ModelError: It cannot be loaded, or does not take these shapes.
        UnsupportedOpError: An op has no form in the runtime.
    """
    import tensorflow as tf

    loaded = loaded_from(folder)
    function = served(loaded, folder)
    specs = function.structured_input_signature[1]
    from edgeq.export.frontends.tensorflow_graph.own_forms import misread_kinds, with_own_forms
    from edgeq.export.frontends.tensorflow_graph.tensor_lists import without_lists

    if any(declared != shapes[name] for name, declared in shapes_of(specs).items()):
        static = {n: tf.TensorSpec(shapes[n], s.dtype, name=n) for n, s in specs.items()}
        function = _concrete(function, static)
    function = without_lists(function)
    made = misread_kinds(function) or _saved_and_converted(function, loaded, folder)
    kinds: set[str] = set()
    while not isinstance(made, bytes):
        replaced = None if kinds.issuperset(made) else with_own_forms(function, {*kinds, *made})
        if replaced is None:
            raise _unsupported(function, made)
        kinds.update(made)
        made = _saved_and_converted(replaced, loaded, folder)
    return made


def _converted_folder(folder: str) -> bytes | list[str]:
    """A SavedModel as a float .tflite file, or the kinds of ops that have no form in it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SERVING])
    converter.allow_custom_ops = True  # edgeq's own, and none besides
    try:
        tflite = bytes(with_recurrent_layers(bytes(converter.convert())))
    except Exception as error:  # the converter's own kind is private
        found = _UNSUPPORTED.findall(str(error))
        if not found:
            raise
        return re.split(r",\s*", found[0].strip())
    ops = [op for graph in parse(tflite).graphs for op in graph.operators]
    custom = sorted({op.name.removeprefix(PREFIX) for op in ops if op.name.startswith(PREFIX)})
    return custom or tflite


def _saved_and_converted(function: Any, owner: Any, name: str) -> bytes | list[str]:
    """As `_converted_folder`, of a function, which may be the one that the folder was made of."""
    if function is owner.signatures.get(SERVING):
        return _converted_folder(name)
    with tempfile.TemporaryDirectory() as folder:
        _save(function, owner, name, folder)
        return _converted_folder(folder)


def _saved(
    worker: Worker,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    owner: Any,
    name: str,
    layers_in: Callable[[str], list[str]],
    origin: str,
) -> LiteModel:
    import tensorflow as tf

    from edgeq.export.frontends.tensorflow_graph.static_values import writes_variables

    specs = {n: tf.TensorSpec(a.shape, a.dtype, name=n) for n, a in arguments.items()}
    with tempfile.TemporaryDirectory() as folder:
        try:
            concrete = traced_with_either(function, lambda f: _concrete(f, specs))
        except Exception as error:  # whatever the user's code raises
            received = ", ".join(f"{n!r} {a.dtype} {a.shape}" for n, a in arguments.items())
            raise ModelError(
                f"TensorFlow cannot trace {name} with inputs {received}: "
                f"{type(error).__name__}: {_said(error)}"
            ) from None
        _save(concrete, owner, name, folder)
        found = _converted(worker, folder, arguments, layers_in, origin)

    def own(arrays: Sequence[Any]) -> dict[str, Any]:
        given = zip(specs.items(), arrays, strict=True)
        made = concrete(**{n: tf.constant(array, spec.dtype) for (n, spec), array in given})
        return {output: tensor.numpy() for output, tensor in made.items()}

    if writes_variables(concrete):
        return found
    return check_trace(found, list(arguments.values()), own, worker, name)


def _concrete(function: Callable[..., Any], specs: Mapping[str, Any]) -> Any:
    import tensorflow as tf

    def by_name(**inputs: Any) -> Mapping[str, Any]:
        result = function(**inputs)
        if isinstance(result, Mapping):
            return dict(named_parts(result))
        flat = tf.nest.flatten(result)
        return {f"output_{i}": value for i, value in enumerate(flat)}

    return tf.function(by_name).get_concrete_function(**specs)


def _save(concrete: Any, owner: Any, name: str, folder: str) -> None:
    import tensorflow as tf

    holder = tf.Module()
    holder.variables_read = list(concrete.variables)
    if hasattr(owner, "_trackable_children"):
        holder.owner = owner
    try:
        tf.saved_model.save(holder, folder, signatures={SERVING: concrete})
    except Exception as error:
        raise ModelError(
            f"TensorFlow cannot save {name}: {_said(error)}. Variables and tables that "
            "a function reads must belong to a tf.Module: export that module"
        ) from None


def _converted(
    worker: Worker,
    folder: str,
    arguments: Mapping[str, Any],
    layers_in: Callable[[str], list[str]],
    origin: str,
) -> LiteModel:
    shapes = {name: tuple(array.shape) for name, array in arguments.items()}
    tflite = _call(worker, "convert_folder", folder, shapes)
    tflite = with_numbered_outputs(with_inputs(tflite, list(shapes)))
    return LiteModel(named_by_layer(tflite, layers_in), origin)


def _call(worker: Worker, job: str, *arguments: object) -> Any:
    try:
        return worker.call(f"{_JOBS}:{job}", *arguments)
    except (JobCrashed, JobFailed) as error:
        raise ConversionError(
            f"lowering the float model: TensorFlow's converter {error.reason.splitlines()[0]}"
        ) from None


def _unsupported(function: Any, kinds: Sequence[str]) -> UnsupportedOpError:
    from edgeq.export.frontends.tensorflow_graph.static_values import all_nodes, is_double

    node = next((n for n in all_nodes(function) if n.op in kinds), None)
    found, name = (kinds[0], "?") if node is None else (node.op, node.name)
    others = f" (nor have {', '.join(k for k in kinds if k != found)})" if kinds[1:] else ""
    way_out = "write it with other ops, or leave it to the app that reads the outputs"
    if node is not None and is_double(node):
        found, way_out = f"{found} in float64", "compute it in float32, from float32 variables"
    return UnsupportedOpError(f"{found} at {name} has no form in the runtime{others}; {way_out}")


def _function(model: Any) -> tuple[Callable[..., Any], inspect.Signature]:
    """Function to be called, and its inputs."""
    if hasattr(model, "signatures"):
        function = served(model, _name(model))
        return function, _parameters(function.structured_input_signature[1])
    if hasattr(model, "structured_input_signature"):
        first = [inspect.Parameter(name, _ANY_WAY) for name in by_position(model)]
        rest = _parameters(model.structured_input_signature[1]).parameters.values()
        return model, inspect.Signature([*first, *rest])
    if not callable(model):
        raise ModelError(
            f"the tf.Module {_name(model)} has no __call__; export the tf.function of it that "
            "computes the outputs, such as module.predict"
        )
    return model, inspect.signature(getattr(model, "python_function", model))


def _parameters(names: Sequence[str]) -> inspect.Signature:
    kind = inspect.Parameter.KEYWORD_ONLY if len(names) > 1 else _ANY_WAY
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


_ANY_WAY = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _said(error: Exception) -> str:
    """Message of an error, which in errors of the user's code stands below its traceback."""
    text = str(error)
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300].rstrip(".") if "in user code" in text else first_line(error)


def parts_of(name: str) -> list[str]:
    """The paths of the ops that a tensor's name is made of; those with a weight come first."""
    return sorted(name.split(";"), key=lambda part: not _WEIGHTED.search(part))


def _scopes(name: str) -> list[str]:
    """The scopes of the ops that a tensor's name is made of."""
    found = (part.rpartition("/")[0] for part in parts_of(name))
    return [scope for scope in found if scope]


def _name(model: Any) -> str:
    return str(getattr(model, "__name__", type(model).__name__))
