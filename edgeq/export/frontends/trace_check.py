"""Holds a traced model against the framework's own outputs of the sample that it was traced with.

A converter may lower an op wrongly; every later stage would compare with the wrong trace and find
nothing. Knows arrays and the traced file, no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.export.first_run import first_run
from edgeq.fidelity.parts import parts_of, rows_of
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

LEAST_DB = 20.0
"""Below this a trace computes something else, and is refused."""

SURE_DB = 60.0
"""From this on it computes the same. Between the two it is doubtful, and the report says so."""

NUDGE = 1e-6
"""By how much inputs change to see whether an output hangs on their last bits, as angles do."""

LARGER_NUDGES = (1e-5, 1e-4)
"""As much, before a trace is refused: one that puts nearly equal scores in another order is right,
and what is lowered wrongly is so by far more."""

STEADY_DB = 40.0
"""Outputs that a nudge changes by more than this leaves cannot be judged."""

ROOM_DB = 30.0
"""A trace may lose so much more than a nudge does: float32 rounds in every op."""


def check_trace(
    model: LiteModel,
    inputs: Sequence[Array],
    run: Callable[[Sequence[Array]], Outputs],
    worker: Worker,
    who: str,
) -> LiteModel:
    """Holds a trace against the user's model, each kind of rows of an output for itself.

    Outputs of whole numbers, with values that are not finite, or that differ when the user's model
    runs again, also on inputs that are almost the same, cannot be held against each other and are
    left out.

    Args:
        model: The traced model.
        inputs: What it is fed, in its order.
        run: Runs the user's model on inputs in that order; returns its outputs by name.
        worker: The converter's child process, in which the trace runs first.
        who: Name of the user's model.

    Returns:
        The trace, with a doubt for each output that is only near to the model's own.

    Raises:
        ModelError: The trace computes something else.
    """
    tensors = [tensor for _, tensor in model.input_tensors()]
    if [tensor.shape for tensor in tensors] != [array.shape for array in inputs]:
        return model  # an input that nothing reads is not in the file
    fed = [array.astype(t.dtype) for array, t in zip(inputs, tensors, strict=True)]
    first_run(worker, model, fed, "the traced model")
    with Session(model.tflite, threads=1, trusted=True) as session:
        session.invoke(fed)
        found = dict(zip(session.output_names, session.outputs(), strict=True))
    expected, again = run(inputs), run(inputs)
    doubts = []
    for name, output in expected.items():
        if name not in found or not _is_comparable(output, again[name], found[name]):
            continue
        reached = _fidelity(name, output, found[name])
        if reached.least_db >= SURE_DB:
            continue
        steady_db = _fidelity(name, output, run(_nudged(inputs))[name]).least_db
        if steady_db < STEADY_DB or reached.least_db >= steady_db - ROOM_DB:
            continue
        said = _said(reached, steady_db)
        if not reached.least_db >= LEAST_DB:
            if any(
                _fidelity(name, output, run(_nudged(inputs, size))[name]).least_db < STEADY_DB
                for size in LARGER_NUDGES
            ):
                continue
            raise ModelError(
                f"the trace of {who} computes something else than the model: its {said}. An op of "
                "it is lowered wrongly: express it by other ops; parts of the model, exported "
                "alone, show which"
            )
        doubts.append(
            f"the trace of {who} is only near to the model: its {said}. An op of it is lowered to "
            "something else; parts of the model, exported alone, show which. What the export keeps "
            "is measured against the trace"
        )
    return replace(model, doubts=(*model.doubts, *doubts))


def _said(reached: OutputFidelity, steady_db: float) -> str:
    rounding = "" if np.isinf(steady_db) else f", where rounding alone leaves {steady_db:.0f} dB"
    return (
        f"{reached.worst_place} has {reached.least_db:.1f} dB SQNR against the model's own, on the "
        f"sample that it was traced with{rounding}"
    )


def _fidelity(name: str, expected: Array, found: Array) -> OutputFidelity:
    parts = parts_of(rows_of(expected, found))
    return OutputFidelity.of(name, Fidelity.of(expected, found), parts)


def _nudged(inputs: Sequence[Array], size: float = NUDGE) -> list[Array]:
    """Inputs that are almost the same; whole numbers stay."""
    rng = np.random.default_rng(0)
    return [
        (x * (1 + size * rng.standard_normal(x.shape))).astype(x.dtype)
        if x.dtype.kind == "f"
        else x
        for x in inputs
    ]


def _is_comparable(output: Array, again: Array, found: Array) -> bool:
    return (
        output.dtype.kind == "f"
        and output.shape == found.shape
        and bool(np.isfinite(output).all())
        and bool(np.square(output.astype(np.float64)).sum() > 0)
        and bool(np.array_equal(output, again))
    )


def forgotten(name: str) -> str:
    """A doubt on an array in which a model keeps what its later calls depend on."""
    return (
        f"the model keeps what later calls depend on in {name!r}. A file keeps nothing: each of "
        "its runs begins with what was in it. Make it an argument that is returned as well, and "
        "give edgeq.Sequences"
    )
