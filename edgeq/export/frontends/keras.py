"""The Keras front end: a model goes to the front end of the backend that Keras runs on.

Keras is imported only when one of its models is exported, and has been by then. What has to differ
while a model is traced is set back when it is done.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import DependencyError, ModelError
from edgeq.export.frontends import jax as on_jax
from edgeq.export.frontends import tensorflow as on_tensorflow
from edgeq.export.frontends import torch as on_torch
from edgeq.export.frontends.arguments import Declared, bound, first_line, fixed_sizes
from edgeq.export.frontends.keras_program.keras_precision import in_float32, wide_parameters
from edgeq.export.frontends.keras_program.keras_recurrent import without_loops
from edgeq.export.frontends.keras_program.keras_states import State, carrying, states_of
from edgeq.export.frontends.trace_check import forgotten
from edgeq.isolation import Worker
from edgeq.model import LiteModel

_NUMBERED = re.compile(r"keras_tensor(_\d+)?$")


_FILES = (".keras", ".h5", ".hdf5")


def handles(model: object) -> bool:
    """Whether `model` is a Keras 3 model, a layer or a file of one, told without Keras."""
    return is_file(model) or any(
        kind.__name__ == "Layer" and kind.__module__.startswith(("keras.", "tf_keras."))
        for kind in type(model).__mro__
    )


def is_file(model: object) -> bool:
    """Whether `model` is the path of a file that Keras has saved."""
    return isinstance(model, str | os.PathLike) and Path(model).suffix.lower() in _FILES


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a built Keras model in evaluation mode.

    Args:
        model: Sequential, functional or subclassed, or the path of one that was saved.
        sample: One input: an array, a tuple of them in the order of `model.inputs`, or a dict of
            them by the name of the input.
        worker: The converter's child process.

    Raises:
        ModelError: The model is not built, quantized, or of Keras 2; or no model is in the file.
        EdgeqError: As the front end of the backend.
    """
    model = _loaded(Path(model)) if is_file(model) else model
    if type(model).__mro__[-2].__module__.startswith("tf_keras") or not _is_keras_3():
        raise ModelError(
            f"{type(model).__name__} is of Keras 2; load it with Keras 3, or save it with "
            "model.export(folder) and export that folder"
        )
    if not model.built:
        raise ModelError(
            f"the Keras model {model.name!r} is not built: it has no weights yet. Call it once on "
            "an input, or model.build(input_shape), and load or train its weights"
        )
    found = _Call(model)
    _check_float(found.layers)
    every = list(model._flatten_layers())
    with in_float32(every), without_loops(found.layers, _backend()):
        traced = _traced(found, sample, worker)
    notes = fixed_sizes(found.declared, bound(found.signature, sample, model.name))
    layers = found.layers.items() if not traced.states else ()
    kept = [path for path, layer in layers if getattr(layer, "stateful", False)]
    doubts = (*traced.doubts, *map(forgotten, kept))
    return replace(traced, notes=(*traced.notes, *notes), doubts=doubts)


def _loaded(path: Path) -> Any:
    """The model of a file; its optimizer and losses are not read."""
    if importlib.util.find_spec("keras") is None:
        raise DependencyError(f"reading {path.name} needs Keras: pip install 'edgeq[keras]'")
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds
        raise ModelError(
            f"Keras cannot load {path}: {first_line(error)}. A model with layers of your own is "
            "loaded by keras.models.load_model(path, custom_objects=...), and exported then"
        ) from None


def _check_float(layers: Mapping[str, Any]) -> None:
    """Raises a `ModelError` for layers that Keras has quantized."""
    for path, layer in layers.items():
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise ModelError(
                f"layer {path!r} is quantized already ({mode}); export the model as it was before "
                "model.quantize"
            )


def _traced(found: _Call, sample: Any, worker: Worker) -> LiteModel:
    backend, model = _backend(), found.model
    if backend == "jax":
        return on_jax.trace_function(_jax_function(found), sample, worker)
    if backend in ("torch", "tensorflow"):
        arguments = bound(found.signature, sample, model.name)
        states = _states(found, arguments)
        call = carrying(found.called, states)
        arguments |= {state.taken: np.zeros_like(state.start) for state in states}
        traced = _TRACED[backend](found, call, arguments, worker)
        return replace(traced, states=tuple((s.taken, s.given) for s in states))
    raise ModelError(
        f"Keras runs on {backend}; edgeq exports from the backends jax, torch and tensorflow: set "
        "KERAS_BACKEND before Keras is imported"
    )


