"""The PyTorch front end: a module or exported program becomes a float LiteRT model.

torch is imported only when a PyTorch model is exported. The caller's module is never changed: what
has to differ (training mode, half precision, device) is changed in a copy.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeq.converter import lower_to_float
from edgeq.data.as_numpy import to_numpy
from edgeq.errors import (
    DataError,
    EdgeqError,
    ModelError,
    ProcessKilledError,
    UnsupportedOpError,
)
from edgeq.export.frontends import litert_torch_adapter as adapter
from edgeq.export.frontends.arguments import (
    as_one,
    first_line,
    left_over,
    with_own_keys,
    without_labels,
)
from edgeq.export.frontends.composites import with_given_scales
from edgeq.export.frontends.naming import named_by_layer
from edgeq.export.frontends.torch_program import source_places
from edgeq.export.frontends.torch_program.traced_program import (
    check_program,
    copied,
    input_names,
    output_names,
)
from edgeq.export.frontends.trace_check import check_trace, forgotten
from edgeq.export.importing.recurrent_layers import with_recurrent_layers
from edgeq.isolation import Worker
from edgeq.model import LiteModel

_FILES = (".pt2", ".pt", ".pth")
_LAYER = re.compile(r"([^;]+);")
_WEIGHTED = re.compile(r"\.(conv|linear|mm|addmm|bmm|matmul)")


def handles(model: object) -> bool:
    """Whether `model` is a PyTorch model or a file of one, told without importing torch."""
    owner = getattr(model, "__self__", model)
    return is_file(model) or any(
        kind.__module__.startswith("torch.") and kind.__name__ in ("Module", "ExportedProgram")
        for kind in type(owner).__mro__
    )


def is_file(model: object) -> bool:
    """Whether `model` is the path of a file that PyTorch has saved."""
    return isinstance(model, str | os.PathLike) and Path(model).suffix.lower() in _FILES


def is_function_of(model: object, sample: object) -> bool:
    """Whether `model` is a function that takes PyTorch's tensors."""
    return callable(model) and any(
        type(value).__module__.startswith("torch") for value in _values(sample)
    )


def _values(sample: Any) -> list[Any]:
    if isinstance(sample, Mapping):
        sample = list(sample.values())
    if not isinstance(sample, tuple | list):
        return [sample]
    return [value for part in sample for value in _values(part)]


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a PyTorch model.

    Args:
        model: `nn.Module`, also compiled or in training mode or half precision, a method of one or
            a function of tensors; `torch.export.ExportedProgram`; or the path of a file that
            torch.export.save or torch.jit.save has written.
        sample: One input: a tensor or array, a tuple of them in positional order, or a dict of
            them by the name of `forward`'s parameter.
        worker: The converter's child process.

    Raises:
        DependencyError: litert-torch is not installed.
        ModelError: torch.export cannot trace the module, or the program cannot be exported; or no
            model is in the file.
        UnsupportedOpError: An ATen op has no lowering.
        DataError: `sample` does not fit `forward`.
    """
    notes: list[str] = []
    with adapter.quiet():
        adapter.check_installed()
        from edgeq.export.frontends.torch_program import prepared_modules

        model = prepared_modules.loaded(Path(model)) if is_file(model) else model
        if _is_program(model):
            return _traced(model, worker, (), check=_check_of_program(model, worker))
        model, learned = _finished(prepared_modules.as_module(model), notes)
        module = prepared_modules.prepared(model, notes)
        made = _exported(module, sample, worker, notes, "pytorch", True)
        return with_own_keys(replace(made, learned=learned), sample)


def trace_module(
    module: Any, sample: Any, worker: Worker, notes: tuple[str, ...] = (), origin: str = "pytorch"
) -> LiteModel:
    """Traces and lowers a module that is in evaluation mode and float32, as it is; see `trace`."""
    with adapter.quiet():
        adapter.check_installed()
        return _exported(module, sample, worker, notes, origin, False)


def _exported(
    module: Any, sample: Any, worker: Worker, notes: Sequence[str], origin: str, checked: bool
) -> LiteModel:
    """Traces and lowers a module; `checked` holds the trace against the module's own outputs."""
    found = _export(module, sample)
    given = (found.arguments, found.keywords)
    check = _checking(lambda: found.module, found.program, given, worker) if checked else _as_it_is
    made = _traced(found.program, worker, (*notes, *found.notes), origin, check)
    said = (forgotten(name) for name in found.kept)
    doubts = tuple(dict.fromkeys((*said, *made.doubts)))
    return replace(made, doubts=doubts, states=found.states)


