"""The passes over a traced program that put edgeq's decompositions to use.

`prepare` replaces nodes of it, `add_to` gives a table to decompose it by, and `finish` computes its
constants behind that. Every decomposition has a test against PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch

from edgeq.errors import UnsupportedOpError
from edgeq.export.frontends.decompositions import (
    convolution_forms,
    factorizations,
    grids,
    indexing,
    linear_algebra,
    lookups,
    ordering,
    overlaps,
    padding,
    pointwise,
    pools,
    resampling,
    sequence_layers,
    spectra,
)
from edgeq.export.frontends.torch_program import branches_and_loops, complex_pairs
from edgeq.export.frontends.torch_program.number_types import narrow, uses_float64
from edgeq.export.frontends.torch_program.packed import packed_layers
from edgeq.export.frontends.torch_program.program_constants import (
    clear,
    evaluator,
    fold,
    fold_open_sizes,
    has_open_size,
)
from edgeq.export.frontends.torch_program.source_places import where

aten = torch.ops.aten
Table = MutableMapping[Any, Callable[..., Any]]

TABLE: dict[Any, Callable[..., Any]] = {
    **resampling.TABLE,
    **convolution_forms.TABLE,
    **pools.TABLE,
    **ordering.TABLE,
    **overlaps.TABLE,
    **padding.TABLE,
    **pointwise.TABLE,
    **indexing.TABLE,
    **grids.TABLE,
    **linear_algebra.TABLE,
    **factorizations.TABLE,
    **lookups.TABLE,
    **sequence_layers.TABLE,
    **spectra.TABLE,
}

RULES = {
    **branches_and_loops.RULES,
    **lookups.RULES,
    **overlaps.RULES,
    **indexing.RULES,
    **linear_algebra.RULES,
    **packed_layers.RULES,
    **padding.RULES,
}
"""What replaces a node of an op by a function, and its operands by what that takes."""

LEFT = {torch.ops.edgeq.last_writer.default: indexing.compared}
"""What is decomposed only where it is no constant."""

_CONVOLUTIONS = (aten.convolution.default, aten.conv2d.default)

_CHECKS = ("_assert", "sym_constrain_range")
"""How ops are called that check values and compute nothing."""


def prepare(program: Any) -> None:
    """Replaces nodes by functions that are traced when the program is decomposed.

    Args:
        program: A `torch.export.ExportedProgram`, which is changed.

    Raises:
        UnsupportedOpError: A loop that cannot be unrolled, or a number that shapes depend on.
    """
    _drop_checks(program)
    program.graph.eliminate_dead_code()
    fold_open_sizes(program)
    known = evaluator(program)
    narrow(program, known)
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if str(node.target) in lookups.OF_PACKAGES:
            node.target = lookups.OF_PACKAGES[str(node.target)]
        elif node.target in RULES:
            RULES[node.target](node, known)
        elif node.target in pools.WITH_PLACES and _reads_second(node):
            node.target = pools.WITH_PLACES[node.target]
    _drop_checks(program)
    program.graph.eliminate_dead_code()


def add_to(table: Table) -> None:
    """Puts edgeq's decompositions before those that a table has."""
    for op, own in TABLE.items():
        table[op] = _first(own, table.get(op))


def decompose(program: Any, decomposed: Callable[[Any], Any]) -> Any:
    """Decomposes a prepared program.

    Args:
        program: As `prepare` left it.
        decomposed: Traces and decomposes a program.

    Raises:
        UnsupportedOpError: The values of an input tell a size.
    """
    try:
        return decomposed(program)
    except Exception as error:
        if "data-dependent" in str(error):
            check_sizes(program)
        raise


