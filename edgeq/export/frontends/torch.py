"""The PyTorch front end: a module or exported program becomes a float LiteRT model.

torch is imported only when a PyTorch model is exported. The caller's module is never changed: what
has to differ (training mode, half precision, device) is changed in a copy.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from edgeq.export.frontends.arguments import first_line, without_labels
from edgeq.export.frontends.composites import with_given_scales
from edgeq.export.frontends.naming import named_by_layer
from edgeq.export.frontends.torch_program import source_places
from edgeq.export.frontends.torch_program.traced_program import (
    check_program,
    copied,
    output_names,
)
from edgeq.export.frontends.trace_check import check_trace
from edgeq.export.importing.recurrent_layers import with_recurrent_layers
from edgeq.files import Content
from edgeq.isolation import Worker
from edgeq.model import LiteModel

_LAYER = re.compile(r"([^;]+);")
_WEIGHTED = re.compile(r"\.(conv|linear|mm|addmm|bmm|matmul)")


def handles(model: object) -> bool:
    """Whether `model` is a PyTorch model, told without importing torch."""
    return any(
        kind.__module__.startswith("torch.") and kind.__name__ in ("Module", "ExportedProgram")
        for kind in type(model).__mro__
    )


def trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a PyTorch model.

    Args:
        model: `nn.Module`, also compiled or in training mode or half precision, or
            `torch.export.ExportedProgram`.
        sample: One input: a tensor or array, a tuple of them in positional order, or a dict of
            them by the name of `forward`'s parameter.
        worker: The converter's child process.

    Raises:
        DependencyError: litert-torch is not installed.
        ModelError: torch.export cannot trace the module, or the program cannot be exported.
        UnsupportedOpError: An ATen op has no lowering.
        DataError: `sample` does not fit `forward`.
    """
    notes: list[str] = []
    with adapter.quiet():
        adapter.check_installed()
        if not _is_module(model):
            positional, named = model.example_inputs or ((), {})
            given: Any = named if named and not positional else positional
            # An exported program of arguments of both kinds has no sample that `trace` takes.
            checked = bool(given) and not (named and positional)
            check = _checking(model.module, model, given, worker) if checked else _as_it_is
            return _traced(model, worker, (), check=check)
        model, learned = _finished(model, notes)
        module = _prepared(model, notes)
        program = _export(module, sample)
        check = _checking(lambda: module, program, sample, worker)
        return replace(_traced(program, worker, tuple(notes), check=check), learned=learned)


def _checking(
    module: Callable[[], Any], program: Any, sample: Any, worker: Worker
) -> Callable[[LiteModel], LiteModel]:
    """Holds a trace of a program against what a module makes of a sample."""

    def check(traced: LiteModel) -> LiteModel:
        return _checked(module(), program, sample, traced, worker)

    return check


