"""Files for older run times: choices that they can read, and the check that nothing is too new."""

from __future__ import annotations

from dataclasses import replace

from edgeq.errors import UnsupportedOpError
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import Choice, Choices
from edgeq.flatbuffer import Graph
from edgeq.ops import is_table
from edgeq.recipe import Mode
from edgeq.versions import (
    OLDEST,
    Version,
    dequantize_version,
    first_runtime,
    needed_runtime,
    per_channel_runtime,
    stored_weight_version,
    written,
)


def for_runtime(graph: Graph, choices: Choices, oldest: Version | None) -> dict[int, Choice]:
    """The choices, with one scale for all weights where `oldest` misreads a scale a channel."""
    found = dict(choices)
    for index, choice in choices.items():
        first = per_channel_runtime(graph.operators[index].name, choice.mode.is_static)
        if oldest is not None and choice.weights.per_channel and oldest < first:
            found[index] = replace(choice, weights=replace(choice.weights, per_channel=False))
    return found


def form_runtime(name: str, choice: Choice) -> Version:
    """The first run time that reads an op of that name with its weight stored as chosen."""
    if choice.mode.weight_dtype is None:
        is_float16 = choice.mode is Mode.FLOAT16
        return first_runtime("DEQUANTIZE", dequantize_version("float16")) if is_float16 else OLDEST
    kind = choice.mode.weight_dtype.type_name
    if not (choice.mode.is_dynamic or is_table(name)):
        return first_runtime("DEQUANTIZE", dequantize_version(kind))
    reader = "EMBEDDING_LOOKUP" if is_table(name) else name
    return first_runtime(
        reader, stored_weight_version(reader, kind, not choice.weights.per_channel)
    )


def newer_ops(exported: ExportedGraph, oldest: Version | None) -> dict[int, Version]:
    """Ops of a file that `oldest` does not have, by index, and the first run time that has each."""
    if oldest is None:
        return {}
    needed = {op.index: needed_runtime(exported.graph, op) for op in exported.graph.operators}
    return {index: version for index, version in needed.items() if version > oldest}


def check_runtime(exported: ExportedGraph, oldest: Version | None) -> None:
    """Raises an `UnsupportedOpError` for ops that `oldest` does not have."""
    newer = newer_ops(exported, oldest)
    if oldest is None or not newer:
        return
    operators = exported.graph.operators
    listed = "; ".join(
        f"{exported.where(operators[i])} version {operators[i].version} needs {written(version)}"
        for i, version in list(newer.items())[:8]
    )
    more = f"; and {len(newer) - 8} more" if len(newer) > 8 else ""
    raise UnsupportedOpError(
        f"the file cannot be made for the run time {written(oldest)}: {listed}{more}. Express "
        f"them by older ops, or export with min_runtime={written(max(newer.values()))!r}"
    )
