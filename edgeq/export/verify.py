"""Checks every promise of a plan on the exported bytes and the real interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edgeq.data.rep_dataset import Sample
from edgeq.errors import VerificationError
from edgeq.export.build import Built
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.noise.bound import noise_bound_db
from edgeq.export.plan.quantization_plan import Plan, Stored
from edgeq.export.rewrite.written_out.whole_ops import in_float
from edgeq.fidelity.index_outputs import picking_op
from edgeq.fidelity.paired_run import Array, PairedRun
from edgeq.flatbuffer import Operator, Tensor
from edgeq.model import LiteModel
from edgeq.ops import BOUNDARY
from edgeq.ports import read_io
from edgeq.qtypes import QParams
from edgeq.report import Measured
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.runtime.backend import load_backend
from edgeq.runtime.benchmark import Latency, interleaved_latency
from edgeq.runtime.coverage import Coverage
from edgeq.runtime.cpu import has_int8_dot_product
from edgeq.targets import Target

FEW_DB = 20.0
"""An output that keeps less is said to have other rows, where rows are picked for it."""


def verify(
    float_model: LiteModel,
    built: Built,
    samples: Sequence[Sample],
    min_sqnr_db: float | None,
    target: Target,
) -> Measured:
    """Checks an exported file against its plan and the float model.

    Args:
        float_model: The float model as traced, which the exported one is measured against.
        built: The exported file, and what was promised of it.
        samples: Samples to compare the two models on.
        min_sqnr_db: Lowest SQNR in dB that an output may have; None accepts any.
        target: Where the file is to run.

    Raises:
        VerificationError: An op is float without being planned so, parameters in the file differ
            from the plan, an output is not finite, or its SQNR is below `min_sqnr_db` or what the
            file must keep.
    """
    rewritten, plan, tflite = built.model, built.plan, built.tflite
    edge_model, io = LiteModel(tflite, "edgeq"), read_io(tflite)
    exported = built.beside_float()
    folded = check_promises(built)
    outputs, coverage, latency = _run(
        PairedRun((float_model, edge_model)), samples, min_sqnr_db, built.least_db
    )
    outside = [op for op in exported.graph.operators if op.index not in coverage.delegated]
    obstacles = target.placement(exported.graph)
    operators = rewritten.graph.operators
    return Measured(
        float_bytes=len(float_model.tflite),
        edge_bytes=len(tflite),
        op_counts=exported.op_counts(),
        transposes=sum(op.name == "TRANSPOSE" for op in exported.graph.operators),
        io=io,
        outputs=outputs,
        judged_samples=len(samples),
        delegated_ops=len(coverage.delegated),
        total_ops=coverage.total,
        partitions=coverage.partitions,
        undelegated=tuple(exported.where(op) for op in outside),
        obstacles={
            exported.where(op): "; ".join(obstacles[op.index])
            for op in exported.graph.operators
            if obstacles[op.index]
        },
        float_latency_ms=latency["float"].min_ms,
        edge_latency_ms=latency["edge"].min_ms,
        float_ops=_float_ops(rewritten, plan),
        remarks={rewritten.where(operators[i]): why for i, why in plan.remarks.items()},
        folded=folded,
        runtime=load_backend().describe(),
        int8_dot_product=has_int8_dot_product(),
        bound_db=_bound_db(built, samples),
    )


def _float_ops(model: LiteModel, plan: Plan) -> dict[str, str]:
    """Why each op of the file that stays float does, by where it is."""
    one = in_float(model.graph, plan.float_ops)
    ops = {i: one.get(i, model.graph.operators[i]) for i in plan.float_ops}
    return {model.where(op): plan.float_ops[i] for i, op in ops.items() if op is not None}


def _bound_db(built: Built, samples: Sequence[Sample]) -> float | None:
    """What rounding noise alone would leave; None where that cannot be told."""
    try:
        return noise_bound_db(built.model, built.plan, samples)
    except Exception:  # nothing rests on it: a file that keeps its promises is given all the same
        return None


def picking_notes(model: LiteModel, outputs: Sequence[OutputFidelity]) -> tuple[str, ...]:
    """A note of outputs that keep little because other rows are picked for them."""
    few = {o.name for o in outputs if o.least_db < FEW_DB and not o.are_indices}
    picking = {n: picking_op(model.graph, t.index) for n, t in model.output_tensors() if n in few}
    picked = {name: op for name, op in picking.items() if op is not None}
    if not picked:
        return ()
    names, place = ", ".join(map(repr, picked)), model.where(next(iter(picked.values())))
    return (
        f"rows of {names} are picked by the highest scores, at {place}: where "
        "scores are nearly equal, others are picked or stand in another order, and each such row "
        "counts as an error in the dB above. Judge these outputs by what they find, such as by "
        "their mAP with edgeq.search",
    )


def check_promises(built: Built) -> tuple[str, ...]:
    """Raises a `VerificationError` where a file is not what its plan says.

    Returns:
        Names of planned tensors that the converter folded away.
    """
    exported = built.beside_float()
    check_float_ops(exported, built.plan)
    return check_qparams(exported, built.plan)


def _run(
    pair: PairedRun, samples: Sequence[Sample], min_sqnr_db: float | None, least_db: float
) -> tuple[tuple[OutputFidelity, ...], Coverage, dict[str, Latency]]:
    """Both models on all samples: their outputs, what the delegate took, and their latency."""
    before: list[list[list[Array]]] = [[] for _ in samples]
    latency: dict[str, Latency] = {}
    for turn in pair.turns:
        with contextlib.closing(pair.load(turn)) as runner:
            pairs = zip(before, samples, strict=True)
            answers = ([*known, *runner.run(sample)] for known, sample in pairs)
            if turn[-1] == len(pair.models) - 1:
                seen = pair.total(map(pair.seen, answers, samples))
                found = (pair.output_names, seen.outputs, seen.parts, seen.spreads, seen.drifts)
                outputs = tuple(map(OutputFidelity.of, *found))
                _check_sqnr(outputs, min_sqnr_db, least_db)
                coverage = runner.sessions[-1].coverage()
            else:
                before = list(answers)
            runs = {
                ("float", "edge")[place]: (session, pair.links[place].stored(samples[0]))
                for place, session in zip(turn, runner.sessions, strict=True)
            }
            latency.update(interleaved_latency(runs))
    return outputs, coverage, latency


def check_float_ops(exported: ExportedGraph, plan: Plan) -> None:
    """Raises a `VerificationError` where an op is not int8, or not float, as the plan has it."""
    for kind, wrong in (("float", True), ("int8", False)):
        found = breaking_ops(exported, plan, wrong)
        if found:
            planned = "int8" if wrong else "float"
            listed = "; ".join(exported.where(op) for op in found[:8])
            raise VerificationError(
                f"{len(found)} op(s) of the exported model compute in {kind} although the plan "
                f"makes them {planned}: {listed}. The converter cannot do it as they stand; "
                + ("leave them float with Rule(layer=..., mode=Mode.FLOAT, reason='...')"
                   if wrong else "drop the rule, or let it cover their neighbours as well")
            )  # fmt: skip


def breaking_ops(exported: ExportedGraph, plan: Plan, is_float: bool) -> list[Operator]:
    """Ops that compute in float (or, if `is_float` is False, in integers) against the plan."""
    return [op for op in exported.graph.operators if _breaks(exported, plan, op, is_float)]


def _breaks(exported: ExportedGraph, plan: Plan, op: Operator, is_float: bool) -> bool:
    """Whether an op computes in float (or not) against the plan."""
    if op.name in BOUNDARY or not op.outputs:  # what only stores a state has no counterpart
        return False
    origin = exported.counterpart(op)
    planned_float = origin is not None and origin.index in plan.with_float_activations
    kind = "float32" if op.name.startswith("STABLEHLO_") else exported.dtype(op)
    return kind == "float32" and not planned_float if is_float else (
        kind in ("int8", "int16") and planned_float
    )  # fmt: skip


def check_qparams(exported: ExportedGraph, plan: Plan) -> tuple[str, ...]:
    """Compares the parameters in the file with the plan's.

    Returns:
        Names of planned tensors that the converter folded away.

    Raises:
        VerificationError: Parameters differ.
    """
    folded = []
    for index, planned in plan.tensors.items():
        name = exported.model.graph.tensors[index].name
        found = exported.integer_tensor(index, planned.dtype)
        if found is None:
            folded.append(name)
        else:
            _check_equal(found, planned, f"tensor {name!r}")
    _check_operands(exported, plan)
    return tuple(folded)


def _check_operands(exported: ExportedGraph, plan: Plan) -> None:
    for op in exported.graph.operators:
        origin = exported.counterpart(op)
        if origin is None or origin.name != op.name:
            continue
        for slot, tensor in exported.graph.operands(op):
            operand = plan.operands.get((origin.index, slot))
            stored = plan.stored.get((origin.index, slot))
            if stored is not None:
                _check_stored(exported, tensor, stored, exported.model.where(origin))
            if operand is not None and tensor.qparams is not None:
                where = f"operand {slot} of {exported.model.where(origin)}"
                _check_equal(tensor, operand, where)


def _check_stored(exported: ExportedGraph, weight: Tensor, stored: Stored, where: str) -> None:
    """Raises a `VerificationError` unless the weight is stored as planned."""
    producer = exported.graph.producers.get(weight.index)
    if producer is not None and producer.name == "DEQUANTIZE" and not stored.dynamic:
        weight = exported.graph.tensors[producer.inputs[0]]
    if isinstance(stored.qparams, QParams):
        _check_equal(weight, stored.qparams, f"the weight of {where}")
    wanted = "float16" if stored.qparams is None else stored.qparams.dtype.type_name
    if weight.dtype != wanted:
        raise VerificationError(
            f"the weight of {where}: the plan has {wanted}, the exported file {weight.dtype}; "
            "report the model"
        )


def _check_equal(tensor: Tensor, planned: QParams, where: str) -> None:
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


def _check_sqnr(
    outputs: Sequence[OutputFidelity], min_sqnr_db: float | None, least_db: float
) -> None:
    for output in outputs:
        if min_sqnr_db is not None and not output.least_db >= min_sqnr_db:
            raise VerificationError(_too_low(output, min_sqnr_db))
        if not output.least_db >= least_db:
            raise VerificationError(
                f"{output.worst_place} keeps {output.kept} on samples held out, and "
                "reached the goal on those that the plan was chosen by"
            )


def _too_low(output: OutputFidelity, min_sqnr_db: float) -> str:
    """Why an output is refused."""
    part, way_out = output.worst_part, "or pass min_sqnr_db=None to get the model all the same"
    if part is not None and part.is_constant:
        return (
            f"{output.worst_place} is one value throughout where the float model's varies: its "
            "integers are too coarse for it. Give parts of so different a size as separate "
            f"outputs, leave the ops that join them float with a rule, {way_out}"
        )
    if part is not None and part.where:
        return (
            f"{output.worst_place} has {part.sqnr_db:.1f} dB SQNR against the float model, below "
            f"min_sqnr_db={min_sqnr_db}, and the whole output {output.sqnr_db:.1f} dB: other rows "
            "are many times as large and share its scale. Give them as separate outputs, leave "
            f"the ops that join them float with a rule, {way_out}"
        )
    if output.are_indices:
        return (
            f"output {output.name!r} keeps {output.kept}, which counts as {output.sqnr_db:.1f} dB, "
            f"below min_sqnr_db={min_sqnr_db}. Leave the most sensitive layers float with a rule, "
            f"{way_out}"
        )
    return (
        f"output {output.name!r} has {output.sqnr_db:.1f} dB SQNR against the float model, below "
        f"min_sqnr_db={min_sqnr_db}: its error is nearly as large as the output itself. Leave the "
        f"most sensitive layers float with a rule, {way_out}"
    )