def _check_of_program(program: Any, worker: Worker) -> Callable[[LiteModel], LiteModel]:
    """Holds the trace of an exported program against it, on the sample that it was traced with."""
    positional, named = program.example_inputs or ((), {})
    if not (positional or named):
        return _as_it_is
    return _checking(program.module, program, (positional, named), worker)


def _checking(
    module: Callable[[], Any], program: Any, given: tuple[Any, Any], worker: Worker
) -> Callable[[LiteModel], LiteModel]:
    """Holds a trace of a program against what a module makes of positional and named arguments."""

    def check(traced: LiteModel) -> LiteModel:
        return _checked(module(), program, given, traced, worker)

    return check


def _checked(
    module: Any, program: Any, given: tuple[Any, Any], traced: LiteModel, worker: Worker
) -> LiteModel:
    """Holds the trace against the module's own outputs; not where it has scales of its own."""
    import torch
    import torch.utils._pytree as pytree

    from edgeq.export.frontends.torch_program.prepared_modules import one_way_of_attention

    names = output_names(program)
    if names is None or traced.given:
        return traced
    arguments, keywords = given
    if _copy_of(module) is None or _run_error(module, arguments, keywords) is not None:
        return traced
    leaves, structure = pytree.tree_flatten((arguments, keywords))
    inputs = [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def own(arrays: Sequence[Any]) -> dict[str, Any]:
        tensors = iter([torch.from_numpy(array.copy()) for array in arrays])
        given = [next(tensors) if isinstance(x, torch.Tensor) else x for x in leaves]
        positional, named = pytree.tree_unflatten(given, structure)
        with torch.no_grad(), one_way_of_attention():
            made = pytree.tree_leaves(_copy_of(module)(*positional, **named))
        pairs = zip(names, made, strict=False)
        return {n: t.numpy() for n, t in pairs if isinstance(t, torch.Tensor)}

    return check_trace(traced, inputs, own, worker, type(module).__name__)


def _as_it_is(traced: LiteModel) -> LiteModel:
    """Takes a trace without holding it against anything."""
    return traced


def _traced(
    program: Any,
    worker: Worker,
    notes: tuple[str, ...],
    origin: str = "pytorch",
    check: Callable[[LiteModel], LiteModel] = _as_it_is,
) -> LiteModel:
    """The float model of a program, which stays as it is.

    edgeq's own forms of ops are left out where the model is lowered without them alone.
    """
    with adapter.quiet():
        check_program(program)
        try:
            made = check(_lowered(program, worker, True, origin, notes))
        except ProcessKilledError:
            raise  # it says nothing of the forms
        except EdgeqError as error:
            plain = _plain(program, worker, check)
            if plain is None:
                raise
            note = f"litert-torch's own forms of all ops were taken: {first_line(error)}"
            made = replace(plain, origin=origin, notes=(*notes, note))
    return made


def _plain(
    program: Any, worker: Worker, check: Callable[[LiteModel], LiteModel]
) -> LiteModel | None:
    """The float model as litert-torch has it, or None if it has none or a wrong one."""
    try:
        return check(_lowered(program, worker, False))
    except ProcessKilledError:
        raise
    except EdgeqError:
        return None


def _lowered(
    program: Any,
    worker: Worker,
    own_forms: bool,
    origin: str = "pytorch",
    notes: tuple[str, ...] = (),
) -> LiteModel:
    """The float model of a program, with or without edgeq's own forms of ops."""
    # What is fused into a weighted op goes by its name.
    nodes = sorted(program.graph.nodes, key=lambda n: not _WEIGHTED.search(str(n.target)))
    layers = {node.name: source_places.layer_path(node) for node in nodes}
    lowered = _lower(copied(program), layers, own_forms)
    tflite = with_recurrent_layers(lower_to_float(worker, lowered.bytecode, "PYTORCH"))
    named = named_by_layer(tflite, _joined_layers, layers.values(), dict(lowered.outputs))
    doubts = tuple(map(forgotten, lowered.kept))
    return with_given_scales(LiteModel(named, origin, notes, doubts=doubts))


def _joined_layers(name: str) -> list[str]:
    return _LAYER.findall(name)


def run(module: Any, sample: Any) -> Any:
    """Outputs of a module for a sample in the forms that `trace` takes.

    Raises:
        DataError: `sample` does not fit `forward`.
    """
    arguments, keywords = _arguments(module, sample)
    return module(*arguments, **keywords)


def _finished(module: Any, notes: list[str]) -> tuple[Any, tuple[tuple[str, float, float], ...]]:
    """The module without the fake quantization of its training, and the ranges that it learned."""
    from edgeq.export.frontends import fake_quantize

    if not fake_quantize.is_trained(module):
        return module, ()
    module, learned = fake_quantize.finished(module)
    notes.append(
        "the module was trained with fake quantization: its rounded weights were exported, and "
        f"{len(learned)} ranges that it has learned"
    )
    return module, learned


def _lower(program: Any, layers: Mapping[str, str], own_forms: bool) -> adapter.Lowered:
    names = input_names(program), output_names(program)
    try:
        return adapter.to_stablehlo(program, *names, own_forms)
    except EdgeqError:
        raise
    except Exception as error:  # litert-torch raises plain RuntimeErrors for what it cannot lower
        raise _lowering_error(layers, error) from None


def _is_program(model: object) -> bool:
    import torch

    return isinstance(model, torch.export.ExportedProgram)


def _export(module: Any, sample: Any) -> Any:
    from edgeq.export.frontends.torch_program.tracing import exported

    arguments, keywords = _arguments(module, sample)
    try:
        return exported(module, arguments, keywords)
    except Exception as error:  # torch.export raises dozens of kinds
        raise _export_error(module, arguments, keywords, error) from None


def _export_error(
    module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], error: Exception
) -> EdgeqError:
    """A `DataError` if the module does not run on the sample at all, otherwise a `ModelError`."""
    from edgeq.export.frontends.torch_program.tracing import way_out

    name, received = type(module).__name__, _describe(arguments, keywords)
    refused = _run_error(module, arguments, keywords)
    if refused is not None:
        return DataError(
            f"the sample does not fit {name}: calling the module on it raises "
            f"{type(refused).__name__}: {first_line(refused)}. Received: {received}"
        )
    return ModelError(
        f"torch.export could not trace {name}{source_places.raised_line(error)} with inputs "
        f"{received}: {first_line(error)}. {way_out(error)}"
    )


