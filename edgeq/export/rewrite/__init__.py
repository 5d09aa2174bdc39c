"""Rewrites a float model into ops that stay integer on the delegate, with the same numbers.

Each rewrite is exact up to float rounding. Knows the graph, nothing of quantization parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeq.export.rewrite import (
    activations,
    arithmetic,
    blocks,
    convolutions,
    dense,
    joins_and_cuts,
    layout,
    layout_regions,
    pooling,
)
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.export.rewrite.recurrence import looped, unrolled
from edgeq.export.rewrite.written_out import lines, products, selects, softmaxes
from edgeq.flatbuffer import Graph, Operator, pack, parse_tree
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.subgraphs import without_unreached
from edgeq.model import LiteModel, layer
from edgeq.targets import HOST, Target

REWRITES: tuple[Rewrite, ...] = (
    *looped.REWRITES,
    *unrolled.REWRITES,
    *selects.REWRITES,
    *lines.REWRITES,
    *softmaxes.REWRITES,
    *products.REWRITES,
    *layout.REWRITES,
    *layout_regions.REWRITES,
    *joins_and_cuts.REWRITES,
    *arithmetic.REWRITES,
    *pooling.REWRITES,
    *convolutions.REWRITES,
    *blocks.REWRITES,
    *dense.REWRITES,
    *activations.REWRITES,
)
"""Every rewrite; the first that fits an op is applied."""

PASSES_MAX = 100
"""One rewrite may make room for the next. A model that is not done by then is left as it is."""


def all_rewrites() -> tuple[Rewrite, ...]:
    """The table of rewrites as it is now."""
    return REWRITES


def rewrite(
    model: LiteModel, target: Target = HOST, rewrites: Sequence[Rewrite] | None = None
) -> LiteModel:
    """The model with all rewrites for a target applied as often as they fit.

    A rewrite that fails on an op leaves it as it is, and a note says so.

    Args:
        model: The float model.
        target: Where it is to run.
        rewrites: What to apply; None is every rewrite.

    Returns:
        The model itself if none fits.
    """
    editor, graph = GraphEditor(model.tree), model.graph
    rows = all_rewrites() if rewrites is None else rewrites
    rows = [row for row in rows if row.purpose in target.rewrites and _is_read(row, target)]
    record = _Record()
    for _ in range(PASSES_MAX):
        if not _pass(Site(graph, editor), rows, record):
            break
        graph = parse_tree(editor.tree, len(model.tflite)).graphs[0]
    notes = record.notes()
    noted = replace(model, notes=(*model.notes, *notes)) if notes else model
    if graph is model.graph:
        return noted
    return replace(noted, tflite=pack(without_unreached(editor.tree)))


@dataclass(frozen=True)
class _Record:
    """What was done to a model.

    Attributes:
        failed: A sentence for each rewrite that failed, by its name.
        applied: How many ops each took the place of.
    """

    failed: dict[str, str] = field(default_factory=dict)
    applied: Counter[Rewrite] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """What a report says of it."""
        said = [row.said(count) for row, count in self.applied.items() if row.said is not None]
        return [*self.failed.values(), *said]


def _is_read(row: Rewrite, target: Target) -> bool:
    """Whether every run time that is to read the file reads what a rewrite gives."""
    return target.oldest_runtime is None or row.since <= target.oldest_runtime


def _pass(site: Site, rewrites: Sequence[Rewrite], record: _Record) -> bool:
    """Applies what fits each op once; tells whether anything did."""
    changed = []

    def replacement(index: int) -> Sequence[Any] | None:
        new = _first(site, site.graph.operators[index], rewrites, record)
        changed.append(new is not None)
        return new

    site.editor.replace(replacement)
    site.editor.substitute(site.same)
    site.editor.prune()
    return any(changed)


def _first(
    site: Site, op: Operator, rewrites: Sequence[Rewrite], record: _Record
) -> Sequence[Any] | None:
    if op.index in site.gone:
        return []
    if not _is_plain(site.graph, op):
        return None
    for row in rewrites:
        new = _applied(row, site, op, record) if op.name in row.ops else None
        if new is not None:
            record.applied[row] += 1
            return new
    return None


def _applied(row: Rewrite, site: Site, op: Operator, record: _Record) -> Sequence[Any] | None:
    """The ops in an op's place; None where the rewrite does not fit it, or fails."""
    same = dict(site.same)
    try:
        return row.apply(site, op)
    except Exception as error:
        site.same = same
        record.failed.setdefault(
            row.name,
            f"the rewrite {row.name!r} is left out for {op.name} at {layer(site.graph, op)}: it "
            f"failed with {type(error).__name__}: {error}",
        )
        return None


def _is_plain(graph: Graph, op: Operator) -> bool:
    """Whether what is read of an op are real numbers, and all shapes are known."""
    read = [
        t for t in op.outputs if len(op.outputs) == 1 or graph.uses.get(t) or t in graph.outputs
    ]
    return all(graph.tensors[t].dtype == "float32" for t in read) and all(
        -1 not in graph.tensors[t].shape for t in _tensors(op)
    )


def _tensors(op: Operator) -> Iterator[int]:
    return (t for t in (*op.inputs, *op.outputs) if t >= 0)
