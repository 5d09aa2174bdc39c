"""The stages of an export one by one, for what is tested without the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from one_op import Array

from edgeq.calibrate.run import Calibrator
from edgeq.export.convert.convert_plan import convert
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.export.verify import check_float_ops, check_qparams
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import INT8


def to_int8(worker: Worker, model: LiteModel, samples: Sequence[Mapping[str, Array]]) -> bytes:
    """The model calibrated, planned, converted and checked as it is, without the rewrites."""
    inputs = [name for name, _ in model.input_tensors()]
    rows = [tuple(sample[name] for name in inputs) for sample in samples]
    plan = make_plan(model, Calibrator(model, threads=1).run(rows), choose(model, INT8))
    made = convert(worker, model, plan)
    exported = ExportedGraph(model, parse(made.tflite).graphs[0], made.origins)
    check_float_ops(exported, plan)
    check_qparams(exported, plan)
    return made.tflite
