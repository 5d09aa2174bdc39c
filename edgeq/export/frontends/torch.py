"""The PyTorch front end: a module or exported program becomes a float LiteRT model.

torch is imported only when a PyTorch model is exported. The caller's module is never changed: what
has to differ (training mode, half precision, device) is changed in a copy.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

from edgeq.errors import DataError, ModelError, UnsupportedOpError
from edgeq.export.convert import lower_to_float
from edgeq.export.frontends import litert_torch_adapter as adapter
from edgeq.flatbuffer import rename_tensors
from edgeq.isolation import Worker
from edgeq.model import FloatModel

_LAYER = re.compile(r"([^;]+);")
_NODE = re.compile(r"While executing %(\w+)")


def handles(model: object) -> bool:
    """Whether `model` is a PyTorch model, told without importing torch."""
    return any(
        kind.__module__.startswith("torch.") and kind.__name__ in ("Module", "ExportedProgram")
        for kind in type(model).__mro__
    )


def trace(model: Any, sample: Any, worker: Worker) -> FloatModel:
    """Traces and lowers a PyTorch model.

    Args:
        model: `nn.Module`, also compiled or in training mode or half precision, or
            `torch.export.ExportedProgram`.
        sample: One input: a tensor or array, a tuple of them in positional order, or a dict of
            them by the name of `forward`'s parameter.
        worker: The converter's child process.

    Raises:
        DependencyError: litert-torch is not installed.
        ModelError: torch.export cannot trace the module.
        UnsupportedOpError: An ATen op has no lowering.
        DataError: `sample` does not fit `forward`.
    """
    adapter.check_installed()
    notes: list[str] = []
    program = model if not _is_module(model) else _export(_prepared(model, notes), sample)
    inputs = list(program.graph_signature.user_inputs)
    try:
        bytecode = adapter.to_stablehlo(program, inputs, _output_names(program))
    except Exception as error:  # litert-torch raises plain RuntimeErrors for what it cannot lower
        raise _lowering_error(program, error) from None
    tflite = lower_to_float(worker, bytecode, "PYTORCH")
    return FloatModel(_with_layer_names(tflite), "pytorch", tuple(notes))


def _is_module(model: object) -> bool:
    import torch

    return isinstance(model, torch.nn.Module)


def _prepared(module: Any, notes: list[str]) -> Any:
    """The module in evaluation mode, float32 and on the CPU; a copy where that is a change."""
    import torch

    while isinstance(getattr(module, "_orig_mod", None), torch.nn.Module):
        module = module._orig_mod
    training = any(part.training for part in module.modules())
    values = [*module.parameters(), *module.buffers()]
    narrow = {v.dtype for v in values if v.is_floating_point()} - {torch.float32}
    moved = any(v.device.type != "cpu" for v in values)
    if not (training or narrow or moved):
        return module
    try:
        module = copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"the module cannot be copied ({error}); call model.eval().float().cpu() yourself"
        ) from None
    if training:
        notes.append("the module was in training mode; a copy was exported in evaluation mode")
    if narrow:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in narrow))
        notes.append(f"parameters in {names} were widened to float32 before calibration")
    return module.eval().float().cpu()


def _export(module: Any, sample: Any) -> Any:
    import torch

    arguments, keywords = _arguments(module, sample)
    try:
        with torch.no_grad():
            return torch.export.export(module, arguments, keywords, strict=False)
    except Exception as error:  # torch.export raises dozens of kinds
        raise ModelError(
            f"torch.export could not trace {type(module).__name__} with inputs "
            f"{_describe(arguments, keywords)}: {_first_line(error)}. The forward pass must not "
            "branch on tensor values; check the sample's shapes and dtypes first by calling "
            "model(sample)"
        ) from None


def _arguments(module: Any, sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch.utils._pytree as pytree

    sample = pytree.tree_map(_tensor, sample)
    if isinstance(sample, Mapping):
        arguments, keywords = (), dict(sample)
    else:
        arguments, keywords = tuple(sample) if isinstance(sample, tuple | list) else (sample,), {}
    signature = inspect.signature(module.forward)
    arguments = _without_labels(signature, arguments)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise DataError(
            f"the sample does not fit {type(module).__name__}.forward{signature}: {error}. "
            f"Received: {_describe(arguments, keywords)}"
        ) from None
    return arguments, keywords


def _without_labels(signature: inspect.Signature, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drops integer labels at the end of a sample that `forward` has no parameter for."""
    kinds = [p.kind for p in signature.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return arguments
    room = sum(k is not inspect.Parameter.KEYWORD_ONLY for k in kinds)
    extra = arguments[room:]
    labels = all(v.ndim <= 1 and not v.is_floating_point() for v in extra)
    return arguments[:room] if labels else arguments


def _tensor(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
    else:
        import numpy as np

        tensor = torch.from_numpy(np.ascontiguousarray(value))
    return tensor.float() if tensor.is_floating_point() else tensor


def _describe(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    import torch.utils._pytree as pytree

    named = pytree.tree_flatten_with_path((arguments, dict(keywords)))[0]
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for _, t in named)


def _output_names(program: Any) -> list[str] | None:
    """Names of the outputs from their structure: dict keys; a position gives `output_<i>`."""
    import torch.utils._pytree as pytree

    structure = program.call_spec.out_spec
    if structure is None:
        return None
    tree = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    return [_path_name(path) for path in paths]


def _path_name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]
    name = "_".join(parts) or "0"
    return f"output_{name}" if name[0].isdigit() else name


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def _lowering_error(program: Any, error: Exception) -> ModelError:
    """An `UnsupportedOpError` that names the layer, from what the lowering raised."""
    node = _NODE.search(str(error))
    layers = {n.name: adapter.layer_path(n) for n in program.graph.nodes}
    where = f" at {layers.get(node[1], node[1])}" if node else ""
    return UnsupportedOpError(
        f"litert-torch cannot lower an op of the model{where}: {_first_line(error)}. "
        "Replace that op in the module by ones it knows"
    )


def _with_layer_names(tflite: bytes) -> bytes:
    """Names every tensor by the layer that computes or owns it, `#n` where it has several.

    An op that the converter fused from several modules takes the first of them in execution order,
    the one that owns the weights. An output's name is given by the signature; its op's weight or
    index tells the layer.
    """
    model = FloatModel(tflite, "pytorch")
    graph = model.graph
    names = {i: graph.tensors[i].name for i in graph.inputs}
    taken: dict[str, int] = {}

    def unique(name: str) -> str:
        taken[name] = taken.get(name, -1) + 1
        return f"{name}#{taken[name]}" if taken[name] else name

    for op in graph.operators:
        sources = [*op.outputs, *(t.index for _, t in graph.operands(op) if t.is_constant)]
        found = [_LAYER.findall(graph.tensors[t].name) for t in sources]
        layer = next((f[-1] for f in found if f), graph.tensors[op.outputs[0]].name)
        names.update({t: unique(layer) for t in op.outputs})
        for slot, tensor in graph.operands(op):
            if tensor.is_constant:
                names.setdefault(tensor.index, unique(f"{layer}/operand_{slot}"))
    return rename_tensors(tflite, lambda index, old: names.get(index, old))
