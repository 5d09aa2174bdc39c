"""Branches and loops of a traced program, taken apart before it is decomposed.

Of a branch both sides are computed and one is chosen; a loop whose end depends on constants alone
is unrolled. Also what only wraps a part of the program, and numbers that are read from tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeq.errors import UnsupportedOpError
from edgeq.export.frontends.torch_program.program_constants import Evaluator
from edgeq.export.frontends.torch_program.source_places import where

aten = torch.ops.aten
higher = torch.ops.higher_order

OPS_MAX = 50_000
"""Most ops that an unrolled loop may come to; the converter needs minutes for more."""


def inlined(graph_module: Any, *operands: Any) -> tuple[Any, ...]:
    """What a part of a program computes, traced into the program around it."""
    made = torch.fx.Interpreter(graph_module).run(*operands)
    return tuple(made) if isinstance(made, tuple | list) else (made,)


def _part(node: Any) -> Any:
    """The part of a program that an operand stands for."""
    return getattr(node.graph.owning_module, node.target)


def cond(node: Any, known: Evaluator) -> None:
    """`torch.cond`: both branches, of whose results the condition selects."""
    condition, *branches, operands = node.args
    on_true, on_false = map(_part, branches)

    def both(condition: Any, *operands: Any) -> Any:
        if not isinstance(condition, Tensor):
            return inlined(on_true if condition else on_false, *operands)
        found = zip(inlined(on_true, *operands), inlined(on_false, *operands), strict=True)
        return tuple(torch.where(condition, a, b) for a, b in found)

    node.target, node.args = both, (condition, *operands)


def while_loop(node: Any, known: Evaluator) -> None:
    """`torch.while_loop`: its body as often as it runs.

    Raises:
        UnsupportedOpError: How often depends on the input, or is too much.
    """
    test, body, carried, additional = node.args
    count, steps = _steps(node, _part(test), _part(body), known), _part(body)

    def unrolled(*operands: Any) -> Any:
        state, fixed = operands[: len(carried)], operands[len(carried) :]
        for _ in range(count):
            state = inlined(steps, *state, *fixed)
        return state

    node.target, node.args = unrolled, (*carried, *additional)


def _steps(node: Any, test: Any, body: Any, known: Evaluator) -> int:
    """How often a loop runs."""
    values = [known.value_or_none(v) for v in node.args[2]]
    fixed = [known.value_or_none(v) for v in node.args[3]]
    count = 0
    while True:
        (going,) = _partly(test, [*values, *fixed])
        if going is None:
            raise UnsupportedOpError(
                f"torch.while_loop at {where(node)} runs until a computed value says so, which "
                "needs a loop in the file; give it a fixed number of steps (a Python for loop, or "
                "a counter that depends on constants alone)"
            )
        if not bool(going):
            return count
        count += 1
        if count * len(body.graph.nodes) > OPS_MAX:
            raise UnsupportedOpError(
                f"torch.while_loop at {where(node)} comes to more than {OPS_MAX} ops when it is "
                "unrolled; make fewer steps"
            )
        values = _partly(body, [*values, *fixed])


def _partly(graph_module: Any, inputs: Sequence[Any]) -> list[Any]:
    """Results of a graph of which some inputs are unknown (None): so are some results."""
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    known = Evaluator(zip(placeholders, inputs, strict=True))
    output = graph_module.graph.output_node()
    return [known.value_or_none(v) for v in pytree.tree_leaves(output.args[0])]


def scan(node: Any, known: Evaluator) -> None:
    """`scan`: its steps, one behind the other."""
    combine, init, rows, additional = node.args
    step_of = _part(combine)

    def steps(*operands: Any) -> Any:
        state, rest = operands[: len(init)], operands[len(init) :]
        xs, fixed = rest[: len(rows)], rest[len(rows) :]
        made = []
        for step in range(int(xs[0].shape[0])):
            found = inlined(step_of, *state, *(x[step] for x in xs), *fixed)
            state = found[: len(init)]
            made.append(found[len(init) :])
        return (*state, *(torch.stack(column) for column in zip(*made, strict=True)))

    node.target, node.args = steps, (*init, *rows, *additional)


def wrapped(node: Any, known: Evaluator) -> None:
    """What runs a part of the program with gradients or autocast switched, or for checkpoints."""
    place = next(i for i, a in enumerate(node.args) if getattr(a, "op", "") == "get_attr")
    part = _part(node.args[place])

    def call(*operands: Any) -> Any:
        return inlined(part, *operands)

    node.target, node.args, node.kwargs = call, node.args[place + 1 :], {}


def number(node: Any, known: Evaluator) -> None:
    """`item`: the number that a constant holds; of a computed value, the tensor itself.

    Raises:
        UnsupportedOpError: A computed integer, which shapes or steps may depend on.
    """
    value = known.value_or_none(node)
    if value is None and not isinstance(node.meta.get("val"), float | torch.SymFloat):
        raise UnsupportedOpError(
            f"a Python number is read from a tensor at {where(node)}, and the shapes or steps of "
            "the model depend on it; make it a constant of the module, or compute with the tensor"
        )

    def held(x: Tensor) -> Any:
        return x.reshape(()) if value is None else value

    node.target = held
    node.meta.pop("unbacked_bindings", None)


RULES: dict[Any, Callable[[Any, Evaluator], None]] = {
    higher.cond: cond,
    higher.while_loop: while_loop,
    higher.scan: scan,
    higher.wrap_with_set_grad_enabled: wrapped,
    higher.tag_activation_checkpoint: wrapped,
    aten.item.default: number,
    aten._local_scalar_dense.default: number,
}
"""What replaces a node of an op by a function, and its operands by what that takes."""