def finish(program: Any, traced_again: Callable[[Any], Any]) -> Any:
    """Computes the constants of a decomposed program, and takes complex numbers apart.

    Args:
        program: Of which constants become inputs of their own.
        traced_again: Traces and decomposes a program once more.

    Returns:
        The program, or one that was traced again.

    Raises:
        ModelError: An input or output is complex.
        UnsupportedOpError: An op has random results, or no form for complex numbers.
    """
    _drop_checks(program)
    program.graph.eliminate_dead_code()
    check_random(program)
    fold(program)
    check_sizes(program)
    if uses_float64(program):  # some decompositions of PyTorch's own do, those of quantiles
        narrow(program, evaluator(program))
        program = traced_again(program)
        fold(program)
    if complex_pairs.uses_complex(program):
        complex_pairs.mark(program)
        program = traced_again(program)
        fold(program)
    left = {node: form for node in program.graph.nodes if (form := _last_form(node)) is not None}
    for node, form in left.items():
        node.target = form
    if left:
        program.graph_module.recompile()
        program = traced_again(program)
        fold(program)
    clear()
    _keep_weights(program)
    return program


def expand_last(program: Any) -> None:
    """Orders the axes of a tensor before it is expanded; the converter loses an order behind it.

    `edgeq.mlir` does so for what is no call of a function, as litert-torch's expansions are.
    """
    for node in list(program.graph.nodes):
        if node.target is not aten.permute.default:
            continue
        wide = node.args[0]
        while wide.target is aten.clone.default:  # those around litert-torch's own transposes
            wide = wide.args[0]
        if wide.target is not aten.expand.default:
            continue
        source, order = wide.args[0], node.args[1]
        shape = [1] * (len(order) - source.meta["val"].ndim) + list(source.meta["val"].shape)
        opened = _before(node, aten.view.default, source, shape)
        ordered = _before(node, aten.permute.default, opened, order)
        node.target = aten.expand.default
        node.args = (ordered, list(node.meta["val"].shape))
    program.graph_module.recompile()


def _before(node: Any, op: Any, source: Any, argument: Any) -> Any:
    """A new node before another, by an op of a tensor."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(op, (source, argument))
    made.meta = {**node.meta, "val": op(source.meta["val"], argument)}
    return made


def _keep_weights(program: Any) -> None:
    """Keeps the order of the axes of convolutions' weights that are computed from an input."""
    known = evaluator(program)
    for node in list(program.graph.nodes):
        if node.target not in _CONVOLUTIONS or known.is_known(node.args[1]):
            continue
        weight = node.args[1]
        with program.graph.inserting_before(node):
            kept = program.graph.call_function(torch.ops.edgeq.kept_layout.default, (weight,))
        kept.meta = dict(weight.meta)
        node.update_arg(1, kept)
    program.graph_module.recompile()


def _first(own: Callable[..., Any], other: Callable[..., Any] | None) -> Callable[..., Any]:
    if other is None:
        return own

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        made = own(*args, **kwargs)
        return other(*args, **kwargs) if made is NotImplemented else made

    return decomposition


def _last_form(node: Any) -> Callable[..., Any] | None:
    """What replaces a node whose form depends on what became of those around it."""
    if node.target is aten.topk.default and not _reads_second(node):
        return ordering.highest_alone
    return LEFT.get(node.target)


def _reads_second(node: Any) -> bool:
    """Whether the second result of a node is read."""
    return any(user.args[1] == 1 and user.users for user in node.users)


def _drop_checks(program: Any) -> None:
    """Takes out what only checks values, and parts of the program that nothing calls any more."""
    for node in reversed(list(program.graph.nodes)):
        if not node.users and (node.op == "get_attr" or _is_check(node)):
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _is_check(node: Any) -> bool:
    name = str(node.target).rpartition("::")[2].removeprefix("aten.")
    return node.op == "call_function" and name.startswith(_CHECKS)


def check_random(program: Any) -> None:
    """Raises an `UnsupportedOpError` for an op with random results that are read."""
    for node in program.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags and node.users:
            raise UnsupportedOpError(
                f"{node.target} at {where(node)} gives random numbers, which no file can be "
                "verified with; take them as an input of forward, or use their mean in evaluation "
                "mode"
            )


def check_sizes(program: Any) -> None:
    """Raises an `UnsupportedOpError` for what makes as many results as the values ask for."""
    for node in program.graph.nodes:
        if has_open_size(node):
            raise UnsupportedOpError(
                f"{node.target} at {where(node)} has as many results as the values of the input "
                "ask for, and a file has fixed sizes; keep all entries and weigh them by the mask "
                "(torch.where), take a fixed number (torch.topk), or let what the mask is made of "
                "be a buffer, if it is the same for all inputs"
            )
