"""Checks every promise of a plan on the exported bytes and the real interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeq.calibrate.data import Sample
from edgeq.compare import Fidelity
from edgeq.errors import VerificationError
from edgeq.export.plan import Plan
from edgeq.flatbuffer import Graph, Operator, Tensor, parse
from edgeq.model import FloatModel
from edgeq.qtypes import QParams
from edgeq.report import Measured, OutputFidelity
from edgeq.runtime.backend import load_backend
from edgeq.runtime.benchmark import interleaved_latency
from edgeq.runtime.session import Session

_BOUNDARY = ("QUANTIZE", "DEQUANTIZE")


def verify(
    float_model: FloatModel,
    rewritten: FloatModel,
    plan: Plan,
    tflite: bytes,
    samples: Sequence[Sample],
    min_sqnr_db: float | None,
) -> Measured:
    """Checks an exported file against its plan and the float model.

    Args:
        float_model: The float model as traced, which the exported one is measured against.
        rewritten: The float model that the plan speaks of.
        plan: What was promised.
        tflite: The exported file.
        samples: Samples to compare the two models on.
        min_sqnr_db: Lowest SQNR in dB that an output may have; None accepts any.

    Raises:
        VerificationError: An op is float without being planned so, parameters in the file differ
            from the plan, an output is not finite, or its SQNR is below `min_sqnr_db`.
    """
    exported = _Exported(rewritten, parse(tflite).graphs[0])
    exported.check_float_ops(plan)
    folded = exported.check_qparams(plan)
    with Session(float_model.tflite, threads=1) as reference, Session(tflite, threads=1) as edge:
        outputs = _fidelity(reference, edge, samples)
        _check_sqnr(outputs, min_sqnr_db)
        coverage = edge.coverage()
        latency = interleaved_latency({"float": reference, "edge": edge}, samples[0])
    outside = [op for op in exported.graph.operators if op.index not in coverage.delegated]
    operators = rewritten.graph.operators
    return Measured(
        float_bytes=len(float_model.tflite),
        edge_bytes=len(tflite),
        op_counts=exported.op_counts(),
        outputs=outputs,
        judged_samples=len(samples),
        delegated_ops=len(coverage.delegated),
        total_ops=coverage.total,
        partitions=coverage.partitions,
        undelegated=tuple(exported.where(op) for op in outside),
        float_latency_ms=latency["float"].min_ms,
        edge_latency_ms=latency["edge"].min_ms,
        float_ops={rewritten.where(operators[i]): why for i, why in plan.float_ops.items()},
        folded=folded,
        runtime=load_backend().describe(),
    )


class _Exported:
    """The exported graph beside the float one; tensors correspond by name."""

    def __init__(self, model: FloatModel, graph: Graph) -> None:
        self.graph = graph
        self._model = model
        self._by_name = {t.name: t for t in graph.tensors}
        self._float_op = {
            model.graph.tensors[t].name: op for op in model.graph.operators for t in op.outputs
        }

    def counterpart(self, op: Operator) -> Operator | None:
        """The float model's op that an exported op came from."""
        for output in op.outputs:
            for name in self._known_names(output):
                if name in self._float_op:
                    return self._float_op[name]
        return None

    def _known_names(self, tensor: int) -> Iterator[str]:
        yield self.graph.tensors[tensor].name
        for user, _ in self.graph.uses.get(tensor, []):
            if user.name in _BOUNDARY:
                yield self.graph.tensors[user.outputs[0]].name

    def where(self, op: Operator) -> str:
        origin = self.counterpart(op)
        layer = self._model.layer(origin) if origin else self.graph.tensors[op.outputs[0]].name
        return f"{op.name} at {layer} (op {op.index})"

    def op_counts(self) -> dict[str, int]:
        """Number of ops by dtype; an op that touches a float tensor counts as float32."""
        counts: dict[str, int] = {}
        for op in self.graph.operators:
            kind = "quantize/dequantize" if op.name in _BOUNDARY else self._dtype(op)
            counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def _dtype(self, op: Operator) -> str:
        tensors = [self.graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
        kinds = [t.dtype for t in tensors]
        return next((k for k in ("float32", "int8", "int16") if k in kinds), kinds[-1])

    def check_float_ops(self, plan: Plan) -> None:
        """Raises a `VerificationError` for ops that are float without being planned so."""
        wrong = []
        for op in self.graph.operators:
            if op.name.startswith("STABLEHLO_"):
                wrong.append(op)
            elif op.name not in _BOUNDARY and self._dtype(op) == "float32":
                origin = self.counterpart(op)
                if origin is None or origin.index not in plan.float_ops:
                    wrong.append(op)
        if wrong:
            listed = "; ".join(self.where(op) for op in wrong[:8])
            raise VerificationError(
                f"{len(wrong)} op(s) of the exported model compute in float although the plan "
                f"makes them int8: {listed}. The converter has no int8 form for them as they "
                "stand; leave them float with Rule(layer=..., mode=Mode.FLOAT, reason='...')"
            )

    def check_qparams(self, plan: Plan) -> tuple[str, ...]:
        """Compares the parameters in the file with the plan's.

        Returns:
            Names of planned tensors that the converter folded away.

        Raises:
            VerificationError: Parameters differ.
        """
        folded = []
        for index, planned in plan.tensors.items():
            name = self._model.graph.tensors[index].name
            found = self._integer_tensor(name)
            if found is None:
                folded.append(name)
            else:
                self._check_equal(found, planned, f"tensor {name!r}")
        self._check_operands(plan)
        return tuple(folded)

    def _check_operands(self, plan: Plan) -> None:
        for op in self.graph.operators:
            origin = self.counterpart(op)
            if origin is None or origin.name != op.name:
                continue
            for slot, tensor in self.graph.operands(op):
                operand = plan.operands.get((origin.index, slot))
                if operand is not None and tensor.qparams is not None:
                    where = f"operand {slot} of {self._model.where(origin)}"
                    self._check_equal(tensor, operand, where)

    def _integer_tensor(self, name: str) -> Tensor | None:
        """The integer tensor of a float model's name; None if the converter folded it away."""
        tensor = self._by_name.get(name)
        if tensor is None or tensor.qparams is not None:
            return tensor
        producer = self.graph.producers.get(tensor.index)
        if producer is not None and producer.name == "DEQUANTIZE":
            return self.graph.tensors[producer.inputs[0]]
        readers = [op for op, _ in self.graph.uses.get(tensor.index, []) if op.name == "QUANTIZE"]
        return self.graph.tensors[readers[0].outputs[0]] if readers else None

    def _check_equal(self, tensor: Tensor, planned: QParams, where: str) -> None:
        found = tensor.qparams
        if found is None or found.dtype is not planned.dtype or found.axis != planned.axis or (
            found.zero_point != planned.zero_point
            or found.scale != planned.scale
        ):  # fmt: skip
            shown = "nothing" if found is None else found.describe()
            raise VerificationError(
                f"{where}: the plan has {planned.describe()}, the exported file has {shown}. "
                "The converter changed it; report the model"
            )


def _fidelity(
    reference: Session, edge: Session, samples: Sequence[Sample]
) -> tuple[OutputFidelity, ...]:
    order = [edge.output_names.index(name) for name in reference.output_names]
    totals = [Fidelity() for _ in order]
    for number, sample in enumerate(samples):
        reference.invoke(sample)
        edge.invoke(_in_order(sample, reference, edge))
        actual = edge.outputs()
        for i, expected in enumerate(reference.outputs()):
            if not np.isfinite(actual[order[i]]).all():
                raise VerificationError(
                    f"output {reference.output_names[i]!r} of the exported model is not finite "
                    f"on sample {number}"
                )
            totals[i] = totals[i].observe(expected, actual[order[i]])
    names = reference.output_names
    return tuple(
        OutputFidelity(name, total.sqnr_db, total.largest)
        for name, total in zip(names, totals, strict=True)
    )


def _in_order(sample: Sample, reference: Session, edge: Session) -> Sample:
    named = dict(zip(reference.input_names, sample, strict=True))
    return tuple(named[name] for name in edge.input_names)


def _check_sqnr(outputs: Sequence[OutputFidelity], min_sqnr_db: float | None) -> None:
    for output in outputs:
        if min_sqnr_db is not None and not output.sqnr_db >= min_sqnr_db:
            raise VerificationError(
                f"output {output.name!r} has {output.sqnr_db:.1f} dB SQNR against the float model, "
                f"below min_sqnr_db={min_sqnr_db}: its error is nearly as large as the output "
                "itself. Leave the most sensitive layers float with a rule, or pass "
                "min_sqnr_db=None to get the model all the same"
            )
