"""Traces a module by `torch.export`, and where that fails once more, with what a run tells."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgeq.export.frontends.torch_program.constant_reads import Repeating, any_known, reads_of
from edgeq.export.frontends.torch_program.kept_states.state_ports import (
    Keeping,
    beginning_so,
    keeping,
)
from edgeq.export.frontends.torch_program.kept_states.written_states import Written, written_by
from edgeq.export.frontends.torch_program.packed.padded_sequences import on_all_steps
from edgeq.export.frontends.torch_program.returned import returning_tensors
from edgeq.export.frontends.torch_program.traced_program import (
    carried,
    input_names,
    returns_tensors,
)

aten = torch.ops.aten

_COPIES = frozenset(
    {aten.clone.default, aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default}
)


@dataclass(frozen=True)
class Exported:
    """A traced module.

    Attributes:
        module: What was traced: the module, or a copy that returns or checks less, or keeps none of
            its states.
        program: The `torch.export.ExportedProgram`.
        arguments: What it was traced with.
        keywords: What it was traced with by name.
        notes: What was changed.
        states: Names of the input and the output of each state.
        kept: Where the module keeps what its later calls depend on, which the program does not.
    """

    module: Any
    program: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()


def exported(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """Traces a module.

    No tensor's values are known to a trace, so that it fails where a size follows from a buffer (a
    stride, a padding), a branch from a mask that `forward` has made, or where there are assertions.
    The second time these numbers are constants. What is returned without being a tensor is left
    out. What the module keeps between its calls becomes inputs and outputs where it can.

    Raises:
        Exception: That of the module as it is; torch.export raises dozens of kinds.
    """
    written = written_by(module, arguments, keywords)
    if not written.anything:
        return _traced(module, arguments, keywords)
    with contextlib.suppress(Exception):  # it is traced as a module that keeps nothing then
        found = _with_states(module, written, arguments, keywords)
        if found is not None:
            return found
    found = _traced(copy.deepcopy(module), arguments, keywords)
    names = (*(state.where for state in written.states), *written.others)
    return replace(found, kept=names if written.changing else ())


def _with_states(
    module: Any, written: Written, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Exported | None:
    """A trace with the module's states as inputs and outputs; None where later calls need none."""
    states = beginning_so(module, written, arguments, keywords)
    while states:
        kept = keeping(module, states)
        with torch.no_grad():
            made = kept(*arguments, **keywords)
        given = {taken: made[out] for taken, out in zip(kept.inputs, kept.outputs, strict=True)}
        found = _traced(kept, arguments, {**keywords, **given})
        needed = kept.states_of(_needed(found.program, kept))
        if len(needed) < len(states):
            states = needed
            continue
        others = written.others if kept.changes(arguments, {**keywords, **given}) else ()
        notes = (*found.notes, *_said(kept.left_out))
        return replace(found, notes=notes, states=_ports(found.program, kept), kept=others)
    return None


def _needed(program: Any, kept: Keeping) -> tuple[str, ...]:
    """Inputs of states that outputs depend on, of this run or of later ones.

    What is written as it was read, such as a table that the first call has made, is none of them.
    """
    plain = program.run_decompositions({})  # which tells writes from what they are written to
    signature, count = plain.graph_signature, len(kept.inputs)
    nodes = {node.name: node for node in plain.graph.nodes}
    ends = zip(signature.user_inputs[-count:], signature.user_outputs[-count:], strict=True)
    ports = {
        name: (taken, given)
        for name, (taken, given) in zip(kept.inputs, ends, strict=True)
        if _source(nodes[given]) is not nodes[taken]
    }
    read = {name: taken for name, (taken, _) in ports.items()}
    written = {name: given for name, (_, given) in ports.items()}
    return carried(plain, read, written, signature.user_outputs[:-count])


def _source(node: Any) -> Any:
    """What a node is a copy of, or the same number more and less of."""
    while True:
        if node.target in _COPIES:
            node = node.args[0]
        elif node.target is aten.sub.Tensor and (found := _before_sum(node)) is not None:
            node = found
        else:
            return node


def _before_sum(node: Any) -> Any:
    """What a difference is of a sum with what it takes off; None if it is of something else."""
    total = _source(node.args[0])
    is_sum = getattr(total, "target", None) is aten.add.Tensor
    return total.args[0] if is_sum and total.args[1] is node.args[1] else None


def _ports(program: Any, kept: Keeping) -> tuple[tuple[str, str], ...]:
    """Names of the input and the output of each state of a traced module."""
    inputs = input_names(program)[-len(kept.inputs) :]
    return tuple(zip(inputs, kept.outputs, strict=True))