def _states(found: _Call, arguments: Mapping[str, Any]) -> tuple[State, ...]:
    """What is kept between calls; Keras' own layers do if they are recurrent and asked to."""
    kept, parts = found.layer_states(), (found.model, *found.layers.values())
    if not kept and all(type(part).__module__.startswith("keras.") for part in parts):
        return ()
    variables = {**found.by_path(found.model.non_trainable_variables), **kept}
    return states_of(lambda: found.called(dict(arguments)), variables, arguments)


def _trace_tensorflow(
    found: _Call, call: Callable[..., Any], arguments: Mapping[str, Any], worker: Worker
) -> LiteModel:
    name = found.model.name
    return on_tensorflow.trace_call(
        lambda **named: call(named), arguments, name, found.layers_in, "keras", worker
    )


def _backend() -> str:
    import keras

    return str(keras.backend.backend())


def _is_keras_3() -> bool:
    return int(importlib.metadata.version("keras").partition(".")[0]) >= 3


class _Call:
    """How a model is called, and what its inputs, outputs and layers are called.

    Attributes:
        model: The Keras model.
        layers: Path of each layer below it, `block/conv`, with the layer.
        signature: A parameter for each input.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        own = getattr(model, "_inputs_struct", None)
        self._structure = _structure_of_call(model) if own is None else own
        self.layers = {self._path(layer): layer for layer in model._flatten_layers()}
        self.layers.pop("", None)
        self.signature = self._signature()

    def by_path(self, variables: Sequence[Any]) -> dict[str, Any]:
        """Variables by their paths below the model."""
        return {v.path.removeprefix(f"{self.model.name}/"): v for v in variables}

    def layer_states(self) -> dict[str, Any]:
        """Variables of recurrent layers that keep their states, which no model has in its own."""
        import keras

        return {
            f"{path}/state_{place}": variable
            for path, layer in self.layers.items()
            if getattr(layer, "stateful", False)
            for place, variable in enumerate(keras.tree.flatten(layer.states))
        }

    def _path(self, layer: Any) -> str:
        """Path of a layer below the model."""
        if layer is self.model:
            return ""
        path = str(layer.path or layer.name)
        return path.removeprefix(f"{self.model.name}/")

    def _signature(self) -> inspect.Signature:
        inputs = self._inputs()
        if not inputs:
            call = inspect.signature(self.model.call).parameters.values()
            skipped = ("training", "mask")
            return inspect.Signature([p for p in call if p.name not in skipped])
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(_identifier(n), kind) for n in inputs])

    def _inputs(self) -> list[str]:
        """Names of the inputs, but those that a subclassed model takes one by one."""
        if isinstance(self._structure, Mapping) and not getattr(self.model, "inputs", None):
            return sorted(map(str, self._structure))
        names = [tensor.name for tensor in getattr(self.model, "inputs", None) or ()]
        if not names and self._structure is not None:
            names = ["keras_tensor"] * len(self._structure)
        # Keras numbers tensors without a name anew in each process.
        return [f"input_{i}" if _NUMBERED.match(n) else n for i, n in enumerate(names)]

    @property
    def declared(self) -> dict[str, Declared]:
        """Shapes of the inputs as the model declares them; of a subclassed one, nothing."""
        inputs = getattr(self.model, "inputs", None) or ()
        return {n: tuple(t.shape) for n, t in zip(self.signature.parameters, inputs, strict=False)}

    def run(self, named: Mapping[str, Any], function: Any = None) -> Any:
        """Calls the model in evaluation mode on inputs by name."""
        function = function or self.model
        if not self._inputs():
            return function(**named, training=False)
        # TensorFlow and JAX pass the entries of a dict in the order of their names.
        values = [named[name] for name in self.signature.parameters]
        return function(self._packed(values), training=False)

    def _packed(self, values: list[Any]) -> Any:
        import keras

        struct = self._structure
        if struct is None:
            return values[0] if len(values) == 1 else values
        return keras.tree.pack_sequence_as(struct, values)

    def called(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """The model's outputs by name of inputs by name."""
        return dict(self.outputs(self.run(named)))

    def outputs(self, result: Any) -> Any:
        """The outputs as a dict by name, where the model or its result names them."""
        if isinstance(result, Mapping):
            return result
        model = getattr(self.model, "_functional", None) or self.model
        names = [_identifier(name) for name in getattr(model, "output_names", None) or ()]
        values = list(result) if isinstance(result, tuple | list) else [result]
        if len(set(names)) != len(values):
            names = [f"output_{i}" for i in range(len(values))]
        return dict(zip(names, values, strict=True))

    def layers_in(self, name: str) -> list[str]:
        """The layers that the name of a TensorFlow op is made of."""
        found = (self._layer_of(part.split("/")) for part in on_tensorflow.parts_of(name))
        return [layer for layer in found if layer]

    def _layer_of(self, scopes: Sequence[str]) -> str:
        names = {layer.name for layer in self.layers.values()}
        path: list[str] = []
        for scope in scopes:
            own = next((n for n in (scope, scope.rpartition("_")[0]) if n in names), None)
            if own is not None:
                path.append(own)
            elif path:
                break
        return "/".join(path)


