"""Types of numbers that the runtime has no kernels for, in a traced program: those of 64 bits.

litert-torch computes in float64 what joins whole numbers with a float, and what the model says so.
The converter cuts whole numbers to 32 bits: one that shall be above all others comes out as -1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgeq.export.frontends.torch_program.program_constants import Evaluator

aten = torch.ops.aten

WHOLE_MAX = 2**31 - 128
"""The largest whole number of 32 bits that is one in float32, by which litert-torch fills."""

_FILLING = frozenset(
    {
        aten.full.default, aten.full_like.default, aten.new_full.default,
        aten.masked_fill.Scalar, aten.masked_fill_.Scalar, aten.where.Scalar,
        aten.where.ScalarOther, aten.where.ScalarSelf,
    }
)  # fmt: skip
"""Ops that put a number somewhere and compute nothing with it."""

_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.type_as.default})


def narrow(program: Any, known: Evaluator) -> None:
    """Has a program compute in float32 what it would in float64, and fill with 32 bits.

    Other constants stay as they are.

    Args:
        program: A `torch.export.ExportedProgram`, which is changed.
        known: Tells its constants.
    """
    for node in list(program.graph.nodes):
        if node.target in _FILLING:
            node.args = pytree.tree_map(_saturated, node.args)
        if node.op != "call_function" or known.is_known(node):
            continue
        if _is_of(node, torch.float64):
            _without_float64(node, known)
        elif _joins_whole_numbers(node):
            _cast_whole_numbers(node)


def uses_float64(program: Any) -> bool:
    """Whether a program computes in float64 somewhere."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return any(_is_of(node, torch.float64) for node in calls)


def _saturated(value: Any) -> Any:
    return max(-WHOLE_MAX, min(value, WHOLE_MAX)) if type(value) is int else value


def _without_float64(node: Any, known: Evaluator) -> None:
    """Has a node compute in float32: it is told so, or reads constants of that type."""
    node.args, node.kwargs = pytree.tree_map(
        lambda a: torch.float32 if a is torch.float64 else a, (node.args, node.kwargs)
    )
    for operand in node.all_input_nodes:
        if known.is_known(operand) and _is_of(operand, torch.float64):
            _cast(node, operand)


def _joins_whole_numbers(node: Any) -> bool:
    """Whether an op computes or compares floats, and reads tensors of whole numbers."""
    if node.target in _CASTS or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return False
    numbers = [a for a in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(a, float)]
    return _is_of(node, torch.float32) or (_is_of(node, torch.bool) and bool(numbers))


def _cast_whole_numbers(node: Any) -> None:
    compares = _is_of(node, torch.bool)
    for operand in node.all_input_nodes:
        kind = getattr(operand.meta.get("val"), "dtype", torch.float32)
        is_whole = not (kind.is_floating_point or kind.is_complex)
        if is_whole and (compares or kind is not torch.bool):
            _cast(node, operand)


def _cast(node: Any, operand: Any) -> None:
    with node.graph.inserting_before(node):
        made = node.graph.call_function(aten.to.dtype, (operand, torch.float32))
    made.meta = {k: v for k, v in node.meta.items() if k != "val"}
    made.meta["val"] = operand.meta["val"].to(torch.float32)
    node.replace_input_with(operand, made)


def _is_of(node: Any, kind: torch.dtype) -> bool:
    return getattr(node.meta.get("val"), "dtype", None) is kind
