"""The rules of conversions between integers and float."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.linter.rules.rule import Found, warning
from edgeq.linter.subject import Subject
from edgeq.ops import BOUNDARY


@warning("give the op an int8 form, or leave its neighbours float as well")
def float_between_integers(subject: Subject, op: Operator) -> Iterator[Found]:
    """No op computes in float between integers, where it costs two conversions and stays unnoticed.

    Source: converters leave ops without an int8 form float without a message.
    """
    graph = subject.graph
    if op.name in BOUNDARY or not any(t.dtype == "float32" for t in subject.results(op)):
        return
    if _from_integers(graph, op) and _to_integers(graph, op):
        yield None, f"{op.name} in float32"


def _from_integers(graph: Graph, op: Operator) -> bool:
    """Whether a float that `op` reads was an integer before."""
    waiting, seen = [op], {op.index}
    while waiting:
        for index in waiting.pop().inputs:
            producer = graph.producers.get(index)
            if (
                producer is None
                or producer.index in seen
                or graph.tensors[index].dtype != "float32"
            ):
                continue
            if producer.name == "DEQUANTIZE":
                if not graph.tensors[producer.inputs[0]].is_constant:
                    return True
                continue
            seen.add(producer.index)
            waiting.append(producer)
    return False


def _to_integers(graph: Graph, op: Operator) -> bool:
    """Whether a float that `op` makes becomes an integer later."""
    waiting, seen = [op], {op.index}
    while waiting:
        for index in waiting.pop().outputs:
            for user, _ in graph.uses.get(index, []):
                if graph.tensors[index].dtype != "float32" or user.index in seen:
                    continue
                if user.name == "QUANTIZE":
                    return True
                seen.add(user.index)
                waiting.append(user)
    return False


@warning("drop both conversions, or let one QUANTIZE go from integer to integer")
def conversion_pair(subject: Subject, op: Operator) -> Iterator[Found]:
    """No conversion undoes the one before it, and none changes nothing.

    Source: converters leave such pairs where parts were quantized apart.
    """
    if op.name != "QUANTIZE":
        return
    graph, source = subject.graph, subject.graph.tensors[op.inputs[0]]
    result, before = graph.tensors[op.outputs[0]], graph.producers.get(op.inputs[0])
    if source.dtype == result.dtype and _same(subject, source, result):
        yield result, "QUANTIZE to the parameters that its input has"
    elif before is not None and before.name in BOUNDARY:
        start = graph.tensors[before.inputs[0]]
        if before.name == "DEQUANTIZE" and not start.is_constant:
            what = "back to the same" if _same(subject, start, result) else "to other"
            yield result, f"DEQUANTIZE and QUANTIZE {what} parameters"
        elif start.dtype == result.dtype and _same(subject, start, result):
            yield result, "two QUANTIZE back to the same parameters"


def _same(subject: Subject, one: Tensor, other: Tensor) -> bool:
    return subject.stored.get(one.index) == subject.stored.get(other.index)
