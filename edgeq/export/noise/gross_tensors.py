"""Tensors that no 8-bit integers hold: rounding one of them alone ruins the outputs.

All numbers of a tensor share one scale. Where a few are a thousand times the others, as among the
squares that a normalisation takes the mean of, the others become 0. No calibration helps there: the
ops around stay float, if they may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.held_out import spread
from edgeq.data.rep_dataset import Sample
from edgeq.export.noise.float_forms import in_sound_forms
from edgeq.export.noise.moved import moves
from edgeq.export.noise.sensitivity import measure_noise
from edgeq.export.plan.choices import Choice, Choices, nearest_form, weight_slot
from edgeq.export.plan.min_runtime import form_runtime
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.rounded import Rounded
from edgeq.files import is_large
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import FloatArray
from edgeq.recipe import Mode
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session
from edgeq.terminal.progress import nothing
from edgeq.versions import Version

LEAST_DB = 20.0
"""SQNR of the outputs that rounding one tensor leaves at least."""

SUSPECT_DB = 26.0
"""A tensor is looked at where rounding leaves less than that of half of its rows by themselves."""

QUIET_DB = 10.0
"""Or less than that of half of its columns: of numbers of about one step."""

SAMPLES = 4
"""Samples that are looked at."""

BUDGET_S = 20.0
"""About how long it may take to tell which of those that are looked at ruin the outputs."""


def without_gross(
    model: LiteModel,
    plan_of: Callable[[Choices], Plan],
    choices: Choices,
    free: Collection[int],
    samples: Sequence[Sample],
    oldest: Version | None,
    threads: int | None,
) -> dict[int, Choice]:
    """The choices without integers in the tensors that these would ruin, where ops may be float.

    What has a weight keeps it in integers, if its kernel takes float activations beside it and the
    outputs do not lose as much by that.

    Args:
        model: The float model.
        plan_of: What choices come to.
        choices: What becomes of each op.
        free: Ops that may become float.
        samples: Inputs, of which a few are run.
        oldest: The oldest run time that is to read the file, if that matters.
        threads: Samples that run side by side; None takes what this process may use.
    """
    plan, few = plan_of(choices), spread(samples, SAMPLES)
    if not free or not few or not plan.tensors:
        return dict(choices)
    found, operators = dict(choices), model.graph.operators
    gross = gross_tensors(model, plan, few, threads)
    for tensor, kept_db in gross.items():
        around = set(_around(model.graph, tensor))
        if not around.issubset(free):
            continue
        low, high = plan.tensors[tensor].range()
        why = (
            f"{model.graph.tensors[tensor].name!r} rounded to integers for {low:.4g} to "
            f"{high:.4g}, which most of its values do not come near, leaves the outputs "
            f"{kept_db:.0f} dB"
        )
        for index in sorted(around):
            if found[index].mode is Mode.STATIC_INT8:
                found[index] = beside_float(
                    operators[index], model.graph, found[index], why, oldest
                )
    changed = [index for index, choice in found.items() if choice != choices[index]]
    if not changed:
        return found
    stored = replace(plan_of(found), tensors=plan.tensors)
    return in_sound_forms(model, stored, found, changed, few, LEAST_DB)


def gross_tensors(
    model: LiteModel, plan: Plan, samples: Sequence[Sample], threads: int | None
) -> Mapping[int, float]:
    """SQNR in dB that rounding alone leaves of the outputs, by tensor, of those that ruin them."""
    suspects = _suspects(model, plan, samples, threads)
    if not suspects:
        return {}
    tensors = {t: q for t, q in plan.tensors.items() if t in suspects}
    alone = replace(plan, tensors=tensors, operands={}, stored={})
    noise = measure_noise(model, alone, Rounded(), samples, nothing, BUDGET_S).tensors
    kept = {t: -10 * math.log10(n) for t, n in noise.items() if n > 0}
    return {t: db for t, db in kept.items() if db < LEAST_DB}


def _suspects(
    model: LiteModel, plan: Plan, samples: Sequence[Sample], threads: int | None
) -> frozenset[int]:
    """Tensors of which the range leaves few integers to most rows."""
    graph = model.graph
    looked_at = [t for t in plan.tensors if 0 not in graph.tensors[t].shape]
    editor = GraphEditor(model.tree)
    editor.add_outputs([t for t in looked_at if t not in graph.inputs])
    tflite = editor.finish()

    def suspected(session: Session, sample: Sequence[npt.NDArray[Any]]) -> list[bool]:
        session.invoke(sample)
        return [_is_suspect(session.view(t), plan.tensors[t].scale[0]) for t in looked_at]

    # Each session has weights of its own, of which a large model has room for one.
    each, members = (threads, 1) if is_large(len(tflite)) else (1, threads)
    with Crew(lambda: Session(tflite, threads=each, trusted=True), members) as crew:
        found = np.any(list(crew.map(samples, suspected)), axis=0)
    return frozenset(t for t, is_one in zip(looked_at, found, strict=True) if is_one)


def _is_suspect(values: FloatArray, step: float) -> bool:
    """Whether rounding to steps leaves little of a row along the last axis, or of a column."""
    rows = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    power = np.square(rows, dtype=np.float64)
    by_row, by_column = (_kept_db(power.mean(axis=axis), step) for axis in (1, 0))
    return by_row < SUSPECT_DB or by_column < QUIET_DB


def _kept_db(power: FloatArray, step: float) -> float:
    """SQNR in dB that rounding to steps leaves of signals of these powers, at the median."""
    power = power[power > 0]
    return 10 * math.log10(12 * float(np.median(power)) / step**2) if len(power) else math.inf


def _around(graph: Graph, tensor: int) -> Iterator[int]:
    """Ops that write or read a tensor, or what holds the same numbers."""
    seen, left = set[int](), [tensor]
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        ops = [op for op, _ in graph.uses.get(one, [])]
        if one in graph.producers:
            ops.append(graph.producers[one])
        for op in ops:
            yield op.index
            if moves(op):
                left += [t for t in (*op.inputs, *op.outputs) if _is_real(graph, t)]


def _is_real(graph: Graph, tensor: int) -> bool:
    return (
        tensor >= 0
        and graph.tensors[tensor].dtype == "float32"
        and (not graph.tensors[tensor].is_constant)
    )


def beside_float(
    op: Operator, graph: Graph, choice: Choice, why: str, oldest: Version | None
) -> Choice:
    """What an op is with float activations: its weight in integers, if the run time reads that.

    Args:
        op: The op.
        graph: Of the float model.
        choice: What it would be otherwise.
        why: The reason that it is not.
        oldest: The oldest run time that is to read the file, if that matters.
    """
    form = nearest_form(op.name, replace(choice, mode=Mode.DYNAMIC_INT8))
    is_new = oldest is not None and form_runtime(op.name, form) > oldest
    if weight_slot(graph, op) is None or is_new:
        return Choice(Mode.FLOAT, why)
    return replace(form, reason=why)
