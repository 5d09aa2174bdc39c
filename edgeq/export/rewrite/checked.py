"""Rewrites a model and holds the result against it on a sample, in the child process.

A rewrite that changes what the model computes, or brings the runtime down, is found by halving and
left out, with a note. Knows no rewrite by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.errors import ModelError
from edgeq.export.rewrite import all_rewrites, rewrite
from edgeq.export.rewrite.base import Rewrite
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.model import LiteModel
from edgeq.targets import Target

Outputs = Mapping[str, npt.NDArray[Any]]

LEAST_DB = 50.0
"""Other orders of the same float operations agree to 100 dB, and to 60 after very many steps."""

LEAST_EQUAL = 0.5
"""Share of whole numbers that must agree; ties may be broken otherwise."""

_TINY = 1e-12
"""Noise power of each number that is no difference, where all of an output is 0."""


def rewrite_checked(
    model: LiteModel, target: Target, sample: Sample | None, worker: Worker
) -> LiteModel:
    """The model with all rewrites for a target applied that keep what it computes.

    Args:
        model: The float model.
        target: Where it is to run.
        sample: Inputs to compare the two on; None takes the rewrites as they are.
        worker: The child process that both run in.
    """
    found, rows = rewrite(model, target), list(all_rewrites())
    if found.tflite is model.tflite or sample is None:
        return found
    expected = _outputs(worker, model, sample)
    if expected is None:  # then nothing can be told
        return found
    notes: list[str] = []
    while found.tflite is not model.tflite and not _agree(
        expected, _outputs(worker, found, sample)
    ):
        row = _wrong(model, target, rows, expected, sample, worker)
        rows.remove(row)
        notes.append(
            f"the rewrite {row.name!r} is left out: with it the model computes something else on "
            "the first sample"
        )
        found = rewrite(model, target, rows)
    return replace(found, notes=(*found.notes, *notes))


def outputs_agree(worker: Worker, model: LiteModel, other: LiteModel, sample: Sample) -> bool:
    """Whether two models compute the same on a sample, as far as that can be told.

    Args:
        worker: The child process that both run in.
        model: The one.
        other: The other.
        sample: Inputs of both.
    """
    expected = _outputs(worker, model, sample)
    return expected is not None and _agree(expected, _outputs(worker, other, sample))


def _wrong(
    model: LiteModel,
    target: Target,
    rows: Sequence[Rewrite],
    expected: Outputs,
    sample: Sample,
    worker: Worker,
) -> Rewrite:
    """The first rewrite with which, beside all before it, the results differ."""
    low, high = 0, len(rows)
    while low + 1 < high:
        middle = (low + high) // 2
        found = rewrite(model, target, rows[:middle])
        agrees = _agree(expected, _outputs(worker, found, sample))
        low, high = (middle, high) if agrees else (low, middle)
    return rows[high - 1]


def _outputs(worker: Worker, model: LiteModel, sample: Sample) -> Outputs | None:
    """A model's outputs by name; None where the runtime refuses it or dies."""
    try:
        found: Outputs = worker.call("edgeq.runtime.session:outputs_of", model.tflite, sample)
    except (JobCrashed, JobFailed, ModelError):
        return None
    return found


def _agree(expected: Outputs, found: Outputs | None) -> bool:
    if found is None or expected.keys() != found.keys():
        return False
    return all(_is_same(output, found[name]) for name, output in expected.items())


def _is_same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether two outputs agree as far as another order of operations lets them."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return one.size == 0 or float((one == other).mean()) >= LEAST_EQUAL
    finite = np.isfinite(one)
    a, b = one[finite].astype(np.float64), other[finite].astype(np.float64)
    allowed = np.square(a).sum() * 10 ** (-LEAST_DB / 10) + a.size * _TINY
    return bool(np.square(a - b).sum() <= allowed)
