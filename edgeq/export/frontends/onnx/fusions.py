"""Puts together what exporters take apart and the runtime has as one op."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.graph_interpreter import Operand, Program, Step
from edgeq.export.frontends.onnx.op_table import Node


def fused(program: Program) -> Program:
    """The program with its GELUs and hard swishes as one step each, and dense layers as such."""
    uses = _Uses(program)
    steps = [
        uses.gelu(step) or uses.hard_swish(step) or _dense(step) or uses.rounding(step) or step
        for step in program.steps
    ]
    return replace(program, steps=steps)


def pruned(program: Program) -> Program:
    """The program without the steps whose results nothing reads."""
    wanted = {value.index for value in program.outputs.values()}
    kept = []
    for step in reversed(program.steps):
        if wanted & set(step.outputs) - {-1}:
            kept.append(step)
            wanted |= {operand.value.index for operand in step.operands()}
    return replace(program, steps=kept[::-1])


def _dense(step: Step) -> Step | None:
    """A product with a constant matrix, which is stored as the runtime's dense layers read it."""
    one, other = (*step.operands(), None)[:2] if step.node.op == "MatMul" else (None, None)
    if one is None or other is None or other.value.depends or other.value.tensor.ndim != 2:
        return None
    if not one.value.depends:
        return None
    stored = other.value
    grid = None if stored.weights is None else replace(stored.weights, axis=1 - stored.weights.axis)
    turned = replace(stored, tensor=stored.tensor.T.contiguous(), weights=grid)
    return replace(step, arguments=(one, replace(other, value=turned)), compute=_linear)


def _linear(node: Node, values: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(values, weight)


def _gelu(node: Node, values: Tensor) -> Tensor:
    return functional.gelu(values)


def _hard_swish(node: Node, values: Tensor) -> Tensor:
    return functional.hardswish(values)


FAR_STEPS = 4
"""By so many steps of a scale the sample has to lie beyond an end that is not 0, to be cut there;
less is no more than a range that was measured on other samples."""


def _needed_ends(step: Step, sample: Tensor) -> tuple[float | None, float | None]:
    """The lowest and highest number of the integers of 8 bits, each if the sample lies beyond."""
    scale, zero = (*step.arguments[1:], None)[:2]
    if zero is None:
        zero = np.zeros((), np.int16 if step.node.get("output_dtype", 2) != 2 else np.uint8)
    if scale.size > 1 or zero.dtype not in (np.uint8, np.int8):
        return None, None
    limits = np.iinfo(zero.dtype)
    one, offset = float(scale.item()), int(zero.item())
    low, high = (limits.min - offset) * one, (limits.max - offset) * one
    below = (low - float(sample.min())) / one
    above = (float(sample.max()) - high) / one
    return (
        low if below > (FAR_STEPS if low else 0.5) else None,
        high if above > FAR_STEPS else None,
    )


def _cut(
    compute: Callable[..., Any],
    low: float | None,
    high: float | None,
    node: Node,
    values: Tensor,
    *more: Any,
) -> Any:
    """A quantization of what lies between its ends."""
    if low == 0 and high is not None and abs(high - 6) < 0.02:
        return compute(node, functional.relu6(values), *more)
    values = torch.relu(values) if low == 0 else torch.clamp(values, min=low, max=high)
    if low == 0 and high is not None:
        values = torch.clamp(values, max=high)
    return compute(node, values, *more)


class _Uses:
    """Who computes and who reads the values of a program."""

    def __init__(self, program: Program) -> None:
        self._makers = {number: step for step in program.steps for number in step.outputs}
        self._makers.pop(-1, None)

    def gelu(self, step: Step) -> Step | None:
        """`0.5 * x * (1 + erf(x / sqrt(2)))` in any order of its factors."""
        if step.node.op not in ("Mul", "Div"):
            return None
        constant, values = 1.0, []
        for factor in self._factors(step):
            number = _number(factor)
            if number is None:
                values.append(factor)
            else:
                constant *= number
        for i, factor in enumerate(values):
            source = self._erf_source(factor)
            if source is None or len(values) != 2 or abs(constant - 0.5) > 1e-4:
                continue
            if values[1 - i].value.index == source.value.index:
                return replace(step, arguments=(source,), compute=_gelu)
        return None

    def hard_swish(self, step: Step) -> Step | None:
        """`x * hard_sigmoid(x)` with the slope of MobileNetV3."""
        if step.node.op != "Mul":
            return None
        one, other = step.operands()
        for x, gate in ((one, other), (other, one)):
            maker = self._makers.get(gate.value.index)
            if maker is None or maker.node.op != "HardSigmoid":
                continue
            alpha, beta = maker.node.get("alpha", 0.2), maker.node.get("beta", 0.5)
            same = maker.operands()[0].value.index == x.value.index
            if same and abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
                return replace(step, arguments=(x,), compute=_hard_swish)
        return None

    def rounding(self, step: Step) -> Step | None:
        """A quantization under the name of the layer whose output it rounds; what it cuts is cut.

        The rounding goes to the scales that a plan is given. A Relu or Clip that quantizers leave
        to the ends of the integers would go with it.
        """
        if step.node.op != "QuantizeLinear":
            return None
        source = step.operands()[0].value
        maker = self._makers.get(source.index)
        node = step.node if maker is None else replace(step.node, name=maker.node.name)
        low, high = _needed_ends(step, source.tensor)
        if low is None and high is None:
            return replace(step, node=node)
        return replace(step, node=node, compute=partial(_cut, step.compute, low, high))

    def _factors(self, step: Step, depth: int = 3) -> Iterator[Operand]:
        """Factors of a product; a division by a number is a factor as well."""
        one, other = step.operands()
        if step.node.op == "Div":
            number = _number(other)
            if number is None:
                return
            yield replace(other, value=replace(other.value, tensor=torch.tensor(1 / number)))
            other = one
            parts: tuple[Operand, ...] = (one,)
        else:
            parts = (one, other)
        for part in parts:
            maker = self._makers.get(part.value.index)
            if depth and maker is not None and maker.node.op in ("Mul", "Div"):
                yield from self._factors(maker, depth - 1)
            else:
                yield part

    def _erf_source(self, operand: Operand) -> Operand | None:
        """The x of `1 + erf(x / sqrt(2))`."""
        added = self._makers.get(operand.value.index)
        if added is None or added.node.op != "Add":
            return None
        rest = [o for o in added.operands() if _number(o) != 1.0]
        erf = self._makers.get(rest[0].value.index) if len(rest) == 1 else None
        if erf is None or erf.node.op != "Erf":
            return None
        scaled = self._makers.get(erf.operands()[0].value.index)
        if scaled is None or scaled.node.op not in ("Mul", "Div"):
            return None
        one, other = scaled.operands()
        for x, factor in ((one, other), (other, one)):
            number = _number(factor)
            wanted = math.sqrt(2) if scaled.node.op == "Div" else math.sqrt(0.5)
            if number is not None and abs(number - wanted) < 1e-3:
                return x
        return None


def _number(operand: Operand) -> float | None:
    """The one number that a constant consists of."""
    value: Any = operand.value
    if value.depends or value.tensor.numel() != 1:
        return None
    return float(value.plain.item())
