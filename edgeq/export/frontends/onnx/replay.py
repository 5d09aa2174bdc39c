"""A specialised ONNX graph as a PyTorch module, whose parts have the names of the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.export.frontends.onnx.graph_interpreter import Program, Step, Value
from edgeq.export.frontends.onnx.operators.integer_ops import Gridded, Weights
from edgeq.export.frontends.torch_program.source_places import ANOTHER


class _Part(nn.Module):  # type: ignore[misc]  # torch is not followed
    """One step, with the constants that it reads."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step
        self._slots: list[str | None] = []
        for i, operand in enumerate(step.operands()):
            known = not operand.value.depends
            if known:
                self.register_buffer(f"constant_{i}", _signed(operand.value.tensor))
            self._slots.append(f"constant_{i}" if known else None)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        made = self._step.run([next(given) if s is None else getattr(self, s) for s in self._slots])
        return tuple(m.real if isinstance(m, Gridded | Weights) else m for m in made)


class Replay(nn.Module):  # type: ignore[misc]
    """Computes a program of inputs named `input_0` and on, as a dict of outputs.

    Args:
        program: The steps.
        names: What the outputs are called here, in their order.
    """

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        super().__init__()
        self._program = program
        self._names = tuple(names)
        self._paths = [self._add(step) for step in program.steps]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        found = [value.index for value in self._program.inputs.values()]
        values = dict(zip(found, inputs.values(), strict=True))
        for step, path in zip(self._program.steps, self._paths, strict=True):
            read = [values[o.value.index] for o in step.operands() if o.value.depends]
            made = self.get_submodule(path)(*read)
            values.update({n: v for n, v in zip(step.outputs, made, strict=False) if n >= 0})
        outputs = zip(self._names, self._program.outputs.values(), strict=True)
        return {name: _output(value, values) for name, value in outputs}

    def _add(self, step: Step) -> str:
        """Puts a step where its name says; another of the same name gets a number behind it."""
        holder: Any = self
        *above, last = [part for part in step.node.name.split(".") if part] or ["_"]
        path = []
        for part in above:
            name = _free_name(holder, part, may_share=True)
            holder = holder._modules.setdefault(name, nn.Module())
            path.append(name)
        name = _free_name(holder, last)
        holder._modules[name] = _Part(step)
        return ".".join([*path, name])


def _free_name(holder: Any, name: str, *, may_share: bool = False) -> str:
    """A name for a part, which is no word of PyTorch ("half", "to") nor, unless it may share it,
    that of another part.
    """
    count, free = 0, name
    while hasattr(holder, free) and not (may_share and free in holder._modules):
        count += 1
        free = f"{name}{ANOTHER}{count}"
    return free


def _signed(constant: Tensor) -> Tensor:
    """A constant in a type that the lowering has for constants."""
    return constant.int() if constant.dtype is torch.uint8 else constant


def _output(value: Value, values: Mapping[int, Tensor]) -> Tensor:
    made = values[value.index] if value.depends else torch.clone(value.tensor)
    return made if value.grid is None else value.grid.integers(made)
