"""Holds a traced model against the framework's own outputs of the sample that it was traced with.

A converter may lower an op wrongly; every later stage would compare with the wrong trace and find
nothing. Knows arrays and the traced file, no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.export.first_run import first_run
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

LEAST_DB = 20.0
"""Right traces agree to 60 dB and more; below this, they compute something else."""

NUDGE = 1e-6
"""By how much inputs change to see whether an output hangs on their last bits, as angles do."""


def check_trace(
    model: LiteModel,
    inputs: Sequence[Array],
    run: Callable[[Sequence[Array]], Outputs],
    worker: Worker,
    who: str,
) -> None:
    """Raises a `ModelError` where the trace computes something else than the user's model.

    Outputs of whole numbers, with values that are not finite, or that differ when the user's model
    runs again, also on inputs that are almost the same, cannot be held against each other and are
    left out.

    Args:
        model: The traced model.
        inputs: What it is fed, in its order.
        run: Runs the user's model on inputs in that order; returns its outputs by name.
        worker: The converter's child process, in which the trace runs first.
        who: Name of the user's model.
    """
    tensors = [tensor for _, tensor in model.input_tensors()]
    if [tensor.shape for tensor in tensors] != [array.shape for array in inputs]:
        return  # an input that nothing reads is not in the file
    fed = [array.astype(t.dtype) for array, t in zip(inputs, tensors, strict=True)]
    first_run(worker, model, fed, "the traced model")
    with Session(model.tflite, threads=1, trusted=True) as session:
        session.invoke(fed)
        found = dict(zip(session.output_names, session.outputs(), strict=True))
    expected, again = run(inputs), run(inputs)
    for name, output in expected.items():
        if name not in found or not _is_comparable(output, again[name], found[name]):
            continue
        sqnr_db = Fidelity.of(output, found[name]).sqnr_db
        if not sqnr_db >= LEAST_DB and _is_steady(name, output, inputs, run):
            raise ModelError(
                f"the trace of {who} computes something else than the model: its output {name!r} "
                f"has {sqnr_db:.1f} dB SQNR against the model's own, on the sample that it was "
                "traced with. An op of it is lowered wrongly: express it by other ops; parts of "
                "the model, exported alone, show which"
            )


def _is_steady(
    name: str,
    output: Array,
    inputs: Sequence[Array],
    run: Callable[[Sequence[Array]], Outputs],
) -> bool:
    """Whether an output of the user's model stays much the same on inputs that are almost so."""
    rng = np.random.default_rng(0)
    nudged = [
        (x * (1 + NUDGE * rng.standard_normal(x.shape))).astype(x.dtype)
        if x.dtype.kind == "f"
        else x
        for x in inputs
    ]
    return Fidelity.of(output, run(nudged)[name]).sqnr_db >= 2 * LEAST_DB


def _is_comparable(output: Array, again: Array, found: Array) -> bool:
    return (
        output.dtype.kind == "f"
        and output.shape == found.shape
        and bool(np.isfinite(output).all())
        and bool(np.square(output.astype(np.float64)).sum() > 0)
        and bool(np.array_equal(output, again))
    )
