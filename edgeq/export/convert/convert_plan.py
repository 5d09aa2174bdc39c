"""From a float model and its plan to the integer file, by the converter in its child process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeq.converter import ask, diagnosis, start_converter
from edgeq.errors import ConversionError
from edgeq.export.convert.annotate import annotate
from edgeq.export.convert.convertible_constants import convertible
from edgeq.export.convert.finish_integer_ops import join_integers, widen_biases
from edgeq.export.convert.integer_ports import Interface, set_interface
from edgeq.export.convert.loop_weights import with_sunk_weights
from edgeq.export.convert.shield_float_ops import hide_ops, opaque_ops, restore_ops, stand_ins
from edgeq.export.convert.store_weights import store_weights
from edgeq.export.convert.tensor_identity import (
    give_back_names,
    numbered,
    origins,
    settle_names,
)
from edgeq.export.deploy.scales_entry import carry_scales
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.rewrite.written_out.whole_ops import with_whole_ops
from edgeq.files import Content
from edgeq.flatbuffer import pack, parse_tree, unpack
from edgeq.flatbuffer.object_tree import with_shared_buffers
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel
from edgeq.ports import write_states

_LAYER = re.compile(r"tflite\.subgraph=0\.op=(\d+)")


@dataclass(frozen=True)
class Converted:
    """A file and where its tensors came from.

    Attributes:
        tflite: The file.
        origins: For tensors of the file, the float model's tensor that each came from.
    """

    tflite: Content
    origins: Mapping[int, int]


def convert(
    worker: Worker, model: LiteModel, plan: Plan, interface: Interface | None = None
) -> Converted:
    """The float model and its plan become an integer .tflite file.

    Args:
        worker: The converter's child process.
        model: The float model, its weights rounded.
        plan: What becomes an integer.
        interface: What the ports shall be; None leaves them float32.

    Raises:
        ConversionError: The converter refused the model, or died on it; the message names the
            layer and op that it stopped at, where it says so itself.
        RecipeError: What stands next to a port that shall be an integer computes in float.
    """
    model = convertible(model, plan) if plan.tensors else model
    tree = store_weights(model, plan, _with_integers(worker, model, plan, interface))
    if interface is not None:
        set_interface(model, plan, tree, interface)
    tree = with_whole_ops(tree)
    found = origins(parse_tree(tree).graphs[0])
    carry_scales(model.tree, tree)
    write_states(tree, model.states)
    give_back_names(tree, [tensor.name for tensor in model.tree.subgraphs[0].tensors])
    return Converted(pack(with_shared_buffers(with_sunk_weights(tree))), found)


def _with_integers(
    worker: Worker, model: LiteModel, plan: Plan, interface: Interface | None
) -> Any:
    """The object tree of the model with its integer ops; its tensors are numbered."""
    original = numbered(model.tree)
    if not plan.tensors:
        return original
    marks = annotate(model.graph, plan)
    extra = stand_ins(model.graph, plan.tensors)
    hidden = plan.with_float_activations | opaque_ops(model.tree, model.graph)
    source = pack(hide_ops(original, sorted(hidden)))
    model.release()
    try:
        converted = worker.call("edgeq.mlir:quantize", source, (*marks, *extra))
    except (JobCrashed, JobFailed) as error:
        raise ConversionError(
            f"converting to int8: the converter {error.reason.splitlines()[0]}"
            f"{_named_op(model, error.output)}. {diagnosis(error.output)}Leave that op float with "
            "Rule(layer=..., mode=Mode.FLOAT, reason='...') or report the model"
        ) from None
    tree = unpack(converted)
    restore_ops(tree, original, extra)
    settle_names(tree)
    join_integers(model, plan, tree, interface.integer_ports(model) if interface else ())
    widen_biases(tree)
    return tree


def annotated_mlir(model: LiteModel, plan: Plan) -> str:
    """The annotated module as text, large constants left out."""
    with start_converter() as worker:
        marks = annotate(model.graph, plan)
        job = "edgeq.mlir:annotated_text"
        return str(ask(worker, "writing the annotated model", job, model.tflite, marks))


def _named_op(model: LiteModel, output: str) -> str:
    """The op that the converter's own diagnostics name, if they name one."""
    found = _LAYER.search(output)
    return f" at {model.where(model.graph.operators[int(found[1])])}" if found else ""
