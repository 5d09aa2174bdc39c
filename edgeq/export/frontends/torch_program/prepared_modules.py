"""The user's model as a module that can be traced: of float32 numbers, in evaluation mode."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgeq.errors import ModelError
from edgeq.export.frontends.arguments import first_line
from edgeq.export.frontends.torch_program import scripted_modules


def loaded(path: Path) -> Any:
    """The exported program or TorchScript module of a file.

    Raises:
        ModelError: It holds neither, such as weights alone.
    """
    is_program = path.suffix.lower() == ".pt2"
    try:
        content = io.BytesIO(path.read_bytes())  # of pickled modules nothing is run
        return torch.export.load(content) if is_program else torch.jit.load(content, "cpu")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # PyTorch raises many kinds
        kind = "exported program" if is_program else "TorchScript module"
        raise ModelError(
            f"{path} holds no {kind} ({first_line(error)}). A file of weights has no model: make "
            "the module, load_state_dict them, and export the module"
        ) from None


def prepared(module: torch.nn.Module, notes: list[str]) -> Any:
    """The module in evaluation mode, float32 and on the CPU; a copy where that is a change."""
    while isinstance(getattr(module, "_orig_mod", None), torch.nn.Module):
        module = module._orig_mod
    _check_float(module)
    scripted = scripted_modules.has_scripts(module)
    training = any(part.training for part in module.modules())
    values = [*module.parameters(), *module.buffers()]
    narrow = {v.dtype for v in values if v.is_floating_point()} - {torch.float32}
    moved = any(v.device.type != "cpu" or v.is_inference() for v in values)
    dense = _dense(module)
    if not (training or narrow or moved or scripted or dense):
        return module
    try:
        module = (
            scripted_modules.unscripted(module) if scripted else copy.deepcopy(module, dict(dense))
        )
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
    if dense:
        notes.append("sparse tensors of the module were exported as dense ones")
    return module.eval().float().cpu()


def _dense(module: torch.nn.Module) -> dict[int, torch.Tensor]:
    """What stands for each sparse buffer or attribute in a copy, by the identity of the tensor."""
    held = [v for part in module.modules() for v in (*part._buffers.values(), *vars(part).values())]
    sparse = [v for v in held if isinstance(v, torch.Tensor) and v.layout != torch.strided]
    return {id(value): value.to_dense() for value in sparse}


def _check_float(module: torch.nn.Module) -> None:
    """Raises a `ModelError` for a module without numbers, or with quantized ones."""
    for name, part in module.named_modules():
        kind = type(part)
        if ".quantized" in kind.__module__ and kind.__module__.startswith("torch"):
            raise ModelError(
                f"layer {name!r} is quantized already ({kind.__module__}.{kind.__name__}); export "
                "the float module that it was made of"
            )
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.device.type == "meta":
            raise ModelError(
                f"parameter {name!r} has no numbers (it is on the device 'meta'); load the weights "
                "first, such as by module.to_empty(device='cpu') and load_state_dict"
            )


def as_module(function: Any) -> torch.nn.Module:
    """A module whose forward pass is a function.

    Args:
        function: A function of tensors, or a method of a module, which keeps its layers then. A
            module is returned as it is.
    """
    if isinstance(function, torch.nn.Module):
        return function
    module = function.__self__ if isinstance(function, types.MethodType) else None
    if isinstance(module, torch.nn.Module):
        if function.__func__ is type(module).forward:
            return module
        module = copy.copy(module)
        module.__dict__ = dict(module.__dict__)
        module.forward = types.MethodType(function.__func__, module)
        return module
    name = getattr(inspect.unwrap(function), "__name__", type(function).__name__)
    module = type(name, (torch.nn.Module,), {})()
    for key, part in _closed_over(function).items():
        setattr(module, key, part)
    module.forward = function
    return module.train(any(part.training for part in module.children()))


def _closed_over(function: Any) -> dict[str, torch.nn.Module]:
    """Modules that a function calls, by the names that it calls them."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        found = inspect.getclosurevars(function)
    except TypeError:  # it is no Python function
        return {}
    used = {**found.globals, **found.nonlocals}
    return {key: part for key, part in used.items() if isinstance(part, torch.nn.Module)}


@contextlib.contextmanager
def one_way_of_attention() -> Iterator[None]:
    """Has transformer layers compute what they are traced as: masked places as all the others."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
