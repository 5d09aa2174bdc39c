"""Which subgraphs an op runs, and files with fewer of them.

Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def called(op: Any) -> Iterator[tuple[Any, str]]:
    """`(options, field)` of each option of an op of an object tree that names a subgraph."""
    for options in (op.builtinOptions, op.builtinOptions2):
        for field in vars(options) if options is not None else ():
            if field == "subgraph" or field.endswith("SubgraphIndex"):
                yield options, field


def called_by(op: Any) -> tuple[int, ...]:
    """Indices of the subgraphs that an op of an object tree runs."""
    return tuple(int(getattr(options, field)) for options, field in called(op))


def loop_graphs(op: Any) -> tuple[int, int] | None:
    """Indices of the condition and the body of an op that is a loop; None for any other."""
    options = op.builtinOptions
    cond = getattr(options, "condSubgraphIndex", None)
    return None if cond is None else (int(cond), int(options.bodySubgraphIndex))


def readers(graph: Any, tensor: int) -> list[tuple[Any, int]]:
    """`(op, operand slot)` of all that read a tensor of a subgraph of an object tree."""
    return [
        (op, slot)
        for op in graph.operators or ()
        for slot, read in enumerate(op.inputs)
        if read == tensor
    ]


def reached(tree: Any, roots: set[int]) -> set[int]:
    """The subgraphs that are run when those of `roots` are, themselves included."""
    found, waiting = set(roots), list(roots)
    while waiting:
        for op in tree.subgraphs[waiting.pop()].operators or ():
            fresh = set(called_by(op)) - found
            found |= fresh
            waiting += fresh
    return found


def bottom_up(tree: Any) -> list[int]:
    """The subgraphs, each behind those that it runs; one that leads back to itself is left out."""
    below = [{other for op in g.operators or () for other in called_by(op)} for g in tree.subgraphs]
    above: list[list[int]] = [[] for _ in below]
    for index, others in enumerate(below):
        for other in others:
            above[other].append(index)
    order = [index for index, others in enumerate(below) if not others]
    for done in order:  # which grows on the way
        for index in above[done]:
            below[index].discard(done)
            if not below[index]:
                order.append(index)
    return order


def keep_subgraphs(tree: Any, kept: set[int]) -> None:
    """Takes all other subgraphs out of an object tree, and their signatures."""
    place = {old: new for new, old in enumerate(sorted(kept))}
    for old in place:
        graph = tree.subgraphs[old]
        graph.operators = [renumbered(op, place) for op in graph.operators or ()]
    tree.signatureDefs = [s for s in tree.signatureDefs or () if s.subgraphIndex in place]
    for signature in tree.signatureDefs:
        signature.subgraphIndex = place[signature.subgraphIndex]
    tree.subgraphs = [tree.subgraphs[old] for old in place]


def without_unreached(tree: Any) -> Any:
    """The object tree without subgraphs that nothing runs; itself where there are none."""
    kept = reached(tree, {0, *(s.subgraphIndex for s in tree.signatureDefs or ())})
    if len(kept) == len(tree.subgraphs):
        return tree
    made = copy.copy(tree)
    made.subgraphs = [copy.copy(graph) for graph in tree.subgraphs]
    made.signatureDefs = [copy.copy(entry) for entry in tree.signatureDefs or ()]
    gone = {t.buffer for i, g in enumerate(tree.subgraphs) if i not in kept for t in g.tensors}
    keep_subgraphs(made, kept)
    used = {t.buffer for graph in made.subgraphs for t in graph.tensors}
    used |= {entry.buffer for entry in tree.metadata or ()}
    made.buffers = [
        type(buffer)() if index in gone - used else buffer
        for index, buffer in enumerate(tree.buffers)
    ]
    return made


def renumbered(op: Any, place: Mapping[int, int]) -> Any:
    """An op that runs the subgraphs at other places; the op itself if it runs none."""
    if not called_by(op):
        return op
    made = copy.copy(op)
    made.builtinOptions = copy.copy(op.builtinOptions)
    made.builtinOptions2 = copy.copy(op.builtinOptions2)
    for options, field in list(called(made)):
        setattr(options, field, place[int(getattr(options, field))])
    return made


def add_subgraphs(tree: Any, original: Any, graphs: Iterable[Any]) -> None:
    """Puts subgraphs of an object tree behind those of another one."""
    buffers: dict[int, int] = {}
    for graph in graphs:
        made = copy.copy(graph)
        made.tensors = [_with_buffer(tree, original, t, buffers) for t in graph.tensors]
        made.operators = [_with_code(tree, original, op) for op in graph.operators or ()]
        tree.subgraphs.append(made)


def _with_buffer(tree: Any, original: Any, tensor: Any, buffers: dict[int, int]) -> Any:
    made = copy.copy(tensor)
    if made.buffer not in buffers:
        tree.buffers.append(original.buffers[made.buffer])
        buffers[made.buffer] = len(tree.buffers) - 1
    made.buffer = buffers[made.buffer]
    return made


def _with_code(tree: Any, original: Any, op: Any) -> Any:
    made = copy.copy(op)
    tree.operatorCodes.append(copy.copy(original.operatorCodes[op.opcodeIndex]))
    made.opcodeIndex = len(tree.operatorCodes) - 1
    return made
