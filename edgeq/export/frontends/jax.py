"""The JAX front end: a function that JAX can trace becomes a float LiteRT model.

JAX is imported only when a model of it is exported, and TensorFlow never. Traces in 32 bits
whatever JAX is set to, and sets it back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.converter import lower_exported
from edgeq.errors import (
    ConversionError,
    DependencyError,
    EdgeqError,
    ModelError,
    UnsupportedOpError,
)
from edgeq.export.frontends.arguments import bound, call_style, first_line
from edgeq.export.frontends.composites import with_given_scales
from edgeq.export.frontends.naming import named_by_layer
from edgeq.export.frontends.tflite import CHECK_LIMIT_S, KERNEL_CHECK
from edgeq.export.frontends.trace_check import check_trace, forgotten
from edgeq.export.importing.recurrent_layers import with_recurrent_layers
from edgeq.export.importing.sequence_loop import SEQUENCE_LOOP
from edgeq.export.importing.sequence_lstm import SEQUENCE_LSTM
from edgeq.foreign.code_lines import raised_line
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel

if TYPE_CHECKING:
    from edgeq.export.frontends.jaxpr import Emitted
    from edgeq.export.frontends.jaxpr.function_states import State

_LAYER = re.compile(r"jit\(model\)/([^|;]+)\|")
_PACKAGES = ("jax", "jaxlib", "flax")
_INSTALL = "pip install 'edgeq[jax]'"


@dataclass(frozen=True)
class Function:
    """A JAX function as it is to be exported.

    Attributes:
        call: `(parameters, *inputs)` to the outputs.
        parameters: Tree of arrays.
        signature: Of the user's own function, without parameters.
        name: How errors call it.
        owner: Path of the layer that owns a parameter, from its path in the tree.
        root: Name of the scope that is the model itself.
        origin: Framework that it came from.
        output_names: Names of the outputs; None to name them by where they are in the result.
        written: Paths of the parameters that a call has changed, once it was traced.
    """

    call: Callable[..., Any]
    parameters: Any
    signature: inspect.Signature
    name: str
    owner: Callable[[tuple[str, ...]], str] = lambda path: "/".join(path[:-1] or path)
    root: str = ""
    origin: str = "jax"
    output_names: tuple[str, ...] | None = None
    written: dict[tuple[str, ...], Any] = field(default_factory=dict)


def handles(model: object) -> bool:
    """Whether `model` may be a JAX function: anything that can be called."""
    return callable(model)


def trace(model: Any, params: Any, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a JAX function.

    Args:
        model: `(params, *inputs)` to arrays, or `(*inputs)` where `params` is None.
        params: Tree of the arrays that are its first argument.
        sample: One input: an array, a tuple of them in positional order, or a dict of them by the
            name of the function's parameter.
        worker: The converter's child process.

    Raises:
        DependencyError: JAX is not installed.
        ModelError: JAX cannot trace the function.
        UnsupportedOpError: An op has no lowering.
        DataError: `sample` does not fit the function.
    """
    check_installed()
    name = getattr(model, "__name__", type(model).__name__)
    signature = _signature(model)
    if params is None:
        return trace_function(
            Function(lambda _, *a, **k: model(*a, **k), (), signature, name), sample, worker
        )
    without = signature.replace(parameters=list(signature.parameters.values())[1:])
    return trace_function(Function(model, params, without, name), sample, worker)


