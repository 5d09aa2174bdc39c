"""`Plan`: what becomes an integer and how, as plain values. Decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgeq.flatbuffer import Graph
from edgeq.model import LiteModel
from edgeq.qtypes import BlockQParams, QParams


@dataclass(frozen=True)
class Stored:
    """How the weight of an op that reads and writes float is stored.

    Attributes:
        qparams: Parameters of the integers, of all or in blocks; None for float16.
        dynamic: Whether the kernel takes the integers and quantizes the activation at each run;
            otherwise the weight is made float when the model is loaded.
    """

    qparams: QParams | BlockQParams | None
    dynamic: bool


@dataclass(frozen=True)
class Plan:
    """Tensors that become integers, and how. Indices are those of the float model's graph.

    Attributes:
        tensors: Parameters of each computed tensor that becomes an integer.
        operands: Parameters of what one op reads, by `(op, operand slot)`: its constants, and
            computed tensors that it must read at another scale than their own.
        float_ops: The written reason of each op that stays float.
        stored: How the weights of ops with float activations are stored, by `(op, operand slot)`.
        remarks: What is to be said of ops whose mode is not the one asked for.
    """

    tensors: Mapping[int, QParams]
    operands: Mapping[tuple[int, int], QParams]
    float_ops: Mapping[int, str]
    stored: Mapping[tuple[int, int], Stored] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)

    @functools.cached_property
    def with_float_activations(self) -> frozenset[int]:
        """Ops that read and write float, whatever their weights are stored as."""
        return frozenset(self.float_ops) | {op for op, _ in self.stored}

    def untied(self, model: LiteModel) -> Iterator[str]:
        """A sentence for each state whose two tensors have other parameters."""
        for (taken, given), names in zip(model.state_tensors, model.states, strict=True):
            pair = self.tensors.get(taken), self.tensors.get(given)
            if None not in pair and pair[0] != pair[1]:
                yield (
                    f"the state {names[0]!r} cannot have the scale of {names[1]!r}, which is fed "
                    "back to it: kernels or rules dictate another for each; as integers it has to "
                    "be converted between steps"
                )

    def to_dict(self, model: LiteModel) -> dict[str, object]:
        """The plan with names instead of indices, ready for JSON."""
        graph = model.graph
        return {
            "tensors": {_unique_name(graph, t): _fields(q) for t, q in self.tensors.items()},
            "operands": {
                f"{model.layer(graph.operators[op])} operand {slot}": _fields(q)
                for (op, slot), q in self.operands.items()
            },
            "stored": {
                f"{model.layer(graph.operators[op])} operand {slot}": {
                    **(_fields(w.qparams) if w.qparams else {"dtype": "float16"}),
                    "dynamic": w.dynamic,
                }
                for (op, slot), w in self.stored.items()
            },
            "float": {model.where(graph.operators[op]): why for op, why in self.float_ops.items()},
        }


def _unique_name(graph: Graph, tensor: int) -> str:
    """A tensor's name, with its index behind it where another tensor has that name too."""
    name = graph.tensors[tensor].name
    is_unique = name and sum(other.name == name for other in graph.tensors) == 1
    return name if is_unique else f"{name or 'tensor'}#{tensor}"


def _fields(qparams: QParams | BlockQParams) -> dict[str, object]:
    if isinstance(qparams, BlockQParams):
        shape = {"block_size": qparams.block_size, "scale": [list(row) for row in qparams.scale]}
        return {"dtype": qparams.dtype.type_name, **shape}
    return {
        "dtype": qparams.dtype.type_name,
        "scale": list(qparams.scale),
        "zero_point": list(
            qparams.zero_point if any(qparams.zero_point) else qparams.zero_point[:1]
        ),
        "quantization_dimension": qparams.axis,
        "narrow_range": qparams.narrow_range,
    }
