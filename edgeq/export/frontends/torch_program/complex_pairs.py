"""Programs that compute with complex numbers, traced once more with pairs of real tensors.

Each op of complex numbers is replaced by one of pairs; the runtime has no complex type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeq.errors import ModelError, UnsupportedOpError
from edgeq.export.frontends.torch_program import complex_numbers, fourier_products
from edgeq.export.frontends.torch_program.complex_numbers import LINEAR, each, paired
from edgeq.export.frontends.torch_program.source_places import where

_RULES = {**complex_numbers.RULES, **fourier_products.RULES}


def uses_complex(program: Any) -> bool:
    """Whether a program computes with complex numbers."""
    return any(_is_complex(node) for node in program.graph.nodes)


def mark(program: Any) -> None:
    """Replaces the complex ops of a program by ones of pairs; it has to be traced again then.

    Args:
        program: A `torch.export.ExportedProgram` of core ATen ops, which is changed.

    Raises:
        ModelError: An input or output is complex.
        UnsupportedOpError: An op has no form for pairs.
    """
    graph = program.graph
    _check_ports(program)
    for node in list(graph.nodes):
        reads = any(_is_complex(argument) for argument in node.all_input_nodes)
        if node.op == "placeholder" and _is_complex(node):
            _open_placeholder(program, node)
        elif node.op == "call_function" and (reads or _is_complex(node)):
            node.target = _on_pairs(node)
    program.graph_module.recompile()


def _is_complex(node: Any) -> bool:
    values = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(v, Tensor) and v.is_complex() for v in values)


def _check_ports(program: Any) -> None:
    signature = program.graph_signature
    given, made = set(signature.user_inputs), set(signature.user_outputs)
    for node in program.graph.nodes:
        if _is_complex(node) and node.name in given:
            raise ModelError(
                f"input {node.name!r} is complex, which the runtime has no type for; take real and "
                "imaginary parts as a last axis of two and begin with torch.view_as_complex"
            )
        if _is_complex(node) and node.name in made:
            raise ModelError(
                f"the output of {where(node)} is complex, which the runtime has no type for; "
                "return torch.view_as_real of it"
            )


def _open_placeholder(program: Any, node: Any) -> None:
    """Has a complex constant held as real numbers with a last axis of two."""
    signature = program.graph_signature
    spec = next(s for s in signature.input_specs if s.arg.name == node.name)
    held = program.constants if spec.target in program.constants else program.state_dict
    value = torch.view_as_real(held[spec.target].detach().resolve_conj()).clone()
    is_parameter = isinstance(held[spec.target], torch.nn.Parameter)
    held[spec.target] = torch.nn.Parameter(value, False) if is_parameter else value
    with node.meta["val"].fake_mode:
        fake = torch.empty(value.shape)
    with program.graph.inserting_after(node):
        opened = program.graph.call_function(paired, (node,))
    opened.meta = dict(node.meta)
    node.replace_all_uses_with(opened, lambda user: user is not opened)
    node.meta["val"] = fake


def _on_pairs(node: Any) -> Callable[..., Any]:
    op = node.target
    rule = _RULES.get(op) or (functools.partial(each, op) if op in LINEAR else None)
    if rule is None:
        raise UnsupportedOpError(
            f"{op} of complex numbers at {where(node)} has no form in real numbers here; compute "
            "with real and imaginary parts, from torch.view_as_real, instead"
        )

    def on_pairs(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **kwargs)

    return on_pairs
