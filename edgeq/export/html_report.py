"""`write_report`: everything that is known of an integer model, in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeq.export.edge_model import EdgeModel
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.planned_model import PlannedModel
from edgeq.files import Content, write_whole
from edgeq.model import LiteModel
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.report.page import Page, PlacedOp, PlanRow
from edgeq.report.search_result import SearchReport
from edgeq.runtime.interpreter import read_model
from edgeq.runtime.session import Session
from edgeq.targets import TARGETS


def write_report(
    path: str | os.PathLike[str],
    edge_model: EdgeModel | bytes | str | os.PathLike[str] | None = None,
    *,
    comparison: Comparison | None = None,
    diagnosis: Diagnosis | None = None,
    search: SearchReport | None = None,
    title: str = "",
    command: str = "",
) -> Path:
    """Writes an HTML report: one file that can be sent, and opens without a network.

    Args:
        path: The file.
        edge_model: What `export` made, which adds size, latency, the delegate map and the plan; or
            a .tflite that can be run, which adds the delegate map.
        comparison: What `compare` found; adds the outputs, metrics and the worst samples.
        diagnosis: What `debug` found; adds what each layer loses and the histograms.
        search: What `search` tried; adds the plans that no other beats, as a table and a plot.
        title: Its heading.
        command: The command that makes it again.

    Returns:
        The path.

    Raises:
        DependencyError: plotly or jinja2 is not installed.
        ModelError: The .tflite cannot be read.
    """
    made = edge_model if isinstance(edge_model, EdgeModel) else None
    page = Page(
        title=title or "edgeq report",
        command=command,
        report=None if made is None else made.report,
        comparison=comparison,
        diagnosis=diagnosis,
        ops=() if edge_model is None else tuple(_placed(edge_model)),
        plan=() if made is None else tuple(_planned(made)),
        search=search,
    )
    return write_whole(path, page.html().encode())


def _placed(model: EdgeModel | bytes | str | os.PathLike[str]) -> Iterator[PlacedOp]:
    if isinstance(model, EdgeModel):
        tflite: Content = model.tflite
        exported = model.beside_float()
    else:
        tflite = read_model(model)
        reference = LiteModel(tflite, "tflite")
        exported = ExportedGraph.by_name(reference, reference.graph)
    with Session(tflite, threads=1, trusted=True) as session:
        taken = session.coverage().delegated
    for op in exported.graph.operators:
        layer = exported.layer(op)
        yield PlacedOp(op.index, op.name, layer, exported.kind(op), op.index in taken)


def _planned(model: EdgeModel) -> Iterator[PlanRow]:
    target = TARGETS[model.report.target]
    for op in PlannedModel(model.rewritten, model.plan, target).ops:
        yield PlanRow(op.index, op.layer, op.op, op.mode, op.qparams, op.reason)