def _checked(
    module: Any, program: Any, sample: Any, traced: LiteModel, worker: Worker
) -> LiteModel:
    """Holds the trace against the module's own outputs; not where it has scales of its own."""
    import torch
    import torch.utils._pytree as pytree

    names = output_names(program)
    if names is None or traced.given:
        return traced
    arguments, keywords = _arguments(module, sample)
    if _copy_of(module) is None or _run_error(module, arguments, keywords) is not None:
        return traced
    leaves, structure = pytree.tree_flatten((arguments, keywords))
    inputs = [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def own(arrays: Sequence[Any]) -> dict[str, Any]:
        tensors = iter([torch.from_numpy(array.copy()) for array in arrays])
        given = [next(tensors) if isinstance(x, torch.Tensor) else x for x in leaves]
        positional, named = pytree.tree_unflatten(given, structure)
        with torch.no_grad(), _one_way_of_attention():
            made = pytree.tree_leaves(_copy_of(module)(*positional, **named))
        pairs = zip(names, made, strict=False)
        return {n: t.numpy() for n, t in pairs if isinstance(t, torch.Tensor)}

    return check_trace(traced, inputs, own, worker, type(module).__name__)


@contextlib.contextmanager
def _one_way_of_attention() -> Iterator[None]:
    """Has transformer layers compute what they are traced as: masked places as all the others."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def trace_module(
    module: Any, sample: Any, worker: Worker, notes: tuple[str, ...] = (), origin: str = "pytorch"
) -> LiteModel:
    """Traces and lowers a module that is in evaluation mode and float32, as it is; see `trace`."""
    with adapter.quiet():
        adapter.check_installed()
        return _traced(_export(module, sample), worker, notes, origin)


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
            made = with_given_scales(LiteModel(_lowered(program, worker, True), origin, notes))
            made = check(made)
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
        made = with_given_scales(LiteModel(_lowered(program, worker, False), "pytorch"))
        return check(made)
    except ProcessKilledError:
        raise
    except EdgeqError:
        return None


def _lowered(program: Any, worker: Worker, own_forms: bool) -> Content:
    """The float .tflite file of a program, with or without edgeq's own forms of ops."""
    # What is fused into a weighted op goes by its name.
    nodes = sorted(program.graph.nodes, key=lambda n: not _WEIGHTED.search(str(n.target)))
    layers = {node.name: source_places.layer_path(node) for node in nodes}
    lowered = _lower(copied(program), layers, own_forms)
    tflite = with_recurrent_layers(lower_to_float(worker, lowered.bytecode, "PYTORCH"))
    return named_by_layer(tflite, _joined_layers, layers.values(), dict(lowered.outputs))


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
    inputs = list(program.graph_signature.user_inputs)
    try:
        return adapter.to_stablehlo(program, inputs, output_names(program), own_forms)
    except EdgeqError:
        raise
    except Exception as error:  # litert-torch raises plain RuntimeErrors for what it cannot lower
        raise _lowering_error(layers, error) from None


def _is_module(model: object) -> bool:
    import torch

    return isinstance(model, torch.nn.Module)


def _prepared(module: Any, notes: list[str]) -> Any:
    """The module in evaluation mode, float32 and on the CPU; a copy where that is a change."""
    import torch

    from edgeq.export.frontends.torch_program import scripted_modules

    while isinstance(getattr(module, "_orig_mod", None), torch.nn.Module):
        module = module._orig_mod
    scripted = scripted_modules.has_scripts(module)
    training = any(part.training for part in module.modules())
    values = [*module.parameters(), *module.buffers()]
    narrow = {v.dtype for v in values if v.is_floating_point()} - {torch.float32}
    moved = any(v.device.type != "cpu" for v in values)
    if not (training or narrow or moved or scripted):
        return module
    try:
        module = scripted_modules.unscripted(module) if scripted else copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"the module cannot be copied ({error}); call model.eval().float().cpu() yourself"
        ) from None
    if scripted:
        notes.append("layers of TorchScript modules have no paths of their own in the export")
    if training:
        notes.append("the module was in training mode; a copy was exported in evaluation mode")
    if narrow:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in narrow))
        notes.append(f"parameters in {names} were converted to float32")
    return module.eval().float().cpu()


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
    name, received = type(module).__name__, _describe(arguments, keywords)
    refused = _run_error(module, arguments, keywords)
    if refused is not None:
        return DataError(
            f"the sample does not fit {name}: calling the module on it raises "
            f"{type(refused).__name__}: {first_line(refused)}. Received: {received}"
        )
    return ModelError(
        f"torch.export could not trace {name}{source_places.raised_line(error)} with inputs "
        f"{received}: {first_line(error)}. The forward pass must not branch on tensor values, and "
        "must return tensors in tuples, lists, dicts or registered dataclasses; "
        "torch.export.export(model.eval(), ...) shows the line, and its result can be exported too"
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
    arguments = without_labels(signature, arguments)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise DataError(
            f"the sample does not fit {type(module).__name__}.forward{signature}: {error}. "
            f"Received: {_describe(arguments, keywords)}"
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
