"""From a plan to the `quant.fake_quant` composites that carry it: one for each planned tensor."""

from __future__ import annotations

from edgeq.export.plan.quantization_plan import Plan
from edgeq.flatbuffer import Graph
from edgeq.mlir import GRAPH_INPUT, Annotation


def annotate(graph: Graph, plan: Plan) -> tuple[Annotation, ...]:
    """Where each composite goes, in a fixed order."""
    places = {tensor: (GRAPH_INPUT, slot) for slot, tensor in enumerate(graph.inputs)}
    for op in graph.operators:
        places.update({tensor: (op.index, slot) for slot, tensor in enumerate(op.outputs)})
    values = [Annotation(*places[t], False, q) for t, q in sorted(plan.tensors.items())]
    operands = [Annotation(*place, True, q) for place, q in sorted(plan.operands.items())]
    return tuple(values + operands)
