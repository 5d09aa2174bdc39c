"""Constants of a traced PyTorch program: made by a decomposition, or computed from other constants.

What depends on parameters, buffers and numbers alone is computed by PyTorch itself, so that the
converter needs no form of what makes position embeddings, masks, windows or normalised weights.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten

NUMBERS_MAX = 1 << 22
"""Numbers that a computed constant may have, unless what it is made of has as many."""

_STORED: dict[int, torch.Tensor] = {}
_keys = itertools.count()


@torch.library.custom_op("edgeq::stored", mutates_args=())  # type: ignore[untyped-decorator]
def _stored(key: int) -> torch.Tensor:
    return _STORED[key].clone()


@_stored.register_fake  # type: ignore[untyped-decorator]
def _(key: int) -> torch.Tensor:
    shape, dtype = _STORED[key].shape, _STORED[key].dtype
    return torch.empty(shape, dtype=dtype)


def constant(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `make` computes, as a constant of the program that is being traced."""
    with _disable_current_modes(), torch.no_grad():
        made = make().detach().contiguous()
    key = next(_keys)
    _STORED[key] = made
    found: torch.Tensor = torch.ops.edgeq.stored(key)
    return found


_MOVES = frozenset(
    {
        aten.alias.default, aten.clone.default, aten.detach.default, aten.expand.default,
        aten.permute.default, aten.reshape.default, aten.slice.Tensor, aten.select.int,
        aten.squeeze.dim, aten.squeeze.dims, aten.t.default, aten.transpose.int,
        aten.unsqueeze.default, aten.view.default, aten._unsafe_view.default,
    }
)  # fmt: skip
"""What the converter folds itself, and shares with the other readers of a parameter."""

_SPLATS = frozenset(
    {
        aten.full.default, aten.full_like.default, aten.zeros.default, aten.zeros_like.default,
        aten.ones.default, aten.ones_like.default, aten.scalar_tensor.default,
        aten.empty.memory_format, aten.new_zeros.default, aten.new_ones.default,
        aten.new_full.default,
    }
)  # fmt: skip
"""What the converter writes as one number."""


def fold(program: Any) -> None:
    """Computes what depends on constants alone, and makes it a constant of the program.

    Args:
        program: A `torch.export.ExportedProgram` of functional ops, which is changed.
    """
    _Folding(program).run()


def fold_open_sizes(program: Any) -> None:
    """Computes constants whose sizes only values tell, as of the edges that a mask keeps.

    Args:
        program: A `torch.export.ExportedProgram` as it was traced, which is changed.
    """
    _Folding(program).run_open_sizes()


def has_open_size(node: Any) -> bool:
    """Whether the sizes of what a node computes, or a size that it gives, depend on values."""
    values = pytree.tree_leaves(node.meta.get("val"))
    sizes = [s for v in values for s in (v.shape if isinstance(v, torch.Tensor) else (v,))]
    return any(isinstance(size, torch.SymInt) for size in sizes)


def clear() -> None:
    """Lets go of what decompositions have stored."""
    _STORED.clear()


class Evaluator:
    """Computes the nodes of a graph that depend on known values alone.

    Args:
        known: Nodes with what they hold; None is unknown.
    """

    def __init__(self, known: Iterable[tuple[Any, Any]]) -> None:
        self._values = {node: value for node, value in known if value is not None}
        self._known: dict[Any, bool] = {}

    def is_known(self, node: Any) -> bool:
        """Whether a node depends on known values alone."""
        stack = [node]
        while stack:
            last = stack[-1]
            if last in self._values or not _is_pure(last):
                self._known[last] = last in self._values
            missing = [n for n in last.all_input_nodes if n not in self._known]
            if last not in self._known and missing:
                stack.extend(missing)
                continue
            stack.pop()
            if last not in self._known:
                self._known[last] = all(self._known[n] for n in last.all_input_nodes)
        return self._known[node]

    def value(self, node: Any) -> Any:
        """What a known node holds or computes."""
        stack = [node]
        while stack:
            last = stack[-1]
            missing = [n for n in last.all_input_nodes if n not in self._values]
            if last in self._values or not missing:
                stack.pop()
            else:
                stack.extend(missing)
                continue
            if last not in self._values:
                args, kwargs = pytree.tree_map_only(
                    torch.fx.Node, self._values.__getitem__, (last.args, last.kwargs)
                )
                with torch.no_grad():
                    self._values[last] = last.target(*args, **kwargs)
        return self._values[node]

    def value_or_none(self, node: Any) -> Any:
        """What a node holds if that is known; of a number, the number."""
        if not isinstance(node, torch.fx.Node):
            return node
        return self.value(node) if self.is_known(node) else None

    def hold(self, node: Any, value: Any) -> None:
        """Takes what a new node holds."""
        self._values[node] = value


