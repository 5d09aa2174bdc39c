"""`check`: whether an integer model keeps what was promised of it, as a gate for CI."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np

from edgeq.argument_types import DataLike, FilePath, ModelLike
from edgeq.compare.compare_models import compared
from edgeq.errors import RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.exported_graph import ExportedGraph
from edgeq.fidelity.metrics import Metric
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import CheckResult, Facts, drops, judged
from edgeq.runtime.benchmark import interleaved_latency


def check(
    float_model: ModelLike | LiteModel | EdgeModel,
    edge_model: FilePath | bytes | LiteModel | EdgeModel,
    data: DataLike,
    thresholds: Thresholds | None = None,
    *,
    baseline: Facts | None = None,
    metrics: Mapping[str, str | Metric] | None = None,
    labels: object = None,
    output: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> CheckResult:
    """Measures an integer model beside its float model and judges it.

    Args:
        float_model: As for `compare`.
        edge_model: As for `compare`.
        data: As for `compare`.
        thresholds: What it has to keep. None asks for nothing.
        baseline: The facts of an earlier model, than which it must not be worse.
        metrics: As for `compare`; higher is better, but for `"mae"` and `"mse"`.
        labels: As for `compare`.
        output: As for `compare`.
        threads: As for `compare`; latency is measured on one.
        progress: As for `export`.

    Returns:
        Each promise with its verdict, and all that was measured.

    Raises:
        RecipeError: A metric may drop by so much at most, but there is none.
        EdgeqError: As for `compare`.
    """
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise RecipeError(
            f"thresholds must be Thresholds, or None. Received: {type(thresholds).__name__}"
        )
    wanted = thresholds or Thresholds()
    if wanted.max_metric_drop is not None and metrics is None and labels is None:
        raise RecipeError(
            "max_metric_drop needs something to measure: pass labels, or metrics that need none"
        )
    comparison, pair = compared(
        float_model, edge_model, data, metrics, labels, output, "local", threads, progress
    )
    reference, edge = pair.models
    zeros = [np.zeros(spec.shape, spec.dtype) for spec in pair.inputs]
    with closing(pair.load()) as runner:
        pairs = zip(("float", "edge"), runner.sessions, pair.links, strict=True)
        runs = {name: (session, link.stored(zeros)) for name, session, link in pairs}
        latency = interleaved_latency(runs)
        coverage = runner.sessions[1].coverage()
    exported = ExportedGraph.by_name(reference, edge.graph)
    kinds = metrics or dict.fromkeys(comparison.metrics, "accuracy")
    agreements = [o.top1_agreement for o in comparison.outputs if o.top1_agreement is not None]
    facts = Facts(
        sqnr_db=comparison.sqnr_db,
        worst_place=comparison.worst.worst_place,
        lost=tuple(
            output.worst_place
            for output in comparison.outputs
            if output.worst_part is not None and output.worst_part.is_constant
        ),
        agreement=min(agreements, default=None),
        metrics={name: change.edge_value for name, change in comparison.metrics.items()},
        drops=drops(comparison, kinds),
        size_bytes=len(edge.tflite),
        latency_ratio=latency["edge"].min_ms / latency["float"].min_ms,
        delegated_ops=len(coverage.delegated),
        total_ops=coverage.total,
        float_ops=tuple(
            exported.where(op)
            for op in exported.graph.operators
            if op.name not in BOUNDARY and exported.dtype(op) == "float32"
        ),
    )
    return CheckResult(
        promises=judged(facts, wanted, baseline),
        facts=facts,
        comparison=comparison,
        float_latency_ms=latency["float"].min_ms,
        edge_latency_ms=latency["edge"].min_ms,
        float_bytes=len(reference.tflite),
    )