def _run_error(
    module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Exception | None:
    """Error that calling a copy of the module raises."""
    import torch

    copied = _copy_of(module)
    if copied is None:
        return None
    try:
        with torch.no_grad():
            copied(*arguments, **keywords)
    except Exception as error:
        return error
    return None


def _copy_of(module: Any) -> Any:
    """A copy that may run; None of a module that cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception:  # anything may go wrong in the user's classes
        return None


def _arguments(module: Any, sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch.utils._pytree as pytree

    sample = dict(sample) if isinstance(sample, Mapping) else sample
    sample = pytree.tree_map(_tensor, sample)
    if isinstance(sample, dict):
        arguments, keywords = (), sample
    else:
        arguments, keywords = tuple(sample) if isinstance(sample, tuple | list) else (sample,), {}
    signature = inspect.signature(module.forward)
    arguments, keywords = as_one(signature, arguments, keywords)
    arguments = without_labels(signature, arguments)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise DataError(
            f"the sample does not fit {type(module).__name__}.forward{signature}: {error}. "
            f"Received: {_describe(arguments, keywords)}{left_over(signature, keywords)}"
        ) from None
    return arguments, keywords


def _tensor(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
    else:
        array = to_numpy(value)
        if array.dtype.kind not in "fiub":
            raise DataError(
                f"a sample is made of arrays or tensors of numbers. "
                f"Received: {type(value).__name__} {str(value)[:80]!r}"
            )
        tensor = torch.from_numpy(array.copy())
    return tensor.float() if tensor.is_floating_point() else tensor


def _describe(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    import torch.utils._pytree as pytree

    named = pytree.tree_flatten_with_path((arguments, dict(keywords)))[0]
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for _, t in named)


def _lowering_error(layers: Mapping[str, str], error: Exception) -> ModelError:
    """An `UnsupportedOpError` that names the layer, from what the lowering raised."""
    place, reason = source_places.refused_place(str(error), layers)
    return UnsupportedOpError(
        f"litert-torch cannot lower an op of the model{place}: {reason or first_line(error)}. "
        "Replace that op in the module by ones it knows"
    )
