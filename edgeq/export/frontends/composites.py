"""Models that carry `quant.fake_quant` composites: lowered by them, made float, scales kept aside.

Qwix and quantization-aware training leave such models. The converter fuses and folds as it does for
any model only if it lowers the composites as well; what it made is turned back into float, and the
plan then uses the same scales.
"""

from __future__ import annotations

from dataclasses import replace

from edgeq.export.importing.float_form import float_form
from edgeq.flatbuffer import Graph, parse
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY
from edgeq.qtypes import QParams

_REAL = ("int8", "int16", "int4")


def with_given_scales(model: LiteModel) -> LiteModel:
    """The float form of a lowered model, with the parameters that it brought.

    A model that has none is returned as it is.
    """
    found = _scales(model.graph)
    if not found:
        return model
    tflite = float_form(model.tflite)
    names = {tensor.name for tensor in parse(tflite).graphs[0].tensors}
    given = tuple((name, qparams) for name, qparams in found.items() if name in names)
    note = f"{len(given)} tensors keep the scales that the model brought"
    return replace(model, tflite=tflite, given=given, notes=(*model.notes, note))


def _scales(graph: Graph) -> dict[str, QParams]:
    """Parameters by tensor name; those of an integer tensor also by its float neighbour's."""
    found: dict[str, QParams] = {}
    for tensor in graph.tensors:
        if tensor.qparams is not None and tensor.dtype in _REAL:
            is_weight = tensor.is_constant and not any(tensor.qparams.zero_point)
            found[tensor.name] = replace(tensor.qparams, narrow_range=is_weight)
    for op in graph.operators:
        if op.name in BOUNDARY:
            one, other = (graph.tensors[t].name for t in (op.inputs[0], op.outputs[0]))
            for name, neighbour in ((one, other), (other, one)):
                if neighbour in found:
                    found.setdefault(name, found[neighbour])
    return found