class _Folding:
    """One program whose constants are computed.

    Nothing is computed that no other op than constant ones reads.
    """

    def __init__(self, program: Any) -> None:
        self._program = program
        self._graph = program.graph
        self._evaluator = evaluator(program)

    def run(self) -> None:
        for node in [n for n in self._graph.nodes if self._is_read(n) and _is_worth(n)]:
            self._fold(node)
        self._graph.eliminate_dead_code()
        self._program.graph_module.recompile()

    def run_open_sizes(self) -> None:
        """Only what has as many entries as constants ask for, and how many these are."""
        for node in [node for node in self._graph.nodes if has_open_size(node)]:
            if self._is_read(node):
                self._place(node, self._evaluator.value(node).detach().contiguous().clone())
            elif isinstance(node.meta["val"], torch.SymInt) and self._evaluator.is_known(node):
                node.replace_all_uses_with(self._evaluator.value(node))
        self._graph.eliminate_dead_code()
        self._program.graph_module.recompile()

    def _is_read(self, node: Any) -> bool:
        """Whether a constant is read by what depends on the model's inputs, or is an output."""
        return (
            node.op == "call_function"
            and isinstance(node.meta.get("val"), torch.Tensor)
            and self._evaluator.is_known(node)
            and any(not self._evaluator.is_known(user) for user in node.users)
        )

    def _fold(self, node: Any) -> None:
        sizes = [_count(n) for n in _placeholders(node)]
        if _count(node) > max([NUMBERS_MAX, *sizes]):
            return
        self._place(node, self._evaluator.value(node).detach().contiguous().clone())

    def _place(self, node: Any, value: torch.Tensor) -> None:
        """Puts a constant in a node's place."""
        placed = _with_input(self._program, node, value)
        node.replace_all_uses_with(placed)
        self._evaluator.hold(placed, value)


def _count(node: Any) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, torch.Tensor) else 0


def _placeholders(node: Any) -> set[Any]:
    """Inputs of the program that a node depends on."""
    found, seen, stack = set(), {node}, [node]
    while stack:
        last = stack.pop()
        if last.op == "placeholder":
            found.add(last)
        stack.extend(n for n in last.all_input_nodes if n not in seen)
        seen.update(last.all_input_nodes)
    return found


def _is_worth(node: Any) -> bool:
    """Whether something is computed on the way to a node, and not only moved or repeated."""
    while node.target in _MOVES:
        node = node.all_input_nodes[0]
    return bool(node.op == "call_function" and node.target not in _SPLATS)


def evaluator(program: Any) -> Evaluator:
    """What is known of a program: parameters, buffers and constants."""
    return Evaluator(_given(program))


def _given(program: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """Inputs of the program that hold parameters, buffers and constants, with what they hold."""
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            held = program.constants if spec.target in program.constants else program.state_dict
            if spec.target in held:
                yield nodes[spec.arg.name], held[spec.target]


def _is_pure(node: Any) -> bool:
    """Whether a node calls an op of PyTorch that gives the same result whenever it is called."""
    target = node.target
    if node.op != "call_function" or target in (operator.getitem, aten.detach_.default):
        return bool(node.op == "call_function")
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return (
        target.namespace in ("aten", "prims", "edgeq")
        and torch.Tag.nondeterministic_seeded not in target.tags
        and not target._schema.is_mutable
        and "assert" not in target.name()
    )


def _with_input(program: Any, node: Any, value: torch.Tensor) -> Any:
    """A new input of a program that holds a constant, named after the node that it stands for."""
    graph, signature = program.graph, program.graph_signature
    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = signature.input_specs
    place = sum(spec.kind in kinds for spec in specs)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    held = {**program.constants, **program.state_dict}
    target = next(name for name in _names(f"folded_{node.name}") if name not in held)
    with graph.inserting_before(placeholders[place] if place < len(placeholders) else None):
        placed = graph.placeholder(target)
    placed.meta = {key: node.meta[key] for key in ("nn_module_stack",) if key in node.meta}
    placed.meta["val"] = node.meta["val"].new_empty(value.shape)
    if "tensor_meta" in node.meta:
        placed.meta["tensor_meta"] = node.meta["tensor_meta"]
    specs.insert(
        place, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(placed.name), target, None)
    )
    program.constants[target] = value
    return placed


def _names(name: str) -> Iterator[str]:
    """A name, and others like it."""
    yield name
    yield from (f"{name}_{i}" for i in itertools.count(1))
