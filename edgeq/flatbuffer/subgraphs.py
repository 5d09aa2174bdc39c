"""Which subgraphs an op runs, and files with fewer of them.

Knows the file format, nothing of what the ops mean.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
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
