"""Traced PyTorch programs as the caller gives them: copies, names, what is refused."""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from edgeq.errors import ModelError
from edgeq.export.frontends.torch_program.source_places import where

_TRAINING_ARGUMENTS = ("train", "training")


def copied(program: Any) -> Any:
    """A program that the lowering may change, with the caller's tensors."""
    import torch

    module = copy.deepcopy(program.graph_module)
    for old, new in zip(program.graph.nodes, module.graph.nodes, strict=True):
        # Copying renames what is called like a Python builtin, such as `input`.
        new.name = old.name
    module.recompile()
    return torch.export.ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=dict(program.state_dict),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=dict(program.constants),
        verifiers=program.verifiers,
    )


def check_program(program: Any) -> None:
    """Raises a `ModelError` for what could only fail later and less clearly."""
    _check_inputs(program)
    _check_outputs(program)
    for node in program.graph.nodes:
        if _is_training(node):
            raise ModelError(
                f"{node.target} at {where(node)} was traced in training mode; call "
                "model.eval() before torch.export.export, and pass training=False to functions"
            )
    for name, value in {**program.state_dict, **program.constants}.items():
        if str(getattr(value, "dtype", "")) in ("torch.float16", "torch.bfloat16"):
            raise ModelError(
                f"tensor {name!r} of the traced program is {str(value.dtype)[6:]}; edgeq exports "
                "from float32: call model.float() before it is traced"
            )


def _check_inputs(program: Any) -> None:
    names = dict(zip(program.graph_signature.user_inputs, input_names(program), strict=True))
    for node in program.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        if node.name in names and not all(isinstance(size, int) for size in shape):
            raise ModelError(
                f"input {names[node.name]!r} has the dynamic shape ({', '.join(map(str, shape))}); "
                "trace the model without dynamic_shapes (batch 1 for a device)"
            )


def _check_outputs(program: Any) -> None:
    names = output_names(program) or []
    for name, value in zip(names, program.graph_signature.user_outputs, strict=False):
        if not isinstance(value, str):
            raise ModelError(
                f"the forward pass returns the constant {value!r} as {name!r}; return tensors only"
            )


def _is_training(node: Any) -> bool:
    """Whether a node is a dropout or normalization that behaves as in training."""
    parameters = getattr(getattr(node.target, "_schema", None), "arguments", ())
    given = {p.name: value for p, value in zip(parameters, node.args, strict=False)}
    given.update(node.kwargs)
    if "running_mean" in given and given["running_mean"] is None:
        return False  # a normalization that keeps no statistics always takes those of its input
    return any(given.get(name) is True for name in _TRAINING_ARGUMENTS)


def input_names(program: Any) -> list[str]:
    """Names of the inputs as `forward` spells its parameters; `torch.export` has lower case."""
    signature = program.module_call_graph[0].signature
    spelled = collections.defaultdict(list)
    for name in (signature and signature.forward_arg_names) or ():
        spelled[name.lower()].append(name)
    one = {lower: names[0] for lower, names in spelled.items() if len(names) == 1}
    return [one.get(name, name) for name in program.graph_signature.user_inputs]


def output_names(program: Any) -> list[str] | None:
    """Names of the outputs from their structure: dict keys; a position gives `output_<i>`."""
    import torch.utils._pytree as pytree

    structure = program.call_spec.out_spec
    if structure is None:
        return None
    tree = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    return [_path_name(path) for path in paths]


def _path_name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]
    return output_name(parts)


def output_name(path: Sequence[str]) -> str:
    """An output's name by where it is in the result: dict keys; a place gives `output_<i>`."""
    name = "_".join(path) or "0"
    return f"output_{name}" if name[0].isdigit() else name


def returns_tensors(program: Any) -> bool:
    """Whether all that a program returns are tensors."""
    return all(isinstance(name, str) for name in program.graph_signature.user_outputs)


def kept_buffers(program: Any) -> tuple[str, ...]:
    """Buffers that one run of a decomposed program writes and the next run's outputs depend on."""
    signature = program.graph_signature
    written = {name: made for made, name in signature.buffers_to_mutate.items()}
    read = {name: place for place, name in signature.inputs_to_buffers.items() if name in written}
    outputs = [name for name in signature.user_outputs if isinstance(name, str)]
    return tuple(sorted(carried(program, read, written, outputs)))


def carried(
    program: Any, read: Mapping[str, str], written: Mapping[str, str], outputs: Sequence[str]
) -> tuple[str, ...]:
    """States of a decomposed program that outputs depend on, of this run or of later ones.

    Args:
        program: The program.
        read: The node of each state by its name, as a run finds it.
        written: The node of each state as a run leaves it.
        outputs: The nodes of what it returns besides.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    reached = {name: _reached(nodes[place]) for name, place in read.items()}
    kept: set[str] = set()
    while True:
        wanted = {*outputs, *(written[name] for name in kept)}
        found = {name for name, nodes in reached.items() if nodes & wanted}
        if found == kept:
            return tuple(name for name in read if name in kept)
        kept = found


def _reached(node: Any) -> set[str]:
    """Names of a node and of all that are computed of it."""
    found, rest = set(), [node]
    while rest:
        node = rest.pop()
        if node.name not in found:
            found.add(node.name)
            rest += node.users
    return found