def trace_function(function: Function, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a function of parameters and inputs; see `trace`."""
    from edgeq.export.frontends.jaxpr import function_states
    from edgeq.export.frontends.jaxpr.parameters import as_float32

    notes: list[str] = []
    with without_x64():
        function, sample = _flat(function, sample)
        arguments = bound(function.signature, sample, function.name)
        parameters = as_float32(function.parameters, notes)
        lowered = _Lowering(function, parameters, arguments)
        module = lowered.module()
    names = [name for name, _ in lowered.outputs]
    states = function_states.states_of(function, parameters, lowered.kept, names)
    if states:
        with contextlib.suppress(EdgeqError):  # it is exported as one that keeps nothing then
            return _with_states(function, states, lowered, worker, notes)
    return _model_of(lowered, module, worker, notes)


def _with_states(
    function: Function,
    states: Sequence[State],
    lowered: _Lowering,
    worker: Worker,
    notes: Sequence[str],
) -> LiteModel:
    """The model of a function with what it keeps among its inputs and outputs."""
    from edgeq.export.frontends.jaxpr.function_states import carrying

    names = [name for name, _ in lowered.outputs]
    with without_x64():
        whole = carrying(function, states, names)
        arguments = {**lowered.arguments, **{state.taken: state.zeros for state in states}}
        carried = _Lowering(whole, lowered.parameters, arguments)
        module = carried.module()
    # A trace is held against the function where its states are no zeros any more.
    behind = carried.own_outputs(list(arguments.values()))
    carried.arguments = {**arguments, **{s.taken: behind[s.given] for s in states}}
    found = _model_of(carried, module, worker, notes)
    return replace(found, states=tuple((state.taken, state.given) for state in states))


def _model_of(lowered: _Lowering, module: bytes, worker: Worker, notes: Sequence[str]) -> LiteModel:
    """The model of what was lowered, held against the function."""
    names, arguments = [name for name, _ in lowered.outputs], lowered.arguments
    notes = (*notes, *lowered.notes())
    try:
        tflite = with_recurrent_layers(lower_exported(worker, module, list(arguments), names))
        named = named_by_layer(tflite, _LAYER.findall, lowered.layers, dict(lowered.outputs))
        found = with_given_scales(LiteModel(named, lowered.function.origin, notes))
        _check_kernels(found, worker)
    except (ConversionError, ModelError) as error:
        with without_x64():
            raise _refused_op(lowered.ops, worker) or error from None
    _check_shapes(found, lowered)
    if found.given:
        return found
    doubts = tuple(forgotten(".".join(path)) for path in lowered.kept)
    own = lowered.own_outputs
    found = check_trace(found, list(arguments.values()), own, worker, lowered.function.name)
    near = () if lowered.narrow else found.doubts  # what it computes in fewer bits is only near
    return replace(found, doubts=(*doubts, *near))


def _flat(function: Function, sample: Any) -> tuple[Function, Any]:
    """A function of arrays, where one takes dicts of them, and its sample by name."""
    import jax

    from edgeq.export.frontends.jaxpr.parameters import parts

    inputs = sample if isinstance(sample, tuple | list) else (sample,)
    named = sample if isinstance(sample, Mapping) else {}
    given = [*named.values()] if named else inputs
    if not any(isinstance(value, Mapping) for value in given):
        return function, sample
    try:
        call = function.signature.bind(*(() if named else inputs), **named)
    except TypeError:
        return function, sample  # which is said where arrays are bound
    names = list(call.arguments)  # a dict of them would be flattened in another order
    paths, structure = jax.tree_util.tree_flatten_with_path(list(call.arguments.values()))
    keys = ((names[path[0].idx], *parts(path[1:])) for path, _ in paths)
    flat = {"_".join(key): array for key, (_, array) in zip(keys, paths, strict=True)}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in flat])

    def called(parameters: Any, *arrays: Any) -> Any:
        values = jax.tree_util.tree_unflatten(structure, arrays)
        call.arguments = dict(zip(names, values, strict=True))
        return function.call(parameters, *call.args, **call.kwargs)

    return replace(function, call=called, signature=signature), flat


def check_installed() -> None:
    """Raises a `DependencyError` unless JAX is installed."""
    if importlib.util.find_spec("jax") is None:
        raise DependencyError(f"exporting a JAX or Flax model needs JAX: {_INSTALL}")


@contextlib.contextmanager
def without_x64() -> Iterator[None]:
    """Keeps JAX in 32 bits: it may be set to 64, as importing litert-torch does for all."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _check_kernels(model: LiteModel, worker: Worker) -> None:
    """Raises a `ModelError` for ops that the converter writes down, but no runtime computes."""
    try:
        worker.call(KERNEL_CHECK, model.tflite, timeout_s=CHECK_LIMIT_S)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(f"the runtime refuses the model: {error.reason}") from None


def _refused_op(ops: Iterable[Emitted], worker: Worker) -> UnsupportedOpError | None:
    """The op that the converter refuses by itself, if one does."""
    for op in ops:
        names = [f"input_{i}" for i in range(len(op.operands))]
        try:
            count, module = _exported(op.function, op.operands)
            outputs = [f"output_{i}" for i in range(count)]
            _check_kernels(LiteModel(lower_exported(worker, module, names, outputs), "jax"), worker)
        except (ConversionError, ModelError):
            return UnsupportedOpError(
                f"{op.name} at {op.layer} has no form in the runtime; write it with other ops, or "
                "leave it to the app that reads the outputs"
            )
    return None


def _exported(function: Callable[..., Any], specs: Sequence[Any]) -> tuple[int, bytes]:
    """`(number of outputs, portable module)` of a function."""
    import jax
    import jax.export

    own = [jax.export.DisabledSafetyCheck.custom_call(t) for t in (SEQUENCE_LSTM, SEQUENCE_LOOP)]
    jitted = jax.jit(function, keep_unused=True)
    exported = jax.export.export(jitted, platforms=["cpu"], disabled_checks=own)(*specs)
    return len(exported.out_avals), bytes(exported.mlir_module_serialized)


def _check_shapes(model: LiteModel, lowered: _Lowering) -> None:
    found = {name: tensor.shape for name, tensor in model.output_tensors()}
    for (name, layer), shape in zip(lowered.outputs, lowered.shapes, strict=True):
        if found.get(name) != shape:
            raise ConversionError(
                f"lowering the float model: the converter made output {name!r}, computed at "
                f"{layer}, of shape {found.get(name)} where JAX has {shape}; report the model"
            )


class _Lowering:
    """One function on its way to StableHLO.

    Attributes:
        layers: Paths of its layers, in the order they run.
        ops: What was emitted, each kind once.
        outputs: Name of each output and the layer that computes it.
        shapes: Shape of each output.
        kept: Paths of parameters in which the function keeps what later calls depend on.
        narrow: Types of fewer bits than float32 that it computes in.
    """

    def __init__(self, function: Function, parameters: Any, arguments: Mapping[str, Any]) -> None:
        self.function = function
        self.parameters = parameters
        self.arguments = arguments
        self.layers: tuple[str, ...] = ()
        self.ops: tuple[Emitted, ...] = ()
        self.shapes: tuple[tuple[int, ...], ...] = ()
        self.outputs: tuple[tuple[str, str], ...] = ()
        self.kept: tuple[tuple[str, ...], ...] = ()
        self.narrow: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What the file does otherwise than the function."""
        kinds = " and ".join(self.narrow)
        return (
            [f"the model computes in {kinds} in places; the file does in float32"] if kinds else []
        )

    def module(self) -> bytes:
        """The function as `jax.export` writes it."""
        import jax

        from edgeq.export.frontends.jaxpr import Emitter, function_states
        from edgeq.export.frontends.jaxpr.parameters import parts

        program, names = self._traced()
        leaves = jax.tree_util.tree_leaves_with_path(self.parameters)
        owned = [(self.function.owner(parts(path)), leaf) for path, leaf in leaves]
        emitter = Emitter(self.function.root)
        computing: list[str] = []

        def model(*inputs: Any) -> list[Any]:
            outputs, computing[:] = emitter.emit(program, owned, inputs)
            return outputs

        specs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.arguments.values()]
        try:
            _, module = _exported(model, specs)
        except EdgeqError:
            raise
        except Exception as error:  # JAX raises dozens of kinds
            raise UnsupportedOpError(
                f"jax.export cannot lower an op of {self.function.name}: {first_line(error)}. "
                "Replace that op in the model"
            ) from None
        paths = [parts(path) for path, _ in leaves]
        self.kept = function_states.kept(program.jaxpr, paths, self.function.written)
        self.narrow = tuple(sorted(emitter.narrow))
        self.layers = emitter.layers
        self.ops = tuple(emitter.ops.values())
        self.shapes = tuple(tuple(aval.shape) for aval in program.out_avals)
        self.outputs = tuple(zip(names, computing, strict=True))
        return module

    def _traced(self) -> tuple[Any, tuple[str, ...]]:
        """The function's jaxpr, and names of its outputs."""
        import jax

        from edgeq.export.frontends.jaxpr.parameters import output_name

        treedef: list[Any] = []

        def flat(parameters: Any, *inputs: Any) -> list[Any]:
            result = self._called(parameters, inputs)
            treedef[:] = [path for path, _ in jax.tree_util.tree_leaves_with_path(result)]
            return list(jax.tree_util.tree_leaves(result))

        try:
            program = jax.make_jaxpr(flat)(self.parameters, *self.arguments.values())
        except EdgeqError:
            raise
        except Exception as error:
            raise self._trace_error(error) from None
        named = self.function.output_names or tuple(output_name(path) for path in treedef)
        if not treedef:
            raise ModelError(f"{self.function.name} returns no array; return what it computes")
        return program, named

    def _called(self, parameters: Any, inputs: Sequence[Any]) -> Any:
        """The function's result."""
        names = list(self.arguments)
        positional, keywords = call_style(self.function.signature, names)
        values = dict(zip(names, inputs, strict=True))
        return self.function.call(
            parameters, *(values[n] for n in positional), **{n: values[n] for n in keywords}
        )

    def own_outputs(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """What JAX computes of inputs, by the names of the outputs."""
        import jax

        from edgeq.export.frontends.jaxpr.parameters import as_float32

        with without_x64():  # on JAX's own arrays, which have what NumPy's lack
            given = jax.tree_util.tree_map(jax.numpy.asarray, (self.parameters, list(inputs)))
            made = jax.tree_util.tree_leaves(self._called(*given))
        names = (name for name, _ in self.outputs)
        arrays = (np.asarray(as_float32(array, [])) for array in made)
        return dict(zip(names, arrays, strict=True))

    def _trace_error(self, error: Exception) -> EdgeqError:
        received = ", ".join(f"{n!r} {a.dtype} {a.shape}" for n, a in self.arguments.items())
        place = raised_line(error, _PACKAGES)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "ConcretizationTypeError" in kinds or "TracerArrayConversionError" in kinds:
            return ModelError(
                f"JAX cannot trace {self.function.name}{place} with inputs {received}: "
                f"{first_line(error)}. It must be a function that jax.jit takes: no branches on "
                "values, no numpy functions on its inputs"
            )
        return ModelError(
            f"calling {self.function.name}{place} on inputs {received} raises "
            f"{type(error).__name__}: {first_line(error)}. A function of parameters and inputs "
            "needs params=..., and rep_dataset must fit its inputs"
        )


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        variable = inspect.Parameter("input", inspect.Parameter.VAR_POSITIONAL)
        return inspect.Signature([variable])
