"""Files for older run times: choices that they can read, and the check that nothing is too new."""

from __future__ import annotations

from dataclasses import replace

from edgeq.errors import UnsupportedOpError
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import Choice, Choices
from edgeq.flatbuffer import Graph
from edgeq.versions import (
    PER_CHANNEL_DENSE,
    PER_CHANNEL_DYNAMIC_DENSE,
    Version,
    needed_runtime,
    written,
)


def for_runtime(graph: Graph, choices: Choices, oldest: Version | None) -> dict[int, Choice]:
    """The choices, with one scale for all weights where `oldest` misreads a scale a channel."""
    found = dict(choices)
    for index, choice in choices.items():
        first = PER_CHANNEL_DENSE if choice.mode.is_static else PER_CHANNEL_DYNAMIC_DENSE
        is_dense = graph.operators[index].name == "FULLY_CONNECTED"
        if oldest is not None and is_dense and choice.weights.per_channel and oldest < first:
            found[index] = replace(choice, weights=replace(choice.weights, per_channel=False))
    return found


def check_runtime(exported: ExportedGraph, oldest: Version | None) -> None:
    """Raises an `UnsupportedOpError` for ops that `oldest` does not have."""
    if oldest is None:
        return
    needed = [(op, needed_runtime(exported.graph, op)) for op in exported.graph.operators]
    newer = [(op, version) for op, version in needed if version > oldest]
    if newer:
        listed = "; ".join(
            f"{exported.where(op)} version {op.version} needs {written(version)}"
            for op, version in newer[:8]
        )
        more = f"; and {len(newer) - 8} more" if len(newer) > 8 else ""
        raise UnsupportedOpError(
            f"the file cannot be made for the run time {written(oldest)}: {listed}{more}. Express "
            f"them by older ops, or export with min_runtime="
            f"{written(max(version for _, version in newer))!r}"
        )
