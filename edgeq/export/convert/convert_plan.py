"""Runs the converter in a child process and turns what goes wrong there into edgeq's errors."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from typing import Any

from edgeq.data.rep_dataset import Sample
from edgeq.errors import ConversionError, DependencyError, ModelError
from edgeq.export.convert.annotate import annotate
from edgeq.export.convert.finish_integer_ops import join_integers, widen_biases
from edgeq.export.convert.shield_float_ops import hide_ops, restore_ops, stand_ins
from edgeq.export.convert.store_weights import store_weights
from edgeq.export.plan.planner import Plan
from edgeq.files import Content
from edgeq.flatbuffer import pack, unpack
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.mlir import Annotation
from edgeq.model import FloatModel

PRELOAD = ("edgeq.mlir", "litert_converter.mlir.ir", "edgeq.runtime.session")
"""What the child imports while the parent calibrates."""

RUN_SECONDS_MAX = 60.0
"""A model that takes longer for one sample is refused: verifying it would take hours."""

_DIAGNOSTIC = re.compile(r"error: (.*)")
_LAYER = re.compile(r"tflite\.subgraph=0\.op=(\d+)")


def start_converter() -> Worker:
    """A child process that is importing the converter.

    Raises:
        DependencyError: The converter is not installed, as on a board.
    """
    if importlib.util.find_spec("litert_converter") is None:
        raise DependencyError(
            "exporting needs litert-converter, which exists for Linux x86-64 and macOS: export on "
            f"such a machine and copy the .tflite here. This one is {sys.platform}"
        )
    return Worker(PRELOAD)


def lower_to_float(worker: Worker, bytecode: bytes, origin: str) -> Content:
    """StableHLO bytecode of a traced model becomes a float .tflite file.

    Raises:
        ConversionError: The converter refused the model, or died on it.
    """
    job = "edgeq.mlir:lower"
    made: Content = _call(worker, "lowering the float model", job, bytecode, origin)
    return made


def lower_exported(
    worker: Worker, module: bytes, inputs: Sequence[str], outputs: Sequence[str]
) -> Content:
    """What `jax.export` serialised becomes a float .tflite file with these names.

    Raises:
        ConversionError: The converter refused the model, or died on it.
    """
    job = "edgeq.mlir:lower_exported"
    made: Content = _call(worker, "lowering the float model", job, module, inputs, outputs)
    return made


def convert(worker: Worker, model: FloatModel, plan: Plan) -> Content:
    """The float model and its plan become an integer .tflite file.

    Raises:
        ConversionError: The converter refused the model, or died on it; the message names the
            layer and op that it stopped at, found by halving the plan if need be.
    """
    if not plan.tensors:
        return pack(store_weights(model, plan, model.tree)) if plan.stored else model.tflite
    marks = annotate(model.graph, plan)
    extra = stand_ins(model.graph, plan.tensors)
    hidden = plan.with_float_activations
    source = hide_ops(model.tree, sorted(hidden)) if hidden else model.tflite
    model.release()
    try:
        converted = worker.call("edgeq.mlir:quantize", source, (*marks, *extra))
    except (JobCrashed, JobFailed) as error:
        culprit = _named_op(model, error.output) or _bisect(worker, model, source, marks)
        raise ConversionError(
            f"converting to int8: the converter {error.reason.splitlines()[0]} at {culprit}. "
            f"{_diagnosis(error.output)}Leave that op float with "
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
        return str(_call(worker, "writing the annotated model", job, model.tflite, marks))


def check_runs(worker: Worker, tflite: Content, sample: Sample, what: str) -> None:
    """Loads and runs a model once in the child.

    Raises:
        ModelError: The runtime refuses the model, or dies on it.
    """
    memory = (4 << 30) + 16 * len(tflite)
    job = "edgeq.runtime.session:smoke_run"
    try:
        worker.call(job, tflite, sample, timeout_s=RUN_SECONDS_MAX, memory_bytes=memory)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(f"{what}: the runtime {error.reason} when it ran the model") from None


def _call(worker: Worker, what: str, job: str, *arguments: object) -> Any:
    try:
        return worker.call(job, *arguments)
    except (JobCrashed, JobFailed) as error:
        raise ConversionError(
            f"{what}: the converter {error.reason.splitlines()[0]}. {_diagnosis(error.output)}"
        ) from None


def _diagnosis(output: str) -> str:
    found = _DIAGNOSTIC.findall(output)
    return f"It said: {found[0][:300]}. " if found else ""


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
