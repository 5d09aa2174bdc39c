"""From a float model and its plan to the integer file, by the converter in its child process."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeq.converter import ask, diagnosis, start_converter
from edgeq.errors import ConversionError
from edgeq.export.convert.annotate import annotate
from edgeq.export.convert.finish_integer_ops import join_integers, widen_biases
from edgeq.export.convert.saturate_constants import saturated
from edgeq.export.convert.shield_float_ops import hide_ops, opaque_ops, restore_ops, stand_ins
from edgeq.export.convert.store_weights import store_weights
from edgeq.export.plan.quantization_plan import Plan
from edgeq.files import Content
from edgeq.flatbuffer import pack, unpack
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.mlir import Annotation
from edgeq.model import FloatModel

_LAYER = re.compile(r"tflite\.subgraph=0\.op=(\d+)")


def convert(worker: Worker, model: FloatModel, plan: Plan) -> Content:
    """The float model and its plan become an integer .tflite file.

    Raises:
        ConversionError: The converter refused the model, or died on it; the message names the
            layer and op that it stopped at, found by halving the plan if need be.
    """
    if not plan.tensors:
        return pack(store_weights(model, plan, model.tree)) if plan.stored else model.tflite
    model = saturated(model, plan)
    marks = annotate(model.graph, plan)
    extra = stand_ins(model.graph, plan.tensors)
    hidden = plan.with_float_activations | opaque_ops(model.tree, model.graph)
    source = pack(hide_ops(model.tree, sorted(hidden))) if hidden else model.tflite
    model.release()
    try:
        converted = worker.call("edgeq.mlir:quantize", source, (*marks, *extra))
    except (JobCrashed, JobFailed) as error:
        culprit = _named_op(model, error.output) or _bisect(worker, model, source, marks)
        raise ConversionError(
            f"converting to int8: the converter {error.reason.splitlines()[0]} at {culprit}. "
            f"{diagnosis(error.output)}Leave that op float with "
            "Rule(layer=..., mode=Mode.FLOAT, reason='...') or report the model"
        ) from None
    tree = unpack(converted)
    restore_ops(tree, model.tree, extra)
    join_integers(model, plan, tree)
    widen_biases(tree)
    return pack(store_weights(model, plan, tree))


def annotated_mlir(model: FloatModel, plan: Plan) -> str:
    """The annotated module as text, large constants left out."""
    with start_converter() as worker:
        marks = annotate(model.graph, plan)
        job = "edgeq.mlir:annotated_text"
        return str(ask(worker, "writing the annotated model", job, model.tflite, marks))


def _named_op(model: FloatModel, output: str) -> str | None:
    """The op that the converter's own diagnostics name, if they name one."""
    found = _LAYER.search(output)
    return model.where(model.graph.operators[int(found[1])]) if found else None


def _bisect(worker: Worker, model: FloatModel, source: Content, marks: Sequence[Annotation]) -> str:
    """The op whose annotations are enough to bring the converter down, by halving."""
    ops = sorted({mark.op for mark in marks})
    low, high = 0, len(ops)
    while low + 1 < high:
        middle = (low + high) // 2
        kept = set(ops[:middle])
        try:
            worker.call("edgeq.mlir:quantize", source, [m for m in marks if m.op in kept])
            low = middle
        except (JobCrashed, JobFailed):
            high = middle
    op = ops[low]
    return model.where(model.graph.operators[op]) if op >= 0 else "the model's input"