def _traced(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """A trace of a module that keeps nothing; errors are those of `exported`."""
    notes: list[str] = []
    checks, moves = _without_checks_of_values(), _without_idle_moves()
    with torch.no_grad(), checks, moves, on_all_steps(notes):
        found = _in_some_way(module, arguments, keywords)
    return replace(found, notes=(*found.notes, *dict.fromkeys(notes)))


def _in_some_way(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """The first trace that there is, of the module as it is or with what a run tells."""
    try:
        program = _program(module, arguments, keywords)
    except Exception:  # that of the module as it is, which the user reads if all ways fail
        for way in (_of_tensors, _of_values, _of_both):
            with contextlib.suppress(Exception):
                found = way(module, arguments, keywords)
                if returns_tensors(found.program):
                    return found
        raise
    if returns_tensors(program):
        return Exported(module, program, arguments, keywords)
    return _of_tensors(module, arguments, keywords)


def way_out(error: Exception) -> str:
    """What to do about a module that cannot be traced."""
    if any(words in str(error) for words in ("data-dependent", "data is not allocated")):
        return (
            "The forward pass must not branch on tensor values, loop over them, or keep as many "
            "rows as they say: compute all cases and choose with torch.where or torch.cond, keep a "
            "fixed number with torch.topk, or export what is in front of that line and what is "
            "behind it as two models"
        )
    return (
        "The forward pass must not branch on tensor values, and must return tensors in tuples, "
        "lists, dicts or registered dataclasses; torch.export.export(model.eval(), ...) shows the "
        "line, and its result can be exported too"
    )


def _program(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    written = io.StringIO()  # on failure torch.export prints all of the graph until then
    with contextlib.redirect_stderr(written), warnings.catch_warnings():
        # `written_by` has found what later calls depend on; of the rest (weights that are computed
        # anew, attention that is kept to be looked at) PyTorch's warning says what nobody misses.
        warnings.filterwarnings("ignore", r"The tensor attributes? .* assigned during export")
        program = torch.export.export(module, arguments, dict(keywords), strict=False)
    sys.stderr.write(written.getvalue())
    return program


def _of_tensors(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """A trace of the module that returns tensors alone."""
    left_out: list[str] = []
    module = returning_tensors(module, left_out)
    program = _program(module, arguments, keywords)
    return Exported(module, program, arguments, keywords, _said(left_out))


def _said(left_out: Sequence[str]) -> tuple[str, ...]:
    names = ", ".join(map(repr, left_out))
    note = f"what the forward pass returns besides tensors is left out: {names}"
    return (note,) if left_out else ()


def _of_values(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """A trace of the module with numbers that no input decides as constants."""
    fixed = _with_fixed_numbers(module)
    reads = reads_of(fixed, arguments, keywords)
    if fixed is module and not any_known(reads):
        raise RuntimeError("all numbers follow from inputs")
    with Repeating(reads):
        program = _program(fixed, arguments, keywords)
    checks = any(read.checks for read in reads)
    notes = ("assertions on the values of tensors are not in the file",) if checks else ()
    return Exported(module, program, arguments, keywords, notes)


def _of_both(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Exported:
    """A trace of the module that returns tensors alone, with such numbers as constants."""
    left_out: list[str] = []
    found = _of_values(returning_tensors(module, left_out), arguments, keywords)
    return replace(found, notes=(*found.notes, *_said(left_out)))


def _with_fixed_numbers(module: Any) -> Any:
    """A copy whose single whole numbers are made in `forward`; the module itself if it has none."""
    if not any(_numbers(part) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for part in module.modules():
        numbers = _numbers(part)
        if not numbers:
            continue
        for name in numbers:
            delattr(part, name)
        kind = type(part)
        constants = {name: _constant(value) for name, value in numbers.items()}
        part.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **constants})
    return module


def _numbers(part: Any) -> dict[str, Any]:
    """Buffers of a module that are single whole numbers."""
    buffers = part.named_buffers(recurse=False)
    return {n: b for n, b in buffers if b.ndim == 0 and not b.is_floating_point()}


def _constant(value: Any) -> property:
    number, kind = value.item(), value.dtype
    return property(lambda self: torch.tensor(number, dtype=kind))


@contextlib.contextmanager
def _without_checks_of_values() -> Iterator[None]:
    """Has distributions take their parameters as they are: a trace has no values to check."""
    kind = torch.distributions.Distribution
    before = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(before)


@contextlib.contextmanager
def _without_idle_moves() -> Iterator[None]:
    """Has `module.to(dtype)` in `forward` leave a module be that has the type and place already.

    PyTorch puts every parameter in place anew, which a trace refuses.
    """
    kind = torch.nn.Module
    before = kind._apply

    def changing(self: Any, function: Any, recurse: bool = True) -> Any:
        tensors = [*self.parameters(recurse), *self.buffers(recurse)]
        idle = all(function(tensor) is tensor for tensor in tensors)
        return self if idle else before(self, function, recurse)

    kind._apply = changing
    try:
        yield
    finally:
        kind._apply = before