def _structure_of_call(model: Any) -> Any:
    """The list, tuple or dict that a subclassed model was called on; None of one of tensors."""
    call = inspect.signature(model.call).parameters
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    given = next(iter(shapes.values()), None)
    if len(set(call) - {"training", "mask"}) != 1:
        return None
    if isinstance(given, Mapping):
        return dict.fromkeys(given, 0)
    is_listed = isinstance(given, list | tuple) and all(isinstance(s, tuple) for s in given)
    return type(given)([0] * len(given)) if is_listed and given else None


def _identifier(name: str) -> str:
    """A name that a function's parameter can have."""
    text = "".join(c if c.isalnum() else "_" for c in name)
    return text if text.isidentifier() else f"input_{text}"


def _jax_function(found: _Call) -> on_jax.Function:
    import keras

    model = found.model
    held = {**found.by_path(model.variables), **found.layer_states()}
    written: dict[tuple[str, ...], Any] = {}
    has_modes = "training" in inspect.signature(model.call).parameters

    def call(variables: Mapping[str, Any], *inputs: Any) -> Any:
        def stateless(*inputs: Any, training: bool, **keywords: Any) -> Any:
            keywords |= {"training": training} if has_modes else {}
            mapping = [(variable, variables[name]) for name, variable in held.items()]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                before = {name: scope.get_current_value(v) for name, v in held.items()}
                made = model.call(*inputs, **keywords)
            behind = {name: scope.get_current_value(v) for name, v in held.items()}
            written.clear()
            written.update({(n,): value for n, value in behind.items() if value is not before[n]})
            return made

        named = dict(zip(found.signature.parameters, inputs, strict=False))
        return found.outputs(found.run(named, stateless))

    values = {name: variable.value for name, variable in held.items()}
    return on_jax.Function(
        call, values, found.signature, model.name, _owner(model.name), model.name, "keras",
        written=written,
    )  # fmt: skip


def _owner(root: str) -> Any:
    def owner(path: tuple[str, ...]) -> str:
        return path[0].removeprefix(f"{root}/").rpartition("/")[0]

    return owner


def _run(scope: Any, *inputs: Any, **named: Any) -> Any:
    return scope(*inputs, **named)  # not its bound `__call__`, which the tracing replaces


def _trace_torch(
    found: _Call, call: Callable[..., Any], arguments: Mapping[str, Any], worker: Worker
) -> LiteModel:
    import torch

    class Scope(torch.nn.Module):  # type: ignore[misc]
        """Calls a layer as a module, whose name the tracing then writes down."""

        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def forward(self, *inputs: Any, **named: Any) -> Any:
            return self.function(*inputs, **named)

    class Model(torch.nn.Module):  # type: ignore[misc]
        """The Keras model under a name that layer paths leave out."""

        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = found.model

        def forward(self, **named: Any) -> Any:
            return call(named)

    module = Model()
    replaced = {}
    for path, layer in found.layers.items():
        scope = Scope(layer.call)
        module.add_module(path.replace(".", "_"), scope)
        replaced[path] = layer.__dict__.get("call")
        layer.__dict__["call"] = functools.partial(_run, scope)
    try:
        with wide_parameters(found.model.variables):
            return on_torch.trace_module(module, arguments, worker, origin="keras")
    finally:
        for path, before in replaced.items():
            if before is None:
                del found.layers[path].__dict__["call"]
            else:
                found.layers[path].__dict__["call"] = before


_TRACED = {"torch": _trace_torch, "tensorflow": _trace_tensorflow}
"""What traces a call of a model, by the backend that runs it."""
