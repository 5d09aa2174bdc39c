"""Sensitivity of each op: the float model runs with one op quantized after the other.

An op is quantized by what its integers would lose: its weight is rounded, or its result takes a way
through QUANTIZE and DEQUANTIZE, all in a float model on the delegate. Nothing is converted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.export.plan.choices import decided_together, weight_slots
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.weighted_ops import bias_slot
from edgeq.export.search.costs import float_ns
from edgeq.fidelity.index_outputs import holds_indices
from edgeq.fidelity.parts import Kind, kinds_of
from edgeq.files import Content
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.ops import OPS, ScaleRule, storable
from edgeq.qtypes import FloatArray, QParams, dequantize, quantize
from edgeq.runtime.session import Session, available_cpus

BUDGET_S = 40.0
"""About how long the measuring may take; of a slow model only the loudest ops are told apart."""

MOST_SAMPLES = 4
"""Samples that each measurement runs."""

BUILD_OP_NS, BUILD_BYTE_NS = 300_000.0, 2.0
"""Seconds that writing and loading a changed model take for each op and byte of the file."""

THREADS = 2
"""Measurements side by side that the budget counts on."""


RUINED = 1e6
"""Relative noise of outputs that are no numbers any more."""


@dataclass(frozen=True)
class Noise:
    """Noise power over signal power at the outputs, summed over the outputs.

    Attributes:
        weights: Of each op whose weight is rounded to integers.
        tensors: Of each computed tensor that is rounded to integers.

    What is decided together has equal shares of what all of it does.
    """

    weights: Mapping[int, float]
    tensors: Mapping[int, float]


@dataclass(frozen=True)
class _Variant:
    """One change of the float model: weights of these ops and these tensors are rounded."""

    weights: tuple[int, ...] = ()
    tensors: tuple[int, ...] = ()


def measure_noise(
    model: LiteModel,
    plan: Plan,
    rounded: Rounded,
    samples: Sequence[Sample],
    advance: Callable[[], None],
    budget_s: float = BUDGET_S,
) -> Noise:
    """Measures what rounding each weight and each tensor of a plan does to the outputs.

    Args:
        model: The float model.
        plan: All that could be rounded, with its parameters.
        rounded: Its weights as integers have them.
        samples: Inputs; as many are used as the budget allows.
        advance: Called after each measurement.
        budget_s: About how many seconds to take.
    """
    changes = _Changes(model, plan, rounded)
    variants = list(changes.variants())
    with Session(model.tflite, threads=1, trusted=True) as session:
        references = [_outputs(session, sample) for sample in samples[:MOST_SAMPLES]]
    kinds = [kinds_of(list(answers)) for answers in zip(*references, strict=True)]
    indices = [holds_indices(model.graph, tensor.index) for _, tensor in model.output_tensors()]

    def measure(block: Sequence[_Variant]) -> float:
        joined = _Variant(
            tuple(w for v in block for w in v.weights), tuple(t for v in block for t in v.tensors)
        )
        with Session(changes.made(joined), threads=1, trusted=True) as session:
            outputs = [_outputs(session, sample) for sample in samples[: len(references)]]
        advance()
        return _relative_noise(references, outputs, kinds, indices)

    found: dict[_Variant, float] = {}
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="edgeq-noise") as pool:
        for size, count in _rounds(model, len(variants), budget_s):
            blocks = _loudest(variants, found, size, count)
            for block, noise in zip(blocks, pool.map(measure, blocks), strict=True):
                found.update(dict.fromkeys(block, noise / len(block)))
    return Noise(
        {op: found[v] / len(v.weights) for v in variants for op in v.weights},
        {tensor: found[v] / len(v.tensors) for v in variants for tensor in v.tensors},
    )


def _rounds(model: LiteModel, count: int, budget_s: float) -> list[tuple[int, int]]:
    """`(block size, number of variants)` of each round: all in blocks, then the loudest alone.

    The time of a measurement is estimated, not taken: the same model gives the same file.
    """
    if not count:
        return []
    graph = model.graph
    run = float_ns(graph)
    building = len(graph.operators) * BUILD_OP_NS + len(model.tflite) * BUILD_BYTE_NS
    affordable = budget_s * 1e9 * THREADS / (MOST_SAMPLES * run + building)
    if affordable >= count:
        return [(1, count)]
    size = math.ceil(2 * count / max(affordable, 2.0))
    return [(size, count), (1, int(affordable / 2))]


def _loudest(
    variants: Sequence[_Variant], found: Mapping[_Variant, float], size: int, count: int
) -> list[Sequence[_Variant]]:
    """The `count` variants that are the loudest as far as is known, in blocks of neighbours."""
    ranked = sorted(variants, key=lambda v: -found.get(v, 0.0))[:count]
    chosen = [v for v in variants if v in set(ranked)]
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def _outputs(session: Session, sample: Sample) -> list[npt.NDArray[Any]]:
    """Outputs of a sample, with 0 in place of infinities, which masks put there."""
    session.invoke(sample)
    outputs = (np.array(output, np.float64) for output in session.outputs())
    return [np.where(np.isinf(output), 0.0, output) for output in outputs]


def _relative_noise(
    references: Sequence[Sequence[npt.NDArray[Any]]],
    outputs: Sequence[Sequence[npt.NDArray[Any]]],
    kinds: Sequence[Sequence[Kind]],
    indices: Sequence[bool],
) -> float:
    """Noise over signal, summed over the outputs and the parts that they fall into.

    Outputs whose size changes with the values have no noise that can be told.

    Args:
        references: The float model's outputs of each sample.
        outputs: The other model's.
        kinds: What `kinds_of` says of each output.
        indices: Whether each output holds indices, of which those that differ are the noise.
    """
    total = 0.0
    both = (
        pair for r, o in zip(references, outputs, strict=True) for pair in zip(r, o, strict=True)
    )
    if any(reference.shape != output.shape for reference, output in both):
        return RUINED
    for slot, parts in enumerate(kinds):
        if indices[slot]:
            pairs = zip(references, outputs, strict=True)
            total += float(np.mean([r[slot] != o[slot] for r, o in pairs]))
            continue
        for part in parts:
            signal = sum(part.power(r[slot]) for r in references)
            pairs = zip(references, outputs, strict=True)
            noise = sum(part.power(r[slot] - o[slot]) for r, o in pairs)
            total += noise / signal if signal > 0 else 0.0
    return total if np.isfinite(total) else RUINED


class _Changes:
    """Makes float models in which some weights and tensors are rounded."""

    def __init__(self, model: LiteModel, plan: Plan, rounded: Rounded) -> None:
        self._model = model
        self._graph = model.graph
        self._plan = plan
        self._rounded = rounded

    def variants(self) -> Iterator[_Variant]:
        """Everything that is worth a measurement, in the graph's order."""
        for tensor in self._graph.inputs:
            if tensor in self._plan.tensors:
                yield _Variant(tensors=(tensor,))
        together = decided_together(self._graph)
        for op in self._graph.operators:
            unit = together[op.index]
            if unit[0] != op.index:
                continue
            if self._weight(op) is not None or self._stored(op):
                yield _Variant(weights=unit)
            if op.name in OPS and OPS[op.name].rule is not ScaleRule.SAME:
                made = [t for i in unit for t in self._graph.operators[i].outputs]
                tensors = tuple(t for t in made if t in self._plan.tensors)
                if tensors:
                    yield _Variant(tensors=tensors)

    def made(self, variant: _Variant) -> Content:
        """The float model with what a variant names rounded."""
        editor = GraphEditor(self._model.tree)
        changed: dict[int, dict[int, int]] = {}
        for index in variant.weights:
            operands = self._operands(self._graph.operators[index])
            changed[index] = {
                slot: editor.constant(f"edgeq/rounded/{index}/{slot}", values)
                for slot, values in operands.items()
            }
        editor.rewire(changed)
        editor.round_trips({t: self._plan.tensors[t] for t in variant.tensors})
        return editor.finish()

    def _operands(self, op: Operator) -> dict[int, FloatArray]:
        """An op's weight as integers have it, and the bias that belongs to it, by operand slot."""
        found = self._weight(op)
        if found is None:
            return self._stored(op)
        slot, qparams = found
        if op.index not in self._rounded.weights:
            data = self._graph.tensors[op.inputs[slot]].data
            assert data is not None
            return {slot: dequantize(quantize(data, qparams), qparams)}
        bias = self._rounded.biases.get(op.index)
        extra = {} if bias is None else {bias_slot(op): bias}
        return {slot: self._rounded.weights[op.index], **extra}

    def _stored(self, op: Operator) -> dict[int, FloatArray]:
        """The weights of an op that has no static form as they are stored, by operand slot."""
        found = {}
        for slot in weight_slots(self._graph, op):
            stored = self._plan.stored.get((op.index, slot))
            data = self._graph.tensors[op.inputs[slot]].data
            if stored is not None and isinstance(stored.qparams, QParams) and data is not None:
                found[slot] = dequantize(quantize(data, stored.qparams), stored.qparams)
        return found

    def _weight(self, op: Operator) -> tuple[int, QParams] | None:
        row = storable(op.name)
        qparams = self._plan.operands.get((op.index, row.slot)) if row else None
        if row is None or qparams is None:
            return None
        return (row.slot, qparams) if self._graph.tensors[op.inputs[row.slot]].is_constant else None
