"""TorchScript modules, scripted, traced or loaded from a file, in plain modules that can be traced.

`torch.export` refuses a script, but records the ops that one runs inside a plain module's forward
pass. Its weights are constants there.
"""

from __future__ import annotations

import copy
import inspect
import io
from typing import Any

import torch

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


def has_scripts(module: torch.nn.Module) -> bool:
    """Whether a module is a script, or has one in it."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


def unscripted(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module whose scripts are in evaluation mode, float32 and called as a whole."""
    if isinstance(module, torch.jit.ScriptModule):
        return _holder(module)
    module = copy.deepcopy(module)
    for name, part in list(module.named_modules()):
        inner = any(isinstance(above, torch.jit.ScriptModule) for above in _above(module, name))
        if isinstance(part, torch.jit.ScriptModule) and not inner:
            module.set_submodule(name, _holder(part))
    return module


def _above(module: torch.nn.Module, name: str) -> list[torch.nn.Module]:
    """The modules that hold the one of that path."""
    parts = name.split(".")
    return [module.get_submodule(".".join(parts[:n])) for n in range(1, len(parts))]


def _parameter(argument: Any) -> inspect.Parameter:
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(argument.name, kind, default=default)


def _holder(script: torch.jit.ScriptModule) -> torch.nn.Module:
    """A plain module that calls a copy of a script, which `torch.export` does not see."""
    stored = io.BytesIO()
    torch.jit.save(script, stored)
    stored.seek(0)
    loaded = torch.jit.load(stored, map_location="cpu").eval().float()
    for parameter in loaded.parameters():
        parameter.requires_grad = False

    class Script(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.called = [loaded]  # in a list, it is no submodule

        def forward(self, *arguments: Any, **named: Any) -> Any:
            return self.called[0](*arguments, **named)

    named = [_parameter(argument) for argument in loaded.forward.schema.arguments[1:]]
    signature = inspect.Signature([_SELF, *named])
    Script.forward.__signature__ = signature  # type: ignore[attr-defined]
    Script.__name__ = str(getattr(script, "original_name", "Script"))
    return Script().eval()
